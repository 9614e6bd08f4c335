package network

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(victimVariable) != "" {
		victim()
		return
	}
	goleak.VerifyTestMain(m)
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces and nftables need root")
	}
}

// The world outside of the sandboxes: a host with an address of the internet and one of a private network, and a machine in
// each. All are network namespaces.
const (
	hostPublic    = "93.184.216.2"
	hostPrivate   = "10.20.0.2"
	internetPeer  = "93.184.216.34"
	internetOther = "8.8.8.8"
	lanPeer       = "10.20.0.1"
	sharedPeer    = "100.64.9.9"      // carrier-grade NAT, reached by the private network
	metadata      = "169.254.169.254" // on the host
	forwarded     = 8080              // a port of the host that leads to lanPeer
	echoPort      = 7
)

type world struct {
	t                   testing.TB
	own                 *os.File
	host, internet, lan *os.File
}

// newWorld makes the machines, with echo services on all of their addresses.
func newWorld(t testing.TB) *world {
	needRoot(t)
	w := &world{t: t}
	w.own = must(ownNamespace())(t)
	t.Cleanup(func() { w.own.Close() })
	w.host, w.internet, w.lan = w.namespace(), w.namespace(), w.namespace()
	w.wire(w.host, "wan", hostPublic+"/24", w.internet, internetPeer+"/24")
	w.wire(w.host, "lan", hostPrivate+"/24", w.lan, lanPeer+"/24")
	w.in(w.internet, func() error { return addLoopback(internetOther + "/32") })
	w.in(w.lan, func() error { return addLoopback(sharedPeer + "/32") })
	w.in(w.host, func() error {
		return errors.Join(addLoopback(metadata+"/32"),
			addRouteTo("0.0.0.0/0", internetPeer), addRouteTo("100.64.0.0/16", lanPeer), addRouteTo("10.0.0.0/8", lanPeer))
	})
	for _, machine := range []*os.File{w.host, w.internet, w.lan} {
		w.serveEcho(machine)
	}
	return w
}

func must[T any](value T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func (w *world) namespace() *os.File {
	w.t.Helper()
	file := must(newNamespace())(w.t)
	w.t.Cleanup(func() { file.Close() })
	w.in(file, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return file
}

func (w *world) in(namespace *os.File, f func() error) {
	w.t.Helper()
	if err := inNamespace(w.own, namespace, f); err != nil {
		w.t.Fatal(err)
	}
}

func addLoopback(address string) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	parsed, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	return netlink.AddrAdd(lo, parsed)
}

func addRouteTo(destination, gateway string) error {
	_, to, err := net.ParseCIDR(destination)
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{Dst: to, Gw: net.ParseIP(gateway)})
}

func (w *world) wire(a *os.File, name, addressA string, b *os.File, addressB string) {
	w.t.Helper()
	w.in(a, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name, PeerNamespace: netlink.NsFd(int(b.Fd()))})
	})
	up := func(address string) func() error {
		return func() error {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			parsed, err := netlink.ParseAddr(address)
			if err != nil {
				return err
			}
			return errors.Join(netlink.AddrAdd(link, parsed), netlink.LinkSetUp(link))
		}
	}
	w.in(a, up(addressA))
	w.in(b, up(addressB))
	w.in(a, func() error { return settleUplink(name) })
}

// serveEcho answers on every address of a machine, TCP and UDP, at the echo port and at that of a name server, with where the
// peer comes from.
func (w *world) serveEcho(machine *os.File) {
	for _, port := range []int{echoPort, 53, forwarded} {
		var listener net.Listener
		var packets []net.PacketConn
		w.in(machine, func() (err error) {
			if listener, err = net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", port)); err != nil {
				return err
			}
			addresses, err := netlink.AddrList(nil, netlink.FAMILY_V4)
			if err != nil {
				return err
			}
			for _, address := range addresses {
				one, err := net.ListenPacket("udp4", fmt.Sprintf("%s:%d", address.IP, port))
				if err != nil {
					return err
				}
				packets = append(packets, one)
			}
			return nil
		})
		var group sync.WaitGroup
		group.Go(func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				group.Go(func() {
					defer conn.Close()
					_ = conn.SetDeadline(time.Now().Add(3 * time.Second))
					fmt.Fprintln(conn, conn.RemoteAddr())
					_, _ = io.Copy(conn, conn)
				})
			}
		})
		for _, socket := range packets {
			group.Go(func() { answerPackets(socket) })
		}
		w.t.Cleanup(func() {
			listener.Close()
			for _, socket := range packets {
				socket.Close()
			}
			group.Wait()
		})
	}
}

func answerPackets(socket net.PacketConn) {
	buffer := make([]byte, 64<<10)
	for {
		_, from, err := socket.ReadFrom(buffer)
		if err != nil {
			return
		}
		_, _ = socket.WriteTo([]byte(from.String()+"\n"), from)
	}
}

// dial connects from a namespace.
func (w *world) dial(from *os.File, protocol, to string, timeout time.Duration) (conn net.Conn, err error) {
	err = inNamespace(w.own, from, func() error {
		conn, err = net.DialTimeout(protocol, to, timeout)
		return err
	})
	return conn, err
}

// reaches says whether an echo service answers, and how the peer saw us.
func (w *world) reaches(from *os.File, protocol, to string) (string, error) {
	conn, err := w.dial(from, protocol, to, 500*time.Millisecond)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(500 * time.Millisecond))
	if protocol == "udp4" {
		if _, err := conn.Write([]byte("x")); err != nil {
			return "", err
		}
	}
	buffer := make([]byte, 100)
	n, err := conn.Read(buffer)
	return string(buffer[:n]), err
}

// open opens a network in the world's host.
func (w *world) open(opts Options) *Network {
	w.t.Helper()
	opts.Host = w.host
	if opts.StateDir == "" {
		opts.StateDir = w.t.TempDir()
	}
	if opts.Policy == "" {
		opts.Policy = Internet
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	n := must(Open(w.t.Context(), opts))(w.t)
	w.t.Cleanup(func() {
		if err := n.Close(); err != nil {
			w.t.Error(err)
		}
	})
	return n
}

// sandboxOf makes a namespace and attaches it.
func (w *world) sandboxOf(n *Network, id string) (*os.File, *attachment) {
	w.t.Helper()
	namespace := w.namespace()
	attached := must(n.Attach(w.t.Context(), id, namespace))(w.t).(*attachment)
	return namespace, attached
}

// linkNames lists the interfaces of a namespace.
func (w *world) linkNames(namespace *os.File) []string {
	w.t.Helper()
	var names []string
	w.in(namespace, func() error {
		links, err := netlink.LinkList()
		for _, link := range links {
			names = append(names, link.Attrs().Name)
		}
		return err
	})
	return names
}
