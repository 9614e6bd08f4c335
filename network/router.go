package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routerTable is the name of the table in the router's namespace.
const routerTable = "lambent"

// routerRules are the rules that every packet of a sandbox passes, in the router's namespace.
func routerRules(namespace *os.File, l layout, closed []addressRange, limits Limits) error {
	r, err := newRuleset(namespace, nftables.TableFamilyIPv4, routerTable)
	if err != nil {
		return err
	}
	fromUplink := interfaceName(expr.MetaKeyIIFNAME, expr.CmpOpEq, uplinkName)
	toUplink := interfaceName(expr.MetaKeyOIFNAME, expr.CmpOpEq, uplinkName)
	toSandbox := interfaceName(expr.MetaKeyOIFNAME, expr.CmpOpNeq, uplinkName)

	// What is too much is dropped before anything is done for it. The key is the link, which cannot be forged.
	early := r.chain(nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw, nftables.ChainPolicyAccept, "prerouting")
	r.rule(early, fromUplink, accept())
	r.rule(early, loadMeta(expr.MetaKeyIIF), r.each("packets", nftables.TypeIFIndex, over(expr.LimitTypePkts, uint64(limits.Packets), uint32(limits.Packets))), drop())
	// Whoever puts fragments together, the host or the one asked, has little room for those that wait.
	r.rule(early, ipField(fragmentOffset, 2), masked([]byte{0x3f, 0xff}, expr.CmpOpNeq, []byte{0, 0}), drop())
	if limits.Bandwidth > 0 {
		r.rule(early, loadMeta(expr.MetaKeyIIF), r.each("sent", nftables.TypeIFIndex, bandwidth(limits)), drop())
	}

	routerInput(r, l, limits)
	output := r.chain(nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityFilter, nftables.ChainPolicyDrop, "output")
	for _, transport := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		r.rule(output, toSandbox, address(sourceOffset, expr.CmpOpEq, l.resolver()), protocol(transport), port(sourcePort, 53), accept())
	}
	for _, kind := range []byte{icmpUnreachable, icmpTimeExceeded} {
		r.rule(output, toSandbox, protocol(unix.IPPROTO_ICMP), transportField(icmpTypeOffset, []byte{kind}), accept())
	}

	forward := r.chain(nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter, nftables.ChainPolicyDrop, "forward")
	if limits.Bandwidth > 0 {
		r.rule(forward, fromUplink, loadMeta(expr.MetaKeyOIF), r.each("received", nftables.TypeIFIndex, bandwidth(limits)), drop())
	}
	r.rule(forward, fromUplink, toSandbox, accept())
	r.rule(forward, ipField(destinationOffset, 4), inSet(r.ranges("refused", closed)), reject())
	r.rule(forward, toUplink, protocol(unix.IPPROTO_TCP), accept())
	r.rule(forward, toUplink, protocol(unix.IPPROTO_UDP), accept())
	r.rule(forward, toUplink, protocol(unix.IPPROTO_ICMP), transportField(icmpTypeOffset, []byte{icmpEcho}), accept())
	return r.flush()
}

// routerInput lets sandboxes ask the name server, and nothing else of the router.
func routerInput(r *ruleset, l layout, limits Limits) {
	input := r.chain(nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter, nftables.ChainPolicyDrop, "input")
	r.rule(input, interfaceName(expr.MetaKeyIIFNAME, expr.CmpOpEq, uplinkName), drop())
	rate := over(expr.LimitTypePkts, uint64(limits.Queries), uint32(limits.Queries))
	queries := r.each("queries", nftables.TypeIFIndex, rate)
	r.rule(input, address(destinationOffset, expr.CmpOpEq, l.resolver()), protocol(unix.IPPROTO_UDP), port(destinationPort, 53),
		loadMeta(expr.MetaKeyIIF), queries, drop())
	// A quarter of it for connections, which cost more.
	rate = over(expr.LimitTypePkts, uint64(max(1, limits.Queries/4)), uint32(max(16, limits.Queries/4)))
	connections := r.each("handshakes", nftables.TypeIFIndex, rate)
	r.rule(input, address(destinationOffset, expr.CmpOpEq, l.resolver()), protocol(unix.IPPROTO_TCP), port(destinationPort, 53),
		transportField(tcpFlagsOffset, []byte{tcpSYN}), loadMeta(expr.MetaKeyIIF), connections, drop())
	for _, transport := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
		r.rule(input, address(destinationOffset, expr.CmpOpEq, l.resolver()), protocol(transport), port(destinationPort, 53), accept())
	}
	r.rule(input, address(destinationOffset, expr.CmpOpEq, l.resolver()), protocol(unix.IPPROTO_TCP), reject())
}

// queriesRoom is how many bytes of queries may wait for the name server: some thousand queries.
const queriesRoom = 4 << 20

const (
	icmpUnreachable  = 3
	icmpEcho         = 8
	icmpTimeExceeded = 11
	tcpSYN           = 2
)

// bandwidth is a sandbox's rate in one direction; a tenth of a second may come at once.
func bandwidth(limits Limits) expr.Any {
	return over(expr.LimitTypePktBytes, uint64(limits.Bandwidth), uint32(max(limits.Bandwidth/10, 1<<18)))
}

// routerSettings are the kernel's settings in the router's namespace, under /proc/sys/net.
var routerSettings = []setting{
	{"ipv6/conf/all/disable_ipv6", "1"},
	{"ipv6/conf/default/disable_ipv6", "1"},
	{"ipv4/ip_forward", "1"},
	// A packet's source must be what is routed to the link by which it came.
	{"ipv4/conf/all/rp_filter", "1"},
	{"ipv4/conf/all/accept_redirects", "0"},
	{"ipv4/conf/all/secure_redirects", "0"},
	{"ipv4/conf/all/send_redirects", "0"},
	{"ipv4/conf/default/send_redirects", "0"},
	{"ipv4/conf/all/accept_source_route", "0"},
	{"ipv4/tcp_syncookies", "1"},
}

type setting struct{ name, value string }

// apply writes settings of the calling thread's network namespace. Those of IPv6 may be missing.
func apply(settings []setting) error {
	for _, one := range settings {
		err := os.WriteFile("/proc/sys/net/"+one.name, []byte(one.value), 0)
		if errors.Is(err, os.ErrNotExist) && one.name[:4] == "ipv6" {
			continue
		}
		if err != nil {
			return fmt.Errorf("set net/%s=%s in a network namespace (in a container, /proc/sys must be writable): %w", one.name, one.value, err)
		}
	}
	return nil
}

// setUpRouter gives the router its addresses and routes, and opens the sockets of the name server. It runs in its namespace.
func setUpRouter(l layout) (udp, tcp *os.File, err error) {
	if err := apply(routerSettings); err != nil {
		return nil, nil, err
	}
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, nil, fmt.Errorf("find the router's loopback interface: %w", err)
	}
	uplink, err := netlink.LinkByName(uplinkName)
	if err != nil {
		return nil, nil, fmt.Errorf("find the router's uplink: %w", err)
	}
	steps := []func() error{
		func() error { return netlink.LinkSetUp(loopback) },
		func() error { return netlink.AddrAdd(loopback, hostAddress(l.resolver())) },
		func() error { return netlink.AddrAdd(uplink, hostAddress(l.router())) },
		func() error { return netlink.LinkSetARPOff(uplink) },
		func() error { return netlink.LinkSetUp(uplink) },
		func() error {
			everything := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
			return netlink.RouteAdd(&netlink.Route{
				LinkIndex: uplink.Attrs().Index, Dst: everything, Gw: l.host().AsSlice(), Flags: int(netlink.FLAG_ONLINK), Src: l.router().AsSlice(),
			})
		},
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, nil, fmt.Errorf("set up the router: %w", err)
		}
	}
	return listen(l.resolver())
}

// listen opens the sockets of the name server.
func listen(resolver netip.Addr) (udp, tcp *os.File, err error) {
	at := netip.AddrPortFrom(resolver, 53)
	packets, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, nil, fmt.Errorf("open the name server's socket: %w", err)
	}
	defer packets.Close()
	listener, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at))
	if err != nil {
		return nil, nil, fmt.Errorf("open the name server's socket: %w", err)
	}
	defer listener.Close()
	if udp, err = packets.File(); err != nil {
		return nil, nil, err
	}
	// What some sandboxes may send at once must not push out what others send.
	if err := unix.SetsockoptInt(int(udp.Fd()), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, queriesRoom); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make room for queries: %w", err), udp.Close())
	}
	if tcp, err = listener.File(); err != nil {
		return nil, nil, errors.Join(err, udp.Close())
	}
	return udp, tcp, nil
}

func hostAddress(address netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(32, 32)}}
}
