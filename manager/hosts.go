package manager

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"lambent"
)

const (
	listTimeout  = 2 * time.Second
	listEvery    = 30 * time.Second // to find what was lost or forgotten
	foreignEvery = time.Second      // to find out what became of what was adopted while it was busy
)

// hosts are the workers that the manager knows.
type hosts struct {
	mu   sync.Mutex
	byID map[lambent.WorkerID]*host
}

// host is one life of a worker: when it is lost or starts anew, another host takes its place.
type host struct {
	id       lambent.WorkerID
	ctx      context.Context // ends when the worker is lost
	cancel   context.CancelFunc
	usable   atomic.Bool // invokes may go there
	retiring atomic.Bool // it drains: what is idle there ends
	cordoned atomic.Bool // it gets no new sandboxes

	mu        sync.Mutex
	boot      string // empty until placement has told
	sandboxes map[lambent.SandboxID]*sandbox
	listing   bool
	listed    time.Time                  // when it last said what it runs; zero: never
	strangers map[lambent.SandboxID]bool // it runs them, and the manager did not know them when it was last asked
	foreign   bool                       // it runs what was adopted while it was starting or busy
}

// get returns the current life of a worker.
func (h *hosts) get(running context.Context, id lambent.WorkerID) *host {
	h.mu.Lock()
	defer h.mu.Unlock()
	if known, ok := h.byID[id]; ok {
		return known
	}
	fresh := &host{id: id, sandboxes: make(map[lambent.SandboxID]*sandbox)}
	fresh.ctx, fresh.cancel = context.WithCancel(running)
	fresh.usable.Store(true)
	h.byID[id] = fresh
	return fresh
}

// end takes a worker's life out of the table. False: it was not there.
func (h *hosts) end(id lambent.WorkerID) (*host, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	known, ok := h.byID[id]
	delete(h.byID, id)
	return known, ok
}

// add notes that a sandbox is on the host. False: the host is lost.
func (h *host) add(s *sandbox) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctx.Err() != nil {
		return false
	}
	h.sandboxes[s.id] = s
	return true
}

func (h *host) remove(s *sandbox) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.sandboxes, s.id)
}

func (h *host) all() []*sandbox {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]*sandbox, 0, len(h.sandboxes))
	for _, s := range h.sandboxes {
		all = append(all, s)
	}
	return all
}

// Report implements lambent.Manager.
func (m *Manager) Report(ctx context.Context, report lambent.WorkerReport) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, id := range report.Gone {
		if s, ok := m.sandboxes.load(id); ok && s.host.id == report.Worker {
			m.vanished(s)
		}
	}
	if report.Lost {
		m.lose(report.Worker)
	}
	return nil
}

// vanished forgets a sandbox that is not there any more. One that is starting is left to whoever starts it.
func (m *Manager) vanished(s *sandbox) {
	p := s.pool
	p.mu.Lock()
	wasStarting := s.phase == starting
	dropped := p.dropLocked(s)
	p.mu.Unlock()
	if dropped && !wasStarting {
		m.discard(s, forget)
	}
}

// lose forgets a worker with all that was on it. Starts that are under way there fail, and are made elsewhere.
func (m *Manager) lose(id lambent.WorkerID) {
	h, ok := m.hosts.end(id)
	if !ok {
		return
	}
	m.log.Warn("a worker is lost", "worker", id)
	h.usable.Store(false)
	h.mu.Lock()
	h.cancel() // under the lock: nothing is added after this
	h.mu.Unlock()
	for _, s := range h.all() {
		m.vanished(s)
	}
}

func (m *Manager) pollLoop() {
	ticker := time.NewTicker(m.options.PollInterval)
	defer ticker.Stop()
	for {
		select {
		case <-m.running.Done():
			return
		case <-ticker.C:
			m.poll(m.running, false)
		}
	}
}

// poll asks placement how the workers are, and those whose answer is due what they run. When placement does not answer, the
// manager goes on with what it knows.
func (m *Manager) poll(ctx context.Context, wait bool) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	states, err := m.options.Placement.Workers(ctx)
	if err != nil {
		if m.running.Err() == nil {
			m.log.Warn("placement does not tell of the workers", "error", err)
		}
		return
	}
	var asked sync.WaitGroup
	for _, state := range states {
		h := m.heard(state)
		if h == nil || !h.listingDue(time.Now()) {
			continue
		}
		asked.Add(1)
		m.tasks.start(func() {
			defer asked.Done()
			m.list(h)
		})
	}
	if wait {
		asked.Wait()
	}
}

// standing is what a worker's health means for its sandboxes.
type standing struct{ lost, usable, cordoned, retiring bool }

func standingOf(health lambent.WorkerHealth) standing {
	switch health {
	case lambent.WorkerDead:
		return standing{lost: true}
	case lambent.WorkerSuspect:
		return standing{}
	case lambent.WorkerDraining:
		return standing{retiring: true}
	case lambent.WorkerCordoned:
		return standing{usable: true, cordoned: true}
	}
	return standing{usable: true}
}

// heard takes in a worker's state. It returns nil when the worker is lost.
func (m *Manager) heard(state lambent.WorkerState) *host {
	id, now := state.Status.Worker, standingOf(state.Health)
	if now.lost {
		m.lose(id)
		return nil
	}
	h := m.hosts.get(m.running, id)
	h.mu.Lock()
	rebooted := h.boot != "" && h.boot != state.Status.Boot
	if !rebooted {
		h.boot = state.Status.Boot
	}
	h.mu.Unlock()
	if rebooted {
		m.lose(id)
		return m.heard(state)
	}
	h.cordoned.Store(now.cordoned)
	if now.usable && !h.usable.Swap(true) {
		m.rouse(h)
	}
	if !now.usable {
		h.usable.Store(false)
	}
	if h.retiring.Swap(now.retiring) != now.retiring && now.retiring {
		m.emptyHost(h)
	}
	if state.Short && time.Since(time.Unix(0, m.evicted.Load())) > shortPause {
		m.relieve(h)
	}
	return h
}

// rouse gives the idle sandboxes of a worker that may be used again to those who wait.
func (m *Manager) rouse(h *host) {
	for _, s := range h.all() {
		p := s.pool
		p.mu.Lock()
		for len(p.waiters) > 0 {
			again := p.takeIdleLocked()
			if again == nil {
				break
			}
			m.settleLocked(again) // to a waiter
		}
		p.mu.Unlock()
	}
}

// emptyHost stops what is idle on a worker that drains.
func (m *Manager) emptyHost(h *host) {
	for _, s := range h.all() {
		s.pool.mu.Lock()
		dropped := s.phase == idle && s.pool.dropLocked(s)
		s.pool.mu.Unlock()
		if dropped {
			m.discard(s, destroy)
		}
	}
}

const (
	shortPause = time.Second // after a manager made room itself, it is not asked for more
	relieved   = 8           // one in so many sandboxes of a worker is given up at once
)

// relieve gives up some of what is idle on a worker that another manager found no room on.
func (m *Manager) relieve(h *host) {
	m.pools.each(func(_ poolKey, p *pool) {
		p.mu.Lock()
		unused := p.stock.shed(func(held *holding) bool { return held.host == h })
		p.mu.Unlock()
		m.freeAll(unused)
	})
	m.tasks.start(func() {
		for range 1 + len(h.all())/relieved {
			if !m.evict(func(s *sandbox) bool { return s.host == h }) {
				return
			}
		}
	})
}
