package hostile

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

func socketAttempts() []Attempt {
	return []Attempt{
		{Name: "raw-socket", Tries: "write IP packets of its own making, and read those of others", Layer: Syscalls, Proof: Namespace, try: rawSockets},
		{Name: "packet-socket", Tries: "write and read frames of the network (AF_PACKET), by the upper half of a register too", Layer: Syscalls,
			Proof: Namespace, try: packetSockets},
		{Name: "netlink-link", Tries: "make network interfaces and take them up and down", Layer: Capabilities, Proof: Namespace, try: changeLinks},
		{Name: "netlink-address", Tries: "take the address of another", Layer: Capabilities, Proof: Namespace, try: changeAddresses},
		{Name: "netlink-route", Tries: "route around the rules", Layer: Capabilities, Proof: Namespace, try: changeRoutes},
		{Name: "netlink-uevent", Tries: "listen to, and forge, the kernel's events of devices", Layer: Syscalls, Proof: Namespace,
			try: netlink(unix.NETLINK_KOBJECT_UEVENT)},
		{Name: "netlink-audit", Tries: "read and change the host's audit", Layer: Syscalls, Proof: Namespace, try: netlink(unix.NETLINK_AUDIT)},
		{Name: "netlink-netfilter", Tries: "change the packet filter, a part of the kernel with a history of holes", Layer: Syscalls, Proof: Guest,
			try: netlink(unix.NETLINK_NETFILTER)},
		{Name: "netlink-xfrm", Tries: "change the tables of IPsec", Layer: Syscalls, Proof: Guest, try: netlink(unix.NETLINK_XFRM)},
		{Name: "netlink-others", Tries: "reach other parts of the kernel by netlink: socket diagnosis, connectors, SELinux, crypto, RDMA, iSCSI",
			Layer: Syscalls, Proof: Namespace, try: netlink(unix.NETLINK_SOCK_DIAG, unix.NETLINK_CONNECTOR, unix.NETLINK_SELINUX,
				unix.NETLINK_CRYPTO, unix.NETLINK_RDMA, unix.NETLINK_ISCSI, unix.NETLINK_GENERIC, unix.NETLINK_USERSOCK)},
		{Name: "vsock", Tries: "talk to the hypervisor and to neighbouring machines", Layer: Syscalls, Proof: Guest, try: family(unix.AF_VSOCK)},
		{Name: "af-alg", Tries: "use the kernel's ciphers", Layer: Syscalls, Proof: Guest, try: family(unix.AF_ALG)},
		{Name: "unused-families", Tries: "load and use the kernel's seldom used protocols", Layer: Syscalls, Proof: Guest,
			try: family(unusedFamilies()...)},
		{Name: "interface-ioctl", Tries: "change interfaces by ioctl", Layer: Syscalls, Proof: Namespace, try: interfaceIoctl},
		{Name: "forced-options", Tries: "force socket options beyond the limits, and marks that the host's rules go by", Layer: Capabilities,
			Proof: Namespace, try: forceOptions},
		{Name: "spoof-source", Tries: "send from addresses that it does not have", Layer: Capabilities, Proof: Namespace, try: spoofSource},
	}
}

func rawSockets(t *Trial) {
	for _, network := range []int{unix.AF_INET, unix.AF_INET6} {
		for name, protocol := range map[string]int{"ICMP": unix.IPPROTO_ICMP, "any": unix.IPPROTO_RAW, "TCP": unix.IPPROTO_TCP} {
			fd, err := unix.Socket(network, unix.SOCK_RAW, protocol)
			if t.got(err, "opened a raw socket of family %d, %s", network, name) {
				unix.Close(fd)
			}
		}
	}
}

func packetSockets(t *Trial) {
	for _, network := range []uintptr{unix.AF_PACKET, 1<<32 | unix.AF_PACKET} {
		for _, kind := range []uintptr{unix.SOCK_RAW, unix.SOCK_DGRAM, unix.SOCK_PACKET} {
			fd, err := raw(unix.SYS_SOCKET, network, kind, 0x0300)
			if t.got(err, "opened a packet socket of family %#x, type %d", network, kind) {
				unix.Close(int(fd))
			}
		}
	}
	fd, err := raw(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_PACKET, 0x0300)
	if t.got(err, "opened a packet socket of old") {
		unix.Close(int(fd))
	}
}

// netlink opens sockets of protocols of netlink, and joins their first groups.
func netlink(protocols ...int) func(*Trial) {
	return func(t *Trial) {
		for _, protocol := range protocols {
			fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, protocol)
			if !t.got(err, "opened netlink %d", protocol) {
				continue
			}
			t.got(unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}), "joined a group of netlink %d", protocol)
			unix.Close(fd)
		}
	}
}

func family(families ...int) func(*Trial) {
	return func(t *Trial) {
		for _, network := range families {
			for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_RAW, unix.SOCK_SEQPACKET} {
				fd, err := unix.Socket(network, kind, 0)
				if err == nil {
					unix.Close(fd)
					t.breach("opened a socket of family %d, type %d", network, kind)
				}
			}
		}
		if len(t.breaches) == 0 {
			t.held("no socket of the families %v", families)
		}
	}
}

// unusedFamilies are all but those that functions use, and those that have attempts of their own.
func unusedFamilies() []int {
	var list []int
	for network := range 64 {
		switch network {
		case unix.AF_UNSPEC, unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK, unix.AF_PACKET, unix.AF_VSOCK, unix.AF_ALG:
		default:
			list = append(list, network)
		}
	}
	return list
}

// routeRequest sends a request of rtnetlink and returns what the kernel answered.
func routeRequest(kind, flags uint16, body []byte) error {
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	header := unix.NlMsghdr{Len: uint32(unix.SizeofNlMsghdr + len(body)), Type: kind, Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK | flags}
	packet := append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&header)), unsafe.Sizeof(header))...)
	packet = append(packet, body...)
	if err := unix.Sendto(socket, packet, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2})
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(socket, answer, 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 {
		return unix.EPROTO
	}
	if number := *(*int32)(unsafe.Pointer(&answer[unix.SizeofNlMsghdr])); number != 0 {
		return unix.Errno(-number)
	}
	return nil
}

// bytesOf returns a copy of a structure's bytes.
func bytesOf[T any](value T) []byte {
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&value)), unsafe.Sizeof(value))...)
}

// attribute makes an attribute of netlink.
func attribute(kind uint16, value []byte) []byte {
	packet := append(bytesOf(unix.RtAttr{Len: uint16(unix.SizeofRtAttr + len(value)), Type: kind}), value...)
	for len(packet)%4 != 0 {
		packet = append(packet, 0)
	}
	return packet
}

func changeLinks(t *Trial) {
	down := bytesOf(unix.IfInfomsg{Index: 1, Change: unix.IFF_UP})
	up := bytesOf(unix.IfInfomsg{Index: 1, Flags: unix.IFF_UP, Change: unix.IFF_UP})
	if t.got(routeRequest(unix.RTM_NEWLINK, 0, down), "took lo down") {
		routeRequest(unix.RTM_NEWLINK, 0, up)
	}
	for _, kind := range []string{"dummy", "veth", "bridge"} {
		name := append([]byte("hostile0"), 0)
		request := append(bytesOf(unix.IfInfomsg{}), attribute(unix.IFLA_IFNAME, name)...)
		request = append(request, attribute(unix.IFLA_LINKINFO, attribute(unix.IFLA_INFO_KIND, []byte(kind)))...)
		t.got(routeRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, request), "made a %s", kind)
	}
}

func changeAddresses(t *Trial) {
	for _, address := range [][]byte{{203, 0, 113, 7}, {169, 254, 169, 254}} {
		request := append(bytesOf(unix.IfAddrmsg{Family: unix.AF_INET, Prefixlen: 32, Index: 1}), attribute(unix.IFA_LOCAL, address)...)
		request = append(request, attribute(unix.IFA_ADDRESS, address)...)
		t.got(routeRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE, request), "took the address %v", address)
	}
}

func changeRoutes(t *Trial) {
	request := append(bytesOf(unix.RtMsg{Family: unix.AF_INET, Dst_len: 24, Table: unix.RT_TABLE_MAIN, Protocol: unix.RTPROT_STATIC,
		Scope: unix.RT_SCOPE_LINK, Type: unix.RTN_UNICAST}), attribute(unix.RTA_DST, []byte{198, 51, 100, 0})...)
	request = append(request, attribute(unix.RTA_OIF, []byte{1, 0, 0, 0})...)
	t.got(routeRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE, request), "made a route")
}

func interfaceIoctl(t *Trial) {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.held("%v", err)
		return
	}
	defer unix.Close(socket)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		t.held("%v", err)
		return
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_PROMISC)
	t.got(unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, request), "changed the flags of lo")
	request.SetUint32(9000)
	t.got(unix.IoctlIfreq(socket, unix.SIOCSIFMTU, request), "changed the MTU of lo")
}

func forceOptions(t *Trial) {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.held("%v", err)
		return
	}
	defer unix.Close(socket)
	for name, option := range map[string][2]int{"send buffer": {unix.SO_SNDBUFFORCE, 1 << 28}, "receive buffer": {unix.SO_RCVBUFFORCE, 1 << 28},
		"mark": {unix.SO_MARK, 1}, "priority": {unix.SO_PRIORITY, 7}, "debugging": {unix.SO_DEBUG, 1}} {
		t.got(unix.SetsockoptInt(socket, unix.SOL_SOCKET, option[0], option[1]), "forced the option %s", name)
	}
}

// spoofSource sends from an address of others, by options and by a packet of its own making.
func spoofSource(t *Trial) {
	source := [4]byte{203, 0, 113, 9}
	for name, option := range map[string]int{"transparent": unix.IP_TRANSPARENT, "free": unix.IP_FREEBIND} {
		socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			t.held("%v", err)
			return
		}
		err = unix.SetsockoptInt(socket, unix.SOL_IP, option, 1)
		if err == nil {
			err = unix.Bind(socket, &unix.SockaddrInet4{Addr: source, Port: 4000})
		}
		if err == nil {
			err = deliver(socket)
		}
		t.got(err, "sent from %v by a %s socket", source, name)
		unix.Close(socket)
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
	if err == nil {
		err = unix.SetsockoptInt(socket, unix.SOL_IP, unix.IP_HDRINCL, 1)
		unix.Close(socket)
	}
	t.got(err, "writes the source of its packets itself")
}

// deliver sends a datagram to a socket of its own on the loopback address, and reads it there.
func deliver(from int) error {
	to, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	if err := unix.Bind(to, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err
	}
	address, err := unix.Getsockname(to)
	if err != nil {
		return err
	}
	if err := unix.Sendto(from, []byte(mark), 0, address); err != nil {
		return err
	}
	unix.SetsockoptTimeval(to, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 300_000})
	_, sender, err := unix.Recvfrom(to, make([]byte, 64), 0)
	if err == nil {
		if v4, ok := sender.(*unix.SockaddrInet4); !ok || v4.Addr == [4]byte{127, 0, 0, 1} {
			err = fmt.Errorf("it came from %v", sender)
		}
	}
	return err
}
