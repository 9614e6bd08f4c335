package manager

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lambent"
	"lambent/manager/managertest"
	"lambent/placement"
)

// beaten is a worker that sends heartbeats to a real placement service. It holds sandboxes that use 20 MiB each.
type beaten struct {
	lambent.Worker
	id        lambent.WorkerID
	memoryMiB int
	silent    atomic.Bool // it has died

	mu    sync.Mutex
	boxes map[lambent.SandboxID]lambent.SandboxStatus
}

func (w *beaten) Start(_ context.Context, req lambent.StartRequest) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.silent.Load() {
		return lambent.Errorf(lambent.HostLost, "The worker cannot be reached.")
	}
	w.boxes[req.Sandbox] = lambent.SandboxStatus{
		Sandbox: req.Sandbox, Key: req.Version.Key, Function: req.Version.FunctionName, Manager: req.Manager, Grant: req.Grant, Epoch: req.Epoch, Phase: lambent.SandboxIdle,
	}
	return nil
}

func (w *beaten) Stop(_ context.Context, id lambent.SandboxID, _ uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.boxes, id)
	return nil
}

func (w *beaten) List(context.Context) ([]lambent.SandboxStatus, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([]lambent.SandboxStatus, 0, len(w.boxes))
	for _, status := range w.boxes {
		all = append(all, status)
	}
	return all, nil
}

func (w *beaten) status() lambent.WorkerStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	var residents []lambent.Resident
	for _, box := range w.boxes {
		if who := (lambent.Resident{Account: box.Function.Account, Isolation: lambent.IsolationNative}); !slices.Contains(residents, who) {
			residents = append(residents, who)
		}
	}
	return lambent.WorkerStatus{
		Worker: w.id, Zone: "zone-" + string(w.id), Boot: "first", MemoryMiB: w.memoryMiB, VCPU: 2, Sandboxes: len(w.boxes), UsedMiB: 20 * len(w.boxes),
		Drivers: []lambent.Isolation{lambent.IsolationNative}, Residents: residents,
	}
}

// placed is a manager with a real placement service and its workers, in a bubble of its own time.
type placed struct {
	m       *Manager
	workers map[lambent.WorkerID]*beaten
}

func newPlaced(t *testing.T, memoryMiB int, ids ...lambent.WorkerID) *placed {
	t.Helper()
	service, err := placement.Open(placement.Options{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	p := &placed{workers: make(map[lambent.WorkerID]*beaten)}
	for _, id := range ids {
		p.workers[id] = &beaten{id: id, memoryMiB: memoryMiB, boxes: make(map[lambent.SandboxID]lambent.SandboxStatus)}
		if _, err := service.Heartbeat(t.Context(), p.workers[id].status()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var hearts sync.WaitGroup
	for _, w := range p.workers {
		hearts.Go(func() {
			for ctx.Err() == nil && !w.silent.Load() {
				_, _ = service.Heartbeat(ctx, w.status()) // the next one is soon
				select {
				case <-time.After(250 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
	p.m, err = Open(t.Context(), Options{ID: "manager", Placement: service, Workers: func(id lambent.WorkerID) (lambent.Worker, bool) {
		w, ok := p.workers[id]
		return w, ok
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.m.Close(); err != nil {
			t.Error(err)
		}
		if err := p.m.check(); err != nil {
			t.Error(err)
		}
		cancel()
		hearts.Wait()
		if err := service.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// claimAll claims n sandboxes at once and returns what it got.
func (p *placed) claimAll(t *testing.T, n int, memoryMiB int) []lambent.Claim {
	t.Helper()
	version := managertest.Version("f", "r1")
	version.MemoryMiB = memoryMiB
	claims := make([]lambent.Claim, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			claim, err := p.m.Claim(context.Background(), lambent.ClaimRequest{Version: version})
			if err != nil {
				t.Errorf("claim %d: %v", i, err)
				return
			}
			claims[i] = claim
		})
	}
	group.Wait()
	return claims
}

// A small host holds far more sandboxes of a function than their memory limits and processors add up to: while nothing is learnt
// of the function, and when it turns out that it uses little.
func TestSmallHostHoldsMany(t *testing.T) {
	for name, workers := range map[string][]lambent.WorkerID{"one worker": {"a"}, "three workers on it": {"a", "b", "c"}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const hostMiB = 24_000
				p := newPlaced(t, hostMiB/len(workers), workers...)
				claims := p.claimAll(t, 100, 1769)
				for range claims {
					p.m.Observe(managertest.Version("f", "r1").Key, "", lambent.WorkerResult{MaxMemoryMiB: 20, Duration: time.Second})
				}
				more := p.claimAll(t, 200, 1769)
				seen := make(map[lambent.SandboxID]bool)
				for _, claim := range append(claims, more...) {
					if seen[claim.Sandbox] {
						t.Errorf("sandbox %s was claimed twice", claim.Sandbox)
					}
					seen[claim.Sandbox] = true
				}
			})
		})
	}
}

// A worker that dies gets nothing new within a second, its sandboxes are started anew elsewhere, and nobody who comes is refused.
func TestDeadHostIsLeftWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlaced(t, 8_000, "a", "b", "c")
		warm := p.claimAll(t, 12, 128)
		dead := warm[0].Worker
		for _, claim := range warm {
			p.m.Return(claim, lambent.OutcomeIdle)
		}
		p.workers[dead].silent.Store(true)
		pass(time.Second)
		for _, claim := range p.claimAll(t, 12, 128) {
			if claim.Worker == dead {
				t.Errorf("a second later, the dead worker got %+v", claim)
			}
		}
		pass(3 * time.Second)
		p.m.sandboxes.each(func(id lambent.SandboxID, s *sandbox) {
			if s.host.id == dead {
				t.Errorf("sandbox %s of the dead worker is still known", id)
			}
		})
	})
}

// An account that may not be beside another gets a worker when the other has nothing to do there, and never before.
func TestAccountsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlaced(t, 8_000, "a")
		first := p.claimAll(t, 8, 128)
		other := managertest.Version("g", "r1")
		other.Account = "210987654321"
		claim := func() (lambent.Claim, error) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			return p.m.Claim(ctx, lambent.ClaimRequest{Version: other})
		}
		if got, err := claim(); lambent.CodeOf(err) != lambent.Unavailable {
			t.Errorf("while the other account runs: %+v, %v", got, err)
		}
		for _, c := range first {
			p.m.Return(c, lambent.OutcomeIdle)
		}
		got, err := claim()
		if err != nil {
			t.Fatalf("when the other account has nothing to do: %v", err)
		}
		for _, w := range p.workers {
			if residents := w.status().Residents; w.id == got.Worker && len(residents) != 1 {
				t.Errorf("worker %s has %+v", w.id, residents)
			}
		}
		p.m.Return(got, lambent.OutcomeIdle)
	})
}

// What no worker offers is refused at once, and says why.
func TestIsolationThatNobodyOffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlaced(t, 8_000, "a")
		version := managertest.Version("f", "r1")
		version.Isolation = lambent.IsolationMicroVM
		began := time.Now()
		_, err := p.m.Claim(t.Context(), lambent.ClaimRequest{Version: version})
		if lambent.CodeOf(err) != lambent.InvalidRuntime || !strings.Contains(err.Error(), "microvm") || time.Since(began) > time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// When the isolation of a function changes, so does its key: what runs under the old one is not claimed again.
func TestIsolationChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlaced(t, 8_000, "a")
		seen := make(map[lambent.SandboxID]string)
		for _, revision := range []string{"c/native", "c/gvisor", "c/native"} {
			version := managertest.Version("f", revision) // the worker has one driver: what matters here is the key
			claim, err := p.m.Claim(t.Context(), lambent.ClaimRequest{Version: version})
			if err != nil {
				t.Fatal(err)
			}
			if before, ok := seen[claim.Sandbox]; ok && before != revision {
				t.Errorf("a sandbox of %s was claimed for %s", before, revision)
			}
			seen[claim.Sandbox] = revision
			p.m.Return(claim, lambent.OutcomeIdle)
		}
	})
}
