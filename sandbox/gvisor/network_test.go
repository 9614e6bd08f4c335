package gvisor

import (
	"log/slog"
	"net"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"lambent/network"
	"lambent/sandbox"
	"lambent/sandbox/native/nativetest"
	"lambent/sandbox/sandboxtest"
)

// TestNetwork connects sandboxes to a network, on a host of one network namespace that is thrown away: what is outside is reached,
// and nothing else, whatever is tried.
func TestNetwork(t *testing.T) {
	needHost(t)
	if !sandboxtest.Elsewhere(t) {
		return
	}
	makeOutside(t)
	stateDir := t.TempDir()
	way, err := network.Open(t.Context(), network.Options{StateDir: stateDir, Policy: network.Internet, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer way.Close()
	open := func(stateDir string) (sandbox.Driver, error) {
		return Open(Options{StateDir: stateDir, Runsc: runsc(), Network: way, Base: shell()})
	}
	t.Run("reach", func(t *testing.T) {
		d, err := open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		box := specialised(t, d.(*Driver), "box", 512)
		go answer(box.RuntimeAPI())
		reach(t, box)
		if err := box.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		reach(t, box)
		dir := t.TempDir()
		if err := d.(*Driver).Snapshot(t.Context(), box, dir); err != nil {
			t.Fatal(err)
		}
		reach(t, box)
		restored, _, err := d.(*Driver).Restore(t.Context(), "restored", dir)
		if err != nil {
			t.Fatal(err)
		}
		go answer(restored.RuntimeAPI())
		reach(t, restored)
	})
	sandboxtest.RunAttempts(t, sandboxtest.Harness{Kind: "gvisor", Open: open, Leftovers: nativetest.Leftovers}, "Kinds of sockets", "The network")
}

// reach checks what a sandbox reaches whose Runtime API is served.
func reach(t *testing.T, box sandbox.Sandbox) {
	t.Helper()
	for address, want := range map[string]string{"9.9.9.2": "hello", "9.9.9.1": "", "10.0.0.2": ""} {
		got := said(t, box, "timeout 3 bash -c 'exec 3<>/dev/tcp/"+address+"/80 && head -c 5 <&3' 2>/dev/null")
		if got != want {
			t.Errorf("%s said %q instead of %q", address, got, want)
		}
	}
	if got := said(t, box, "exec 3<>/dev/tcp/127.0.0.1/1"); !strings.Contains(got, "refused") {
		t.Errorf("the loopback interface said %q", got)
	}
	if got := said(t, box, "exec 3<>/dev/tcp/169.254.100.1/9001; echo hello >&3; cat <&3"); got != "hello" {
		t.Errorf("the Runtime API said %q", got)
	}
}

// makeOutside gives the namespace an interface to another one, which serves.
func makeOutside(t *testing.T) {
	t.Helper()
	up := func(name, address string) netlink.Link {
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(link)
		}
		if err == nil && address != "" {
			var parsed *netlink.Addr
			if parsed, err = netlink.ParseAddr(address); err == nil {
				err = netlink.AddrAdd(link, parsed)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		return link
	}
	up("lo", "")
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "uplink"}, PeerName: "far"}); err != nil {
		t.Fatal(err)
	}
	uplink := up("uplink", "9.9.9.1/24")
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: uplink.Attrs().Index, Gw: net.IPv4(9, 9, 9, 2)}); err != nil {
		t.Fatal(err)
	}
	outside, err := newNetwork()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { outside.Close() })
	far, err := netlink.LinkByName("far")
	if err == nil {
		err = netlink.LinkSetNsFd(far, int(outside.Fd()))
	}
	if err != nil {
		t.Fatal(err)
	}
	listening := make(chan net.Listener)
	go func() {
		runtime.LockOSThread() // and not unlocked: the thread ends with the goroutine
		if err := unix.Setns(int(outside.Fd()), unix.CLONE_NEWNET); err != nil {
			panic(err)
		}
		up("far", "9.9.9.2/24")
		listener, err := net.Listen("tcp", "9.9.9.2:80")
		if err != nil {
			panic(err)
		}
		listening <- listener
	}()
	listener := <-listening
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conn.Write([]byte("hello"))
			conn.Close()
		}
	}()
	host, err := net.Listen("tcp", "9.9.9.1:80")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	go func() {
		for {
			conn, err := host.Accept()
			if err != nil {
				return
			}
			conn.Write([]byte("this is the host"))
			conn.Close()
		}
	}()
}
