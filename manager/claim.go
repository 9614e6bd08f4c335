package manager

import (
	"context"
	"slices"
	"time"

	"lambent"
)

// Claim implements lambent.Manager: an idle sandbox, else whichever comes first of a new one and one that is returned.
func (m *Manager) Claim(ctx context.Context, req lambent.ClaimRequest) (lambent.Claim, error) {
	p := m.pool(req.Version, req.Tenant)
	p.mu.Lock()
	if b := p.popLocked(); b != nil {
		claim := m.claimLocked(b)
		p.mu.Unlock()
		return claim, nil
	}
	w := &waiter{result: make(chan handover, 1)}
	p.waiters = append(p.waiters, w)
	start := p.starting < len(p.waiters)
	if start {
		p.starting++
	}
	p.mu.Unlock()
	if start {
		m.begin(p)
	}
	select {
	case h := <-w.result:
		return h.claim, h.err
	case <-ctx.Done():
		m.leave(p, w)
		return lambent.Claim{}, lambent.Wrap(lambent.Unavailable, ctx.Err(), "The request ended before a sandbox was ready.")
	}
}

// Return implements lambent.Manager: the sandbox goes to the waiter that has waited longest, else onto the idle stack.
func (m *Manager) Return(claim lambent.Claim, outcome lambent.Outcome) {
	found, ok := m.boxes.Load(claim.Sandbox)
	if !ok {
		return
	}
	b := found.(*box)
	p := b.pool
	p.mu.Lock()
	if b.gone || b.claim != claim.ID || b.epoch != claim.Epoch || claim.Manager != m.options.ID {
		p.mu.Unlock()
		return
	}
	b.claim = 0
	if outcome != lambent.OutcomeIdle || p.retired {
		m.forgetLocked(b)
		p.mu.Unlock()
		m.release(b, outcome == lambent.OutcomeIdle)
		m.compensate(p)
		return
	}
	m.offerLocked(b)
	p.mu.Unlock()
}

// offerLocked gives a free sandbox to the first waiter or makes it idle.
func (m *Manager) offerLocked(b *box) {
	p := b.pool
	b.lastUsed = time.Now()
	if len(p.waiters) == 0 {
		p.idle = append(p.idle, b)
		return
	}
	w := p.waiters[0]
	p.waiters = slices.Delete(p.waiters, 0, 1)
	w.result <- handover{claim: m.claimLocked(b)}
}

// claimLocked makes the next claim of a free sandbox.
func (m *Manager) claimLocked(b *box) lambent.Claim {
	b.epoch++
	b.claim = lambent.ClaimID(m.claims.Add(1))
	cold := !b.used
	b.used = true
	return lambent.Claim{ID: b.claim, Manager: m.options.ID, Worker: b.worker, Sandbox: b.id, Epoch: b.epoch, Cold: cold}
}

func (p *pool) popLocked() *box {
	if len(p.idle) == 0 {
		return nil
	}
	last := len(p.idle) - 1
	b := p.idle[last]
	p.idle[last] = nil
	p.idle = p.idle[:last]
	return b
}

// leave takes a waiter out of its queue. When it was served at the same moment, what it was given goes back.
func (m *Manager) leave(p *pool, w *waiter) {
	p.mu.Lock()
	i := slices.Index(p.waiters, w)
	if i >= 0 {
		p.waiters = slices.Delete(p.waiters, i, i+1)
	}
	p.mu.Unlock()
	if i >= 0 {
		return
	}
	if h := <-w.result; h.err == nil {
		m.Return(h.claim, lambent.OutcomeIdle)
	}
}

// compensate starts a sandbox for a waiter that counted on one that is gone.
func (m *Manager) compensate(p *pool) {
	p.mu.Lock()
	start := p.starting < len(p.waiters)
	if start {
		p.starting++
	}
	p.mu.Unlock()
	if start {
		m.begin(p)
	}
}
