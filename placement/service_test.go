package placement

import (
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"lambent"
	"lambent/placement/placementtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, options Options) *Service {
	t.Helper()
	s, err := Open(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestConformance(t *testing.T) {
	placementtest.Run(t, func(t *testing.T) lambent.Placement { return open(t, Options{}) })
}

func TestOptions(t *testing.T) {
	for name, options := range map[string]Options{
		"dead before suspect": {SuspectAfter: 5 * time.Second, DeadAfter: time.Second},
		"lease":               {LeaseMin: 2 * time.Hour, LeaseMax: time.Hour},
		"spare":               {Spare: 1},
	} {
		if s, err := Open(options); err == nil {
			t.Errorf("%s: accepted", name)
			_ = s.Close()
		}
	}
}

// pulse sends heartbeats for workers that are not in the set of the silent ones.
type pulse struct {
	t      *testing.T
	s      *Service
	status map[lambent.WorkerID]lambent.WorkerStatus
}

func (p *pulse) beat() {
	p.t.Helper()
	for _, status := range p.status {
		if _, err := p.s.Heartbeat(p.t.Context(), status); err != nil {
			p.t.Fatal(err)
		}
	}
}

// run lets time pass, with a heartbeat of every worker each 250 ms.
func (p *pulse) run(d time.Duration) {
	for range d / (250 * time.Millisecond) {
		<-time.After(250 * time.Millisecond)
		p.beat()
	}
}

func (p *pulse) health(id lambent.WorkerID) lambent.WorkerHealth {
	p.t.Helper()
	return p.state(id).Health
}

func (p *pulse) state(id lambent.WorkerID) lambent.WorkerState {
	p.t.Helper()
	all, err := p.s.Workers(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	for _, w := range all {
		if w.Status.Worker == id {
			return w
		}
	}
	return lambent.WorkerState{}
}

func newPulse(t *testing.T, options Options, workers ...lambent.WorkerID) *pulse {
	p := &pulse{t: t, s: open(t, options), status: map[lambent.WorkerID]lambent.WorkerStatus{}}
	for _, id := range workers {
		p.status[id] = placementtest.Status(id)
	}
	p.beat()
	return p
}

// A worker that dies gets nothing new within a second, and its grants are free when it is given up.
func TestWorkerDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPulse(t, Options{}, "a", "b")
		p.run(time.Second)
		for range 4 {
			if _, err := p.s.Place(t.Context(), placementtest.Request("f", 1)); err != nil {
				t.Fatal(err)
			}
		}
		delete(p.status, "a")
		p.run(time.Second)
		if got := p.health("a"); got != lambent.WorkerSuspect {
			t.Errorf("after a second without heartbeats: %s", got)
		}
		for range 6 {
			g, err := p.s.Place(t.Context(), placementtest.Request("f", 1))
			if err != nil || g.Worker != "b" {
				t.Fatalf("grant %+v, error %v", g, err)
			}
		}
		p.run(2 * time.Second)
		if got := p.state("a"); got.Health != lambent.WorkerDead || got.Grants != 0 {
			t.Errorf("after three seconds: %+v", got)
		}
		if got := p.health("b"); got != lambent.WorkerHealthy {
			t.Errorf("the other worker is %s", got)
		}
		p.status["a"] = placementtest.Status("a")
		p.beat()
		if got := p.health("a"); got != lambent.WorkerHealthy {
			t.Errorf("back again: %s", got)
		}
		delete(p.status, "a")
		p.run(time.Hour + time.Minute)
		if got := p.state("a"); got.Health != "" {
			t.Errorf("after an hour it is still told of: %+v", got)
		}
	})
}

// The lease of a worker that was cut off runs out; it is used again when nothing runs on it.
func TestLeaseRunsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPulse(t, Options{ForgetAfter: 48 * time.Hour}, "a")
		first, err := p.s.Heartbeat(t.Context(), p.status["a"])
		if err != nil {
			t.Fatal(err)
		}
		if first.Term < 6*time.Hour || first.Term > 10*time.Hour {
			t.Errorf("the term is %v", first.Term)
		}
		<-time.After(first.Term + time.Second)
		status := p.status["a"]
		status.Sandboxes = 3
		second, err := p.s.Heartbeat(t.Context(), status)
		if err != nil || !second.Drain || second.Epoch <= first.Epoch {
			t.Errorf("lease %+v after %+v, error %v", second, first, err)
		}
		if got := p.health("a"); got != lambent.WorkerDraining {
			t.Errorf("with sandboxes of its former lease: %s", got)
		}
		third, err := p.s.Heartbeat(t.Context(), p.status["a"])
		if err != nil || third.Drain || third.Epoch != second.Epoch {
			t.Errorf("when it is empty: lease %+v, error %v", third, err)
		}
		if got := p.health("a"); got != lambent.WorkerHealthy {
			t.Errorf("when it is empty: %s", got)
		}
	})
}

func TestTermsAreJittered(t *testing.T) {
	s := open(t, Options{Seed: 1})
	seen := map[time.Duration]bool{}
	for _, id := range []lambent.WorkerID{"a", "b", "c", "d"} {
		lease, err := s.Heartbeat(t.Context(), placementtest.Status(id))
		if err != nil {
			t.Fatal(err)
		}
		seen[lease.Term.Truncate(time.Minute)] = true
	}
	if len(seen) < 3 {
		t.Errorf("terms of four workers: %v", seen)
	}
}

func TestOperators(t *testing.T) {
	s := open(t, Options{})
	p := &pulse{t: t, s: s, status: map[lambent.WorkerID]lambent.WorkerStatus{"a": placementtest.Status("a")}}
	p.beat()
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(s.Cordon("a"))
	p.beat()
	if got := p.health("a"); got != lambent.WorkerCordoned {
		t.Errorf("cordoned: %s", got)
	}
	do(s.Drain("a"))
	lease, err := s.Heartbeat(t.Context(), p.status["a"])
	if err != nil || !lease.Drain || p.health("a") != lambent.WorkerDraining {
		t.Errorf("draining: lease %+v, %s, error %v", lease, p.health("a"), err)
	}
	if _, err := s.Place(t.Context(), placementtest.Request("f", 1)); lambent.CodeOf(err) != lambent.Unavailable {
		t.Errorf("placed on a worker that drains: %v", err)
	}
	do(s.Uncordon("a"))
	if got := p.health("a"); got != lambent.WorkerHealthy {
		t.Errorf("uncordoned: %s", got)
	}
	for _, operate := range []func(lambent.WorkerID) error{s.Cordon, s.Drain, s.Uncordon} {
		if err := operate("nobody"); lambent.CodeOf(err) != lambent.NotFound {
			t.Errorf("a worker that is not known: %v", err)
		}
	}
}

// A worker whose starts fail is kept away for a while; when all fail, no worker is.
func TestBadWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPulse(t, Options{}, "a", "b", "c")
		fail := func(id lambent.WorkerID) {
			status := p.status[id]
			status.Failures += 3
			p.status[id] = status
			p.run(time.Second)
		}
		fail("a")
		if got := p.health("a"); got != lambent.WorkerHealthy {
			t.Errorf("after 3 failures: %s", got)
		}
		fail("a")
		if got := p.health("a"); got != lambent.WorkerCordoned {
			t.Errorf("after 6 failures: %s", got)
		}
		for _, id := range []lambent.WorkerID{"b", "c"} {
			fail(id)
			fail(id)
			if got := p.health(id); got != lambent.WorkerHealthy {
				t.Errorf("the next worker with failures: %s", got)
			}
		}
		p.run(badFor + time.Second)
		if got := p.health("a"); got != lambent.WorkerHealthy {
			t.Errorf("five minutes later: %s", got)
		}
	})
}

// While this process sleeps, no worker's heartbeat can arrive: that is not the workers' silence.
func TestOwnSleepIsNotTheWorkersSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPulse(t, Options{}, "a")
		p.run(time.Second)
		p.s.mu.Lock()
		now := time.Now().Add(time.Hour) // as the next sweep sees it after the host slept
		p.s.mu.Unlock()
		p.s.sweep(now)
		p.s.mu.Lock()
		defer p.s.mu.Unlock()
		if got := p.s.workers["a"].health; got != lambent.WorkerHealthy {
			t.Errorf("after an hour's sleep: %s", got)
		}
	})
}

// A refusal marks the worker that lacks least, for a second.
func TestShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPulse(t, Options{}, "a", "b")
		large := placementtest.Request("f", 1)
		large.Demand.MemoryMiB = 600
		for range 2 {
			if _, err := p.s.Place(t.Context(), large); err != nil {
				t.Fatal(err)
			}
		}
		little := placementtest.Request("g", 1)
		g, err := p.s.Place(t.Context(), little)
		if err != nil {
			t.Fatal(err)
		}
		if p.state("a").Short || p.state("b").Short {
			t.Error("a worker is short of room before a refusal")
		}
		if _, err := p.s.Place(t.Context(), large); err == nil {
			t.Fatal("600 MiB fit twice into 1,024 MiB")
		}
		if !p.state("a").Short && !p.state("b").Short || p.state(g.Worker).Short {
			t.Error("not the worker that lacks least is marked")
		}
		p.run(shortFor)
		if p.state("a").Short || p.state("b").Short {
			t.Error("a second later a worker is still marked")
		}
		if head := p.s.Headroom(); head.CapacityMiB != 2048 || head.ExpectedMiB != 1300 {
			t.Errorf("headroom %+v", head)
		}
	})
}

func TestGrantsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPulse(t, Options{LeaseMin: time.Minute, LeaseMax: time.Minute}, "a")
		g, err := p.s.Place(t.Context(), placementtest.Request("f", 3))
		if err != nil || time.Until(g.Expires) != time.Minute {
			t.Fatalf("grant %+v, error %v", g, err)
		}
		p.run(time.Minute + grantGrace - time.Second)
		if got := p.state("a").Grants; got != 3 {
			t.Errorf("in the time of grace: %d sandboxes are granted", got)
		}
		p.run(2 * time.Second)
		if got := p.state("a").Grants; got != 0 {
			t.Errorf("after it: %d sandboxes are granted", got)
		}
	})
}

// What a manager learns of a version holds for what it was granted before: room that was set aside for nothing is given to others,
// and what is used after all is not promised to them.
func TestGrantsAreRevised(t *testing.T) {
	p := newPulse(t, Options{}, "a")
	placeOf := func(manager lambent.ManagerID, fn lambent.FunctionID, memoryMiB float64, n int) (lambent.Grant, error) {
		req := placementtest.Request(fn, n)
		req.Manager, req.Demand.MemoryMiB = manager, memoryMiB
		return p.s.Place(t.Context(), req)
	}
	expected := func(when string, want float64) {
		t.Helper()
		if got := p.s.Headroom().ExpectedMiB; math.Abs(got-want) > 0.01 {
			t.Errorf("%s: %v MiB are expected, want %v", when, got, want)
		}
	}
	first, err := placeOf("m", "f", 100, 10)
	if err != nil {
		t.Fatal(err)
	}
	expected("at first", 900) // the spare share is left
	second, err := placeOf("m", "f", 20, 10)
	if err != nil || second.Count != 10 {
		t.Fatalf("grant %+v, error %v", second, err)
	}
	expected("little is used", 19*20)
	if _, err := placeOf("m", "f", 21, 1); err != nil {
		t.Fatal(err)
	}
	expected("nearly the same", 19*20+21)
	if _, err := placeOf("another", "f", 30, 1); err != nil {
		t.Fatal(err)
	}
	expected("another manager knows only its own", 19*20+21+30)
	if _, err := placeOf("m", "f", 60, 1); err == nil {
		t.Error("20 of 60 MiB and another one fit into 1,024")
	}
	expected("more is used after all", 20*60+30)
	for _, g := range []lambent.Grant{first, second} {
		if err := p.s.Free(t.Context(), g.ID, g.Count); err != nil {
			t.Fatal(err)
		}
	}
	expected("given back", 60+30)
}

// Whatever is asked for, given back and started anew, the books agree with each other, and nothing is below zero.
func TestBooksBalance(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, err := Open(Options{Seed: 1})
		if err != nil {
			rt.Fatal(err)
		}
		defer s.Close()
		ids := []lambent.WorkerID{"a", "b"}
		boots := map[lambent.WorkerID]int{}
		var held []lambent.Grant
		beat := func(id lambent.WorkerID) {
			status := placementtest.Status(id)
			status.Boot = fmt.Sprint(boots[id])
			if _, err := s.Heartbeat(t.Context(), status); err != nil {
				rt.Fatal(err)
			}
		}
		beat("a")
		beat("b")
		rt.Repeat(map[string]func(*rapid.T){
			"place": func(rt *rapid.T) {
				req := placementtest.Request(lambent.FunctionID(rapid.StringMatching("[f-h]").Draw(rt, "function")), rapid.IntRange(-1, 9).Draw(rt, "n"))
				req.Manager = lambent.ManagerID(rapid.StringMatching("[mn]").Draw(rt, "manager"))
				req.Demand = lambent.Demand{MemoryMiB: rapid.Float64Range(-5, 300).Draw(rt, "memory"), MemoryDeviation: rapid.Float64Range(0, 9).Draw(rt, "deviation"), VCPU: 0.1}
				if g, err := s.Place(t.Context(), req); err == nil {
					held = append(held, g)
				}
			},
			"free": func(rt *rapid.T) {
				if len(held) == 0 {
					rt.Skip("nothing is held")
				}
				g := rapid.SampledFrom(held).Draw(rt, "grant") // also one that is gone
				if err := s.Free(t.Context(), g.ID, rapid.IntRange(-1, g.Count+1).Draw(rt, "n")); err != nil {
					rt.Fatal(err)
				}
			},
			"reboot": func(rt *rapid.T) {
				id := rapid.SampledFrom(ids).Draw(rt, "worker")
				boots[id]++
				beat(id)
			},
			"": func(rt *rapid.T) { balance(rt, s) },
		})
	})
}

// balance checks that a service's books agree.
func balance(t *rapid.T, s *Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	indexed := 0
	for of, all := range s.copies {
		if len(all.grants) == 0 {
			t.Fatalf("%v have no grants and are remembered", of)
		}
		indexed += len(all.grants)
	}
	onWorkers := 0
	for _, w := range s.workers {
		onWorkers += len(w.grants)
		var memory float64
		for id, g := range w.grants {
			if g.count <= 0 || s.grants[id] != g || s.copies[g.copies].grants[id] != g || g.worker != w {
				t.Fatalf("grant %s of %d", id, g.count)
			}
			memory += g.demand.mean.memory * float64(g.count)
		}
		if math.Abs(w.mean.memory-memory) > 1e-3 || w.mean.memory < 0 || w.variance.memory < 0 || w.variance.vcpu < 0 {
			t.Fatalf("worker %s is expected to use %v MiB, its grants %v; variance %+v", w.id, w.mean.memory, memory, w.variance)
		}
	}
	if onWorkers != len(s.grants) || indexed != len(s.grants) {
		t.Fatalf("%d grants, %d on workers, %d by version", len(s.grants), onWorkers, indexed)
	}
}
