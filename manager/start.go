package manager

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"lambent"
)

const (
	maxStarts    = 3                // workers that one start tries
	startTimeout = 30 * time.Second // of one try; initialisation alone may take 10 s
	maxChunk     = 16               // sandboxes that one grant asks for
	rateWindow   = 10 * time.Second // of ScaleRate
)

// allowance is what is left of a grant.
type allowance struct {
	lambent.Grant
	left int
}

// begin starts one sandbox for a pool in the background. The pool's starting count has grown by one already.
func (m *Manager) begin(p *pool) {
	if m.ctx.Err() != nil {
		m.fail(p, lambent.Errorf(lambent.Unavailable, "The worker manager is stopping."))
		return
	}
	if !m.rate(p.key.version.Function).take(time.Now()) {
		m.fail(p, &lambent.Error{Code: lambent.Throttled, Reason: lambent.ConcurrentLimit, RetryAfter: time.Second, Message: "Rate Exceeded."})
		return
	}
	m.tasks.Go(func() { m.start(p) })
}

// start makes a sandbox on one of a few workers and offers it, or fails the first waiter.
func (m *Manager) start(p *pool) {
	var avoid []lambent.WorkerID
	var last error
	for range maxStarts {
		grant, err := m.grant(p, avoid)
		if err != nil {
			last = firstOf(last, err)
			break
		}
		b := m.newBox(p, grant)
		if last = m.startOn(b); last == nil {
			m.admit(b)
			return
		}
		m.boxes.Delete(b.id)
		m.free(grant.ID, 1)
		if lambent.CodeOf(last) == lambent.InvalidRuntime {
			break
		}
		m.logger.Warn("a sandbox did not start", "function", p.version.Name, "worker", grant.Worker, "error", last)
		avoid = append(avoid, grant.Worker)
	}
	m.fail(p, last)
}

func firstOf(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func (m *Manager) newBox(p *pool, grant lambent.Grant) *box {
	id := lambent.SandboxID(string(m.options.ID) + "-" + m.boot + "-" + strconv.FormatUint(m.serial.Add(1), 36))
	b := &box{id: id, worker: grant.Worker, grant: grant.ID, pool: p, epoch: m.epoch + 1}
	m.boxes.Store(id, b)
	return b
}

func (m *Manager) startOn(b *box) error {
	worker, ok := m.options.Workers(b.worker)
	if !ok {
		return lambent.Errorf(lambent.Unavailable, "Worker %s is not known.", b.worker)
	}
	ctx, cancel := context.WithTimeout(m.ctx, startTimeout)
	defer cancel()
	return worker.Start(ctx, lambent.StartRequest{Sandbox: b.id, Grant: b.grant, Manager: m.options.ID, Epoch: b.epoch, Version: b.pool.version, Tenant: b.pool.key.tenant})
}

// admit offers a sandbox that has just started.
func (m *Manager) admit(b *box) {
	p := b.pool
	p.mu.Lock()
	p.starting--
	if b.gone || p.retired && len(p.waiters) == 0 {
		gone := b.gone
		m.forgetLocked(b)
		p.mu.Unlock()
		m.release(b, !gone)
		return
	}
	m.offerLocked(b)
	p.mu.Unlock()
}

// fail ends a start without a sandbox: the first waiter, if there is one more than sandboxes that are starting, gets the error.
func (m *Manager) fail(p *pool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.starting--
	if len(p.waiters) <= p.starting {
		return
	}
	w := p.waiters[0]
	p.waiters = slices.Delete(p.waiters, 0, 1)
	w.result <- handover{err: err}
}

// grant takes room for one sandbox from what the manager holds, or asks placement for a chunk. When nothing fits, the idle
// sandbox that was unused longest makes room.
func (m *Manager) grant(p *pool, avoid []lambent.WorkerID) (lambent.Grant, error) {
	if g, ok := p.heldGrant(avoid, time.Now()); ok {
		return g, nil
	}
	p.mu.Lock()
	chunk := p.chunk
	p.chunk = min(p.chunk*2, maxChunk)
	p.mu.Unlock()
	req := lambent.PlaceRequest{Manager: m.options.ID, Key: p.key.version, Account: p.version.Account, Demand: demand(p.version), Count: chunk, Avoid: avoid}
	g, err := m.options.Placement.Place(m.ctx, req)
	for lambent.CodeOf(err) == lambent.Unavailable && err != nil && m.evictOne() {
		req.Count = 1
		g, err = m.options.Placement.Place(m.ctx, req)
	}
	if err != nil {
		return lambent.Grant{}, err
	}
	if g.Count > 1 {
		p.mu.Lock()
		p.grants = append(p.grants, &allowance{g, g.Count - 1})
		p.mu.Unlock()
	}
	return g, nil
}

func (p *pool) heldGrant(avoid []lambent.WorkerID, now time.Time) (lambent.Grant, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, a := range p.grants {
		if slices.Contains(avoid, a.Worker) || !a.Expires.After(now) {
			continue
		}
		if a.left--; a.left == 0 {
			p.grants = slices.Delete(p.grants, i, i+1)
		}
		return a.Grant, true
	}
	return lambent.Grant{}, false
}

// demand is what a sandbox is expected to use while nothing has been learnt about its function: a busy one as much memory
// as a share of its limit, and a tenth of its processor share on average, because most functions wait most of the time.
func demand(v *lambent.FunctionVersion) lambent.Demand {
	memory, vcpu := float64(v.MemoryMiB), float64(v.MemoryMiB)/1769
	return lambent.Demand{MemoryMiB: memory * 0.25, MemoryDeviation: memory * 0.02, VCPU: vcpu * 0.1, VCPUDeviation: vcpu * 0.01}
}

// bucket holds the right to start sandboxes: ScaleRate per 10 s, refilled continuously, never more than that at once.
type bucket struct {
	mu     sync.Mutex
	limit  float64
	tokens float64
	filled time.Time
}

func (m *Manager) rate(id lambent.FunctionID) *bucket {
	if b, ok := m.rates.Load(id); ok {
		return b.(*bucket)
	}
	limit := float64(m.options.ScaleRate)
	b, _ := m.rates.LoadOrStore(id, &bucket{limit: limit, tokens: limit, filled: time.Now()})
	return b.(*bucket)
}

func (b *bucket) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tokens = min(b.limit, b.tokens+b.limit*now.Sub(b.filled).Seconds()/rateWindow.Seconds())
	b.filled = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// bootID names a manager's life.
func bootID(now time.Time) string { return fmt.Sprintf("%x", now.UnixNano()) }
