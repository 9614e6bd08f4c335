package sandboxtest_test

import (
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/vishvananda/netlink"

	"lambent/network"
	"lambent/sandbox"
	"lambent/sandbox/native"
	"lambent/sandbox/native/nativetest"
	"lambent/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	native.MaybeInit()
	os.Exit(m.Run())
}

// TestAttemptsWithNetwork makes the attempts that have to do with sockets and networks in sandboxes that may reach the
// Internet, on a host of one network namespace that is thrown away.
func TestAttemptsWithNetwork(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a network for sandboxes needs root")
	}
	if !sandboxtest.Elsewhere(t) {
		return
	}
	addresses := makeHost(t)
	h := sandboxtest.Harness{
		Open: func(stateDir string) (sandbox.Driver, error) {
			way, err := network.Open(t.Context(), network.Options{StateDir: stateDir, Policy: network.Internet, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				return nil, err
			}
			driver, err := native.Open(native.Options{StateDir: stateDir, Network: way})
			if err != nil {
				way.Close()
				return nil, err
			}
			return networked{driver, way}, nil
		},
		Leftovers:     nativetest.Leftovers,
		HostAddresses: addresses,
	}
	sandboxtest.RunAttempts(t, h, "Kinds of sockets", "The network")
}

// networked is a driver that closes its network too.
type networked struct {
	sandbox.Driver
	way *network.Network
}

func (n networked) Close() error {
	if err := n.Driver.Close(); err != nil {
		return err
	}
	return n.way.Close()
}

// makeHost gives a new network namespace an interface to nowhere with addresses of many kinds, and serves on all of them. It
// returns them as pairs of network and address.
func makeHost(t *testing.T) (pairs []string) {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	uplink := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "uplink"}, PeerName: "nowhere"}
	if err := netlink.LinkAdd(uplink); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(uplink); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"9.9.9.1/24", "10.0.0.1/32", "192.168.0.1/32", "169.254.169.254/32", "169.254.170.2/32", "198.51.100.1/32"} {
		prefix := netip.MustParsePrefix(text)
		address, err := netlink.ParseAddr(text)
		if err == nil {
			err = netlink.AddrAdd(uplink, address)
		}
		if err != nil {
			t.Fatal(err)
		}
		listener, err := net.Listen("tcp", netip.AddrPortFrom(prefix.Addr(), 80).String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				conn.Close()
			}
		}()
		pairs = append(pairs, "tcp", listener.Addr().String())
	}
	route := &netlink.Route{LinkIndex: uplink.Attrs().Index, Gw: net.IPv4(9, 9, 9, 2)}
	if err := netlink.RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	return pairs
}
