package manager

import (
	"context"
	"slices"
	"time"

	"lambent"
)

// Report implements lambent.Manager.
func (m *Manager) Report(_ context.Context, report lambent.WorkerReport) error {
	for _, id := range report.Gone {
		if b, ok := m.boxes.Load(id); ok {
			m.lose(b.(*box))
		}
	}
	if report.Lost {
		m.loseWorker(report.Worker)
	}
	return nil
}

// loseWorker forgets all that was on a worker.
func (m *Manager) loseWorker(id lambent.WorkerID) {
	m.boxes.Range(func(_, value any) bool {
		if b := value.(*box); b.worker == id {
			m.lose(b)
		}
		return true
	})
	m.pools.Range(func(_, value any) bool {
		p := value.(*pool)
		p.mu.Lock()
		p.grants = slices.DeleteFunc(p.grants, func(a *allowance) bool { return a.Worker == id })
		p.mu.Unlock()
		return true
	})
}

// lose forgets a sandbox that ended by itself.
func (m *Manager) lose(b *box) {
	p := b.pool
	p.mu.Lock()
	p.idle = slices.DeleteFunc(p.idle, func(other *box) bool { return other == b })
	known := !b.gone
	m.forgetLocked(b)
	p.mu.Unlock()
	if known {
		m.release(b, false)
		m.compensate(p)
	}
}

// forgetLocked takes a sandbox out of the manager's books.
func (m *Manager) forgetLocked(b *box) {
	b.gone = true
	m.boxes.Delete(b.id)
}

// release gives back what a forgotten sandbox held, in the background: the sandbox itself where it still runs, and its grant.
func (m *Manager) release(b *box, running bool) {
	if m.ctx.Err() != nil {
		return
	}
	m.tasks.Go(func() {
		if worker, ok := m.options.Workers(b.worker); ok && running {
			if err := worker.Stop(context.WithoutCancel(m.ctx), b.id, b.epoch); err != nil {
				m.logger.Warn("a sandbox was not stopped", "sandbox", b.id, "worker", b.worker, "error", err)
			}
		}
		m.free(b.grant, 1)
	})
}

func (m *Manager) free(id lambent.GrantID, n int) {
	if err := m.options.Placement.Free(context.WithoutCancel(m.ctx), id, n); err != nil {
		m.logger.Warn("a grant was not given back", "grant", id, "error", err)
	}
}

// sweep stops what was idle too long, gives unused grants back, and forgets dead workers, until the manager closes.
func (m *Manager) sweep() {
	ticker := time.NewTicker(m.options.Sweep)
	defer ticker.Stop()
	dead := map[lambent.WorkerID]string{}
	for {
		select {
		case <-m.ctx.Done():
			return
		case now := <-ticker.C:
			m.pools.Range(func(key, value any) bool {
				m.sweepPool(key.(poolKey), value.(*pool), now)
				return true
			})
			m.watchWorkers(dead)
		}
	}
}

// sweepPool lets go of what a pool has not used for the idle timeout. An empty pool that is retired goes as well.
func (m *Manager) sweepPool(key poolKey, p *pool, now time.Time) {
	p.mu.Lock()
	old := now.Add(-m.options.IdleTimeout)
	kept := p.idle[:0:0]
	var expired []*box
	for _, b := range p.idle {
		if p.retired || b.lastUsed.Before(old) {
			m.forgetLocked(b)
			expired = append(expired, b)
		} else {
			kept = append(kept, b)
		}
	}
	p.idle = kept
	var unused []*allowance
	if len(p.waiters) == 0 && p.starting == 0 && len(p.idle) == 0 || p.retired {
		unused, p.grants, p.chunk = p.grants, nil, 1
	}
	p.mu.Unlock()
	for _, b := range expired {
		m.release(b, true)
	}
	for _, a := range unused {
		m.free(a.ID, a.left)
	}
}

// watchWorkers forgets workers that placement holds for dead, once per boot.
func (m *Manager) watchWorkers(dead map[lambent.WorkerID]string) {
	states, err := m.options.Placement.Workers(m.ctx)
	if err != nil {
		return // placement is away: what runs goes on
	}
	for _, s := range states {
		if s.Health == lambent.WorkerDead && dead[s.Status.Worker] != s.Status.Boot {
			dead[s.Status.Worker] = s.Status.Boot
			m.logger.Warn("a worker is dead", "worker", s.Status.Worker)
			m.loseWorker(s.Status.Worker)
		}
	}
}

// evictOne stops the idle sandbox that was unused longest, and waits until its room is free. False when none is idle.
func (m *Manager) evictOne() bool {
	var oldest *box
	m.pools.Range(func(_, value any) bool {
		p := value.(*pool)
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.idle) > 0 && (oldest == nil || p.idle[0].lastUsed.Before(oldest.lastUsed)) {
			oldest = p.idle[0]
		}
		return true
	})
	if oldest == nil {
		return false
	}
	p := oldest.pool
	p.mu.Lock()
	i := slices.Index(p.idle, oldest)
	if i < 0 {
		p.mu.Unlock()
		return true // it was claimed meanwhile; look again
	}
	p.idle = slices.Delete(p.idle, i, i+1)
	m.forgetLocked(oldest)
	p.mu.Unlock()
	if worker, ok := m.options.Workers(oldest.worker); ok {
		if err := worker.Stop(m.ctx, oldest.id, oldest.epoch); err != nil {
			m.logger.Warn("a sandbox was not stopped", "sandbox", oldest.id, "error", err)
		}
	}
	m.free(oldest.grant, 1)
	return true
}

// adopt rebuilds the state from the workers, and raises the epoch above all that they have seen.
func (m *Manager) adopt(ctx context.Context) error {
	states, err := m.options.Placement.Workers(ctx)
	if err != nil {
		return err
	}
	for _, s := range states {
		worker, ok := m.options.Workers(s.Status.Worker)
		if !ok {
			continue
		}
		sandboxes, err := worker.List(ctx)
		if err != nil {
			m.logger.Warn("a worker did not list its sandboxes", "worker", s.Status.Worker, "error", err)
			continue
		}
		for _, sb := range sandboxes {
			m.adoptOne(s.Status.Worker, sb)
		}
	}
	return nil
}

func (m *Manager) adoptOne(worker lambent.WorkerID, s lambent.SandboxStatus) {
	m.epoch = max(m.epoch, s.Epoch)
	if s.Manager != m.options.ID || s.Phase != lambent.SandboxIdle {
		return
	}
	version := &lambent.FunctionVersion{FunctionName: s.Function, Key: s.Key, MemoryMiB: s.MemoryMiB}
	p := m.pool(version, s.Tenant)
	b := &box{id: s.Sandbox, worker: worker, grant: s.Grant, pool: p, epoch: s.Epoch, used: true, lastUsed: s.LastUsed}
	m.boxes.Store(b.id, b)
	p.mu.Lock()
	p.idle = append(p.idle, b)
	p.mu.Unlock()
}

// follow retires the pools of functions that changed or are gone.
func (m *Manager) follow() {
	for m.ctx.Err() == nil {
		events, err := m.options.Catalog.Watch(m.ctx)
		if err != nil {
			select {
			case <-m.ctx.Done():
			case <-time.After(m.options.Sweep):
			}
			continue
		}
		for e := range events {
			switch {
			case e.Kind == lambent.CatalogVersion:
				m.retire(func(k lambent.VersionKey) bool {
					return k.Function == e.ID && k.Version == e.Version.Key.Version && k.Revision != e.Version.Key.Revision
				})
			case e.Kind == lambent.CatalogDeleted:
				m.retire(func(k lambent.VersionKey) bool {
					return k.Function == e.ID && (e.Deleted == "" || k.Version == e.Deleted)
				})
			}
		}
	}
}

// retire marks pools; the next sweep stops their idle sandboxes.
func (m *Manager) retire(match func(lambent.VersionKey) bool) {
	m.pools.Range(func(key, value any) bool {
		if match(key.(poolKey).version) {
			p := value.(*pool)
			p.mu.Lock()
			p.retired = true
			p.mu.Unlock()
		}
		return true
	})
}
