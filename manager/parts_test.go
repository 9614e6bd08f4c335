package manager

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lambent"
	"lambent/manager/managertest"
)

func TestBucket(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	b := newBucket(1000, 10*time.Second, at)
	take := func(n int) (taken int) {
		for range n {
			if _, ok := b.take(at); ok {
				taken++
			}
		}
		return taken
	}
	if n := take(2000); n != 1000 {
		t.Errorf("%d of a full bucket, want 1,000", n)
	}
	if wait, ok := b.take(at); ok || wait <= 0 || wait > 10*time.Millisecond {
		t.Errorf("the next token in %v", wait)
	}
	at = at.Add(500 * time.Millisecond)
	if n := take(2000); n != 50 {
		t.Errorf("%d after half a second, want 50", n)
	}
	b.giveBack()
	if n := take(2000); n != 1 {
		t.Errorf("%d after one was given back", n)
	}
	at = at.Add(-time.Hour)
	if n := take(1); n != 0 {
		t.Error("a clock that goes back fills the bucket")
	}
	at = at.Add(3 * time.Hour)
	if n := take(3000); n != 1000 {
		t.Errorf("%d after hours, want 1,000", n)
	}
	if b.full(at) || !b.full(at.Add(10*time.Second)) {
		t.Error("full at the wrong time")
	}
}

// However it is asked, a bucket gives no more in any window than two windows' worth at its edges, and never keeps more than one.
func TestBucketNeverGivesTooMuch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := time.Unix(1_700_000_000, 0)
		size := rapid.IntRange(1, 50).Draw(t, "size")
		b := newBucket(size, 10*time.Second, at)
		began, given := at, 0
		for range rapid.IntRange(1, 200).Draw(t, "asks") {
			at = at.Add(time.Duration(rapid.IntRange(0, 2000).Draw(t, "ms")) * time.Millisecond)
			if _, ok := b.take(at); ok {
				given++
			}
			if most := float64(size) + float64(size)*at.Sub(began).Seconds()/10 + 1e-6; float64(given) > most {
				t.Fatalf("%d were given in %v, at most %v may be", given, at.Sub(began), most)
			}
		}
	})
}

func TestHeat(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	var h heat
	if n := h.ahead(at); n != 0 {
		t.Errorf("nothing was started: %d ahead", n)
	}
	h.add(at)
	if n := h.ahead(at); n != 0 {
		t.Errorf("after the first start: %d ahead", n)
	}
	for range 9 {
		h.add(at)
	}
	if n := h.ahead(at); n != 5 {
		t.Errorf("after ten starts: %d ahead", n)
	}
	if n := h.ahead(at.Add(heatHalfLife)); n != 2 {
		t.Errorf("ten seconds later: %d ahead", n)
	}
	for range 1000 {
		h.add(at)
	}
	if n := h.ahead(at); n != maxAhead {
		t.Errorf("after a thousand starts: %d ahead", n)
	}
}

func TestDemand(t *testing.T) {
	var e estimate
	prior := e.demand(1769)
	if prior.MemoryMiB <= 0 || prior.MemoryMiB >= 1769 || prior.VCPU <= 0 || prior.VCPU >= 1 {
		t.Errorf("with nothing learnt: %+v", prior)
	}
	for i := range 400 {
		e.learn(100+float64(i%2)*20, 0.5)
	}
	got := e.demand(1769)
	if math.Abs(got.MemoryMiB-110) > 3 || math.Abs(got.MemoryDeviation-10) > 2 || math.Abs(got.VCPU-0.5) > 1e-6 || got.VCPUDeviation > 1e-6 {
		t.Errorf("with 400 invokes of 100 and 120 MiB learnt: %+v", got)
	}
	if capped := e.demand(64); capped.MemoryMiB != 64 {
		t.Errorf("more than it may use: %+v", capped)
	}
}

func TestObserve(t *testing.T) {
	r := managertest.NewRegion(10, "a")
	m := open(t, r, Options{})
	m.Observe(managertest.Version("unknown", "r1").Key, "", lambent.WorkerResult{MaxMemoryMiB: 1})
	req := claimOf("f")
	if _, err := m.Claim(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	for range learnFrom {
		m.Observe(req.Version.Key, "", lambent.WorkerResult{MaxMemoryMiB: 70, Duration: time.Second, CPU: 250 * time.Millisecond})
	}
	p, _ := m.pools.load(poolKey{version: req.Version.Key})
	if got := p.learnt.demand(1769); got.MemoryMiB != 70 || got.VCPU != 0.25 {
		t.Errorf("learnt %+v", got)
	}
}

func TestWorse(t *testing.T) {
	coded := func(code lambent.Code) error { return lambent.Errorf(code, "code %d", code) }
	order := []error{errLost, coded(lambent.Unavailable), coded(lambent.Internal), coded(lambent.InvalidRuntime)}
	for i, less := range order {
		for _, more := range order[i:] {
			for _, got := range []error{worse(less, more), worse(more, less)} {
				if !errors.Is(got, more) || lambent.CodeOf(got) != lambent.CodeOf(more) && !errors.Is(more, errLost) {
					t.Errorf("of %v and %v: %v", less, more, got)
				}
			}
		}
	}
	if got := worse(nil, context.DeadlineExceeded); lambent.CodeOf(got) != lambent.Unavailable {
		t.Errorf("a timeout: %v", got)
	}
}

func TestReapable(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	idleFor := func(d time.Duration) *sandbox {
		return &sandbox{since: now.Add(-d), expires: now.Add(time.Hour)}
	}
	old, ripe, young, expired := idleFor(time.Hour), idleFor(time.Minute), idleFor(time.Minute-1), idleFor(0)
	expired.expires = now.Add(-1)
	got := reapable([]*sandbox{old, ripe, young, expired}, now, time.Minute)
	if want := []*sandbox{old, ripe, expired}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestStanding(t *testing.T) {
	for health, want := range map[lambent.WorkerHealth]standing{
		lambent.WorkerHealthy:  {usable: true},
		lambent.WorkerSuspect:  {},
		lambent.WorkerCordoned: {usable: true, cordoned: true},
		lambent.WorkerDraining: {retiring: true},
		lambent.WorkerDead:     {lost: true},
	} {
		if got := standingOf(health); got != want {
			t.Errorf("%s: %+v, want %+v", health, got, want)
		}
	}
}
