// Package placementtest is the suite that every implementation of lambent.Placement passes.
package placementtest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"lambent"
)

// Run runs the suite. open gives a placement service that knows no worker, and closes it at the end of the test that it is
// given.
func Run(t *testing.T, open func(*testing.T) lambent.Placement) {
	tests := []struct {
		name string
		run  func(*testing.T, lambent.Placement)
	}{
		{"NoWorkers", testNoWorkers},
		{"Heartbeat", testHeartbeat},
		{"Grants", testGrants},
		{"Free", testFree},
		{"Avoid", testAvoid},
		{"TooLarge", testTooLarge},
		{"Reboot", testReboot},
		{"DrainingWorker", testDrainingWorker},
		{"NeverMoreThanFits", testNeverMore},
		{"ContextEnded", testContext},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

// Status is the heartbeat of an idle worker with 1 GiB and 1 vCPU.
func Status(id lambent.WorkerID) lambent.WorkerStatus {
	return lambent.WorkerStatus{Worker: id, Zone: "zone-" + string(id), Boot: "first", MemoryMiB: 1024, VCPU: 1,
		Drivers: []lambent.Isolation{lambent.IsolationNative}}
}

// Request asks for room for n sandboxes of 100 MiB.
func Request(fn lambent.FunctionID, n int) lambent.PlaceRequest {
	return lambent.PlaceRequest{
		Manager: "m", Key: lambent.VersionKey{Function: fn, Version: "1", Revision: "r"}, Account: "123456789012", Isolation: lambent.IsolationNative, Count: n,
		Demand: lambent.Demand{MemoryMiB: 100, VCPU: 0.01},
	}
}

func beat(t *testing.T, p lambent.Placement, status lambent.WorkerStatus) lambent.WorkerLease {
	t.Helper()
	lease, err := p.Heartbeat(t.Context(), status)
	if err != nil {
		t.Fatal(err)
	}
	return lease
}

func place(t *testing.T, p lambent.Placement, req lambent.PlaceRequest) lambent.Grant {
	t.Helper()
	g, err := p.Place(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if g.ID == "" || g.Count < 1 || g.Count > max(1, req.Count) || !g.Expires.After(time.Now()) {
		t.Fatalf("the grant is %+v for %d sandboxes", g, req.Count)
	}
	return g
}

func refused(t *testing.T, p lambent.Placement, req lambent.PlaceRequest) {
	t.Helper()
	if g, err := p.Place(t.Context(), req); err == nil || lambent.CodeOf(err) != lambent.Unavailable {
		t.Fatalf("grant %+v, error %v; want Unavailable", g, err)
	}
}

// state returns what is known of the only worker.
func state(t *testing.T, p lambent.Placement) lambent.WorkerState {
	t.Helper()
	all, err := p.Workers(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatalf("workers %+v, error %v; want one", all, err)
	}
	return all[0]
}

func testNoWorkers(t *testing.T, p lambent.Placement) {
	refused(t, p, Request("f", 1))
	if all, err := p.Workers(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("workers %+v, error %v", all, err)
	}
}

func testHeartbeat(t *testing.T, p lambent.Placement) {
	if _, err := p.Heartbeat(t.Context(), lambent.WorkerStatus{}); err == nil {
		t.Error("a heartbeat of nobody was taken")
	}
	status := Status("a")
	status.Busy, status.Sandboxes, status.UsedMiB = 2, 3, 200
	lease := beat(t, p, status)
	if lease.Term <= 0 || lease.Drain || lease.Epoch == 0 {
		t.Errorf("the lease is %+v", lease)
	}
	if got := state(t, p); !reflect.DeepEqual(got.Status, status) || got.Health != lambent.WorkerHealthy || got.Grants != 0 || !got.Expiry.After(time.Now()) {
		t.Errorf("the state is %+v", got)
	}
	if again := beat(t, p, status); again.Epoch != lease.Epoch {
		t.Errorf("the epoch changed from %d to %d", lease.Epoch, again.Epoch)
	}
}

func testGrants(t *testing.T, p lambent.Placement) {
	beat(t, p, Status("a"))
	first := place(t, p, Request("f", 2))
	second := place(t, p, Request("f", 1))
	if first.ID == second.ID || first.Worker != "a" || first.Zone != "zone-a" {
		t.Errorf("the grants are %+v and %+v", first, second)
	}
	if got := state(t, p).Grants; got != first.Count+second.Count {
		t.Errorf("%d sandboxes are granted, want %d", got, first.Count+second.Count)
	}
	place(t, p, Request("f", 0)) // at least one
}

func testFree(t *testing.T, p lambent.Placement) {
	beat(t, p, Status("a"))
	var grants []lambent.Grant
	for {
		g, err := p.Place(t.Context(), Request("f", 1))
		if err != nil {
			break
		}
		if grants = append(grants, g); len(grants) > 10 {
			t.Fatal("more than 1,000 MiB were granted of 1,024")
		}
	}
	if len(grants) < 5 {
		t.Fatalf("only %d sandboxes of 100 MiB fit 1,024 MiB", len(grants))
	}
	for range 2 { // what was freed twice is free once
		if err := p.Free(t.Context(), grants[0].ID, 7); err != nil {
			t.Fatal(err)
		}
	}
	place(t, p, Request("f", 1))
	refused(t, p, Request("f", 1))
	if err := p.Free(t.Context(), "no such grant", 1); err != nil {
		t.Errorf("a grant that is not known: %v", err)
	}
	if err := p.Free(t.Context(), grants[1].ID, -3); err != nil {
		t.Error(err)
	}
	refused(t, p, Request("f", 1))
}

func testAvoid(t *testing.T, p lambent.Placement) {
	beat(t, p, Status("a"))
	beat(t, p, Status("b"))
	for range 4 {
		req := Request("f", 1)
		req.Avoid = []lambent.WorkerID{"a"}
		if g := place(t, p, req); g.Worker != "b" {
			t.Fatalf("worker %s was chosen, which was to be avoided", g.Worker)
		}
	}
	req := Request("f", 1)
	req.Avoid = []lambent.WorkerID{"a", "b"}
	refused(t, p, req)
}

func testTooLarge(t *testing.T, p lambent.Placement) {
	beat(t, p, Status("a"))
	req := Request("f", 1)
	req.Demand.MemoryMiB = 1025
	refused(t, p, req)
}

func testReboot(t *testing.T, p lambent.Placement) {
	before := beat(t, p, Status("a"))
	place(t, p, Request("f", 2))
	status := Status("a")
	status.Boot = "second"
	after := beat(t, p, status)
	if after.Epoch <= before.Epoch {
		t.Errorf("epoch %d after %d", after.Epoch, before.Epoch)
	}
	if got := state(t, p).Grants; got != 0 {
		t.Errorf("%d sandboxes are granted on a worker that was started anew", got)
	}
}

func testDrainingWorker(t *testing.T, p lambent.Placement) {
	status := Status("a")
	status.Draining = true
	beat(t, p, status)
	if got := state(t, p).Health; got != lambent.WorkerDraining {
		t.Errorf("health %s", got)
	}
	refused(t, p, Request("f", 1))
	beat(t, p, Status("a"))
	place(t, p, Request("f", 1))
}

// Many managers at once never get more room than there is, and all room is there again when they have given it back.
func testNeverMore(t *testing.T, p lambent.Placement) {
	for _, id := range []lambent.WorkerID{"a", "b", "c"} {
		beat(t, p, Status(id))
	}
	round := func() (granted map[lambent.WorkerID]int, held []lambent.Grant) {
		var mu sync.Mutex
		granted = map[lambent.WorkerID]int{}
		var group sync.WaitGroup
		for i := range 16 {
			group.Go(func() {
				for {
					g, err := p.Place(t.Context(), Request(lambent.FunctionID(fmt.Sprint("f", i)), 1+i%3))
					if err != nil {
						return
					}
					mu.Lock()
					granted[g.Worker] += g.Count
					held = append(held, g)
					mu.Unlock()
				}
			})
		}
		group.Wait()
		return granted, held
	}
	for range 3 {
		granted, held := round()
		for id, n := range granted {
			if n > 10 || n < 5 {
				t.Errorf("worker %s: %d sandboxes of 100 MiB in 1,024 MiB", id, n)
			}
		}
		for _, g := range held {
			if err := p.Free(t.Context(), g.ID, g.Count); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func testContext(t *testing.T, p lambent.Placement) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, placed := p.Place(ctx, Request("f", 1))
	_, beaten := p.Heartbeat(ctx, Status("a"))
	_, listed := p.Workers(ctx)
	freed := p.Free(ctx, "g", 1)
	for name, err := range map[string]error{"Place": placed, "Heartbeat": beaten, "Workers": listed, "Free": freed} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a context that has ended: %v", name, err)
		}
	}
}
