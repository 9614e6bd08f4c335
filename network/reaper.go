package network

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// sweepEvery is how often the host's connections are gone through for those of sandboxes that are no more.
	sweepEvery = 5 * time.Second
	// deleteTogether is the most links that one request deletes.
	deleteTogether = 64
)

// reaper removes links: all that wait at once, because each removal has the kernel wait for its readers. Later, it has
// the host forget the connections of their addresses, and gives the addresses back.
type reaper struct {
	network *Network
	queue   chan doomed
	stop    chan struct{}
	done    chan struct{}
}

type doomed struct {
	slot   int
	result chan error
}

func newReaper(n *Network) *reaper {
	r := &reaper{network: n, queue: make(chan doomed), stop: make(chan struct{}), done: make(chan struct{})}
	go r.run()
	return r
}

// remove deletes a slot's link and returns when it is gone. A reaper that is closed has nothing left to do: the links go with
// the router.
func (r *reaper) remove(slot int) error {
	one := doomed{slot, make(chan error, 1)}
	select {
	case r.queue <- one:
		return <-one.result
	case <-r.stop:
		return nil
	}
}

func (r *reaper) close() {
	close(r.stop)
	<-r.done
}

func (r *reaper) run() {
	defer close(r.done)
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	var gone []int
	for {
		select {
		case first := <-r.queue:
			gone = append(gone, r.delete(first)...)
		case <-ticker.C:
			r.sweep(gone)
			gone = nil
		case <-r.stop:
			r.sweep(gone)
			return
		}
	}
}

// delete removes the link of the first, and of all who wait beside it. It returns their slots.
func (r *reaper) delete(first doomed) []int {
	together := []doomed{first}
	for len(together) < deleteTogether {
		select {
		case next := <-r.queue:
			together = append(together, next)
			continue
		default:
		}
		break
	}
	batch := make([]int, len(together))
	for i, one := range together {
		batch[i] = one.slot
	}
	results, err := r.network.links.do(deleteBatch(batch))
	var freed []int
	for i, one := range together {
		failed := err
		if failed == nil {
			failed = removalError(results[i], results[len(results)-1])
		}
		if failed == nil {
			freed = append(freed, one.slot)
		}
		one.result <- failed
	}
	return freed
}

// removalError is what became of one link, given the answers to marking it and to deleting all that are marked. A link that was
// gone before could not be marked; when none was marked there is nothing to delete.
func removalError(marked, deleted error) error {
	if errors.Is(marked, unix.ENODEV) {
		return nil
	}
	if err := errors.Join(marked, deleted); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete a link of the network: %w", err)
	}
	return nil
}

// sweep has the host forget connections, and frees the addresses.
func (r *reaper) sweep(gone []int) {
	if len(gone) == 0 {
		return
	}
	n := r.network
	if err := n.forgetConnections(gone); err != nil {
		n.log.Warn("connections of sandboxes that are gone stay until they time out", "error", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.slots.giveBack(gone)
}

// forgetConnections removes from the host's table what sandboxes began.
func (n *Network) forgetConnections(gone []int) error {
	filter := make(goneFilter, len(gone))
	for _, slot := range gone {
		filter[toNumber(n.layout.sandbox(slot))] = true
	}
	return inNamespace(n.own, n.host, func() error {
		handle, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
		if err != nil {
			return fmt.Errorf("reach connection tracking: %w", err)
		}
		defer handle.Close()
		if _, err := handle.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, filter); err != nil {
			return fmt.Errorf("delete tracked connections: %w", err)
		}
		return nil
	})
}

// goneFilter finds connections by the address that began them.
type goneFilter map[uint32]bool

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f goneFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	source, ok := flow.Forward.SrcIP.To4(), true
	if source == nil {
		ok = false
	}
	return ok && f[uint32(source[0])<<24|uint32(source[1])<<16|uint32(source[2])<<8|uint32(source[3])]
}
