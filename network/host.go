package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hostRules are the rules in the host's namespace: what sandboxes send comes from the uplink.
func hostRules(own, namespace *os.File, name, uplink string, l layout, policy Policy, limits Limits) error {
	r, err := newRuleset(namespace, nftables.TableFamilyIPv4, name)
	if err != nil {
		return err
	}
	fromUplink := interfaceName(expr.MetaKeyIIFNAME, expr.CmpOpEq, uplink)
	toUplink := interfaceName(expr.MetaKeyOIFNAME, expr.CmpOpEq, uplink)

	// Before any address translation, so that a port that the host forwards elsewhere is the host's too.
	early := r.chain(nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw, nftables.ChainPolicyAccept, "prerouting")
	r.rule(early, fromUplink, within(sourceOffset, expr.CmpOpNeq, l.block), drop())
	notUnicast := []expr.Any{
		&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_UNICAST)},
	}
	r.rule(early, fromUplink, notUnicast, drop())
	r.rule(early, interfaceName(expr.MetaKeyIIFNAME, expr.CmpOpNeq, uplink), within(destinationOffset, expr.CmpOpEq, l.block), drop())

	input := r.chain(nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter, nftables.ChainPolicyAccept, "input")
	r.rule(input, fromUplink, drop())

	forward := r.chain(nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter, nftables.ChainPolicyAccept, "forward")
	if policy == Internet {
		// What the router judged is no longer where the packet goes.
		r.rule(forward, fromUplink, connection(expr.CtKeySTATUS, ipsDestinationNAT, expr.CmpOpNeq), drop())
	}
	isNew := connection(expr.CtKeySTATE, expr.CtStateBitNEW, expr.CmpOpNeq)
	source := ipField(sourceOffset, 4)
	// The rate comes first: it bounds how much the count has to go through.
	rate := over(expr.LimitTypePkts, uint64(limits.NewConnections), uint32(max(limits.NewConnections, limits.Connections)))
	r.rule(forward, fromUplink, isNew, source, r.each("beginnings", nftables.TypeIPAddr, rate), drop())
	count := &expr.Connlimit{Count: uint32(limits.Connections), Flags: expr.NFT_CONNLIMIT_F_INV}
	r.rule(forward, fromUplink, isNew, source, r.each("connections", nftables.TypeIPAddr, count), drop())
	r.rule(forward, fromUplink, connection(expr.CtKeySTATE, expr.CtStateBitINVALID, expr.CmpOpNeq), drop())
	r.rule(forward, toUplink, connection(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED, expr.CmpOpNeq), accept())
	r.rule(forward, toUplink, drop())

	nat := r.chain(nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, nftables.ChainPolicyAccept, "postrouting")
	outward := append(within(sourceOffset, expr.CmpOpEq, l.block), interfaceName(expr.MetaKeyOIFNAME, expr.CmpOpNeq, uplink)...)
	r.rule(nat, outward, protocol(unix.IPPROTO_ICMP), []expr.Any{&expr.Masq{}})
	if err := r.flush(); err != nil {
		return err
	}
	return masqueradePorts(own, namespace, r.table, nat, outward)
}

const ipsDestinationNAT = 1 << 5 // IPS_DST_NAT

// deleteTable removes the host's table, if it is there.
func deleteTable(namespace *os.File, name string) error {
	conn, err := nftables.New(nftables.WithNetNSFd(int(namespace.Fd())))
	if err != nil {
		return fmt.Errorf("reach nftables: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: name}
	conn.AddTable(table) // so that it can be deleted in any case
	conn.DelTable(table)
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("delete the nftables table %s: %w", name, err)
	}
	return nil
}

// forwardDroppers names the tables of others that drop forwarded packets unless told otherwise: their word is final.
func forwardDroppers(namespace *os.File) ([]string, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(int(namespace.Fd())))
	if err != nil {
		return nil, fmt.Errorf("reach nftables: %w", err)
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list the host's nftables: %w", err)
	}
	var names []string
	for _, chain := range chains {
		ipv4 := chain.Table.Family == nftables.TableFamilyIPv4 || chain.Table.Family == nftables.TableFamilyINet
		forward := chain.Hooknum != nil && *chain.Hooknum == *nftables.ChainHookForward
		if ipv4 && forward && chain.Policy != nil && *chain.Policy == nftables.ChainPolicyDrop {
			names = append(names, chain.Table.Name+" "+chain.Name)
		}
	}
	return names, nil
}

// takenPrefixes is what the host routes or has, in all tables, except its routes to everywhere. It runs in the host's namespace.
func takenPrefixes() ([]netip.Prefix, error) {
	var taken []netip.Prefix
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list the host's routes: %w", err)
	}
	for _, route := range routes {
		if prefix, ok := toPrefix(route.Dst); ok && prefix.Bits() > 3 {
			taken = append(taken, prefix)
		}
	}
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	for _, one := range addresses {
		if prefix, ok := toPrefix(one.IPNet); ok {
			taken = append(taken, prefix)
		}
	}
	return taken, nil
}

func toPrefix(from *net.IPNet) (netip.Prefix, bool) {
	if from == nil {
		return netip.Prefix{}, false
	}
	address, ok := netip.AddrFromSlice(from.IP)
	bits, _ := from.Mask.Size()
	return netip.PrefixFrom(address.Unmap(), bits).Masked(), ok && address.Unmap().Is4()
}

// addUplink makes the link between host and router, and takes a block for it: its route is made with the kernel's word that
// there was none, so that of two networks that choose the same block at the same time one chooses again. It runs in the
// host's namespace.
func addUplink(name string, router *os.File, mtu int, blocks []netip.Prefix) (layout, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = name, mtu, net.HardwareAddr(outsideMAC)
	link := &netlink.Veth{
		LinkAttrs: attrs, PeerName: uplinkName, PeerMTU: uint32(mtu),
		// The ends have the same address and ask for none: each reaches the other by its own.
		PeerHardwareAddr: net.HardwareAddr(outsideMAC), PeerNamespace: netlink.NsFd(int(router.Fd())),
	}
	if err := netlink.LinkAdd(link); err != nil {
		return layout{}, fmt.Errorf("make the uplink %s: %w", name, err)
	}
	made, err := netlink.LinkByName(name)
	if err != nil {
		return layout{}, fmt.Errorf("find the uplink: %w", err)
	}
	if err := errors.Join(netlink.LinkSetARPOff(made), netlink.LinkSetUp(made)); err != nil {
		return layout{}, fmt.Errorf("set up the uplink: %w", err)
	}
	for _, block := range blocks {
		l := layout{block}
		if err := netlink.AddrAdd(made, hostAddress(l.host())); err != nil {
			return layout{}, fmt.Errorf("give the uplink its address: %w", err)
		}
		destination := &net.IPNet{IP: block.Addr().AsSlice(), Mask: net.CIDRMask(block.Bits(), 32)}
		err := netlink.RouteAdd(&netlink.Route{
			LinkIndex: made.Attrs().Index, Dst: destination, Gw: l.router().AsSlice(), Flags: int(netlink.FLAG_ONLINK), Src: l.host().AsSlice(),
		})
		if err == nil {
			return l, nil
		}
		if err := netlink.AddrDel(made, hostAddress(l.host())); err != nil {
			return layout{}, fmt.Errorf("take the uplink's address back: %w", err)
		}
		if !errors.Is(err, unix.EEXIST) {
			return layout{}, fmt.Errorf("route to the sandboxes: %w", err)
		}
	}
	return layout{}, errors.New("no free block of addresses is left: give the network prefixes that the host does not route")
}

// settleUplink has the kernel finish bringing the host's end up, as settleBatch does. It runs in the host's namespace.
func settleUplink(name string) error {
	if _, err := netlink.LinkByName(name); err != nil {
		return fmt.Errorf("bring the uplink up: %w", err)
	}
	return nil
}

// deleteUplink removes the uplink, if it is there. It runs in the host's namespace.
func deleteUplink(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete the uplink %s: %w", name, err)
	}
	return nil
}

// outerMTU is the MTU of the interface that the host's default route leaves by. It runs in the host's namespace.
func outerMTU() int {
	const usual = 1500
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return usual
	}
	for _, route := range routes {
		if prefix, ok := toPrefix(route.Dst); ok && prefix.Bits() > 0 {
			continue
		}
		if link, err := netlink.LinkByIndex(route.LinkIndex); err == nil && link.Attrs().MTU >= 576 {
			return min(link.Attrs().MTU, 1<<16-1)
		}
	}
	return usual
}

// switchForwardingOn has the host forward IPv4 packets, and reports whether it did not before. It runs in the host's
// namespace.
func switchForwardingOn() (bool, error) {
	const path = "/proc/sys/net/ipv4/ip_forward"
	now, err := os.ReadFile(path)
	if err != nil {
		return false, fmt.Errorf("read whether the host forwards packets: %w", err)
	}
	if strings.TrimSpace(string(now)) == "1" {
		return false, nil
	}
	if err := os.WriteFile(path, []byte("1"), 0); err != nil {
		return false, fmt.Errorf("the host does not forward packets, and that cannot be switched on from here (set sysctl net.ipv4.ip_forward=1): %w", err)
	}
	return true, nil
}
