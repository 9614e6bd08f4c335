package manager

import (
	"slices"
	"sync"
	"time"

	"lambent"
)

// poolKey is what a sandbox is bound to for its whole life.
type poolKey struct {
	version lambent.VersionKey
	tenant  string
}

// pool is all sandboxes of one function version and tenant, and those who wait for one.
type pool struct {
	key      poolKey
	function *function
	made     time.Time

	mu       sync.Mutex
	version  *lambent.FunctionVersion // as it was last claimed; nil while only adopted sandboxes are known
	idle     []*sandbox               // a stack: the one that was used last is the warmest
	waiters  []*waiter                // first come, first served
	count    int                      // sandboxes that are not gone
	starting int                      // starts under way, those in unplaced included
	unplaced []*start                 // starts that have no room yet
	placing  bool                     // a goroutine gets room for them
	stock    stock                    // room that placement has granted
	heat     heat                     // how many starts there were lately
	avoid    map[lambent.WorkerID]time.Time
	learnt   estimate
	retired  bool      // its revision was superseded, or its function deleted: nothing of it is kept warm
	removed  bool      // the manager has forgotten it
	used     time.Time // when a sandbox last came to rest
}

// phase is the state of a sandbox.
type phase int

const (
	starting phase = iota
	idle
	busy
	foreign // it was adopted while it was starting or ran the claim of another manager
	gone
)

// sandbox is one sandbox on a worker. What changes is guarded by the lock of its pool.
type sandbox struct {
	id      lambent.SandboxID
	pool    *pool
	host    *host
	grant   lambent.GrantID
	holding *holding  // the room that it takes; nil when it was adopted
	expires time.Time // its room is leased until then

	phase phase
	epoch uint64
	claim lambent.ClaimID // while it is busy
	used  bool            // it had a claim
	since time.Time       // when it became idle
}

// waiter is a claim that waits. It gets exactly one offer, unless it leaves.
type waiter struct {
	offer chan offer // has room for one
}

// offer is what a waiter gets.
type offer struct {
	claim lambent.Claim
	err   error
}

// heldBy says whether this claim is the sandbox's.
func (s *sandbox) heldBy(claim lambent.Claim) bool {
	return s.phase == busy && s.claim == claim.ID && s.epoch == claim.Epoch
}

// takeIdleLocked takes the idle sandbox that was used last, but for those on workers that are not to be used now.
func (p *pool) takeIdleLocked() *sandbox {
	for i := len(p.idle) - 1; i >= 0; i-- {
		if s := p.idle[i]; s.host.usable.Load() {
			p.idle = slices.Delete(p.idle, i, i+1)
			return s
		}
	}
	return nil
}

// dropLocked ends a sandbox as far as claims are concerned. False: it was gone already.
func (p *pool) dropLocked(s *sandbox) bool {
	if s.phase == gone {
		return false
	}
	if s.phase == idle {
		if i := slices.Index(p.idle, s); i >= 0 {
			p.idle = slices.Delete(p.idle, i, i+1)
		}
	}
	s.phase = gone
	p.count--
	return true
}

// failWaitersLocked gives an error to those n who have waited longest.
func (p *pool) failWaitersLocked(n int, err error) {
	for _, w := range p.waiters[:n] {
		w.offer <- offer{err: err}
	}
	p.waiters = slices.Delete(p.waiters, 0, n)
}

// endStartLocked ends a start without a sandbox. A waiter that has none under way any more gets the error.
func (p *pool) endStartLocked(err error) {
	p.starting--
	p.failWaitersLocked(max(0, len(p.waiters)-p.starting), err)
}

func (p *pool) emptyLocked() bool {
	return p.count == 0 && p.starting == 0 && len(p.waiters) == 0 && len(p.stock) == 0 && !p.placing
}
