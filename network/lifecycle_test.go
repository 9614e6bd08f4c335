package network

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// victimVariable has the test program serve names, if it begins so, or open a network, for the state directory that is its value, and wait to be killed. Its
// descriptor 3 is the host's namespace, 4 a sandbox's.
const victimVariable = "LAMBENT_NETWORK_VICTIM"

func victim() {
	if at, serves := strings.CutPrefix(os.Getenv(victimVariable), "serve "); serves {
		serveWithoutRights(at)
	}
	opts := Options{StateDir: os.Getenv(victimVariable), Policy: All, Host: os.NewFile(3, "host"), Log: slog.New(slog.DiscardHandler)}
	n, err := Open(context.Background(), opts)
	if err == nil {
		_, err = n.Attach(context.Background(), "a", os.NewFile(4, "sandbox"))
	}
	fmt.Println("ready", err)
	select {}
}

// serveWithoutRights gives up all rights and serves names by descriptors 3 and 4.
func serveWithoutRights(at string) {
	udp, tcp, err := Sockets(os.NewFile(3, "udp"), os.NewFile(4, "tcp"))
	err = errors.Join(err, syscall.Setgroups(nil), syscall.Setgid(65534), syscall.Setuid(65534))
	if err == nil {
		opts := DNSOptions{Resolvers: []netip.AddrPort{netip.MustParseAddrPort(at)}, Log: slog.New(slog.DiscardHandler)}
		err = ServeDNS(context.Background(), udp, tcp, opts)
	}
	fmt.Println(err)
	os.Exit(1)
}

func TestNamesAreServedWithoutRights(t *testing.T) {
	w := newWorld(t)
	n := w.open(Options{})
	inside, attached := w.sandboxOf(n, "a")
	up := newUpstream(t, nil)
	udp, tcp, err := n.DNS()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), victimVariable+"=serve "+up.at.String())
	child.ExtraFiles = []*os.File{udp, tcp}
	child.Stdout = os.Stderr
	if err := errors.Join(child.Start(), udp.Close(), tcp.Close()); err != nil {
		t.Fatal(err)
	}
	defer func() { child.Process.Kill(); _ = child.Wait() }()
	names := resolverAt(attached.Resolver().String()+":53", func(protocol, address string) (net.Conn, error) {
		return w.dial(inside, protocol, address, time.Second)
	})
	for _, count := range []int{1, 100} {
		if found, err := names.LookupIP(t.Context(), "ip4", fmt.Sprintf("n%d.example.", count)); err != nil || len(found) != count {
			t.Errorf("a name with %d addresses: found %d, %v", count, len(found), err)
		}
	}
}

// left lists what networks have made on the world's host.
func (w *world) left() []string {
	w.t.Helper()
	conn := must(nftables.New(nftables.WithNetNSFd(int(w.host.Fd()))))(w.t)
	var found []string
	for _, table := range must(conn.ListTables())(w.t) {
		found = append(found, "table "+table.Name)
	}
	for _, link := range w.linkNames(w.host) {
		if strings.HasPrefix(link, "lamb") {
			found = append(found, "interface "+link)
		}
	}
	w.in(w.host, func() error {
		taken, err := takenPrefixes()
		for _, prefix := range taken {
			if netip.MustParsePrefix("100.112.0.0/12").Overlaps(prefix) {
				found = append(found, "route "+prefix.String())
			}
		}
		return err
	})
	return found
}

func TestNothingIsLeftAfterAKill(t *testing.T) {
	w := newWorld(t)
	state := t.TempDir()
	for range 3 {
		inside := w.namespace()
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), victimVariable+"="+state)
		child.ExtraFiles = []*os.File{w.host, inside}
		output := must(child.StdoutPipe())(t)
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		line, _ := bufio.NewReader(output).ReadString('\n')
		if strings.TrimSpace(line) != "ready <nil>" {
			t.Fatalf("the process to be killed says %q", line)
		}
		if len(w.left()) < 3 {
			t.Fatal("the process to be killed made nothing:", w.left())
		}
		if err := Recover(state, w.host); err == nil {
			t.Error("what a living process has was removed")
		}
		child.Process.Kill()
		_ = child.Wait()
		if err := Recover(state, w.host); err != nil {
			t.Fatal(err)
		}
		if left := w.left(); len(left) > 0 {
			t.Error("left:", left)
		}
		w.eventually("the sandbox's end of the link goes", func() bool { return !slices.Contains(w.linkNames(inside), insideName) })
	}
	// A process that was not cleaned up after is replaced by the next.
	n := w.open(Options{StateDir: state})
	inside, _ := w.sandboxOf(n, "a")
	if _, err := w.reaches(inside, "tcp4", internetPeer+":7"); err != nil {
		t.Error(err)
	}
}

func (w *world) eventually(what string, is func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); {
		if time.Now().After(deadline) {
			w.t.Fatal("it did not come to pass: ", what)
		}
		time.Sleep(20 * time.Millisecond) //nolint:forbidigo // the kernel gives no signal
	}
}

func TestManySandboxesLeaveNothing(t *testing.T) {
	w := newWorld(t)
	n := w.open(Options{})
	descriptors := func() int { return len(must(os.ReadDir("/proc/self/fd"))(t)) }
	before := descriptors()
	var group sync.WaitGroup
	const workers, each = 4, 50
	for worker := range workers {
		group.Go(func() {
			for i := range each {
				namespace, err := newNamespace()
				if err != nil {
					t.Error(err)
					return
				}
				attached, err := n.Attach(t.Context(), fmt.Sprint(worker, i), namespace)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := w.reaches(namespace, "udp4", internetPeer+":7"); err != nil {
					t.Error(err)
				}
				if i%2 == 0 {
					namespace.Close() // the namespace may be gone before Detach
				}
				for range 2 {
					if err := attached.Detach(); err != nil {
						t.Error(err)
					}
				}
				namespace.Close()
			}
		})
	}
	group.Wait()
	if names := w.linkNames(n.router); len(names) != 2 {
		t.Error("interfaces left in the router:", names)
	}
	w.in(n.router, func() error {
		neighbours, err := netlink.NeighList(0, netlink.FAMILY_V4)
		for _, one := range neighbours {
			if one.State == netlink.NUD_PERMANENT {
				t.Error("left in the router:", one)
			}
		}
		routes, _ := netlink.RouteList(nil, netlink.FAMILY_V4)
		if len(routes) != 1 {
			t.Error("routes in the router:", routes)
		}
		return err
	})
	if after := descriptors(); after > before {
		t.Errorf("%d descriptors are open, before %d", after, before)
	}
	w.eventually("the rates and counts of sandboxes go", func() bool {
		return w.elements(n.router, routerTable)+w.elements(w.host, n.names.table) == 0
	})
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if left := w.left(); len(left) > 0 {
		t.Error("left after Close:", left)
	}
}

// elements counts those of the sets that hold something for each sandbox.
func (w *world) elements(namespace *os.File, table string) int {
	w.t.Helper()
	conn := must(nftables.New(nftables.WithNetNSFd(int(namespace.Fd()))))(w.t)
	count := 0
	for _, set := range must(conn.GetSets(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: table}))(w.t) {
		if set.Name != "refused" {
			count += len(must(conn.GetSetElements(set))(w.t))
		}
	}
	return count
}

func TestAttachRefuses(t *testing.T) {
	w := newWorld(t)
	n := w.open(Options{})
	inside, attached := w.sandboxOf(n, "a")
	if _, err := n.Attach(t.Context(), "b", inside); err == nil {
		t.Error("one namespace was attached twice")
	}
	plain := must(os.Open(filepath.Join("/proc/self", "exe")))(t)
	defer plain.Close()
	if _, err := n.Attach(t.Context(), "c", plain); err == nil {
		t.Error("a file that is no namespace was attached")
	}
	if _, err := w.reaches(inside, "tcp4", internetPeer+":7"); err != nil {
		t.Error("what was refused cut the sandbox off:", err)
	}
	w.in(inside, func() error { // as root inside may
		link, err := netlink.LinkByName(insideName)
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	})
	if err := attached.Detach(); err != nil {
		t.Error("detach after the sandbox removed its interface:", err)
	}
	if names := w.linkNames(n.router); len(names) != 2 {
		t.Error("interfaces left in the router:", names)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Error("closing again:", err)
	}
	if _, err := n.Attach(t.Context(), "d", w.namespace()); err == nil {
		t.Error("a closed network attached a sandbox")
	}
}

func TestNetworksOfOneHostDoNotMeet(t *testing.T) {
	w := newWorld(t)
	one, other := w.open(Options{}), w.open(Options{Policy: All})
	if one.layout.block.Overlaps(other.layout.block) {
		t.Fatalf("both have %s", one.layout.block)
	}
	a, _ := w.sandboxOf(one, "a")
	b, there := w.sandboxOf(other, "a")
	w.serveEcho(b)
	if _, err := w.reaches(a, "tcp4", there.Address().String()+":7"); err == nil {
		t.Error("a sandbox reached one of another network")
	}
	c, here := w.sandboxOf(one, "c")
	w.serveEcho(c)
	if _, err := w.reaches(b, "tcp4", here.Address().String()+":7"); err == nil {
		t.Error("a sandbox of a network that may reach private addresses reached one of another network")
	}
	for _, inside := range []*os.File{a, b} {
		if _, err := w.reaches(inside, "tcp4", internetPeer+":7"); err != nil {
			t.Error(err)
		}
	}
}

// TestNamespaceOfAnotherUser attaches a namespace that belongs to a user namespace, as a sandbox's does.
func TestNamespaceOfAnotherUser(t *testing.T) {
	w := newWorld(t)
	n := w.open(Options{})
	child := exec.Command("sleep", "100")
	child.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0x7f000000, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0x7f000000, Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	namespace := must(os.Open(fmt.Sprintf("/proc/%d/ns/net", child.Process.Pid)))(t)
	attached := must(n.Attach(t.Context(), "a", namespace))(t)
	if _, err := w.reaches(namespace, "tcp4", internetPeer+":7"); err != nil {
		t.Error(err)
	}
	w.in(namespace, func() error {
		six, err := netlink.AddrList(nil, netlink.FAMILY_V6)
		for _, address := range six {
			if address.Scope != int(netlink.SCOPE_HOST) {
				t.Error("an address of IPv6 inside:", address)
			}
		}
		return err
	})
	child.Process.Kill()
	_ = child.Wait()
	namespace.Close()
	if err := attached.Detach(); err != nil {
		t.Error(err)
	}
}

func TestForwardingIsSwitchedOnAndSaid(t *testing.T) {
	w := newWorld(t)
	const path = "/proc/sys/net/ipv4/ip_forward"
	w.in(w.host, func() error { return os.WriteFile(path, []byte("0"), 0) })
	var said strings.Builder
	log := slog.New(slog.NewTextHandler(&said, nil))
	for range 2 {
		n := w.open(Options{Log: log})
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if strings.Count(said.String(), "net.ipv4.ip_forward") != 1 {
		t.Error("the log says:", said.String())
	}
	w.in(w.host, func() error {
		now, err := os.ReadFile(path)
		if string(now) != "1\n" {
			t.Errorf("forwarding is %q", now)
		}
		return err
	})
}

func FuzzDeletedLinks(f *testing.F) {
	event := &batch{}
	event.request(unix.RTM_DELLINK, 0, interfaceInfo(outsideIndex(firstSlot), 0))
	event.text(unix.IFLA_IFNAME, outsideName(firstSlot))
	f.Add(event.bytes)
	f.Add([]byte("\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, messages []byte) {
		for _, index := range deletedLinks(messages) {
			if index < outsideIndex(firstSlot) {
				t.Fatal("not a sandbox's link:", index)
			}
		}
	})
}

func TestDeletedLinksAreHeardOf(t *testing.T) {
	events := &batch{}
	events.request(unix.RTM_DELLINK, 0, interfaceInfo(outsideIndex(firstSlot), 0))
	events.text(unix.IFLA_IFNAME, outsideName(firstSlot))
	events.request(unix.RTM_NEWLINK, 0, interfaceInfo(outsideIndex(firstSlot+1), 0))
	events.request(unix.RTM_DELLINK, 0, interfaceInfo(1, 0))
	events.request(unix.RTM_DELLINK, 0, interfaceInfo(outsideIndex(firstSlot+2), 0))
	if got := deletedLinks(events.bytes); !slices.Equal(got, []uint32{outsideIndex(firstSlot), outsideIndex(firstSlot + 2)}) {
		t.Error(got)
	}
}

// TestDetachUnseen leaves links to themselves: those whose namespaces go and those whose namespaces stay go all the same, and Close
// waits for none.
func TestDetachUnseen(t *testing.T) {
	w := newWorld(t)
	n := w.open(Options{})
	for round := range 2 {
		for i := range 8 {
			namespace, err := newNamespace()
			if err != nil {
				t.Fatal(err)
			}
			attached := must(n.Attach(t.Context(), fmt.Sprint(round, i), namespace))(t).(*attachment)
			if i%2 == 0 {
				namespace.Close()
			} else {
				defer namespace.Close()
			}
			attached.DetachUnseen()
			if err := attached.Detach(); err != nil { // it is done already
				t.Error(err)
			}
		}
		if round == 0 {
			w.eventually("the links go", func() bool { return len(w.linkNames(n.router)) == 2 })
		}
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if left := w.left(); len(left) > 0 {
		t.Error("left after Close:", left)
	}
}
