package manager

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lambent"
	"lambent/manager/managertest"
)

// crowd is a great many callers at once, on a manager whose workers fail, die and are drained meanwhile.
type crowd struct {
	r                        *managertest.Region
	m                        *Manager
	running                  sync.Map // sandbox to the claim that it runs
	served, refused, expired atomic.Int64
	broken                   atomic.Pointer[string]
}

func (c *crowd) fault(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	c.broken.CompareAndSwap(nil, &text)
}

// call claims a sandbox, uses it and returns it, as a front end does.
func (c *crowd) call(random *rand.Rand) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	if random.IntN(4) == 0 {
		cancel()
		ctx, cancel = context.WithTimeout(context.Background(), time.Duration(random.IntN(2000))*time.Microsecond)
	}
	defer cancel()
	version := managertest.Version(lambent.FunctionID(fmt.Sprint("f", random.IntN(4))), fmt.Sprint("r", random.IntN(20)/19))
	claim, err := c.m.Claim(ctx, lambent.ClaimRequest{Version: version})
	switch {
	case err == nil:
	case errors.Is(err, context.DeadlineExceeded):
		c.expired.Add(1)
		return
	case lambent.CodeOf(err) == lambent.Unavailable, lambent.CodeOf(err) == lambent.Throttled:
		c.refused.Add(1)
		return
	default:
		c.fault("a claim failed: %v", err)
		return
	}
	c.served.Add(1)
	fake := c.r.Fake(claim.Worker)
	if fake.Begin(claim, version.Key) != nil { // the worker died meanwhile
		c.m.Return(claim, lambent.OutcomeGone)
		return
	}
	if other, twice := c.running.LoadOrStore(claim.Sandbox, claim.ID); twice {
		c.fault("sandbox %s runs claims %v and %v", claim.Sandbox, other, claim.ID)
	}
	gone := random.IntN(20) == 0
	c.running.Delete(claim.Sandbox)
	fake.End(claim, gone)
	outcome := lambent.OutcomeIdle
	if gone {
		outcome = lambent.OutcomeGone
	}
	var returns sync.WaitGroup
	for range 1 + random.IntN(2) { // twice at the same moment, at times
		returns.Go(func() { c.m.Return(claim, outcome) })
	}
	returns.Wait()
}

// disturb lets workers fail until the callers are gone.
func (c *crowd) disturb(done <-chan struct{}) {
	random := rand.New(rand.NewPCG(9, 9))
	workers := []lambent.WorkerID{"a", "b", "c"}
	health := []lambent.WorkerHealth{lambent.WorkerSuspect, lambent.WorkerCordoned, lambent.WorkerDraining}
	for i := 0; ; i++ {
		id := workers[random.IntN(len(workers))]
		switch random.IntN(3) {
		case 0:
			c.r.Fake(id).Reboot(fmt.Sprint("boot", i))
		case 1: // somebody notices before the manager asks
			c.r.SetHealth(id, lambent.WorkerDead)
			if err := c.m.Report(context.Background(), lambent.WorkerReport{Worker: id, Lost: true, Gone: []lambent.SandboxID{"none"}}); err != nil {
				c.fault("a report: %v", err)
			}
			c.r.Fake(id).Reboot(fmt.Sprint("boot", i))
		default:
			c.r.SetHealth(id, health[random.IntN(len(health))])
		}
		select {
		case <-done:
			return
		case <-time.After(5 * time.Millisecond):
		}
		c.r.SetHealth(id, lambent.WorkerHealthy)
	}
}

// Hundreds of callers, and workers that fail, die, drain and are lost all the time: nobody waits for ever, no sandbox runs two
// claims, no room is lost.
func TestCrowd(t *testing.T) {
	r := managertest.NewRegion(40, "a", "b", "c")
	for _, id := range []lambent.WorkerID{"a", "b", "c"} {
		var starts atomic.Int64
		r.Fake(id).OnStart(func(context.Context, lambent.StartRequest) error {
			switch n := starts.Add(1); {
			case n%31 == 0:
				return errors.New("the disk is broken")
			case n%7 == 0:
				return lambent.Errorf(lambent.Unavailable, "The worker drains.")
			}
			return nil
		})
	}
	m := open(t, r, Options{ScaleRate: 1 << 20, PollInterval: 3 * time.Millisecond, Patience: 2 * time.Second})
	c := &crowd{r: r, m: m}
	done, quiet := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(quiet)
		c.disturb(done)
	}()
	const callers, rounds = 300, 20
	var group sync.WaitGroup
	for i := range uint64(callers) {
		group.Go(func() {
			random := rand.New(rand.NewPCG(i, 1))
			for range rounds {
				c.call(random)
			}
		})
	}
	group.Wait()
	close(done)
	<-quiet
	if text := c.broken.Load(); text != nil {
		t.Error(*text)
	}
	if got := c.served.Load() + c.refused.Load() + c.expired.Load(); got != callers*rounds {
		t.Errorf("%d of %d calls were answered", got, callers*rounds)
	}
	if c.served.Load() < callers*rounds/4 {
		t.Errorf("only %d of %d calls were served", c.served.Load(), callers*rounds)
	}
	t.Logf("served %d, refused %d, left early %d", c.served.Load(), c.refused.Load(), c.expired.Load())
	for _, fault := range r.Faults() {
		t.Error(fault)
	}
	if err := m.check(); err != nil {
		t.Error(err)
	}
}

// Callers that are still there when the manager closes get an answer, and what they do after that is harmless.
func TestCloseUnderLoad(t *testing.T) {
	r := managertest.NewRegion(20, "a", "b")
	m := open(t, r, Options{ScaleRate: 1 << 20})
	var group sync.WaitGroup
	var calls atomic.Int64
	busy := make(chan struct{})
	for i := range 200 {
		group.Go(func() {
			req := claimOf(lambent.FunctionID(fmt.Sprint("f", i%50)))
			for {
				claim, err := m.Claim(context.Background(), req)
				if err != nil {
					if !m.closed.Load() || lambent.CodeOf(err) != lambent.Unavailable {
						t.Errorf("closed: %v, error %v", m.closed.Load(), err)
					}
					return
				}
				if calls.Add(1) == 5000 {
					close(busy)
				}
				m.Return(claim, lambent.OutcomeIdle)
				m.Return(claim, lambent.OutcomeGone) // late
			}
		})
	}
	<-busy
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	group.Wait()
	if claim, err := m.Claim(t.Context(), claimOf("f0")); lambent.CodeOf(err) != lambent.Unavailable {
		t.Errorf("after Close: claim %+v, error %v", claim, err)
	}
}

// As many sandboxes are started as callers wait, never more; when all are back, the next ones need none.
func TestOneStartForEachWaiter(t *testing.T) {
	r := managertest.NewRegion(200, "a", "b")
	m := open(t, r, Options{})
	for range 3 {
		const callers = 100
		claims := make(chan lambent.Claim, callers)
		var group sync.WaitGroup
		for range callers {
			group.Go(func() {
				claim, err := m.Claim(t.Context(), claimOf("f"))
				if err != nil {
					t.Error(err)
					return
				}
				claims <- claim
			})
		}
		group.Wait()
		close(claims)
		for claim := range claims {
			m.Return(claim, lambent.OutcomeIdle)
		}
		if n := r.Fake("a").Starts() + r.Fake("b").Starts(); n != callers {
			t.Errorf("%d sandboxes were started for %d callers at once", n, callers)
		}
	}
}
