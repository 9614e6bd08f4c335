package manager

import (
	"context"
	"time"

	"lambent"
)

const (
	reapEvery = time.Second
	// unusedFor is how long room that is held for nothing is kept for the next start.
	unusedFor = 10 * time.Second
	// emptyFor is how long a pool without sandboxes is remembered, with what was learnt of its function.
	emptyFor = time.Minute
)

// end says what becomes of a sandbox that no claim gets any more.
type end int

const (
	forget  end = iota // it has ended by itself
	destroy            // it is stopped in the background
)

// discard ends what is left of a sandbox that was dropped from its pool, and then gives back its room.
func (m *Manager) discard(s *sandbox, how end) {
	if how == forget {
		m.forget(s)
		if s.holding != nil {
			m.putBack(s)
			return
		}
	}
	m.tasks.start(func() {
		if how == destroy {
			m.stopSandbox(s)
			m.forget(s) // not before: a worker that tells of it meanwhile tells of nothing new
		}
		if s.holding != nil {
			m.putBack(s)
		} else {
			m.free(s.grant, 1)
		}
	})
}

// forget takes a sandbox out of the books.
func (m *Manager) forget(s *sandbox) {
	m.sandboxes.remove(s.id)
	s.host.remove(s)
}

// putBack keeps a sandbox's room for the next start. On a lost worker there is none: placement has taken it back, or the
// sandbox lives and whoever adopts it answers for its room.
func (m *Manager) putBack(s *sandbox) {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	if s.host.ctx.Err() != nil {
		s.pool.stock.release(s.holding)
		return
	}
	s.pool.stock.putBack(s.holding, time.Now())
}

// stopSandbox has the worker destroy a sandbox.
func (m *Manager) stopSandbox(s *sandbox) {
	worker, ok := m.options.Workers(s.host.id)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(m.running, callTimeout)
	defer cancel()
	if err := worker.Stop(ctx, s.id, s.epoch); err != nil && m.running.Err() == nil {
		m.log.Warn("a sandbox was not stopped", "sandbox", s.id, "worker", s.host.id, "error", err)
	}
}

func (m *Manager) free(grant lambent.GrantID, n int) {
	ctx, cancel := context.WithTimeout(m.running, callTimeout)
	defer cancel()
	if err := m.options.Placement.Free(ctx, grant, n); err != nil && m.running.Err() == nil {
		m.log.Warn("a grant was not given back", "grant", grant, "error", err)
	}
}

// reapLoop gives up what is not used.
func (m *Manager) reapLoop() {
	ticker := time.NewTicker(reapEvery)
	defer ticker.Stop()
	for {
		select {
		case <-m.running.Done():
			return
		case now := <-ticker.C:
			m.pools.each(func(_ poolKey, p *pool) { m.reap(p, now) })
		}
	}
}

// reap gives up a pool's sandboxes and room that were not used for long, and the pool itself when nothing is left.
func (m *Manager) reap(p *pool, now time.Time) {
	p.mu.Lock()
	ended := reapable(p.idle, now, m.options.IdleTimeout)
	for _, s := range ended {
		p.dropLocked(s)
	}
	unused := p.stock.shed(func(h *holding) bool {
		return p.retired || now.Sub(h.since) >= unusedFor || !now.Before(h.grant.Expires) || h.host.ctx.Err() != nil
	})
	empty := p.emptyLocked() && now.Sub(p.used) >= emptyFor
	p.mu.Unlock()
	for _, s := range ended {
		m.discard(s, destroy)
	}
	m.freeAll(unused)
	if empty {
		m.removePool(p)
	}
}

// freeAll gives room back to placement, in the background.
func (m *Manager) freeAll(unused []surplus) {
	if len(unused) == 0 {
		return
	}
	m.tasks.start(func() {
		for _, u := range unused {
			m.free(u.grant, u.count)
		}
	})
}

// reapable returns the idle sandboxes that have not been used for the timeout, or whose lease has run out. The idle ones are
// ordered, the longest unused first.
func reapable(sandboxes []*sandbox, now time.Time, timeout time.Duration) []*sandbox {
	var ended []*sandbox
	for _, s := range sandboxes {
		if now.Sub(s.since) >= timeout || now.After(s.expires) {
			ended = append(ended, s)
		}
	}
	return ended
}

// makeRoom gives up room for a pool that found none, on the workers that placement says would do: what is held for nothing, else
// the sandbox of another function that was not used for longest. It returns when the room is free, and whether there was any.
// For a function that fits nowhere, nothing is given up.
func (m *Manager) makeRoom(asking *pool) bool {
	short := m.shortWorkers()
	if len(short) == 0 {
		return false
	}
	var unused []surplus
	m.pools.each(func(_ poolKey, p *pool) {
		if p != asking {
			p.mu.Lock()
			defer p.mu.Unlock()
			unused = append(unused, p.stock.shed(func(h *holding) bool { return short[h.host.id] })...)
		}
	})
	for _, u := range unused {
		m.free(u.grant, u.count)
	}
	return len(unused) > 0 || m.evict(func(s *sandbox) bool { return s.pool != asking && short[s.host.id] })
}

// shortWorkers returns the workers on which room would help.
func (m *Manager) shortWorkers() map[lambent.WorkerID]bool {
	ctx, cancel := context.WithTimeout(m.running, callTimeout)
	defer cancel()
	states, err := m.options.Placement.Workers(ctx)
	if err != nil {
		return nil // placement was just there, and will be asked again
	}
	short := make(map[lambent.WorkerID]bool)
	for _, state := range states {
		if state.Short {
			short[state.Status.Worker] = true
		}
	}
	return short
}

// evict stops the matching idle sandbox that was not used for longest, and gives back its room.
func (m *Manager) evict(match func(*sandbox) bool) bool {
	for {
		victim := m.longestUnused(match)
		if victim == nil {
			return false
		}
		p := victim.pool
		p.mu.Lock()
		dropped := victim.phase == idle && p.dropLocked(victim)
		if dropped && victim.holding != nil {
			p.stock.release(victim.holding)
		}
		p.mu.Unlock()
		if !dropped {
			continue // it was claimed meanwhile
		}
		m.evicted.Store(time.Now().UnixNano())
		m.stopSandbox(victim)
		m.forget(victim)
		m.free(victim.grant, 1)
		return true
	}
}

// longestUnused returns the matching idle sandbox that was not used for longest. One that somebody waits for is not given up: its
// worker may come back.
func (m *Manager) longestUnused(match func(*sandbox) bool) *sandbox {
	var oldest *sandbox
	var since time.Time
	m.pools.each(func(_ poolKey, p *pool) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.waiters) > 0 {
			return
		}
		for _, s := range p.idle {
			if match(s) {
				if oldest == nil || s.since.Before(since) {
					oldest, since = s, s.since
				}
				return // those that follow are younger
			}
		}
	})
	return oldest
}
