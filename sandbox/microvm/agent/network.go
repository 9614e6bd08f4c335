package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"lambent/sandbox"
	"lambent/sandbox/microvm/agent/wire"
)

// insideName is the interface's name in the sandbox, as in sandboxes without a machine.
const insideName = "eth0"

// uplink is the machine's network interface. It implements sandbox.Network for the one sandbox, which the interface is moved into;
// what its address is, each host tells anew.
type uplink struct {
	link netlink.Link // as it was found

	mu        sync.Mutex
	setting   *wire.Network // nil: not told yet
	namespace *os.File      // nil: not attached
}

// findUplink returns the machine's network interface, nil when it has none.
func findUplink() (*uplink, error) {
	paths, err := filepath.Glob("/sys/class/net/*/device/driver")
	if err != nil || len(paths) == 0 {
		return nil, err
	}
	name := filepath.Base(filepath.Dir(filepath.Dir(paths[0])))
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find the network interface: %w", err)
	}
	return &uplink{link: link}, nil
}

// told takes over what a greeting says.
func (u *uplink) told(note []byte) error {
	setting := &wire.Network{}
	if err := json.Unmarshal(note, setting); err != nil {
		return fmt.Errorf("read the network's settings: %w", err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.setting = setting
	if u.namespace == nil {
		return nil
	}
	return configure(u.namespace, *setting)
}

// Attach implements sandbox.Network.
func (u *uplink) Attach(_ context.Context, _ string, namespace *os.File) (sandbox.Attachment, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.namespace != nil {
		return nil, errors.New("another sandbox has the machine's network interface")
	}
	if u.setting == nil {
		return nil, errors.New("the host has not said what the network is like")
	}
	fd, err := unix.FcntlInt(namespace.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	own := os.NewFile(uintptr(fd), namespace.Name())
	err = netlink.LinkSetNsFd(u.link, fd)
	if err == nil {
		err = configure(own, *u.setting)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("give the sandbox its network interface: %w", err), own.Close())
	}
	u.namespace = own
	return &attached{u}, nil
}

// attached is the sandbox's connection.
type attached struct{ uplink *uplink }

// Resolver implements sandbox.Attachment.
func (a *attached) Resolver() netip.Addr {
	a.uplink.mu.Lock()
	defer a.uplink.mu.Unlock()
	return a.uplink.setting.Gateway
}

// Detach implements sandbox.Attachment. The interface comes back when the sandbox's namespace ends.
func (a *attached) Detach() error {
	a.uplink.mu.Lock()
	defer a.uplink.mu.Unlock()
	if a.uplink.namespace == nil {
		return nil
	}
	namespace := a.uplink.namespace
	a.uplink.namespace = nil
	return namespace.Close()
}

// configure gives the interface in a namespace its address, in the place of what it had.
func configure(namespace *os.File, setting wire.Network) error {
	handle, err := netlink.NewHandleAt(netns.NsHandle(int(namespace.Fd())), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("reach the network interface: %w", err)
	}
	defer handle.Close()
	link, err := theInterface(handle)
	if err != nil {
		return err
	}
	// Down, it loses its routes and neighbours.
	if err := handle.LinkSetDown(link); err != nil {
		return fmt.Errorf("take the network interface down: %w", err)
	}
	former, err := handle.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list the former addresses: %w", err)
	}
	for _, address := range former {
		if err := handle.AddrDel(link, &address); err != nil {
			return fmt.Errorf("remove a former address: %w", err)
		}
	}
	only := func(address netip.Addr) *net.IPNet {
		return &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(32, 32)}
	}
	steps := []func() error{
		func() error { return handle.LinkSetName(link, insideName) },
		func() error { return handle.LinkSetHardwareAddr(link, setting.HardwareAddr) },
		func() error { return handle.LinkSetMTU(link, setting.MTU) },
		func() error { return handle.AddrAdd(link, &netlink.Addr{IPNet: only(setting.Address)}) },
		func() error { return handle.LinkSetUp(link) },
		func() error {
			return handle.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: only(setting.Gateway), Scope: netlink.SCOPE_LINK})
		},
		func() error {
			return handle.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: setting.Gateway.AsSlice(),
				Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}})
		},
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("set up the network interface: %w", err)
		}
	}
	return nil
}

// theInterface returns the one that is not the loopback interface.
func theInterface(handle *netlink.Handle) (netlink.Link, error) {
	links, err := handle.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	for _, link := range links {
		if link.Attrs().Flags&net.FlagLoopback == 0 {
			return link, nil
		}
	}
	return nil, errors.New("there is no network interface")
}
