package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"lambent/sandbox"
)

// attachment is one sandbox's link.
type attachment struct {
	network *Network
	slot    int
	once    sync.Once
	err     error // of the first Detach
}

// Attach gives the namespace an interface eth0 with an address, and a default route. It takes about a millisecond. The
// namespace must be of this host, and the id is for messages only: drivers that share a network need not agree on ids. The loopback
// interface is not touched, and IPv6 is switched off on the one that is made.
func (n *Network) Attach(ctx context.Context, id string, namespace *os.File) (sandbox.Attachment, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("attach %s to the network: %w", id, err)
	}
	made, err := n.reserve()
	if err != nil {
		return nil, fmt.Errorf("attach %s to the network: %w", id, err)
	}
	if err := n.connect(made, namespace); err != nil {
		return nil, errors.Join(fmt.Errorf("attach %s to the network: %w", id, err), made.Detach())
	}
	return made, nil
}

func (n *Network) reserve() (*attachment, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, errors.New("the network is closed")
	}
	slot, err := n.slots.take()
	if err != nil {
		return nil, err
	}
	n.reaper.begin(slot)
	return &attachment{network: n, slot: slot}, nil
}

// connect makes the link, from the router's side and then from the inside.
func (n *Network) connect(made *attachment, namespace *os.File) error {
	address := n.layout.sandbox(made.slot)
	if err := n.links.all(outsideBatch(made.slot, address, namespace, n.mtu)); err != nil {
		return fmt.Errorf("make the link: %w", err)
	}
	err := inNamespace(n.own, namespace, func() error {
		// The router has no IPv6. This saves programs from trying, and the kernel from looking for neighbours.
		_ = apply([]setting{{"ipv6/conf/" + insideName + "/disable_ipv6", "1"}})
		inside, err := dialKernel(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer inside.close()
		if err := inside.all(insideBatch(address, n.layout.resolver())); err != nil {
			return fmt.Errorf("set up the link inside: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := n.links.all(settleBatch(made.slot)); err != nil {
		return fmt.Errorf("bring the link up: %w", err)
	}
	return nil
}

// Resolver is the address of the name server.
func (a *attachment) Resolver() netip.Addr { return a.network.layout.resolver() }

// Address, MTU and HardwareAddr are those of the interface inside, for drivers whose sandboxes have a network stack of their own
// behind it (a virtual machine's): such drivers find them with a type assertion. The gateway is the Resolver, and the router
// answers ARP for it; nothing else is on the link.
func (a *attachment) Address() netip.Addr { return a.network.layout.sandbox(a.slot) }

// MTU is in bytes.
func (a *attachment) MTU() int { return a.network.mtu }

// HardwareAddr is what the router sends to.
func (a *attachment) HardwareAddr() net.HardwareAddr { return slices.Clone(insideMAC) }

// Detach returns when the link is gone. It goes by itself, within some ten milliseconds, when the namespace goes; if the
// namespace stays, Detach removes it after a tenth of a second.
func (a *attachment) Detach() error {
	a.once.Do(func() {
		a.err = a.network.reaper.remove(a.slot, patience)
	})
	return a.err
}

// DetachUnseen is Detach for a sandbox whose namespace is gone, or about to be: the link goes with it, and nobody waits for that,
// unless hundreds are on their way out. Until it is gone its address is no other's, and Close removes what is left.
func (a *attachment) DetachUnseen() { a.once.Do(func() { a.network.reaper.removeUnseen(a.slot) }) }
