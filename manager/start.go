package manager

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"time"

	"lambent"
)

const (
	rateWindow   = 10 * time.Second // of Options.ScaleRate
	maxAttempts  = 3                // to start one sandbox
	startTimeout = time.Minute      // of one attempt: fetching code, and 10 s of initialisation
	callTimeout  = 5 * time.Second  // of any other call
	retryEvery   = 50 * time.Millisecond
	avoidFor     = 500 * time.Millisecond // a worker that refused or failed
)

// start is a sandbox on its way: first it gets room, then a worker starts it.
type start struct {
	asked    time.Time
	attempts int
	err      error // the worst so far
}

// beginLocked begins to start a sandbox, in room that is held already or that placement is asked for.
func (m *Manager) beginLocked(p *pool, now time.Time) {
	p.starting++
	p.heat.add(now)
	m.placeLocked(p, &start{asked: now}, now)
}

// placeLocked gives a start room that is held already, or lets the placing goroutine get some.
func (m *Manager) placeLocked(p *pool, st *start, now time.Time) {
	if h := p.stock.take(now, p.avoid); h != nil {
		m.tasks.start(func() { m.launch(p, st, h) })
		return
	}
	p.unplaced = append(p.unplaced, st)
	if !p.placing {
		p.placing = true
		m.tasks.start(func() { m.place(p) })
	}
}

// place gets room for a pool's starts until all of them have some.
func (m *Manager) place(p *pool) {
	for {
		req, ok := m.nextRequest(p)
		if !ok {
			return
		}
		ctx, cancel := context.WithTimeout(m.running, callTimeout)
		grant, err := m.options.Placement.Place(ctx, req)
		cancel()
		if err == nil {
			m.granted(p, grant)
			continue
		}
		// While a worker is avoided, it may be the one with room: nothing is stopped for that.
		if lambent.CodeOf(err) == lambent.Unavailable && len(req.Avoid) == 0 && m.makeRoom(p) {
			continue
		}
		if m.running.Err() != nil {
			return
		}
		m.refused(p, err)
		select {
		case <-time.After(retryEvery):
		case <-m.running.Done():
		}
	}
}

// nextRequest returns what to ask placement for. False: nothing, and the goroutine that places is to end.
func (m *Manager) nextRequest(p *pool) (lambent.PlaceRequest, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	m.placeHeldLocked(p, now)
	// Who was served by a returned sandbox needs no new one. Those that have room already go on, and become idle.
	for len(p.unplaced) > 0 && p.starting > len(p.waiters) {
		p.unplaced = p.unplaced[:len(p.unplaced)-1]
		p.starting--
		p.function.rate.giveBack()
	}
	if len(p.unplaced) == 0 || m.running.Err() != nil {
		p.placing = false
		return lambent.PlaceRequest{}, false
	}
	req := lambent.PlaceRequest{
		Manager:   m.options.ID,
		Key:       p.key.version,
		Account:   p.version.Account,
		Isolation: p.version.Isolation,
		Demand:    p.learnt.demand(p.version.MemoryMiB),
		Count:     len(p.unplaced) + p.heat.ahead(now),
	}
	for id, until := range p.avoid {
		if now.Before(until) {
			req.Avoid = append(req.Avoid, id)
		} else {
			delete(p.avoid, id)
		}
	}
	return req, true
}

// placeHeldLocked gives room that is held to starts that have none.
func (m *Manager) placeHeldLocked(p *pool, now time.Time) {
	for len(p.unplaced) > 0 {
		h := p.stock.take(now, p.avoid)
		if h == nil {
			return
		}
		st := p.unplaced[0]
		p.unplaced = p.unplaced[1:]
		m.tasks.start(func() { m.launch(p, st, h) })
	}
}

// granted takes in a grant.
func (m *Manager) granted(p *pool, grant lambent.Grant) {
	h := m.hosts.get(m.running, grant.Worker)
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.stock = append(p.stock, &holding{grant: grant, host: h, free: grant.Count, since: now})
	m.placeHeldLocked(p, now)
}

// refused fails the starts that have waited for room too long, or for which there will be none.
func (m *Manager) refused(p *pool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	oldest := time.Now().Add(-m.options.Patience)
	never := lambent.CodeOf(err) == lambent.InvalidRuntime
	for len(p.unplaced) > 0 && (never || p.unplaced[0].asked.Before(oldest)) {
		st := p.unplaced[0]
		p.unplaced = p.unplaced[1:]
		p.endStartLocked(worse(st.err, err))
	}
}

// launch starts a sandbox in the room of a holding.
func (m *Manager) launch(p *pool, st *start, h *holding) {
	s := &sandbox{id: newSandboxID(), pool: p, host: h.host, grant: h.grant.ID, holding: h, expires: h.grant.Expires, epoch: 1}
	p.mu.Lock()
	p.count++
	version := p.version
	p.mu.Unlock()
	m.sandboxes.store(s.id, s)
	err := errLost
	if s.host.add(s) {
		err = m.startOn(s, version)
	}
	p.mu.Lock()
	if err == nil && s.phase == gone {
		err = errLost
	}
	if err != nil {
		p.mu.Unlock()
		m.failed(st, s, err)
		return
	}
	p.starting--
	kept := m.settleLocked(s)
	m.coverLocked(p)
	p.mu.Unlock()
	if !kept {
		m.discard(s, destroy)
	}
}

// coverLocked starts a sandbox for each waiter that has none under way any more: what was started for it is on a worker that
// cannot be used now.
func (m *Manager) coverLocked(p *pool) {
	now := time.Now()
	for len(p.waiters) > p.starting {
		if wait, ok := p.function.rate.take(now); ok {
			m.beginLocked(p, now)
		} else {
			p.failWaitersLocked(1, errThrottled(wait))
		}
	}
}

// startOn has the worker start the sandbox.
func (m *Manager) startOn(s *sandbox, version *lambent.FunctionVersion) error {
	worker, ok := m.options.Workers(s.host.id)
	if !ok {
		return errLost
	}
	ctx, cancel := context.WithTimeout(s.host.ctx, startTimeout)
	defer cancel()
	return worker.Start(ctx, lambent.StartRequest{
		Sandbox: s.id, Grant: s.grant, Manager: m.options.ID, Epoch: s.epoch, Version: version, Tenant: s.pool.key.tenant,
	})
}

// failed deals with a sandbox that did not start: another worker is tried, or a waiter gets the error.
func (m *Manager) failed(st *start, s *sandbox, err error) {
	p := s.pool
	code := lambent.CodeOf(err)
	if m.running.Err() == nil {
		m.log.Warn("a sandbox did not start", "function", p.key.version.Function, "worker", s.host.id, "error", err)
	}
	p.mu.Lock()
	p.dropLocked(s)
	unused := p.stock.giveUp(s.holding) // the worker may refuse the others as well
	now := time.Now()
	if p.avoid == nil {
		p.avoid = make(map[lambent.WorkerID]time.Time)
	}
	p.avoid[s.host.id] = now.Add(avoidFor)
	st.attempts++
	st.err = worse(st.err, err)
	final := code == lambent.InvalidRuntime || st.attempts >= maxAttempts
	if final || p.starting > len(p.waiters) || m.running.Err() != nil {
		p.endStartLocked(st.err)
	} else {
		m.placeLocked(p, st, now)
	}
	p.mu.Unlock()
	if code != lambent.Unavailable && code != lambent.InvalidRuntime {
		m.stopSandbox(s) // whether it exists is not known
	}
	m.forget(s)
	m.free(s.grant, 1+unused)
}

// errLost: the worker was lost while it started a sandbox.
var errLost = errors.New("the worker is lost")

// worse returns that error of two that tells the caller more: what the function's owner can mend before what we must, and a
// fault before a lack of room.
func worse(a, b error) error {
	rank := func(err error) int {
		switch {
		case err == nil:
			return 0
		case lambent.CodeOf(err) == lambent.InvalidRuntime:
			return 4
		case errors.Is(err, errLost) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
			return 1
		case lambent.CodeOf(err) == lambent.Unavailable:
			return 2
		}
		return 3
	}
	if rank(a) >= rank(b) {
		b = a
	}
	var coded *lambent.Error
	if !errors.As(b, &coded) {
		return lambent.Wrap(lambent.Unavailable, b, "No execution environment could be started for the function. Please try again.")
	}
	return b
}

// newSandboxID returns an identity that no sandbox had before.
func newSandboxID() lambent.SandboxID {
	var random [16]byte
	_, _ = rand.Read(random[:]) // it never fails
	return lambent.SandboxID(hex.EncodeToString(random[:]))
}
