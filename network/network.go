package network

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"lambent/sandbox"
)

// Options configure a Network.
type Options struct {
	// StateDir is a directory of the driver's. The names of what is made on the host (one interface, one nftables table)
	// follow from it; two processes never share one.
	StateDir string
	// Policy is Internet or All.
	Policy Policy
	// Allow opens private prefixes under the policy Internet. IPv4.
	Allow []netip.Prefix
	// Deny closes prefixes under any policy, and wins over Allow. IPv4.
	Deny []netip.Prefix
	// Prefixes are where addresses are taken from: a block of 16,384 that the host neither routes nor has, in the first of
	// these that has one. Default 100.112.0.0/12 and 198.18.0.0/15. They are not seen outside of the host.
	Prefixes []netip.Prefix
	// Limits bound what one sandbox can use.
	Limits Limits
	// Host is the network namespace that sandboxes go out by. Default: that of this process. It stays the caller's.
	Host *os.File
	// Log is required.
	Log *slog.Logger
}

// Limits bound what one sandbox can use. For each, 0 is the default.
type Limits struct {
	// Connections tracked by the host at once, those that have just ended included. Default 1,024.
	Connections int
	// NewConnections begun per second; up to Connections may begin at once. The kernel cannot count
	// exactly much above 2,000. Default 100.
	NewConnections int
	// Packets sent per second. Large TCP writes count once per 64 KiB. Default 50,000.
	Packets int
	// Queries to the name server per second; a quarter of it for TCP connections to it. Default 200.
	Queries int
	// Bandwidth in bytes per second, each way. What a second allows may come at once. Default 0: no limit.
	Bandwidth int64
}

func (l Limits) withDefaults() Limits {
	for _, field := range []struct {
		value *int
		usual int
	}{{&l.Connections, 1024}, {&l.NewConnections, 100}, {&l.Packets, 50_000}, {&l.Queries, 200}} {
		if *field.value == 0 {
			*field.value = field.usual
		}
	}
	return l
}

// Network connects sandboxes to the outside. It implements sandbox.Network and is safe for use by many goroutines.
//
// Invariant: a slot, and so an address and an interface index in the router, belongs to at most one attachment, from
// Attach until the link is gone and the host has forgotten the connections of that address.
type Network struct {
	log    *slog.Logger
	names  names
	layout layout
	mtu    int
	own    *os.File // the namespace of this process
	host   *os.File // the namespace that is gone out by
	router *os.File // the router's namespace: it ends with the last of its descriptors and sockets
	lock   *os.File
	links  *kernel // to the router's namespace
	udp    *os.File
	tcp    *os.File
	events *os.File // the reaper's from then on
	reaper *reaper

	mu     sync.Mutex
	closed bool
	slots  slots
}

// names of what is made on the host.
type names struct{ table, uplink string }

// namesOf derives names from a state directory.
func namesOf(stateDir string) (names, error) {
	path, err := filepath.Abs(stateDir)
	if err != nil {
		return names{}, fmt.Errorf("find the state directory: %w", err)
	}
	var info unix.Stat_t
	if err := unix.Stat(path, &info); err != nil {
		return names{}, fmt.Errorf("find the state directory %s: %w", path, err)
	}
	// Containers that share the host's network may have the same path.
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d", path, info.Dev, info.Ino))
	id := hex.EncodeToString(sum[:5])
	return names{table: "lambent-" + id, uplink: "lamb-" + id}, nil
}

// Names returns what the nftables table and the interface are called that a network with this state directory has on the host. The
// directory has to exist.
func Names(stateDir string) (table, uplink string, err error) {
	made, err := namesOf(stateDir)
	return made.table, made.uplink, err
}

// Open removes what an earlier process of the same state directory left behind, and makes a network. It needs root.
func Open(ctx context.Context, opts Options) (*Network, error) {
	if opts.Policy != Internet && opts.Policy != All {
		return nil, fmt.Errorf("network policy %q: it is internet or all; for none, open no network", opts.Policy)
	}
	for _, prefix := range append(append(append([]netip.Prefix(nil), opts.Allow...), opts.Deny...), opts.Prefixes...) {
		if !prefix.IsValid() || !prefix.Addr().Is4() {
			return nil, fmt.Errorf("network prefix %s: it is not of IPv4", prefix)
		}
	}
	if len(opts.Prefixes) == 0 {
		opts.Prefixes = prefixes("100.112.0.0/12", "198.18.0.0/15")
	}
	opts.Limits = opts.Limits.withDefaults()
	n := &Network{log: opts.Log, slots: newSlots()}
	if err := n.open(ctx, opts); err != nil {
		return nil, errors.Join(fmt.Errorf("open the network: %w", err), n.release())
	}
	n.reaper = newReaper(n, n.events)
	return n, nil
}

// open makes everything; what it made before it failed is in n.
func (n *Network) open(ctx context.Context, opts Options) (err error) {
	if n.names, err = namesOf(opts.StateDir); err != nil {
		return err
	}
	if n.own, err = ownNamespace(); err != nil {
		return err
	}
	if n.host, err = duplicate(opts.Host); err != nil {
		return err
	}
	if n.lock, err = lockDirectory(opts.StateDir); err != nil {
		return err
	}
	if err := n.removeLeftovers(); err != nil {
		return err
	}
	if n.router, err = newNamespace(); err != nil {
		return err
	}
	if err := inNamespace(n.own, n.host, func() error { return n.openUplink(opts) }); err != nil {
		return err
	}
	err = inNamespace(n.own, n.router, func() error {
		if n.udp, n.tcp, err = setUpRouter(n.layout); err == nil {
			n.links, err = dialKernel(unix.NETLINK_ROUTE)
		}
		if err == nil {
			n.events, err = linkEvents()
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := inNamespace(n.own, n.host, func() error { return settleUplink(n.names.uplink) }); err != nil {
		return err
	}
	closed := refused(opts.Policy, opts.Allow, opts.Deny, n.layout.block)
	if err := routerRules(n.router, n.layout, closed, opts.Limits); err != nil {
		return err
	}
	if err := hostRules(n.own, n.host, n.names.table, n.names.uplink, n.layout, opts.Policy, opts.Limits); err != nil {
		return err
	}
	droppers, err := forwardDroppers(n.host)
	if err != nil {
		return err
	}
	if len(droppers) > 0 {
		n.log.WarnContext(ctx, "rules of others may drop what sandboxes send", "chains", droppers, "allow_interface", n.names.uplink)
	}
	n.log.InfoContext(ctx, "network opened", "policy", opts.Policy, "addresses", n.layout.block, "interface", n.names.uplink, "mtu", n.mtu)
	return ctx.Err()
}

// openUplink makes the link to the host. It runs in the host's namespace.
func (n *Network) openUplink(opts Options) error {
	taken, err := takenPrefixes()
	if err != nil {
		return err
	}
	// Metadata services are not in the routing table. The host may still ask them.
	taken = append(append(taken, never...), prefixes("100.100.0.0/16")...)
	seed, err := hex.DecodeString(n.names.table[len("lambent-"):])
	if err != nil {
		return fmt.Errorf("read the network's own name: %w", err)
	}
	n.mtu = outerMTU()
	n.layout, err = addUplink(n.names.uplink, n.router, n.mtu, freeBlocks(opts.Prefixes, taken, binary.BigEndian.Uint32(seed)))
	if err != nil {
		return err
	}
	switched, err := switchForwardingOn()
	if switched {
		n.log.Warn("forwarding of IPv4 packets was off on this host and has been switched on", "sysctl", "net.ipv4.ip_forward")
	}
	return err
}

// Recover removes what a process of the state directory left behind, whether or not a network is opened after it. The host's
// namespace is that of this process when it is nil. Open does the same.
func Recover(stateDir string, host *os.File) (err error) {
	n := &Network{}
	defer func() { err = errors.Join(err, n.closeFiles()) }()
	if n.names, err = namesOf(stateDir); err != nil {
		return err
	}
	if n.own, err = ownNamespace(); err != nil {
		return err
	}
	if n.host, err = duplicate(host); err != nil {
		return err
	}
	if n.lock, err = lockDirectory(stateDir); err != nil {
		return err
	}
	return n.removeLeftovers()
}

// removeLeftovers removes what is named. The router and its links have no names: the kernel removed them with the process.
func (n *Network) removeLeftovers() error {
	err := inNamespace(n.own, n.host, func() error { return deleteUplink(n.names.uplink) })
	return errors.Join(err, deleteTable(n.host, n.names.table))
}

// DNS returns the sockets of the name server, for ServeDNS in this process or in one without rights (see Sockets). Until they
// are served queries wait. The files are the caller's. They keep the router's namespace, without its uplink, until they are
// closed, also after Close.
func (n *Network) DNS() (udp, tcp *os.File, err error) {
	if udp, err = duplicate(n.udp); err != nil {
		return nil, nil, err
	}
	if tcp, err = duplicate(n.tcp); err != nil {
		return nil, nil, errors.Join(err, udp.Close())
	}
	return udp, tcp, nil
}

// Resolver is the address of the name server.
func (n *Network) Resolver() netip.Addr { return n.layout.resolver() }

// Close removes everything. Sandboxes that are still attached lose their interfaces.
func (n *Network) Close() error {
	n.mu.Lock()
	closed := n.closed
	n.closed = true
	n.mu.Unlock()
	if closed {
		return nil
	}
	return errors.Join(n.reaper.close(), n.release())
}

// release gives back what open made, whole or in part.
func (n *Network) release() error {
	var err error
	if n.router != nil {
		err = n.removeLeftovers()
	}
	return errors.Join(err, n.closeFiles())
}

func (n *Network) closeFiles() error {
	var all error
	if n.links != nil {
		all = n.links.close()
	}
	if n.events != nil && n.reaper == nil {
		all = errors.Join(all, n.events.Close())
	}
	for _, file := range []*os.File{n.udp, n.tcp, n.router, n.host, n.own, n.lock} {
		if file != nil {
			all = errors.Join(all, file.Close())
		}
	}
	return all
}

// duplicate opens a descriptor again; nil is the network namespace of this process.
func duplicate(file *os.File) (*os.File, error) {
	if file == nil {
		return ownNamespace()
	}
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", file.Name(), err)
	}
	return os.NewFile(uintptr(fd), file.Name()), nil
}

// lockDirectory keeps other processes from the names of a state directory.
func lockDirectory(stateDir string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(stateDir, "network.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the state directory: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		return nil, fmt.Errorf("another process has the network of %s: %w", stateDir, err)
	}
	return file, nil
}

var _ sandbox.Network = (*Network)(nil)
