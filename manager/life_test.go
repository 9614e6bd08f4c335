package manager

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lambent"
	"lambent/manager/managertest"
)

// bench is a manager and its region, in a bubble of its own time.
type bench struct {
	*testing.T
	r *managertest.Region
	m *Manager
}

func inBubble(t *testing.T, room int, options Options, run func(*testing.T, *bench)) {
	synctest.Test(t, func(t *testing.T) {
		r := managertest.NewRegion(room, "a", "b")
		run(t, &bench{t, r, open(t, r, options)})
		for _, fault := range r.Faults() {
			t.Error(fault)
		}
	})
}

func (b *bench) claim(id lambent.FunctionID) lambent.Claim {
	b.Helper()
	return b.claimRevision(id, "r1")
}

func (b *bench) claimRevision(id lambent.FunctionID, revision string) lambent.Claim {
	b.Helper()
	version := managertest.Version(id, revision)
	claim, err := b.m.Claim(b.Context(), lambent.ClaimRequest{Version: version})
	if err != nil {
		b.Fatal(err)
	}
	if err := b.r.Fake(claim.Worker).Begin(claim, version.Key); err != nil {
		b.Fatal(err)
	}
	return claim
}

func (b *bench) done(claims ...lambent.Claim) {
	for _, claim := range claims {
		b.r.Fake(claim.Worker).End(claim, false)
		b.m.Return(claim, lambent.OutcomeIdle)
	}
}

// expect waits until nothing moves, and says how many sandboxes and granted rooms there are then.
func (b *bench) expect(when string, sandboxes, granted int) {
	b.Helper()
	synctest.Wait()
	if n := b.r.Sandboxes(); n != sandboxes {
		b.Errorf("%s: %d sandboxes, want %d", when, n, sandboxes)
	}
	if n, _ := b.r.Granted(); n != granted {
		b.Errorf("%s: room for %d is granted, want %d", when, n, granted)
	}
}

func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// No claim goes to a worker whose heartbeats are late, and its warm sandboxes are used again when it is well.
func TestSuspectWorker(t *testing.T) {
	inBubble(t, 10, Options{}, func(t *testing.T, b *bench) {
		first := b.claim("f")
		b.done(first)
		b.r.SetHealth(first.Worker, lambent.WorkerSuspect)
		pass(200 * time.Millisecond)
		second := b.claim("f")
		if second.Worker == first.Worker {
			t.Error("a claim went to a worker that is suspect")
		}
		b.r.SetHealth(first.Worker, lambent.WorkerHealthy)
		pass(200 * time.Millisecond)
		if third := b.claim("f"); third.Sandbox != first.Sandbox {
			t.Errorf("the warm sandbox was not used again, but %+v", third)
		}
	})
}

// A waiter gets the idle sandbox of a worker that recovers.
func TestWorkerRecoversForWaiter(t *testing.T) {
	inBubble(t, 1, Options{}, func(t *testing.T, b *bench) {
		first := b.claim("f")
		b.done(first)
		for _, id := range []lambent.WorkerID{"a", "b"} {
			b.r.SetHealth(id, lambent.WorkerSuspect)
		}
		pass(200 * time.Millisecond)
		served := make(chan lambent.Claim)
		go func() { served <- b.claim("f") }()
		pass(time.Second)
		b.r.SetHealth(first.Worker, lambent.WorkerHealthy)
		if claim := <-served; claim.Sandbox != first.Sandbox {
			t.Errorf("the waiter got %+v", claim)
		}
	})
}

func TestDeadWorker(t *testing.T) {
	inBubble(t, 10, Options{}, func(t *testing.T, b *bench) {
		idle, busy := b.claim("f"), b.claim("f")
		b.done(idle)
		for _, id := range []lambent.WorkerID{"a", "b"} {
			b.r.SetHealth(id, lambent.WorkerDead)
		}
		pass(200 * time.Millisecond)
		b.expect("all are dead", 0, 0)
		b.m.Return(busy, lambent.OutcomeGone)
		for _, id := range []lambent.WorkerID{"a", "b"} {
			b.r.Fake(id).Reboot("second")
		}
		for range 2 {
			if claim := b.claim("f"); !claim.Cold {
				t.Errorf("claim %+v of what was lost", claim)
			}
		}
	})
}

// A start that is under way on a worker that dies is made on another one.
func TestWorkerDiesDuringStart(t *testing.T) {
	inBubble(t, 10, Options{}, func(t *testing.T, b *bench) {
		begun := make(chan struct{})
		b.r.Fake("a").OnStart(func(ctx context.Context, _ lambent.StartRequest) error {
			close(begun)
			<-ctx.Done()
			return ctx.Err()
		})
		served := make(chan lambent.Claim)
		go func() { served <- b.claim("f") }()
		<-begun
		b.r.SetHealth("a", lambent.WorkerDead)
		if claim := <-served; claim.Worker != "b" {
			t.Errorf("the claim is %+v", claim)
		}
	})
}

func TestReboot(t *testing.T) {
	inBubble(t, 10, Options{}, func(t *testing.T, b *bench) {
		first := b.claim("f")
		b.done(first)
		pass(200 * time.Millisecond)
		b.r.Fake(first.Worker).Reboot("second")
		pass(200 * time.Millisecond)
		if second := b.claim("f"); !second.Cold || second.Sandbox == first.Sandbox {
			t.Errorf("claim %+v of a sandbox from before the start of its worker", second)
		}
	})
}

func TestDrainingAndCordonedWorkers(t *testing.T) {
	inBubble(t, 10, Options{}, func(t *testing.T, b *bench) {
		idle, busy := b.claim("f"), b.claim("g")
		b.done(idle)
		for _, id := range []lambent.WorkerID{"a", "b"} {
			b.r.SetHealth(id, lambent.WorkerCordoned)
		}
		pass(200 * time.Millisecond)
		warm := b.claim("f")
		if warm.Sandbox != idle.Sandbox {
			t.Errorf("a cordoned worker's warm sandbox was not used, but %+v", warm)
		}
		b.done(warm)
		for _, id := range []lambent.WorkerID{"a", "b"} {
			b.r.SetHealth(id, lambent.WorkerDraining)
		}
		pass(200 * time.Millisecond)
		b.expect("draining", 1, 2)
		b.done(busy)
		pass(unusedFor + reapEvery)
		b.expect("drained", 0, 0)
	})
}

// What is not used is given up: sandboxes after the timeout, then their room, then all that is known of the version.
func TestIdleSandboxesEnd(t *testing.T) {
	inBubble(t, 10, Options{IdleTimeout: 5 * time.Minute}, func(t *testing.T, b *bench) {
		first, second := b.claim("f"), b.claim("f")
		b.done(first)
		pass(time.Minute)
		b.done(second)
		_, calls := b.r.Granted()
		pass(4*time.Minute - 2*time.Second)
		b.expect("before the timeout", 2, 2)
		pass(3 * time.Second)
		b.expect("after the first one's timeout", 1, 2)
		third := b.claim("f")
		if third.Sandbox != second.Sandbox {
			t.Errorf("the claim is %+v, want the sandbox that is left", third)
		}
		b.claim("f")
		if _, now := b.r.Granted(); now != calls {
			t.Error("placement was asked for room that was held")
		}
		pass(10 * time.Minute)
		b.expect("both are busy", 2, 2)
		b.m.pools.each(func(_ poolKey, p *pool) {
			if n := len(p.idle); n != 0 {
				t.Errorf("%d are idle", n)
			}
		})
	})
	inBubble(t, 10, Options{IdleTimeout: time.Minute}, func(t *testing.T, b *bench) {
		b.done(b.claim("f"))
		pass(2*time.Minute + unusedFor)
		b.expect("long after", 0, 0)
		b.m.mu.Lock()
		defer b.m.mu.Unlock()
		if n := len(b.m.functions); n != 0 {
			t.Errorf("%d functions are remembered", n)
		}
	})
}

// Sandboxes end with the lease of their room.
func TestLeaseEnds(t *testing.T) {
	inBubble(t, 10, Options{IdleTimeout: 100 * time.Hour}, func(t *testing.T, b *bench) {
		idle, busy := b.claim("f"), b.claim("f")
		b.done(idle)
		pass(6*time.Hour + 2*time.Second)
		b.expect("after the lease", 1, 1)
		b.done(busy)
		pass(2 * time.Second)
		b.expect("after the last invoke", 0, 0)
	})
}

// A burst of cold starts asks for room in ever larger chunks.
func TestRoomIsAskedForAhead(t *testing.T) {
	inBubble(t, 1000, Options{}, func(t *testing.T, b *bench) {
		var claims []lambent.Claim
		for range 100 {
			claims = append(claims, b.claim("f"))
		}
		if _, calls := b.r.Granted(); calls > 25 {
			t.Errorf("placement was asked %d times for 100 sandboxes", calls)
		}
		b.done(claims...)
		pass(unusedFor + 2*reapEvery)
		b.expect("a while later", 100, 100)
	})
}

// A worker that lost a sandbox without a word is noticed, and so is one that has a sandbox nobody knows.
func TestListingsAgree(t *testing.T) {
	inBubble(t, 10, Options{}, func(t *testing.T, b *bench) {
		lost, stranger := b.claim("f"), b.claim("g")
		b.done(lost)
		b.r.Fake(lost.Worker).Lose(lost.Sandbox)
		b.r.Fake(stranger.Worker).End(stranger, false)
		b.m.Return(stranger, lambent.OutcomeGone) // its front end does not know better
		pass(listEvery + time.Second)
		if claim := b.claim("f"); claim.Sandbox == lost.Sandbox {
			t.Error("a lost sandbox was claimed")
		}
		pass(listEvery + time.Second)
		if claim := b.claim("g"); claim.Sandbox != stranger.Sandbox || claim.Epoch <= stranger.Epoch {
			t.Errorf("the claim is %+v, want the sandbox that was forgotten, %+v", claim, stranger)
		}
	})
}

// Another manager takes over: idle sandboxes at once, busy ones when they come to rest.
func TestTakeOver(t *testing.T) {
	inBubble(t, 10, Options{}, func(t *testing.T, b *bench) {
		idle, busy, foreign := b.claim("f"), b.claim("f"), b.claim("other")
		b.done(idle, foreign)
		pass(5 * time.Second)
		if err := b.m.Close(); err != nil {
			t.Fatal(err)
		}
		b.m = open(t, b.r, Options{ID: "another", Owns: func(id lambent.FunctionID) bool { return id == "f" }})
		if warm := b.claim("f"); warm.Sandbox != idle.Sandbox || warm.Manager != "another" {
			t.Errorf("the claim is %+v, want sandbox %s", warm, idle.Sandbox)
		}
		b.r.Fake(busy.Worker).End(busy, false)
		pass(2 * foreignEvery)
		if warm := b.claim("f"); warm.Sandbox != busy.Sandbox || warm.Epoch <= busy.Epoch {
			t.Errorf("the claim is %+v, want sandbox %s", warm, busy.Sandbox)
		}
		if cold := b.claim("other"); cold.Sandbox == foreign.Sandbox {
			t.Error("a sandbox of somebody else's function was adopted")
		}
	})
}

// Workers that do not answer at first are asked again.
func TestLateWorkerIsAdopted(t *testing.T) {
	inBubble(t, 10, Options{}, func(t *testing.T, b *bench) {
		warm := b.claim("f")
		b.done(warm)
		if err := b.m.Close(); err != nil {
			t.Fatal(err)
		}
		var known atomic.Bool
		m, err := Open(t.Context(), Options{ID: "manager", Placement: b.r, Workers: func(id lambent.WorkerID) (lambent.Worker, bool) {
			w, ok := b.r.Worker(id)
			return w, ok && known.Load()
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		synctest.Wait()
		known.Store(true)
		pass(time.Second)
		b.m = m
		if claim := b.claim("f"); claim.Sandbox != warm.Sandbox {
			t.Errorf("the claim is %+v, want sandbox %s", claim, warm.Sandbox)
		}
	})
}

// A manager that holds what others need gives it up.
func TestShortWorkerIsRelieved(t *testing.T) {
	inBubble(t, 10, Options{}, func(t *testing.T, b *bench) {
		first, second := b.claim("f"), b.claim("g")
		for second.Worker != first.Worker {
			second = b.claim("g")
		}
		b.done(first)
		pass(time.Second)
		b.done(second)
		before := b.r.Sandboxes()
		b.r.Fake(first.Worker).SetShort(true)
		pass(b.m.options.PollInterval)
		b.r.Fake(first.Worker).SetShort(false)
		synctest.Wait()
		if n := b.r.Sandboxes(); n != before-1 {
			t.Errorf("%d of %d sandboxes are left", n, before)
		}
		if warm := b.claim("g"); warm.Sandbox != second.Sandbox {
			t.Error("the sandbox was stopped that was used last")
		}
	})
}

// When nothing is idle, a claim waits for room as long as its patience lasts, and gets what becomes free.
func TestPatience(t *testing.T) {
	inBubble(t, 1, Options{Patience: 3 * time.Second}, func(t *testing.T, b *bench) {
		one, _ := b.claim("f"), b.claim("g")
		began := time.Now()
		_, err := b.m.Claim(t.Context(), claimOf("h"))
		if took := time.Since(began); lambent.CodeOf(err) != lambent.Unavailable || took < 3*time.Second || took > 4*time.Second {
			t.Errorf("after %v: %v", took, err)
		}
		served := make(chan lambent.Claim)
		go func() { served <- b.claim("h") }()
		pass(time.Second)
		b.done(one) // now it is idle, and can make room
		began = time.Now()
		if claim := <-served; claim.Worker != one.Worker || time.Since(began) > time.Second {
			t.Errorf("after %v: %+v", time.Since(began), claim)
		}
	})
}

// The scale rate is refilled continuously, and what is not used is not banked.
func TestScaleRate(t *testing.T) {
	inBubble(t, 1000, Options{ScaleRate: 10}, func(t *testing.T, b *bench) {
		pass(time.Hour)
		got := func() (n int) {
			for {
				if _, err := b.m.Claim(t.Context(), claimOf("f")); err != nil {
					if lambent.CodeOf(err) != lambent.Throttled {
						t.Fatal(err)
					}
					return n
				}
				n++
			}
		}
		if n := got(); n != 10 {
			t.Errorf("%d sandboxes at once, want 10", n)
		}
		pass(time.Second)
		if n := got(); n != 1 {
			t.Errorf("%d sandboxes a second later, want 1", n)
		}
		pass(3 * time.Second)
		if n := got(); n != 3 {
			t.Errorf("%d sandboxes three seconds later, want 3", n)
		}
	})
}

// For a function that fits nowhere, no warm sandbox is given up.
func TestNothingIsGivenUpInVain(t *testing.T) {
	inBubble(t, 0, Options{Patience: time.Second}, func(t *testing.T, b *bench) {
		b.r.SetRoom("a", 1)
		warm := b.claim("f")
		b.done(warm)
		b.r.SetRoom("a", 0) // no worker could take one of g
		if _, err := b.m.Claim(t.Context(), claimOf("g")); lambent.CodeOf(err) != lambent.Unavailable {
			t.Errorf("a claim that fits nowhere: %v", err)
		}
		if again := b.claim("f"); again.Sandbox != warm.Sandbox {
			t.Error("a warm sandbox was given up in vain")
		}
	})
}
