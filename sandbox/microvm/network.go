package microvm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"lambent/sandbox"
	"lambent/sandbox/microvm/agent/wire"
)

// The interfaces in the namespace of a wiring: the network's, and the one whose other end is the machine.
const (
	outerName = "eth0"
	tapName   = "tap0"
)

// wiring is a machine's connection to a network. It has a network namespace of its own, which no process is in:
//
//	router ======= eth0 <-- every frame, as it is --> tap0 ======= the machine's network device
//
// The network believes that the namespace is the sandbox's. But the address that it gives is taken from eth0, and the guest's agent
// gives it to the function's interface. So frames are all that the host has to do with, and what may be sent, and from which address,
// the network's router decides outside of the namespace. The namespace has no address and forwards nothing itself.
type wiring struct {
	namespace  *os.File
	tap        *os.File // nil once the machine has it
	attachment sandbox.Attachment
	setting    wire.Network
}

// guestAttachment is what attachments of networks have to tell for a guest, which has a network stack of its own.
type guestAttachment interface {
	sandbox.Attachment
	Address() netip.Addr
	MTU() int
	HardwareAddr() net.HardwareAddr
}

// openWiring connects the sandbox of an id to a network. When it fails there is nothing left of it.
func openWiring(ctx context.Context, network sandbox.Network, id string) (_ *wiring, err error) {
	w := &wiring{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("connect a machine to the network: %w", err), w.close())
		}
	}()
	if w.namespace, w.tap, err = newTap(); err != nil {
		return nil, err
	}
	if w.attachment, err = network.Attach(ctx, id, w.namespace); err != nil {
		return nil, err
	}
	attachment, ok := w.attachment.(guestAttachment)
	if !ok {
		return nil, errors.New("it does not say which address a guest is to have")
	}
	w.setting = wire.Network{Address: attachment.Address(), Gateway: attachment.Resolver(), MTU: attachment.MTU(), HardwareAddr: attachment.HardwareAddr()}
	handle, err := netlink.NewHandleAt(netns.NsHandle(int(w.namespace.Fd())), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	return w, join(handle, w.setting.MTU)
}

// letGo closes this process's end of the machine's device, which then ends with the machine.
func (w *wiring) letGo() error {
	if w.tap == nil {
		return nil
	}
	tap := w.tap
	w.tap = nil
	return tap.Close()
}

// close takes the connection away.
func (w *wiring) close() error {
	all := []error{w.letGo()}
	if w.attachment != nil {
		all = append(all, w.attachment.Detach())
	}
	if w.namespace != nil {
		all = append(all, w.namespace.Close())
	}
	return errors.Join(all...)
}

// CheckNetwork returns what this process and host lack to connect sandboxes to a network, beside the network itself, one sentence for
// each. It finds out by trying.
func CheckNetwork() []string {
	if os.Geteuid() != 0 {
		return []string{"it needs to run as root"}
	}
	namespace, tap, err := newTap()
	if err != nil {
		return []string{err.Error() + " (the module is tun)"}
	}
	defer namespace.Close()
	defer tap.Close()
	handle, err := netlink.NewHandleAt(netns.NsHandle(int(namespace.Fd())), unix.NETLINK_ROUTE)
	if err != nil {
		return []string{err.Error()}
	}
	defer handle.Close()
	link, err := handle.LinkByName(tapName)
	if err == nil {
		err = passOn(handle, link, link)
	}
	if err != nil {
		return []string{err.Error()}
	}
	return nil
}

// newTap makes a network namespace with a device in it for a machine, which is up when join has been called.
func newTap() (namespace, tap *os.File, err error) {
	err = inNewNamespace(func() error {
		// Two interfaces without addresses have nothing to say by themselves; where /proc/sys is read-only, IPv6 does.
		for _, kind := range []string{"all", "default"} {
			_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+kind+"/disable_ipv6", []byte("1"), 0)
		}
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
		}
		tap = os.NewFile(uintptr(fd), tapName)
		request, err := unix.NewIfreq(tapName)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			return fmt.Errorf("make a tap device: %w", err)
		}
		namespace, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil && tap != nil {
		tap.Close()
		tap = nil
	}
	return namespace, tap, err
}

// inNewNamespace calls f on a thread in a new network namespace.
func inNewNamespace(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		result <- func() error {
			own, err := os.Open("/proc/thread-self/ns/net")
			if err != nil {
				runtime.UnlockOSThread()
				return err
			}
			defer own.Close()
			err = unix.Unshare(unix.CLONE_NEWNET)
			if err == nil {
				err = f()
			}
			if unix.Setns(int(own.Fd()), unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread() // else the thread ends with the goroutine
			}
			return err
		}()
	}()
	return <-result
}

// join takes the addresses from the outer interface, and has what comes in by either interface go out by the other.
func join(handle *netlink.Handle, mtu int) error {
	outer, err := handle.LinkByName(outerName)
	if err != nil {
		return fmt.Errorf("find the network's interface: %w", err)
	}
	tap, err := handle.LinkByName(tapName)
	if err != nil {
		return fmt.Errorf("find the machine's interface: %w", err)
	}
	addresses, err := handle.AddrList(outer, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, address := range addresses {
		if err := handle.AddrDel(outer, &address); err != nil {
			return fmt.Errorf("take the address away: %w", err)
		}
	}
	if err := errors.Join(handle.LinkSetMTU(tap, mtu), passOn(handle, outer, tap), passOn(handle, tap, outer), handle.LinkSetUp(tap)); err != nil {
		return fmt.Errorf("join the interfaces: %w", err)
	}
	return nil
}

// passOn has all that comes in by one interface go out by another one, before anything else looks at it.
func passOn(handle *netlink.Handle, from, to netlink.Link) error {
	ingress := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: from.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS}}
	if err := handle.QdiscAdd(ingress); err != nil {
		return fmt.Errorf("load sch_ingress: %w", err)
	}
	redirect := netlink.NewMirredAction(to.Attrs().Index)
	filter := &netlink.U32{FilterAttrs: netlink.FilterAttrs{LinkIndex: from.Attrs().Index, Parent: ingress.Handle, Priority: 1, Protocol: unix.ETH_P_ALL},
		Actions: []netlink.Action{redirect}}
	if err := handle.FilterAdd(filter); err != nil {
		return fmt.Errorf("load cls_u32 and act_mirred: %w", err)
	}
	return nil
}
