package manager

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"lambent"
	"lambent/manager/managertest"
)

// machine drives a manager through claims, returns, failures and deaths in any order, and checks after each step that its
// invariants hold.
type machine struct {
	r       *managertest.Region
	m       *Manager
	starts  chan chan error
	waiting []chan error // starts that wait for their outcome
	pending []*pending
	held    []held
	old     []lambent.Claim // returned already
}

// pending is a claim that has not been answered.
type pending struct {
	version *lambent.FunctionVersion
	cancel  context.CancelFunc
	result  chan held
}

// held is a claim in use.
type held struct {
	claim   lambent.Claim
	version *lambent.FunctionVersion
	err     error
}

func newMachine(t *rapid.T) *machine {
	w := &machine{r: managertest.NewRegion(3, "a", "b"), starts: make(chan chan error, 1000)}
	for _, id := range []lambent.WorkerID{"a", "b"} {
		w.r.Fake(id).OnStart(func(ctx context.Context, _ lambent.StartRequest) error {
			outcome := make(chan error, 1)
			w.starts <- outcome
			select {
			case err := <-outcome:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}
	m, err := Open(context.Background(), Options{ID: "manager", Placement: w.r, Workers: w.r.Worker, Patience: 5 * time.Second, IdleTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	w.m = m
	return w
}

// pick removes one of several things.
func pick[T any](t *rapid.T, from *[]T, what string) T {
	if len(*from) == 0 {
		t.Skip("there is no " + what)
	}
	i := rapid.IntRange(0, len(*from)-1).Draw(t, what)
	picked := (*from)[i]
	*from = slices.Delete(*from, i, i+1)
	return picked
}

func (w *machine) claim(t *rapid.T) {
	id := lambent.FunctionID(rapid.SampledFrom([]string{"f", "g"}).Draw(t, "function"))
	version := managertest.Version(id, rapid.SampledFrom([]string{"r1", "r1", "r1", "r2"}).Draw(t, "revision"))
	ctx, cancel := context.WithCancel(context.Background())
	p := &pending{version, cancel, make(chan held, 1)}
	go func() {
		claim, err := w.m.Claim(ctx, lambent.ClaimRequest{Version: version})
		p.result <- held{claim, version, err}
	}()
	w.pending = append(w.pending, p)
}

func (w *machine) giveBack(t *rapid.T) {
	h := pick(t, &w.held, "held claim")
	outcome := rapid.SampledFrom([]lambent.Outcome{lambent.OutcomeIdle, lambent.OutcomeIdle, lambent.OutcomeGone}).Draw(t, "outcome")
	w.r.Fake(h.claim.Worker).End(h.claim, outcome == lambent.OutcomeGone)
	w.m.Return(h.claim, outcome)
	w.old = append(w.old, h.claim)
}

func (w *machine) endStart(t *rapid.T, err error) {
	pick(t, &w.waiting, "start") <- err
}

func (w *machine) worker(t *rapid.T) lambent.WorkerID {
	return lambent.WorkerID(rapid.SampledFrom([]string{"a", "b"}).Draw(t, "worker"))
}

// settle waits until nothing moves, takes in what was answered, and checks everything.
func (w *machine) settle(t *rapid.T) {
	synctest.Wait()
	for len(w.starts) > 0 {
		w.waiting = append(w.waiting, <-w.starts)
	}
	w.pending = slices.DeleteFunc(w.pending, func(p *pending) bool {
		select {
		case h := <-p.result:
			p.cancel()
			w.answered(t, h)
			return true
		default:
			return false
		}
	})
	synctest.Wait()
	if err := w.m.check(); err != nil {
		t.Fatal(err)
	}
	if faults := w.r.Faults(); len(faults) > 0 {
		t.Fatal(faults)
	}
}

// answered begins the invoke of a claim, as a front end does.
func (w *machine) answered(t *rapid.T, h held) {
	if h.err != nil {
		return
	}
	twice := slices.ContainsFunc(w.held, func(other held) bool { return other.claim.Sandbox == h.claim.Sandbox })
	switch err := w.r.Fake(h.claim.Worker).Begin(h.claim, h.version.Key); {
	case err == nil && twice:
		t.Fatalf("sandbox %s runs two claims", h.claim.Sandbox)
	case err == nil:
		w.held = append(w.held, h)
	case lambent.CodeOf(err) == lambent.SandboxGone, lambent.CodeOf(err) == lambent.StaleEpoch:
		// The sandbox was lost and the manager has not heard of it, or the manager took a worker for lost and adopted it
		// anew while a claim was on its way: the worker decides.
		w.m.Return(h.claim, lambent.OutcomeGone)
	default:
		t.Fatal(err)
	}
}

// finish lets everything end, and checks that nobody waits for ever and nothing is left behind.
func (w *machine) finish(t *rapid.T) {
	for _, id := range []lambent.WorkerID{"a", "b"} {
		w.r.SetHealth(id, lambent.WorkerHealthy)
	}
	for step := 0; step < 200 && (step < 10 || len(w.pending)+len(w.held)+len(w.waiting) > 0); step++ {
		for _, outcome := range w.waiting {
			outcome <- nil
		}
		w.waiting = nil
		for _, h := range w.held {
			w.r.Fake(h.claim.Worker).End(h.claim, false)
			w.m.Return(h.claim, lambent.OutcomeIdle)
		}
		w.held = nil
		<-time.After(100 * time.Millisecond)
		w.settle(t)
	}
	if len(w.pending) > 0 {
		t.Fatalf("%d claims are not answered after 20 s", len(w.pending))
	}
	<-time.After(3 * time.Minute)
	w.settle(t)
	granted, _ := w.r.Granted()
	if n := w.r.Sandboxes(); n > 0 || granted > 0 {
		t.Fatalf("%d sandboxes and room for %d are left after three minutes: %s", n, granted, w.left())
	}
}

func TestAnyOrder(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var failure any // rapid stops a run by a panic, which has to pass through the bubble
		synctest.Test(t, func(*testing.T) {
			defer func() { failure = recover() }()
			anyOrder(r)
		})
		if failure != nil {
			panic(failure)
		}
	})
}

func anyOrder(t *rapid.T) {
	w := newMachine(t)
	defer func() {
		for _, p := range w.pending {
			p.cancel()
		}
		_ = w.m.Close()
	}()
	health := []lambent.WorkerHealth{
		lambent.WorkerHealthy, lambent.WorkerHealthy, lambent.WorkerSuspect, lambent.WorkerCordoned, lambent.WorkerDraining,
	}
	times := []time.Duration{time.Millisecond, 200 * time.Millisecond, 3 * time.Second, 31 * time.Second, 61 * time.Second}
	t.Repeat(map[string]func(*rapid.T){
		"claim":         w.claim,
		"claim more":    w.claim,
		"cancel":        w.cancel,
		"return":        w.giveBack,
		"return more":   w.giveBack,
		"return late":   w.returnLate,
		"started":       func(t *rapid.T) { w.endStart(t, nil) },
		"started more":  func(t *rapid.T) { w.endStart(t, nil) },
		"refused":       func(t *rapid.T) { w.endStart(t, lambent.Errorf(lambent.Unavailable, "The worker drains.")) },
		"failed":        func(t *rapid.T) { w.endStart(t, fmt.Errorf("the disk is broken")) },
		"no runtime":    func(t *rapid.T) { w.endStart(t, lambent.Errorf(lambent.InvalidRuntime, "No such runtime.")) },
		"worker reboot": func(t *rapid.T) { w.lose(w.worker(t)) },
		"worker health": func(t *rapid.T) { w.r.SetHealth(w.worker(t), rapid.SampledFrom(health).Draw(t, "health")) },
		"time":          func(t *rapid.T) { <-time.After(rapid.SampledFrom(times).Draw(t, "time")) },
		"":              w.settle,
	})
	w.finish(t)
}

// lose ends a worker's life, with all that ran there: front ends return what they held.
func (w *machine) lose(id lambent.WorkerID) {
	w.r.Fake(id).Reboot(fmt.Sprint("boot-", time.Now().UnixNano()))
	w.held = slices.DeleteFunc(w.held, func(h held) bool {
		if h.claim.Worker != id {
			return false
		}
		w.m.Return(h.claim, lambent.OutcomeGone)
		w.old = append(w.old, h.claim)
		return true
	})
}

// cancel ends the context of a claim that waits.
func (w *machine) cancel(t *rapid.T) {
	if len(w.pending) == 0 {
		t.Skip("nobody waits")
	}
	rapid.SampledFrom(w.pending).Draw(t, "claim").cancel()
}

// returnLate returns a claim once more.
func (w *machine) returnLate(t *rapid.T) {
	if len(w.old) == 0 {
		t.Skip("nothing was returned")
	}
	w.m.Return(rapid.SampledFrom(w.old).Draw(t, "claim"), lambent.OutcomeGone)
}

// left tells of the sandboxes that the workers have, and what the manager knows of them.
func (w *machine) left() string {
	text := ""
	for _, id := range []lambent.WorkerID{"a", "b"} {
		all, _ := w.r.Fake(id).List(context.Background())
		for _, status := range all {
			text += fmt.Sprintf("\n%s on %s, %s, epoch %d, used %v ago", status.Sandbox, id, status.Phase, status.Epoch, time.Since(status.LastUsed))
			if s, ok := w.m.sandboxes.load(status.Sandbox); ok {
				text += fmt.Sprintf(": known in phase %d, epoch %d", s.phase, s.epoch)
			}
		}
	}
	return text
}
