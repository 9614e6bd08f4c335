package network

import (
	"encoding/binary"
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	// insideName and insideIndex are the sandbox's end of its link. The index is chosen, so that nothing has to be asked for;
	// it is far from those that the kernel gives to its own devices.
	insideName  = "eth0"
	insideIndex = 1000
	// doomedGroup is the group of links that are deleted together: the kernel waits for its readers once for all of them.
	doomedGroup = 0x64

	vethInfoPeer   = 1      // VETH_INFO_PEER
	skipStatistics = 1 << 3 // RTEXT_FILTER_SKIP_STATS
)

// The hardware addresses of the two ends. They are the same for every link: links do not meet.
var (
	insideMAC  = []byte{0x02, 0, 0, 0, 0, 2}
	outsideMAC = []byte{0x02, 0, 0, 0, 0, 1}
)

// outsideName is the name of the router's end of the link of a slot.
func outsideName(slot int) string { return "s" + strconv.Itoa(slot) }

// outsideIndex is the router's end of the link of a slot.
func outsideIndex(slot int) uint32 { return uint32(insideIndex + slot) }

// outsideBatch makes a link, its end in the router up, the other in the sandbox's namespace, and the route to it.
func outsideBatch(slot int, address netip.Addr, namespace *os.File, mtu int) *batch {
	b := &batch{}
	b.request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, interfaceInfo(outsideIndex(slot), unix.IFF_UP))
	b.text(unix.IFLA_IFNAME, outsideName(slot))
	end := func(mac []byte) {
		b.attribute(unix.IFLA_ADDRESS, mac)
		b.number(unix.IFLA_MTU, uint32(mtu))
		b.number(unix.IFLA_NUM_TX_QUEUES, 1)
		b.number(unix.IFLA_NUM_RX_QUEUES, 1)
	}
	end(outsideMAC)
	b.nest(unix.IFLA_LINKINFO, nil, func() {
		b.text(unix.IFLA_INFO_KIND, "veth")
		b.nest(unix.IFLA_INFO_DATA, nil, func() {
			b.nest(vethInfoPeer, interfaceInfo(insideIndex, 0), func() {
				b.text(unix.IFLA_IFNAME, insideName)
				b.number(unix.IFLA_NET_NS_FD, uint32(namespace.Fd()))
				end(insideMAC)
			})
		})
	})
	addRoute(b, netip.PrefixFrom(address, 32), outsideIndex(slot), netip.Addr{})
	addNeighbour(b, address, outsideIndex(slot), insideMAC)
	return b
}

// insideBatch sets up the sandbox's end.
func insideBatch(address, gateway netip.Addr) *batch {
	b := &batch{}
	b.request(unix.RTM_SETLINK, 0, interfaceInfo(insideIndex, unix.IFF_UP))
	header := [8]byte{unix.AF_INET, 32, 0, unix.RT_SCOPE_UNIVERSE}
	binary.NativeEndian.PutUint32(header[4:], insideIndex)
	b.request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, header[:])
	b.attribute(unix.IFA_LOCAL, address.AsSlice())
	b.attribute(unix.IFA_ADDRESS, address.AsSlice())
	addRoute(b, netip.PrefixFrom(gateway, 32), insideIndex, netip.Addr{})
	addRoute(b, netip.PrefixFrom(netip.IPv4Unspecified(), 0), insideIndex, gateway)
	addNeighbour(b, gateway, insideIndex, outsideMAC)
	return b
}

// settleBatch has the kernel finish what it does in the background when a link gets its other end, and in the meantime drops
// packets: the router's end is up before the inside is. Linux 6.8 and later do it when they are asked about the link; before,
// it takes the time of a background task.
func settleBatch(slot int) *batch {
	b := &batch{}
	b.request(unix.RTM_GETLINK, 0, interfaceInfo(outsideIndex(slot), 0))
	b.number(unix.IFLA_EXT_MASK, skipStatistics)
	return b
}

// deleteBatch removes the router's ends of links, and with them the others. Those that are gone already fail alone.
func deleteBatch(slots []int) *batch {
	b := &batch{}
	for _, slot := range slots {
		b.request(unix.RTM_SETLINK, 0, interfaceInfo(outsideIndex(slot), 0))
		b.number(unix.IFLA_GROUP, doomedGroup)
	}
	b.request(unix.RTM_DELLINK, 0, interfaceInfo(0, 0))
	b.number(unix.IFLA_GROUP, doomedGroup)
	return b
}

// interfaceInfo is the header of requests about links.
func interfaceInfo(index, flags uint32) []byte {
	header := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(header[4:], index)
	binary.NativeEndian.PutUint32(header[8:], flags)
	binary.NativeEndian.PutUint32(header[12:], flags)
	return header
}

// addRoute adds a route to the main table, by a gateway or straight to the link.
func addRoute(b *batch, to netip.Prefix, index uint32, gateway netip.Addr) {
	scope := byte(unix.RT_SCOPE_LINK)
	if gateway.IsValid() {
		scope = unix.RT_SCOPE_UNIVERSE
	}
	header := []byte{unix.AF_INET, byte(to.Bits()), 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, scope, unix.RTN_UNICAST, 0, 0, 0, 0}
	b.request(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, header)
	if to.Bits() > 0 {
		b.attribute(unix.RTA_DST, to.Addr().AsSlice())
	}
	b.number(unix.RTA_OIF, index)
	if gateway.IsValid() {
		b.attribute(unix.RTA_GATEWAY, gateway.AsSlice())
	}
}

// addNeighbour says for good where an address is, so that nothing on the link is asked or believed.
func addNeighbour(b *batch, address netip.Addr, index uint32, mac []byte) {
	header := [12]byte{unix.AF_INET}
	binary.NativeEndian.PutUint32(header[4:], index)
	binary.NativeEndian.PutUint16(header[8:], unix.NUD_PERMANENT)
	b.request(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, header[:])
	b.attribute(unix.NDA_DST, address.AsSlice())
	b.attribute(unix.NDA_LLADDR, mac)
}
