package manager

import (
	"cmp"
	"context"
	"slices"
	"time"

	"lambent"
)

// generation is by how much the epoch of a sandbox grows when a manager adopts it: whatever claims the manager before still
// makes are older.
const generation = 1 << 32

// adoptedFor is how long an adopted sandbox may live: how long its room is leased is not known any more.
const adoptedFor = 6 * time.Hour

// listingDue says whether the worker is to be asked what it runs, and notes that it is.
func (h *host) listingDue(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	age := now.Sub(h.listed)
	due := h.listed.IsZero() || age >= listEvery || h.foreign && age >= foreignEvery
	if h.listing || !due {
		return false
	}
	h.listing = true
	return true
}

// list asks a worker what it runs. Sandboxes that the manager owns and does not know are adopted: at once when the worker is
// asked for the first time, later only when it has told of them twice, as one may be on its way out. Sandboxes that the
// manager knows and the worker does not are forgotten.
func (m *Manager) list(h *host) {
	asked := time.Now()
	statuses, err := m.listOn(h)
	h.mu.Lock()
	first, before := h.listed.IsZero(), h.strangers
	h.listing = false
	if err == nil {
		h.listed, h.strangers, h.foreign = asked, make(map[lambent.SandboxID]bool), false
	}
	h.mu.Unlock()
	if err != nil {
		if m.running.Err() == nil {
			m.log.Warn("a worker does not say what it runs", "worker", h.id, "error", err)
		}
		return
	}
	there := make(map[lambent.SandboxID]bool, len(statuses))
	for _, status := range statuses {
		there[status.Sandbox] = true
		switch s, known := m.sandboxes.load(status.Sandbox); {
		case known:
			m.revisit(s, status)
		case status.Phase == lambent.SandboxDraining || !m.owns(status):
		case first || before[status.Sandbox]:
			m.adopt(h, status)
		default:
			h.mu.Lock()
			h.strangers[status.Sandbox] = true
			h.mu.Unlock()
		}
	}
	for _, s := range h.all() {
		if !there[s.id] && s.restedBefore(asked) {
			m.vanished(s)
		}
	}
}

func (m *Manager) listOn(h *host) ([]lambent.SandboxStatus, error) {
	worker, ok := m.options.Workers(h.id)
	if !ok {
		return nil, errLost
	}
	ctx, cancel := context.WithTimeout(h.ctx, listTimeout)
	defer cancel()
	return worker.List(ctx)
}

func (m *Manager) owns(status lambent.SandboxStatus) bool {
	if m.options.Owns != nil {
		return m.options.Owns(status.Key.Function)
	}
	return status.Manager == m.options.ID
}

// restedBefore says whether the sandbox has been idle, or with another manager, since before a time.
func (s *sandbox) restedBefore(asked time.Time) bool {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	return s.phase == foreign || s.phase == idle && s.since.Before(asked)
}

// adopt takes in a sandbox that a manager before started.
func (m *Manager) adopt(h *host, status lambent.SandboxStatus) {
	p := m.lockPool(poolKey{status.Key, status.Tenant})
	s := &sandbox{
		id: status.Sandbox, pool: p, host: h, grant: status.Grant, expires: time.Now().Add(adoptedFor),
		phase: foreign, used: true, epoch: (status.Epoch/generation + 1) * generation, since: status.LastUsed,
	}
	if !h.add(s) {
		p.mu.Unlock()
		return
	}
	m.sandboxes.store(s.id, s)
	p.count++
	kept := m.arriveLocked(s, status)
	p.mu.Unlock()
	if !kept {
		m.discard(s, destroy)
	}
}

// revisit looks at what became of a sandbox that was adopted while it was starting or busy.
func (m *Manager) revisit(s *sandbox, status lambent.SandboxStatus) {
	p := s.pool
	p.mu.Lock()
	kept := true
	if s.phase == foreign {
		// Another manager may have claimed it since.
		s.epoch = max(s.epoch, (status.Epoch/generation+1)*generation)
		kept = m.arriveLocked(s, status)
	}
	p.mu.Unlock()
	if !kept {
		m.discard(s, destroy)
	}
}

// arriveLocked puts a foreign sandbox where it belongs if it has nothing to do. False: it is to be destroyed.
func (m *Manager) arriveLocked(s *sandbox, status lambent.SandboxStatus) bool {
	if status.Phase != lambent.SandboxIdle {
		s.host.mu.Lock()
		s.host.foreign = true
		s.host.mu.Unlock()
		return true
	}
	p := s.pool
	if len(p.waiters) > 0 || p.retired || s.host.retiring.Load() {
		return m.settleLocked(s)
	}
	s.phase = idle
	at, _ := slices.BinarySearchFunc(p.idle, s, func(a, b *sandbox) int { return cmp.Compare(a.since.UnixNano(), b.since.UnixNano()) })
	p.idle = slices.Insert(p.idle, at, s)
	return true
}
