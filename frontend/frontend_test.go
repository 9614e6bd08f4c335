package frontend

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"lambent"
	"lambent/frontend/frontendtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, r *frontendtest.Region, options Options) *FrontEnd {
	t.Helper()
	options.Region, options.Catalog, options.Counter = frontendtest.Name, r, r
	options.Managers, options.Workers = r.Manager, r.Worker
	f, err := Open(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func TestConformance(t *testing.T) {
	frontendtest.Run(t, func(t *testing.T, r *frontendtest.Region) lambent.FrontEnd { return open(t, r, Options{}) })
}

func TestOptionsAreRequired(t *testing.T) {
	if f, err := Open(Options{}); err == nil {
		t.Error("accepted")
		_ = f.Close()
	}
}

func TestRoute(t *testing.T) {
	half := &lambent.Alias{Version: "1", Weights: map[string]float64{"2": 0.5}}
	tests := map[string]struct {
		alias *lambent.Alias
		drawn float64
		want  string
	}{
		"no weights":        {&lambent.Alias{Version: "1"}, 0, "1"},
		"below the weight":  {half, 0.49, "2"},
		"at the weight":     {half, 0.5, "1"},
		"weight of nothing": {&lambent.Alias{Version: "1", Weights: map[string]float64{"2": 0}}, 0, "1"},
		"weight of all":     {&lambent.Alias{Version: "1", Weights: map[string]float64{"2": 1}}, 0.999999, "2"},
	}
	for name, test := range tests {
		if got := route(test.alias, test.drawn); got != test.want {
			t.Errorf("%s: version %s, want %s", name, got, test.want)
		}
	}
}

// A version that is looked up twice, because it is Pending in the copy of the catalogue, is drawn once.
func TestOneDraw(t *testing.T) {
	r := frontendtest.NewRegion()
	pending := frontendtest.Function("f", "2")
	pending.State = lambent.StatePending
	r.Put(frontendtest.Function("f", lambent.Latest), frontendtest.Function("f", "1"), pending)
	r.PutAlias("f", &lambent.Alias{Name: "half", Version: "1", Weights: map[string]float64{"2": 0.5}})
	draws := []float64{0.1, 0.9} // the second would be version 1, which runs
	f := open(t, r, Options{Rand: func() float64 {
		drawn := draws[0]
		draws = draws[1:]
		return drawn
	}})
	if _, err := f.Invoke(t.Context(), frontendtest.Request("f", "half", "1")); lambent.CodeOf(err) != lambent.Conflict {
		t.Errorf("the version that was drawn is Pending: %v", err)
	}
	if len(draws) != 1 {
		t.Errorf("%d numbers are left, want 1", len(draws))
	}
}

// However the weight is chosen, a version gets its share of evenly spread draws.
func TestWeights(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weight := rapid.Float64Range(0, 1).Draw(t, "weight")
		alias := &lambent.Alias{Version: "1", Weights: map[string]float64{"2": weight}}
		const draws = 1000
		second := 0
		for i := range draws {
			if route(alias, float64(i)/draws) == "2" {
				second++
			}
		}
		if share := float64(second) / draws; share < weight || share > weight+1.0/draws {
			t.Fatalf("a share of %v for the weight %v", share, weight)
		}
	})
}

// An invoke waits for the first delivery, as long as it may.
func TestFirstDelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := frontendtest.NewRegion()
		r.Put(frontendtest.Function("f", lambent.Latest))
		r.HoldBack(true)
		f := open(t, r, Options{CatalogTimeout: time.Second})
		began := time.Now()
		_, err := f.Invoke(t.Context(), frontendtest.Request("f", "", "1"))
		if lambent.CodeOf(err) != lambent.Unavailable || time.Since(began) != time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		ready := make(chan error, 1)
		go func() { ready <- f.Ready(t.Context()) }()
		done := make(chan error, 1)
		go func() {
			_, err := f.Invoke(t.Context(), frontendtest.Request("f", "", "1"))
			done <- err
		}()
		synctest.Wait()
		r.HoldBack(false)
		if err := errors.Join(<-done, <-ready); err != nil {
			t.Error(err)
		}
	})
}

// Whatever names callers invent, the store is asked seldom, and never twice at once.
func TestFloodOfUnknownNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := frontendtest.NewRegion()
		f := open(t, r, Options{})
		began := time.Now()
		var group sync.WaitGroup
		for i := range 500 {
			group.Go(func() {
				for n := range 10 {
					_, err := f.Invoke(t.Context(), frontendtest.Request(fmt.Sprint("none", i, n), "", "1"))
					if lambent.CodeOf(err) != lambent.NotFound {
						t.Error(err)
					}
				}
			})
		}
		group.Wait()
		if most := int(time.Since(began)/askEvery) + 2; r.Asked() > most {
			t.Errorf("5,000 unknown names took %d questions in %v", r.Asked(), time.Since(began))
		}
	})
}

// A name that the watch never tells of is not waited for longer than an invoke may wait.
func TestWatchFarBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := frontendtest.NewRegion()
		f := open(t, r, Options{CatalogTimeout: time.Second})
		if err := f.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.HoldBack(true)
		r.Put(frontendtest.Function("f", lambent.Latest))
		_, err := f.Invoke(t.Context(), frontendtest.Request("f", "", "1"))
		if lambent.CodeOf(err) != lambent.Unavailable {
			t.Errorf("an invoke of what the watch does not tell of: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := f.Invoke(ctx, frontendtest.Request("f", "", "1")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("an invoke with a shorter time: %v", err)
		}
		r.HoldBack(false)
	})
}

// Close ends questions that wait.
func TestCloseWhileAsking(t *testing.T) {
	r := frontendtest.NewRegion()
	f := open(t, r, Options{CatalogTimeout: time.Hour})
	if err := f.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.HoldBack(true)
	r.Put(frontendtest.Function("f", lambent.Latest))
	done := make(chan error, 1)
	go func() {
		_, err := f.Invoke(context.Background(), frontendtest.Request("f", "", "1"))
		done <- err
	}()
	for r.Asked() == 0 {
		select {
		case err := <-done:
			t.Fatalf("the invoke ended early: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; lambent.CodeOf(err) != lambent.Unavailable {
		t.Errorf("the invoke that waited: %v", err)
	}
	if _, err := f.Invoke(t.Context(), frontendtest.Request("g", "", "1")); lambent.CodeOf(err) != lambent.Unavailable {
		t.Errorf("an invoke of an unknown name after Close: %v", err)
	}
}

func TestObserve(t *testing.T) {
	r := frontendtest.NewRegion()
	v := frontendtest.Function("f", lambent.Latest)
	v.PerTenant = true
	r.Put(v)
	observed := 0
	f := open(t, r, Options{Observe: func(key lambent.VersionKey, tenant string, result lambent.WorkerResult) {
		observed++
		if key != v.Key || tenant != "t" || string(result.Response.Payload) != "1" {
			t.Errorf("observed %v, %q, %+v", key, tenant, result)
		}
	}})
	req := frontendtest.Request("f", "", "1")
	req.TenantID = "t"
	if _, err := f.Invoke(t.Context(), req); err != nil || observed != 1 {
		t.Errorf("observed %d invokes, error %v", observed, err)
	}
}

func TestNoManager(t *testing.T) {
	r := frontendtest.NewRegion()
	r.Put(frontendtest.Function("f", lambent.Latest))
	f := open(t, r, Options{})
	f.options.Managers = func(lambent.FunctionID) lambent.Manager { return nil }
	if _, err := f.Invoke(t.Context(), frontendtest.Request("f", "", "1")); lambent.CodeOf(err) != lambent.Unavailable {
		t.Error(err)
	}
	if slots, _ := r.Held(); slots != 0 {
		t.Errorf("%d slots are held", slots)
	}
}

// A table that took in changes one by one, as they come, says the same as a draft that took in all of them at once; and what a
// reader has in its hands never changes.
func TestTableAgainstDraft(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table, model := newTable(nil), make(draft)
		type seen struct {
			fn     *function
			before *function
		}
		var held []seen
		t.Repeat(map[string]func(*rapid.T){
			"event": func(t *rapid.T) {
				name := lambent.FunctionName{Account: "1", Name: rapid.StringMatching("[a-c]").Draw(t, "name")}
				event := lambent.CatalogEvent{
					Kind:     lambent.CatalogKind(rapid.IntRange(1, 4).Draw(t, "kind")),
					Function: name, ID: lambent.FunctionID(name.Name + rapid.StringMatching("[12]").Draw(t, "incarnation")),
				}
				what := rapid.StringMatching("[1-3]|live").Draw(t, "what")
				switch event.Kind {
				case lambent.CatalogVersion:
					event.Version = &lambent.FunctionVersion{Key: lambent.VersionKey{Function: event.ID, Version: what}}
				case lambent.CatalogAlias:
					event.Alias = &lambent.Alias{Name: what}
				case lambent.CatalogDeleted:
					event.Deleted = rapid.SampledFrom([]string{"", what}).Draw(t, "deleted")
				}
				table.apply(event)
				model.apply(event)
			},
			"read": func(*rapid.T) {
				for name := range model {
					fn := table.find(name)
					held = append(held, seen{fn, fn.clone()})
				}
			},
			"": func(t *rapid.T) {
				for _, name := range []string{"a", "b", "c"} {
					key := lambent.FunctionName{Account: "1", Name: name}
					if got, want := table.find(key), model[key]; !same(got, want) {
						t.Fatalf("function %s is %+v, want %+v", name, got, want)
					}
				}
				for _, h := range held {
					if !same(h.fn, h.before) {
						t.Fatalf("a function changed while it was read: %+v, was %+v", h.fn, h.before)
					}
				}
			},
		})
	})
}

func same(a, b *function) bool {
	if a == nil || b == nil {
		return a == b
	}
	return fmt.Sprint(*a) == fmt.Sprint(*b)
}

// The warm way of an invoke through the front end alone.
func BenchmarkInvoke(b *testing.B) {
	r := &quick{region: frontendtest.NewRegion()}
	r.region.Put(frontendtest.Function("f", lambent.Latest))
	f, err := Open(Options{Region: "test-1", Catalog: r.region, Counter: r, Managers: func(lambent.FunctionID) lambent.Manager { return r },
		Workers: func(lambent.WorkerID) (lambent.Worker, bool) { return r, true }})
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	req := frontendtest.Request("f", "", `{"message":"hello"}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.Invoke(b.Context(), req); err != nil {
			b.Fatal(err)
		}
	}
}

// quick does nothing, at once.
type quick struct {
	lambent.Worker
	region *frontendtest.Region
}

func (q *quick) Acquire(context.Context, lambent.FunctionName, lambent.FunctionID) (lambent.Slot, error) {
	return q, nil
}
func (q *quick) Release() {}
func (q *quick) Claim(context.Context, lambent.ClaimRequest) (lambent.Claim, error) {
	return lambent.Claim{Worker: "worker"}, nil
}
func (q *quick) Return(lambent.Claim, lambent.Outcome)              {}
func (q *quick) Report(context.Context, lambent.WorkerReport) error { return nil }
func (q *quick) Invoke(_ context.Context, req lambent.WorkerInvoke) (lambent.WorkerResult, error) {
	return lambent.WorkerResult{Response: lambent.InvokeResponse{Payload: req.Request.Payload}, Outcome: lambent.OutcomeIdle}, nil
}
