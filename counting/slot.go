package counting

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"lambent"
)

// acquire admits an invoke of a function from a credit at hand, which costs no message; else it asks the Counting Service,
// and waits until that has granted a credit or found none with any front end.
func (s *part) acquire(ctx context.Context, id Pool) (lambent.Slot, error) {
	if f := s.lease.Load().function(id.Function); f != nil {
		if slot := f.take(s.now()); slot != nil {
			return slot, nil
		}
	}
	slot, w, err := s.request(id)
	if w == nil {
		if err != nil {
			return nil, err
		}
		return slot, nil
	}
	return s.await(ctx, w)
}

// slot is one unit of concurrency in use.
type slot struct {
	function *function
	released atomic.Bool
}

// Release implements lambent.Slot. The credit stays at hand for the function's next invoke, unless the pool needs it.
func (s *slot) Release() {
	if s.released.Swap(true) {
		return
	}
	f := s.function
	f.mu.Lock()
	f.used--
	p := f.purse
	if !p.tight.Load() {
		f.free++
		f.mu.Unlock()
		return
	}
	f.mu.Unlock()
	p.lease.session.takeBack(p)
}

// function is a function with the credits that it has at hand. Each has its own lock, so that functions do not meet on the
// way of an invoke.
type function struct {
	id    Pool // of the function, also while it draws from its account's pool
	lease *lease

	mu    sync.Mutex
	purse *purse // that the credits belong to
	free  int
	used  int
	least int // fewest free since the last look: that many were not needed
	idle  int // looks since there was a credit
}

// take admits an invoke if a credit and a permit are at hand and the session is alive. It returns nil if not.
func (f *function) take(now time.Duration) *slot {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.free == 0 || now >= f.lease.until() || !f.purse.permit() {
		return nil
	}
	f.free--
	f.least = min(f.least, f.free)
	f.used++
	return &slot{function: f}
}

// rest takes the credits that were not needed since the last look, and tells for how many looks there has been none.
func (f *function) rest() (unused, idle int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	unused = min(f.least, f.free)
	f.free -= unused
	f.least = f.free
	f.idle++
	if f.free+f.used+unused > 0 {
		f.idle = 0
	}
	return unused, f.idle
}

// waiter is an acquire that waits for an answer.
type waiter struct {
	function Pool
	done     chan verdict // room for one
	settled  bool         // guarded by the session's mutex
}

type verdict struct {
	slot *slot
	err  error
}

// await waits for the verdict about an acquire, for as long as ctx and the session's patience allow.
func (s *part) await(ctx context.Context, w *waiter) (lambent.Slot, error) {
	patience := time.NewTimer(s.options.Patience)
	defer patience.Stop()
	var cause error
	select {
	case v := <-w.done:
		return v.result()
	case <-ctx.Done():
		cause = ctx.Err()
	case <-patience.C:
	}
	if s.abandon(w) {
		return nil, lambent.Wrap(lambent.Unavailable, cause, "The request could not be counted in time. Try again.")
	}
	return (<-w.done).result()
}

func (v verdict) result() (lambent.Slot, error) {
	if v.err != nil {
		return nil, v.err
	}
	return v.slot, nil
}

// throttled is the answer to an acquire that a limit of the pool stops.
func throttled(p Pool, unreserved, reserved lambent.ThrottleReason, retryAfter time.Duration) error {
	reason := unreserved
	if p.Function != "" {
		reason = reserved
	}
	return &lambent.Error{Code: lambent.Throttled, Reason: reason, Message: "Rate Exceeded.", RetryAfter: retryAfter}
}
