package microvm

import (
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"lambent/network"
	"lambent/sandbox"
	"lambent/sandbox/microvm/microvmtest"
	"lambent/sandbox/sandboxtest"
)

// TestNetwork connects sandboxes to a network, on a host of one network namespace that is thrown away: what is outside is reached,
// and nothing else, whatever is tried. What continues from another's state has an address of its own.
func TestNetwork(t *testing.T) {
	options := needHost(t)
	if !sandboxtest.Elsewhere(t) {
		return
	}
	makeOutside(t)
	way, err := network.Open(t.Context(), network.Options{StateDir: t.TempDir(), Policy: network.Internet, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer way.Close()
	options.Network = way
	open := func(stateDir string) (sandbox.Driver, error) {
		mine := options
		mine.StateDir = stateDir
		return Open(mine)
	}
	t.Run("reach", func(t *testing.T) {
		opened, err := open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer opened.Close()
		d := opened.(*Driver)
		boxes := []sandbox.Sandbox{reaching(t, d, "first"), reaching(t, d, "second")}
		dir := t.TempDir()
		if err := d.Snapshot(t.Context(), boxes[0], dir); err != nil {
			t.Fatal(err)
		}
		restored, _, err := d.Restore(t.Context(), "restored", dir)
		if err != nil {
			t.Fatal(err)
		}
		boxes = append(boxes, restored)
		addresses := map[string]bool{}
		for _, box := range boxes {
			reach(t, box)
			addresses[says(t, box, "ip", "eth0")] = true
		}
		for _, address := range []string{"9.9.9.1", "10.0.0.2", "169.254.169.254"} { // the host, a private one, metadata
			if got := says(t, restored, "dial", address+":80"); !strings.HasPrefix(got, "nothing") {
				t.Errorf("%s said %q", address, got)
			}
		}
		if len(addresses) != len(boxes) {
			t.Errorf("%d sandboxes have the addresses %v", len(boxes), addresses)
		}
	})
	sandboxtest.RunAttempts(t, sandboxtest.Harness{Kind: "microvm", Emulated: true, Open: open, Leftovers: microvmtest.Leftovers}, "Kinds of sockets", "The network")
}

// reaching makes a specialised sandbox.
func reaching(t *testing.T, d *Driver, id string) sandbox.Sandbox {
	t.Helper()
	box, err := d.Create(t.Context(), id, sandbox.Template{})
	if err != nil {
		t.Fatal(err)
	}
	spec := sandbox.Spec{MemoryMiB: 256, VCPU: 1, Processes: 64, Descriptors: 256, EphemeralMiB: 512,
		Mounts: []sandbox.Mount{{Source: filepath.Dir(sandboxtest.BuildProbe(t)), Target: "/var/task"}}}
	if err := box.Specialise(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	return box
}

// says returns what a probe says.
func says(t *testing.T, box sandbox.Sandbox, args ...string) string {
	t.Helper()
	process, err := box.Start(t.Context(), probe(args...))
	if err != nil {
		t.Fatal(err)
	}
	defer process.Output().Close()
	out, err := io.ReadAll(process.Output())
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// reach checks what a sandbox reaches.
func reach(t *testing.T, box sandbox.Sandbox) {
	t.Helper()
	if got := says(t, box, "dial", "9.9.9.2:80"); !strings.HasPrefix(got, "hello\n") {
		t.Errorf("outside said %q", got)
	}
	if got := says(t, box, "dial", "127.0.0.1:1"); !strings.Contains(got, "refused") {
		t.Errorf("the loopback interface said %q", got)
	}
	checkRuntimeAPI(t, box)
}

// makeOutside gives the namespace an interface to another one, which says hello.
func makeOutside(t *testing.T) {
	t.Helper()
	need := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	up := func(name, address string) {
		link, err := netlink.LinkByName(name)
		need(err)
		need(netlink.LinkSetUp(link))
		if address != "" {
			parsed, err := netlink.ParseAddr(address)
			need(err)
			need(netlink.AddrAdd(link, parsed))
		}
	}
	up("lo", "")
	here, err := os.Open("/proc/thread-self/ns/net")
	need(err)
	defer here.Close()
	var outside *os.File
	var far net.Listener
	need(inNewNamespace(func() (err error) {
		if err = netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "far"}, PeerName: "uplink",
			PeerNamespace: netlink.NsFd(int(here.Fd()))}); err != nil {
			return err
		}
		up("far", "9.9.9.2/24")
		if far, err = net.Listen("tcp", "9.9.9.2:80"); err != nil {
			return err
		}
		outside, err = os.Open("/proc/thread-self/ns/net")
		return err
	}))
	t.Cleanup(func() { outside.Close() })
	up("uplink", "9.9.9.1/24")
	link, err := netlink.LinkByName("uplink")
	need(err)
	need(netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.IPv4(9, 9, 9, 2)}))
	host, err := net.Listen("tcp", "9.9.9.1:80")
	need(err)
	sayTo(t, far, "hello\n")
	sayTo(t, host, "this is the host\n")
}

// sayTo says something to whoever connects.
func sayTo(t *testing.T, listener net.Listener, text string) {
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conn.Write([]byte(text))
			conn.Close()
		}
	}()
}
