package manager

import (
	"context"
	"fmt"
	"testing"

	"go.uber.org/goleak"

	"lambent"
	"lambent/manager/managertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open opens a manager of a region, closes it at the end of the test, and checks then what must always hold.
func open(t *testing.T, r *managertest.Region, options Options) *Manager {
	t.Helper()
	if options.ID == "" {
		options.ID = "manager"
	}
	options.Placement, options.Workers = r, r.Worker
	m, err := Open(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if err := m.check(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// check returns the invariants of a Manager that do not hold.
func (m *Manager) check() error {
	var broken error
	fail := func(p *pool, format string, args ...any) {
		broken = fmt.Errorf("pool %v: "+format, append([]any{p.key}, args...)...)
	}
	counts := map[*pool]int{}
	inUse := map[*holding]int{}
	m.sandboxes.each(func(_ lambent.SandboxID, s *sandbox) {
		s.pool.mu.Lock()
		defer s.pool.mu.Unlock()
		if s.phase != gone {
			counts[s.pool]++
		}
		if s.holding != nil {
			inUse[s.holding]++
		}
	})
	m.pools.each(func(_ poolKey, p *pool) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if counts[p] != p.count {
			fail(p, "%d sandboxes are known, %d are counted", counts[p], p.count)
		}
		if len(p.waiters) > p.starting {
			fail(p, "%d wait for %d starts", len(p.waiters), p.starting)
		}
		if len(p.unplaced) > p.starting || len(p.unplaced) > 0 && !p.placing && !m.closed.Load() {
			fail(p, "%d of %d starts have no room, placing: %v", len(p.unplaced), p.starting, p.placing)
		}
		for i, s := range p.idle {
			if s.phase != idle || s.pool != p {
				fail(p, "sandbox %s is in phase %d", s.id, s.phase)
			}
			if i > 0 && s.since.Before(p.idle[i-1].since) {
				fail(p, "the idle sandboxes are not ordered")
			}
			if len(p.waiters) > 0 && s.host.usable.Load() {
				fail(p, "sandbox %s is idle while %d wait", s.id, len(p.waiters))
			}
		}
		for _, h := range p.stock {
			if h.free < 0 || h.inUse < inUse[h] || h.free+h.inUse > h.grant.Count {
				fail(p, "grant %s of %d: %d free, %d in use by %d", h.grant.ID, h.grant.Count, h.free, h.inUse, inUse[h])
			}
		}
	})
	return broken
}

func TestConformance(t *testing.T) {
	managertest.Run(t, func(t *testing.T, r *managertest.Region, settings managertest.Settings) lambent.Manager {
		return open(t, r, Options{ID: settings.ID, ScaleRate: settings.ScaleRate, Patience: settings.Patience})
	})
}

func TestOptions(t *testing.T) {
	r := managertest.NewRegion(1)
	for name, options := range map[string]Options{
		"no ID":        {Placement: r, Workers: r.Worker},
		"no placement": {ID: "m", Workers: r.Worker},
		"no workers":   {ID: "m", Placement: r},
		"negative":     {ID: "m", Placement: r, Workers: r.Worker, IdleTimeout: -1},
	} {
		if m, err := Open(t.Context(), options); err == nil {
			t.Errorf("%s: accepted", name)
			_ = m.Close()
		}
	}
}

// Close ends claims that wait, and leaves the sandboxes for the next manager.
func TestClose(t *testing.T) {
	r := managertest.NewRegion(10, "a")
	m := open(t, r, Options{})
	claim, err := m.Claim(t.Context(), claimOf("f"))
	if err != nil {
		t.Fatal(err)
	}
	m.Return(claim, lambent.OutcomeIdle)
	begun := make(chan struct{})
	r.Fake("a").OnStart(func(ctx context.Context, _ lambent.StartRequest) error {
		close(begun)
		<-ctx.Done()
		return ctx.Err()
	})
	waiting := make(chan error)
	go func() {
		_, err := m.Claim(context.Background(), claimOf("g"))
		waiting <- err
	}()
	<-begun
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; lambent.CodeOf(err) != lambent.Unavailable {
		t.Errorf("the waiting claim: %v", err)
	}
	if _, err := m.Claim(t.Context(), claimOf("h")); lambent.CodeOf(err) != lambent.Unavailable {
		t.Errorf("a claim after Close: %v", err)
	}
	if n := r.Sandboxes(); n != 1 {
		t.Errorf("%d sandboxes are left, want the warm one", n)
	}
}

func claimOf(id lambent.FunctionID) lambent.ClaimRequest {
	return lambent.ClaimRequest{Version: managertest.Version(id, "r1")}
}

func BenchmarkClaimReturn(b *testing.B) {
	r := managertest.NewRegion(100, "a")
	m, err := Open(b.Context(), Options{ID: "m", Placement: r, Workers: r.Worker})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	req := claimOf("f")
	claim, err := m.Claim(b.Context(), req)
	if err != nil {
		b.Fatal(err)
	}
	m.Return(claim, lambent.OutcomeIdle)
	b.ReportAllocs()
	for b.Loop() {
		claim, err := m.Claim(b.Context(), req)
		if err != nil {
			b.Fatal(err)
		}
		m.Return(claim, lambent.OutcomeIdle)
	}
}

// Many functions at once: what they share is not locked.
func BenchmarkClaimReturnParallel(b *testing.B) {
	r := managertest.NewRegion(100, "a")
	m, err := Open(b.Context(), Options{ID: "m", Placement: r, Workers: r.Worker})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	b.ReportAllocs()
	var serial = make(chan int, 1)
	serial <- 0
	b.RunParallel(func(pb *testing.PB) {
		n := <-serial
		serial <- n + 1
		req := claimOf(lambent.FunctionID(fmt.Sprint("f", n)))
		for pb.Next() {
			claim, err := m.Claim(context.Background(), req)
			if err != nil {
				b.Error(err)
				return
			}
			m.Return(claim, lambent.OutcomeIdle)
		}
	})
}

// A waiter that leaves at the moment it is served passes on what it got, as good as new.
func TestLeaveWhenServed(t *testing.T) {
	r := managertest.NewRegion(10, "a")
	m := open(t, r, Options{})
	req := claimOf("f")
	p := m.lockPool(poolKey{version: req.Version.Key})
	w, err := m.queueLocked(p, req.Version)
	p.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	served := <-w.offer
	w.offer <- served // as if nobody had looked
	m.abandon(p, w)
	claim, err := m.Claim(t.Context(), req)
	if err != nil || claim.Sandbox != served.claim.Sandbox || !claim.Cold || claim.Epoch <= served.claim.Epoch {
		t.Errorf("after %+v: claim %+v, error %v", served.claim, claim, err)
	}
	m.unused(claim)
	m.unused(lambent.Claim{Sandbox: "none"})
	m.Return(served.claim, lambent.OutcomeIdle) // late
	if err := m.check(); err != nil {
		t.Error(err)
	}
}
