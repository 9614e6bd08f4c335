package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A sandbox's process may have got all rights over its own network namespace. These tests are root in it.

// capture opens a socket that sees what arrives at a machine by an interface.
func (w *world) capture(machine *os.File, protocol int) int {
	w.t.Helper()
	var fd int
	w.in(machine, func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol); err != nil {
			return err
		}
		return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000})
	})
	w.t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// rawPacket is a UDP packet with whatever source.
func rawPacket(source, destination netip.Addr, fragment uint16, payload string) []byte {
	packet := make([]byte, 28, 28+len(payload))
	packet[0], packet[8], packet[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(packet[2:], uint16(28+len(payload)))
	binary.BigEndian.PutUint16(packet[6:], fragment)
	copy(packet[12:], source.AsSlice())
	copy(packet[16:], destination.AsSlice())
	binary.BigEndian.PutUint16(packet[20:], 4000)
	binary.BigEndian.PutUint16(packet[22:], echoPort)
	binary.BigEndian.PutUint16(packet[24:], uint16(8+len(payload)))
	return append(packet, payload...)
}

// sendRaw sends a packet as it is.
func (w *world) sendRaw(from *os.File, packet []byte) {
	w.t.Helper()
	w.in(from, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, packet, 0, &unix.SockaddrInet4{Addr: [4]byte(packet[16:20])})
	})
}

// arrived reports whether a packet with the payload comes within a tenth of a second.
func arrived(fd int, payload string) bool {
	buffer := make([]byte, 1500)
	for {
		n, _, err := unix.Recvfrom(fd, buffer, 0)
		if err != nil {
			return false
		}
		if n >= 28 && string(buffer[28:n]) == payload {
			return true
		}
	}
}

func TestForgedPacketsDoNotLeave(t *testing.T) {
	w := newWorld(t)
	n := w.open(Options{})
	inside, a := w.sandboxOf(n, "a")
	neighbour, b := w.sandboxOf(n, "b")
	seen := w.capture(w.internet, unix.IPPROTO_UDP)
	seenBeside := w.capture(neighbour, unix.IPPROTO_UDP)
	peer := netip.MustParseAddr(internetPeer)
	for _, test := range []struct {
		what     string
		source   netip.Addr
		to       netip.Addr
		fragment uint16
		leaves   bool
	}{
		{"own source", a.Address(), peer, 0, true},
		{"neighbour's source", b.Address(), peer, 0, false},
		{"resolver's source", n.Resolver(), peer, 0, false},
		{"router's source", n.layout.router(), peer, 0, false},
		{"host's uplink as source", n.layout.host(), peer, 0, false},
		{"host's source", netip.MustParseAddr(hostPublic), peer, 0, false},
		{"free address as source", n.layout.sandbox(999), peer, 0, false},
		{"foreign source", netip.MustParseAddr("1.2.3.4"), peer, 0, false},
		{"loopback as source", netip.MustParseAddr("127.0.0.1"), peer, 0, false},
		{"broadcast as source", netip.MustParseAddr("255.255.255.255"), peer, 0, false},
		{"first fragment", a.Address(), peer, 0x2000, false},
		{"last fragment", a.Address(), peer, 0x0010, false},
		{"to the neighbour", a.Address(), b.Address(), 0, false},
		{"to the neighbour as an answer from outside", peer, b.Address(), 0, false},
		{"to the neighbour as the resolver", n.Resolver(), b.Address(), 0, false},
	} {
		payload := "packet: " + test.what
		w.sendRaw(inside, rawPacket(test.source, test.to, test.fragment, payload))
		if arrived(seen, payload) != test.leaves {
			t.Errorf("%s: left is %v", test.what, !test.leaves)
		}
		if arrived(seenBeside, payload) {
			t.Errorf("%s: reached the neighbour", test.what)
		}
	}
}

func TestAnotherAddressIsOfNoUse(t *testing.T) {
	w := newWorld(t)
	n := w.open(Options{})
	inside, _ := w.sandboxOf(n, "a")
	_, b := w.sandboxOf(n, "b")
	w.in(inside, func() error {
		link, err := netlink.LinkByName(insideName)
		if err != nil {
			return err
		}
		return netlink.AddrAdd(link, hostAddress(b.Address()))
	})
	err := inNamespace(w.own, inside, func() error {
		dialer := net.Dialer{Timeout: 300 * time.Millisecond, LocalAddr: &net.TCPAddr{IP: b.Address().AsSlice()}}
		conn, err := dialer.Dial("tcp4", internetPeer+":7")
		if err == nil {
			conn.Close()
		}
		return err
	})
	if err == nil {
		t.Error("a sandbox connected with its neighbour's address")
	}
	if _, err := w.reaches(inside, "tcp4", internetPeer+":7"); err != nil {
		t.Error("with its own address it did not:", err)
	}
}

// arpPacket is an Ethernet frame with an ARP message.
func arpPacket(operation uint16, sender, target netip.Addr) []byte {
	frame := append(append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 2, 0, 0, 0, 0, 0x66), 0x08, 0x06)
	frame = append(frame, 0, 1, 8, 0, 6, 4, byte(operation>>8), byte(operation))
	frame = append(append(frame, 2, 0, 0, 0, 0, 0x66), sender.AsSlice()...)
	return append(append(frame, 0, 0, 0, 0, 0, 0), target.AsSlice()...)
}

func TestARPIsNotBelieved(t *testing.T) {
	w := newWorld(t)
	n := w.open(Options{})
	inside, a := w.sandboxOf(n, "a")
	neighbour, b := w.sandboxOf(n, "b")
	w.in(inside, func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		to := &unix.SockaddrLinklayer{Protocol: 0x0608, Ifindex: insideIndex, Halen: 6}
		for _, sender := range []netip.Addr{a.Address(), b.Address(), n.Resolver(), n.layout.host(), n.layout.router()} {
			for operation := uint16(1); operation <= 2; operation++ {
				for _, target := range []netip.Addr{sender, n.Resolver(), b.Address()} {
					if err := unix.Sendto(fd, arpPacket(operation, sender, target), 0, to); err != nil {
						return err
					}
				}
			}
		}
		for i := range 4096 { // to fill the table of neighbours, which all namespaces share
			if err := unix.Sendto(fd, arpPacket(1, n.layout.sandbox(100+i), n.Resolver()), 0, to); err != nil {
				return err
			}
		}
		return nil
	})
	w.in(n.router, func() error {
		entries, err := netlink.NeighList(0, netlink.FAMILY_V4)
		known := 0
		for _, entry := range entries {
			if entry.State&unix.NUD_NOARP != 0 {
				continue
			}
			known++
			if entry.State != unix.NUD_PERMANENT || !slices.Equal(entry.HardwareAddr, insideMAC) {
				t.Errorf("the router believes %v", entry)
			}
		}
		if known != 2 {
			t.Errorf("the router knows %d neighbours, not 2", known)
		}
		six, err6 := netlink.AddrList(nil, netlink.FAMILY_V6)
		if len(six) > 0 {
			t.Error("the router has IPv6 addresses:", six)
		}
		return errors.Join(err, err6)
	})
	for _, one := range []*os.File{inside, neighbour} {
		if _, err := w.reaches(one, "tcp4", internetPeer+":7"); err != nil {
			t.Error(err)
		}
	}
}

// TestPortsThatTheHostForwardsAreTheHosts has the host lead a port of its own, and one of a public address, to a private machine, as
// container engines do.
func TestPortsThatTheHostForwardsAreTheHosts(t *testing.T) {
	w := newWorld(t)
	r := must(newRuleset(w.host, nftables.TableFamilyIPv4, "engine"))(t)
	chain := r.chain(nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest, nftables.ChainPolicyAccept, "prerouting")
	translate := []expr.Any{
		&expr.Immediate{Register: 1, Data: netip.MustParseAddr(lanPeer).AsSlice()},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1},
	}
	r.rule(chain, protocol(unix.IPPROTO_TCP), port(destinationPort, forwarded), translate)
	nat := r.chain(nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, nftables.ChainPolicyAccept, "postrouting")
	r.rule(nat, interfaceName(expr.MetaKeyOIFNAME, expr.CmpOpEq, "lan"), []expr.Any{&expr.Masq{}})
	if err := r.flush(); err != nil {
		t.Fatal(err)
	}
	n := w.open(Options{Policy: Internet})
	if _, err := w.reaches(w.internet, "tcp4", hostPublic+":8080"); err != nil {
		t.Fatal("the port that the host forwards does not work from outside:", err)
	}
	inside, a := w.sandboxOf(n, "a")
	w.serveEcho(inside)
	for _, to := range []string{hostPublic, hostPrivate, internetOther} {
		if _, err := w.reaches(inside, "tcp4", to+":8080"); err == nil {
			t.Errorf("a sandbox reached a private machine by %s", to)
		}
	}
	w.in(w.internet, func() error {
		return addRouteTo(n.layout.block.String(), hostPublic)
	})
	if _, err := w.reaches(w.internet, "tcp4", a.Address().String()+":7"); err == nil {
		t.Error("a machine outside connected to a sandbox")
	}
}

// answers dials again and again from a sandbox, and returns the times, sorted, and how many failed.
func (w *world) answers(from *os.File, lasting time.Duration) ([]time.Duration, int) {
	var took []time.Duration
	failed := 0
	pace := time.NewTicker(2 * time.Millisecond)
	defer pace.Stop()
	for end := time.Now().Add(lasting); time.Now().Before(end); <-pace.C {
		began := time.Now()
		if _, err := w.reaches(from, "tcp4", internetPeer+":7"); err != nil {
			failed++
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took, failed
}

func TestFloodsHurtOnlyTheirSandbox(t *testing.T) {
	w := newWorld(t)
	limits := Limits{Connections: 500, NewConnections: 1000, Packets: 5000}
	n := w.open(Options{Limits: limits})
	inside, a := w.sandboxOf(n, "a")
	neighbour, _ := w.sandboxOf(n, "b")
	alone, failed := w.answers(neighbour, 300*time.Millisecond)
	if failed > 0 {
		t.Fatalf("%d of %d connections failed with nobody else there", failed, len(alone))
	}
	floods := map[string]func(round int) error{
		"connections": func(round int) error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			err = unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{8, 8, byte(round >> 8), byte(round)}, Port: echoPort})
			if errors.Is(err, unix.EINPROGRESS) {
				return nil
			}
			return err
		},
		"packets": func(round int) error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			for i := range 200 {
				to := &unix.SockaddrInet4{Addr: [4]byte{93, 184, 216, 34}, Port: 1 + (round*200+i)%60_000}
				if err := unix.Sendto(fd, make([]byte, 64), 0, to); err != nil {
					return err
				}
			}
			return nil
		},
	}
	for name, flood := range floods {
		var stop atomic.Bool
		var sent atomic.Int64
		var group sync.WaitGroup
		group.Go(func() {
			_ = inNamespace(w.own, inside, func() error {
				for round := 0; !stop.Load(); round++ {
					_ = flood(round) // refused once there are too many
					sent.Add(1)
				}
				return nil
			})
		})
		took, failed := w.answers(neighbour, 1500*time.Millisecond)
		stop.Store(true)
		group.Wait()
		t.Logf("flood of %s: %d rounds; the neighbour's connections took %v at the median, %v at the 99th percentile, alone %v",
			name, sent.Load(), took[len(took)/2], took[len(took)*99/100], alone[len(alone)/2])
		if failed > 0 {
			t.Errorf("flood of %s: %d of the neighbour's %d connections failed", name, failed, len(took))
		}
		if median := took[len(took)/2]; median > 20*alone[len(alone)/2]+20*time.Millisecond {
			t.Errorf("flood of %s: the neighbour waited %v instead of %v", name, median, alone[len(alone)/2])
		}
		if tracked := w.tracked(a.Address()); tracked > limits.Connections {
			t.Errorf("flood of %s: the host tracks %d connections of one sandbox, more than %d", name, tracked, limits.Connections)
		} else if tracked < limits.Connections/2 {
			t.Errorf("flood of %s: the host tracks only %d connections: it was no flood", name, tracked)
		}
	}
	if err := a.Detach(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(3 * sweepEvery); w.tracked(a.Address()) > 0; {
		if time.Now().After(deadline) {
			t.Fatal("the host still tracks connections of a sandbox that is gone")
		}
		time.Sleep(100 * time.Millisecond) //nolint:forbidigo // the kernel gives no signal
	}
}

// tracked counts what the host tracks of an address.
func (w *world) tracked(address netip.Addr) int {
	w.t.Helper()
	count := 0
	w.in(w.host, func() error {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
		for _, flow := range flows {
			if from, ok := netip.AddrFromSlice(flow.Forward.SrcIP); ok && from.Unmap() == address {
				count++
			}
		}
		return err
	})
	return count
}

// TestRejectionsAreAtOnce has a program told that it may not, instead of waiting.
func TestRejectionsAreAtOnce(t *testing.T) {
	w := newWorld(t)
	inside, _ := w.sandboxOf(w.open(Options{}), "a")
	began := time.Now()
	_, err := w.dial(inside, "tcp4", lanPeer+":7", 5*time.Second)
	if !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("connecting to a private address: %v, want %v", err, syscall.EHOSTUNREACH)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v to be refused", took)
	}
}

// TestPortsOfTheHostCannotBeShadowed has a sandbox send from the port of a service of the host.
func TestPortsOfTheHostCannotBeShadowed(t *testing.T) {
	w := newWorld(t)
	inside, _ := w.sandboxOf(w.open(Options{}), "a")
	for _, protocol := range []string{"tcp4", "udp4"} {
		err := inNamespace(w.own, inside, func() error {
			dialer := net.Dialer{Timeout: time.Second, LocalAddr: &net.UDPAddr{Port: forwarded}}
			if protocol == "tcp4" {
				dialer.LocalAddr = &net.TCPAddr{Port: forwarded}
			}
			conn, err := dialer.Dial(protocol, internetPeer+":7")
			if err != nil {
				return err
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(time.Second))
			if _, err := conn.Write([]byte("x")); err != nil {
				return err
			}
			buffer := make([]byte, 100)
			n, err := conn.Read(buffer)
			if err != nil {
				return err
			}
			text, _, _ := strings.Cut(string(buffer[:n]), "\n")
			seen, err := netip.ParseAddrPort(text)
			if err == nil && seen.Port() < lowestPort {
				err = fmt.Errorf("the peer saw port %d", seen.Port())
			}
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", protocol, err)
		}
	}
}

// TestBandwidthIsLimited sends and receives for a moment with a low limit.
func TestBandwidthIsLimited(t *testing.T) {
	w := newWorld(t)
	const limit = 4 << 20
	inside, _ := w.sandboxOf(w.open(Options{Limits: Limits{Bandwidth: limit}}), "a")
	conn := must(w.dial(inside, "tcp4", internetPeer+":7", time.Second))(t)
	defer conn.Close()
	began := time.Now()
	const lasting = 3 * time.Second
	_ = conn.SetDeadline(began.Add(lasting))
	go func() {
		for block := make([]byte, 64<<10); ; {
			if _, err := conn.Write(block); err != nil {
				return
			}
		}
	}()
	var echoed int64
	for buffer := make([]byte, 64<<10); ; {
		n, err := conn.Read(buffer)
		echoed += int64(n)
		if err != nil {
			break
		}
	}
	const most = limit * (int64(lasting/time.Second) + 1) * 11 / 10 // what a second allows may come at once
	t.Logf("%.1f MB echoed in %v with a limit of %.1f MB/s", float64(echoed)/1e6, lasting, float64(limit)/1e6)
	if echoed > most || echoed < limit {
		t.Errorf("%d bytes were echoed, want at most %d", echoed, most)
	}
}
