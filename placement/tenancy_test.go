package placement

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"lambent"
	"lambent/placement/placementtest"
)

// resident is whose and what a request asks room for.
func resident(req lambent.PlaceRequest) lambent.Resident {
	return lambent.Resident{Account: req.Account, Isolation: req.Isolation}
}

// Whatever is placed and freed: a worker gets only what it has a driver for, and accounts are on one worker together only under
// isolations that hold between them, those included that the worker tells of and nobody has granted.
func TestAccountsShareAsAllowed(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		subset := func(name string) []lambent.Isolation {
			return slices.DeleteFunc(lambent.Isolations(), func(i lambent.Isolation) bool { return !rapid.Bool().Draw(rt, name+" "+string(i)) })
		}
		shared := subset("shared")
		s, err := Open(Options{SharedHosts: shared, Seed: 1})
		if err != nil {
			rt.Fatal(err)
		}
		defer s.Close()
		workers := map[lambent.WorkerID]*lambent.WorkerStatus{}
		for i := range 3 {
			id := lambent.WorkerID(fmt.Sprint("w", i))
			status := placementtest.Status(id)
			status.Drivers = subset(string(id))
			workers[id] = &status
		}
		held := map[lambent.GrantID]lambent.Grant{}
		who := map[lambent.GrantID]lambent.Resident{}
		account := rapid.StringMatching("[abc]")
		kind := rapid.SampledFrom(lambent.Isolations())
		beat := func() {
			for _, status := range workers {
				if _, err := s.Heartbeat(t.Context(), *status); err != nil {
					rt.Fatal(err)
				}
			}
		}
		beat()
		rt.Repeat(map[string]func(*rapid.T){
			"place": func(rt *rapid.T) {
				req := placementtest.Request(lambent.FunctionID(rapid.StringMatching("[f-h]").Draw(rt, "function")), rapid.IntRange(1, 3).Draw(rt, "n"))
				req.Demand.MemoryMiB = 10
				req.Account, req.Isolation = account.Draw(rt, "account"), kind.Draw(rt, "isolation")
				g, err := s.Place(t.Context(), req)
				if err != nil {
					return
				}
				if !slices.Contains(workers[g.Worker].Drivers, req.Isolation) {
					rt.Fatalf("%s was placed on %+v", req.Isolation, workers[g.Worker])
				}
				for _, there := range workers[g.Worker].Residents {
					if there.Account != req.Account && !lambent.MayShareHost(there.Isolation, req.Isolation, shared) {
						rt.Fatalf("%+v was placed beside %+v, shared %v", resident(req), there, shared)
					}
				}
				held[g.ID], who[g.ID] = g, resident(req)
			},
			"free": func(rt *rapid.T) {
				for id, g := range held {
					if rapid.Bool().Draw(rt, "free") {
						if err := s.Free(t.Context(), id, g.Count); err != nil {
							rt.Fatal(err)
						}
						delete(held, id)
					}
				}
			},
			"tell": func(rt *rapid.T) { // of one more that was there before, if it may be there
				status := workers[lambent.WorkerID(rapid.StringMatching("w[0-2]").Draw(rt, "worker"))]
				status.Residents = nil
				told := lambent.Resident{Account: account.Draw(rt, "account"), Isolation: kind.Draw(rt, "isolation")}
				for id, g := range held {
					if g.Worker == status.Worker && who[id].Account != told.Account && !lambent.MayShareHost(who[id].Isolation, told.Isolation, shared) {
						beat()
						return
					}
				}
				status.Residents = []lambent.Resident{told}
				beat()
			},
			"": func(rt *rapid.T) {
				for a, first := range held {
					for b, second := range held {
						if first.Worker == second.Worker && who[a].Account != who[b].Account && !lambent.MayShareHost(who[a].Isolation, who[b].Isolation, shared) {
							rt.Fatalf("%+v and %+v are on one worker, shared %v", who[a], who[b], shared)
						}
					}
				}
			},
		})
	})
}

// What nobody offers is refused for good, what somebody offers who cannot now is refused for now.
func TestIsolationThatNobodyOffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Options{})
		ask := func() lambent.Code {
			req := placementtest.Request("f", 1)
			req.Isolation = lambent.IsolationMicroVM
			_, err := s.Place(t.Context(), req)
			return lambent.CodeOf(err)
		}
		if got := ask(); got != lambent.Unavailable {
			t.Errorf("without workers: %v", got)
		}
		p := &pulse{t: t, s: s, status: map[lambent.WorkerID]lambent.WorkerStatus{"a": placementtest.Status("a")}}
		p.beat()
		if got := ask(); got != lambent.InvalidRuntime {
			t.Errorf("with a worker that has another driver: %v", got)
		}
		able := placementtest.Status("b")
		able.Drivers = []lambent.Isolation{lambent.IsolationGVisor, lambent.IsolationMicroVM}
		p.status["b"] = able
		p.beat()
		req := placementtest.Request("f", 1)
		req.Isolation = lambent.IsolationMicroVM
		if g, err := s.Place(t.Context(), req); err != nil || g.Worker != "b" {
			t.Errorf("with a worker that has it: %+v, %v", g, err)
		}
		delete(p.status, "b")
		p.run(10 * time.Second)
		if got := ask(); got != lambent.Unavailable {
			t.Errorf("when that worker is dead: %v", got)
		}
	})
}

// Where the host of another account has to be left, placement says which one.
func TestShortWorkersOfOtherAccounts(t *testing.T) {
	s := open(t, Options{})
	p := &pulse{t: t, s: s, status: map[lambent.WorkerID]lambent.WorkerStatus{"a": placementtest.Status("a")}}
	p.beat()
	first := placementtest.Request("f", 1)
	g, err := s.Place(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	second := placementtest.Request("g", 1)
	second.Account = "210987654321"
	if _, err := s.Place(t.Context(), second); lambent.CodeOf(err) != lambent.Unavailable || !p.state("a").Short {
		t.Errorf("beside another account's: %v, the worker is %+v", err, p.state("a"))
	}
	if err := s.Free(t.Context(), g.ID, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Place(t.Context(), second); err != nil {
		t.Errorf("when it has gone: %v", err)
	}
}
