package manager

import (
	"context"
	"slices"
	"time"

	"lambent"
)

// Claim implements lambent.Manager.
func (m *Manager) Claim(ctx context.Context, req lambent.ClaimRequest) (lambent.Claim, error) {
	if req.Version == nil {
		return lambent.Claim{}, lambent.Errorf(lambent.InvalidParameter, "A claim names a function version.")
	}
	if m.closed.Load() {
		return lambent.Claim{}, errClosing() // what is warm is the next manager's
	}
	p := m.lockPool(poolKey{req.Version.Key, req.Tenant})
	if s := p.takeIdleLocked(); s != nil { // warm
		claim := m.claimLocked(s)
		p.mu.Unlock()
		return claim, nil
	}
	w, err := m.queueLocked(p, req.Version) // cold, or all are busy
	p.mu.Unlock()
	if err != nil {
		return lambent.Claim{}, err
	}
	select {
	case o := <-w.offer: // whichever came first of a new one and one that was returned
		return o.claim, o.err
	case <-ctx.Done():
		m.abandon(p, w)
		return lambent.Claim{}, lambent.Wrap(lambent.Unavailable, ctx.Err(), "No execution environment became ready before the request ended.")
	}
}

// queueLocked puts a waiter at the end of the queue, with a sandbox under way for it: one that is started now, unless more are
// starting than there are waiters.
func (m *Manager) queueLocked(p *pool, version *lambent.FunctionVersion) (*waiter, error) {
	if m.closed.Load() {
		return nil, errClosing()
	}
	p.version = version
	if len(p.waiters) >= p.starting {
		now := time.Now()
		if wait, ok := p.function.rate.take(now); !ok {
			return nil, errThrottled(wait)
		}
		m.beginLocked(p, now)
	}
	w := &waiter{offer: make(chan offer, 1)}
	p.waiters = append(p.waiters, w)
	return w, nil
}

// errThrottled: the function's scale rate is exhausted. Lambda counts that as a limit of concurrency, not of requests.
func errThrottled(wait time.Duration) error {
	return &lambent.Error{Code: lambent.Throttled, Message: "Rate Exceeded.", Reason: lambent.ConcurrentLimit, RetryAfter: wait}
}

// claimLocked makes the next claim of a sandbox that nobody has.
func (m *Manager) claimLocked(s *sandbox) lambent.Claim {
	cold := !s.used
	s.phase, s.used = busy, true
	s.epoch++
	s.claim = lambent.ClaimID(m.claims.Add(1))
	return lambent.Claim{ID: s.claim, Manager: m.options.ID, Worker: s.host.id, Sandbox: s.id, Epoch: s.epoch, Cold: cold}
}

// abandon takes a waiter out of the queue. If it was served at the same moment, what it got goes to the next one.
func (m *Manager) abandon(p *pool, w *waiter) {
	p.mu.Lock()
	if i := slices.Index(p.waiters, w); i >= 0 {
		p.waiters = slices.Delete(p.waiters, i, i+1)
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	o := <-w.offer // it has room for one, and one is in it
	if o.err != nil {
		return
	}
	if o.claim.Cold {
		m.unused(o.claim)
	}
	m.Return(o.claim, lambent.OutcomeIdle)
}

// unused makes the next claim of a sandbox its first: this one never reached the worker.
func (m *Manager) unused(claim lambent.Claim) {
	if s, ok := m.sandboxes.load(claim.Sandbox); ok {
		s.pool.mu.Lock()
		defer s.pool.mu.Unlock()
		if s.heldBy(claim) {
			s.used = false
		}
	}
}

// Return implements lambent.Manager.
func (m *Manager) Return(claim lambent.Claim, outcome lambent.Outcome) {
	s, ok := m.sandboxes.load(claim.Sandbox)
	if !ok || claim.Manager != m.options.ID {
		return
	}
	p := s.pool
	p.mu.Lock()
	if !s.heldBy(claim) {
		p.mu.Unlock()
		return
	}
	if outcome != lambent.OutcomeIdle {
		p.dropLocked(s)
		p.mu.Unlock()
		m.discard(s, forget)
		return
	}
	kept := m.settleLocked(s)
	p.mu.Unlock()
	if !kept {
		m.discard(s, destroy)
	}
}

// settleLocked gives a sandbox that has nothing to do to the first waiter, or makes it idle. False: it is to be destroyed.
func (m *Manager) settleLocked(s *sandbox) bool {
	p := s.pool
	s.claim, s.phase, s.since = 0, idle, time.Now()
	p.used = s.since
	if len(p.waiters) > 0 && s.host.usable.Load() {
		w := p.waiters[0]
		p.waiters[0] = nil
		p.waiters = p.waiters[1:]
		w.offer <- offer{claim: m.claimLocked(s)}
		return true
	}
	p.idle = append(p.idle, s)
	if p.retired || s.host.retiring.Load() || s.since.After(s.expires) {
		p.dropLocked(s)
		return false
	}
	return true
}
