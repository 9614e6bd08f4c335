package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// sweepEvery is how often the host's connections are gone through for those of sandboxes that are no more.
	sweepEvery = 5 * time.Second
	// patience is how long a link is given to go with the sandbox's namespace. The kernel removes namespaces in batches, with one
	// wait for its readers for all of them; a link that is removed by itself costs such a wait, tens of milliseconds during
	// which no link can be made on the host.
	patience = 100 * time.Millisecond
	// longPatience is that of links that nobody waits for.
	longPatience = 2 * time.Second
	// backlog is how many links may be on their way out with nobody waiting for them.
	backlog = 256
	// deleteTogether is the most links that one request deletes.
	deleteTogether = 64
)

// reaper sees links off. Those that do not go with their namespaces it removes, all that wait at once. Later, it has the host
// forget the connections of their addresses, and gives the addresses back.
type reaper struct {
	network *Network
	events  *os.File // what the kernel says of the router's links
	wake    chan struct{}
	stop    chan struct{}
	group   sync.WaitGroup

	unseen chan struct{} // has one for each link that nobody waits for

	mu       sync.Mutex
	stopped  bool
	waiting  map[int]waiter // by slot
	vanished map[int]bool   // slots whose links are gone before anybody waited
	freed    []int          // slots whose links are gone, until the next sweep
}

// waiter is to be told when a link is gone, which is not deleted before a time.
type waiter struct {
	result chan error
	until  time.Time
}

func newReaper(n *Network, events *os.File) *reaper {
	r := &reaper{
		network: n, events: events, wake: make(chan struct{}, 1), stop: make(chan struct{}),
		unseen: make(chan struct{}, backlog), waiting: make(map[int]waiter), vanished: make(map[int]bool),
	}
	r.group.Go(r.run)
	r.group.Go(r.listen)
	return r
}

// remove returns when a slot's link is gone, and deletes it after a time. A reaper that is closed has nothing left to do: the links
// go with the router.
func (r *reaper) remove(slot int, after time.Duration) error {
	r.mu.Lock()
	if r.vanished[slot] {
		delete(r.vanished, slot)
		r.freed = append(r.freed, slot)
		r.mu.Unlock()
		return nil
	}
	result := make(chan error, 1)
	r.waiting[slot] = waiter{result, time.Now().Add(after)}
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
	select {
	case err := <-result:
		return err
	case <-r.stop:
		return nil
	}
}

// begin forgets what was heard of a slot's former link: of one that was deleted here the kernel tells, too.
func (r *reaper) begin(slot int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.vanished, slot)
}

// removeUnseen is remove with nobody waiting for it, unless too many are being removed that way.
func (r *reaper) removeUnseen(slot int) {
	select {
	case r.unseen <- struct{}{}:
	case <-r.stop:
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return
	}
	r.group.Go(func() {
		if err := r.remove(slot, longPatience); err != nil {
			r.network.log.Error("a link of a sandbox that is gone stays", "error", err)
		}
		<-r.unseen
	})
}

// finish tells who waits for a slot what became of the link.
func (r *reaper) finish(slot int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	waiting, waits := r.waiting[slot]
	switch {
	case waits && err == nil:
		r.freed = append(r.freed, slot)
	case !waits && err == nil:
		r.vanished[slot] = true
	}
	if waits {
		delete(r.waiting, slot)
		waiting.result <- err
	}
}

func (r *reaper) close() error {
	r.mu.Lock()
	r.stopped = true
	r.mu.Unlock()
	close(r.stop)
	err := r.events.Close()
	r.group.Wait()
	return err
}

// listen hears of links that are gone, until the socket is closed. It may miss some when there are too many at once: those are
// then found to be gone by run.
func (r *reaper) listen() {
	buffer := make([]byte, 64<<10)
	for {
		n, err := r.events.Read(buffer)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		for _, index := range deletedLinks(buffer[:max(n, 0)]) {
			r.finish(int(index)-insideIndex, nil)
		}
	}
}

// deletedLinks reads the indexes of links that are gone from the kernel's messages.
func deletedLinks(messages []byte) []uint32 {
	var indexes []uint32
	for rest := messages; len(rest) >= unix.SizeofNlMsghdr+unix.SizeofIfInfomsg; {
		index := binary.NativeEndian.Uint32(rest[unix.SizeofNlMsghdr+4:])
		if binary.NativeEndian.Uint16(rest[4:]) == unix.RTM_DELLINK && index >= insideIndex+firstSlot {
			indexes = append(indexes, index)
		}
		rest = afterMessage(rest)
	}
	return indexes
}

func (r *reaper) run() {
	sweeps := time.NewTicker(sweepEvery)
	defer sweeps.Stop()
	patient := time.NewTimer(patience)
	defer patient.Stop()
	patient.Stop()
	for running := false; ; {
		select {
		case <-r.wake:
			if !running {
				patient.Reset(patience)
				running = true
			}
		case <-patient.C:
			running = r.delete(time.Now())
			if running {
				patient.Reset(patience)
			}
		case <-sweeps.C:
			r.sweep()
		case <-r.stop:
			r.sweep()
			return
		}
	}
}

// delete removes the links whose time has come, and reports whether others are waited for.
func (r *reaper) delete(now time.Time) (more bool) {
	var all []int
	r.mu.Lock()
	for slot, w := range r.waiting {
		if w.until.After(now) {
			more = true
			continue
		}
		all = append(all, slot)
	}
	r.mu.Unlock()
	for together := range slices.Chunk(all, deleteTogether) {
		results, err := r.network.links.do(deleteBatch(together))
		for i, slot := range together {
			failed := err
			if failed == nil {
				failed = removalError(results[i], results[len(results)-1])
			}
			r.finish(slot, failed)
		}
	}
	return more
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
func (r *reaper) sweep() {
	r.mu.Lock()
	freed := r.freed
	r.freed = nil
	r.mu.Unlock()
	if len(freed) == 0 {
		return
	}
	n := r.network
	if err := n.forgetConnections(freed); err != nil {
		n.log.Warn("connections of sandboxes that are gone stay until they time out", "error", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.slots.giveBack(freed)
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
	source := flow.Forward.SrcIP.To4()
	return source != nil && f[binary.BigEndian.Uint32(source)]
}
