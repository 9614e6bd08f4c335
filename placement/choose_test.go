package placement

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lambent"
)

const gib = 1024

// town builds a snapshot in a few words.
type town struct {
	region snapshot
	hosts  map[lambent.WorkerID]*host
	now    time.Time
}

func newTown() *town {
	return &town{hosts: map[lambent.WorkerID]*host{}, now: time.Unix(1_700_000_000, 0)}
}

func (t *town) worker(id lambent.WorkerID, zone string, memory, vcpu float64) *host {
	h := t.region.newHost(id, zone)
	h.tenancy.offers = []lambent.Isolation{""}
	h.capacity = resources{memory, vcpu}
	h.leaseEnd = t.now.Add(time.Hour)
	h.setOpen(true)
	t.hosts[id] = h
	return h
}

func (t *town) choose(want wanted, seed uint64) (*host, int) {
	return choose(&t.region, want, t.now, rand.New(rand.NewPCG(seed, 0)))
}

func small(memory float64) demand { return demand{mean: resources{memory: memory, vcpu: 0.001}} }

func TestChoose(t *testing.T) {
	tests := map[string]struct {
		town  func(*town)
		want  wanted
		host  lambent.WorkerID // "": none
		count int
	}{
		"nobody there":  {func(*town) {}, wanted{demand: small(1)}, "", 0},
		"the only one":  {func(t *town) { t.worker("a", "z", gib, 1) }, wanted{demand: small(100)}, "a", 1},
		"too large":     {func(t *town) { t.worker("a", "z", gib, 1) }, wanted{demand: small(1025)}, "", 0},
		"many at once":  {func(t *town) { t.worker("a", "z", gib, 1) }, wanted{demand: small(100), count: 5}, "a", 5},
		"not all fit":   {func(t *town) { t.worker("a", "z", gib, 1) }, wanted{demand: small(100), count: 50}, "a", 10},
		"spare is left": {func(t *town) { t.worker("a", "z", gib, 1) }, wanted{demand: small(100), count: 50, spare: 0.5}, "a", 5},
		"spare is used last": {func(t *town) {
			t.worker("a", "z", gib, 1).add("other", small(600), 1)
			t.worker("b", "z", gib, 1)
		}, wanted{demand: small(100), spare: 0.5}, "b", 1},
		"spare is used": {func(t *town) { t.worker("a", "z", gib, 1).add("other", small(600), 1) }, wanted{demand: small(100), spare: 0.5}, "a", 1},
		"to the fullest": {func(t *town) {
			t.worker("a", "z", gib, 1).add("other", small(100), 1)
			t.worker("b", "z", gib, 1).add("other", small(300), 1)
			t.worker("c", "z", gib, 1).add("other", small(200), 1)
		}, wanted{demand: small(100)}, "b", 1},
		"to the fullest that holds it": {func(t *town) {
			t.worker("a", "z", gib, 1).add("other", small(100), 1)
			t.worker("b", "z", gib, 1).add("other", small(1000), 1)
		}, wanted{demand: small(100)}, "a", 1},
		"away from copies": {func(t *town) {
			t.worker("a", "z", gib, 1).add("f", small(100), 4)
			t.worker("b", "z", gib, 1).add("other", small(300), 1)
		}, wanted{function: "f", demand: small(100)}, "b", 1},
		"to the zone without copies": {func(t *town) {
			t.worker("a", "y", gib, 1).add("other", small(500), 1)
			t.hosts["a"].add("f", small(1), 1)
			t.worker("b", "z", gib, 1)
		}, wanted{function: "f", demand: small(100)}, "b", 1},
		"to another zone when it is full": {func(t *town) {
			t.worker("a", "y", gib, 1).add("f", small(1), 1)
			t.worker("b", "z", gib, 1).add("other", small(gib), 1)
		}, wanted{function: "f", demand: small(100)}, "a", 1},
		"avoided": {func(t *town) {
			t.worker("a", "z", gib, 1).add("other", small(100), 1)
			t.worker("b", "z", gib, 1)
		}, wanted{demand: small(100), avoid: []lambent.WorkerID{"a"}}, "b", 1},
		"lease has run out": {func(t *town) { t.worker("a", "z", gib, 1).leaseEnd = t.now }, wanted{demand: small(100)}, "", 0},
		"closed":            {func(t *town) { t.worker("a", "z", gib, 1).setOpen(false) }, wanted{demand: small(100)}, "", 0},
		"memory that is really in use": {func(t *town) { t.worker("a", "z", gib, 1).resident = 1000 },
			wanted{demand: small(100)}, "", 0},
		"deviation counts": {func(t *town) { t.worker("a", "z", gib, 1) },
			wanted{demand: demand{resources{100, 0}, resources{250, 0}}}, "", 0},
		"deviations of different functions": {func(t *town) {
			h := t.worker("a", "z", gib, 1) // 3 sandboxes: 300 + 3.72*sqrt(3)*100 = 944; of one function it would be 1416
			h.add("g", demand{resources{100, 0}, resources{100, 0}}, 1)
			h.add("h", demand{resources{100, 0}, resources{100, 0}}, 1)
		}, wanted{function: "f", demand: demand{resources{100, 0}, resources{100, 0}}}, "a", 1},
		"deviations of copies": {func(t *town) {
			t.worker("a", "z", gib, 1).add("f", demand{resources{100, 0}, resources{100, 0}}, 2)
		}, wanted{function: "f", demand: demand{resources{100, 0}, resources{100, 0}}}, "", 0},
		"processors are contended: the least loaded": {func(t *town) {
			t.worker("a", "z", gib, 1).add("other", demand{mean: resources{1, 3}}, 1)
			t.worker("b", "z", gib, 1).add("other", demand{mean: resources{1, 2}}, 1)
		}, wanted{demand: small(100)}, "b", 1},
		"processors prefer room": {func(t *town) {
			t.worker("a", "z", gib, 1).add("other", demand{mean: resources{900, 1}}, 1)
			t.worker("b", "z", gib, 1)
		}, wanted{demand: small(100)}, "b", 1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			town := newTown()
			test.town(town)
			test.want.count = max(1, test.want.count)
			for seed := range uint64(20) { // chance changes nothing here
				h, count := town.choose(test.want, seed)
				var id lambent.WorkerID
				if h != nil {
					id = h.id
				}
				if id != test.host || count != test.count {
					t.Fatalf("seed %d: chose %q for %d, want %q for %d", seed, id, count, test.host, test.count)
				}
			}
		})
	}
}

// Copies of one function spread over equal workers, and no zone gets more than one copy above another.
func TestCopiesSpread(t *testing.T) {
	town := newTown()
	for i := range 6 {
		town.worker(lambent.WorkerID(fmt.Sprint(i)), fmt.Sprint("zone", i%3), 16*gib, 8)
	}
	for i := range uint64(60) {
		h, _ := town.choose(wanted{function: "f", demand: small(128), count: 1}, i)
		h.add("f", small(128), 1)
	}
	for id, h := range town.hosts {
		if n := h.functions["f"].copies; n != 10 {
			t.Errorf("worker %s has %d of 60 copies", id, n)
		}
	}
}

// Different functions pack: when a few workers suffice, the others stay empty.
func TestFunctionsPack(t *testing.T) {
	town := newTown()
	for i := range 10 {
		town.worker(lambent.WorkerID(fmt.Sprint(i)), "zone", 16*gib, 80)
	}
	for i := range uint64(200) {
		fn := lambent.FunctionID(fmt.Sprint(i))
		h, _ := town.choose(wanted{function: fn, demand: small(128), count: 1}, i)
		h.add(fn, small(128), 1)
	}
	empty := 0
	for _, h := range town.hosts {
		if len(h.functions) == 0 {
			empty++
		}
	}
	if empty < 7 { // 200 of 128 MiB take two workers
		t.Errorf("%d of 10 workers are empty", empty)
	}
}

// The sums that a choice reads stay the sums over what is there, whatever comes and goes.
func TestLoadIsTheSumOfItsGrants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		town := newTown()
		type held struct {
			host *host
			fn   lambent.FunctionID
			d    demand
			n    int
		}
		var all []held
		for i := range 4 {
			town.worker(lambent.WorkerID(fmt.Sprint(i)), fmt.Sprint("zone", i%2), 4*gib, 4)
		}
		t.Repeat(map[string]func(*rapid.T){
			"place": func(t *rapid.T) {
				amount := rapid.Float64Range(0, 500)
				d := demand{resources{amount.Draw(t, "m"), amount.Draw(t, "c") / 1000}, resources{amount.Draw(t, "md"), amount.Draw(t, "cd") / 1000}}
				want := wanted{function: lambent.FunctionID(rapid.StringMatching("[a-d]").Draw(t, "function")), demand: d, count: rapid.IntRange(1, 9).Draw(t, "count"), spare: 0.1}
				h, n := town.choose(want, rapid.Uint64().Draw(t, "seed"))
				if h == nil {
					return
				}
				if n < 1 || n > want.count {
					t.Fatalf("%d of %d were placed", n, want.count)
				}
				if _, bound := h.with(want.function, d, n); bound.memory > h.capacity.memory+1e-6 {
					t.Fatalf("the bound of the memory is %v of %v", bound.memory, h.capacity.memory)
				}
				h.add(want.function, d, n)
				all = append(all, held{h, want.function, d, n})
			},
			"free": func(t *rapid.T) {
				if len(all) == 0 {
					t.Skip("nothing is held")
				}
				i := rapid.IntRange(0, len(all)-1).Draw(t, "which")
				g := &all[i]
				n := rapid.IntRange(1, g.n).Draw(t, "n")
				g.host.add(g.fn, g.d, -n)
				if g.n -= n; g.n == 0 {
					all = append(all[:i], all[i+1:]...)
				}
			},
			"close": func(t *rapid.T) {
				town.hosts[lambent.WorkerID(rapid.StringMatching("[0-3]").Draw(t, "worker"))].setOpen(rapid.Bool().Draw(t, "open"))
			},
			"": func(t *rapid.T) {
				type key struct {
					host *host
					fn   lambent.FunctionID
				}
				deviations, means, copies := map[key]float64{}, map[*host]float64{}, map[key]int{}
				zones := map[string]int{}
				for _, g := range all {
					k := key{g.host, g.fn}
					deviations[k] += g.d.deviation.memory * float64(g.n)
					means[g.host] += g.d.mean.memory * float64(g.n)
					copies[k] += g.n
					zones[g.host.zone.name+string(g.fn)] += g.n
				}
				variances := map[*host]float64{}
				for k, d := range deviations {
					variances[k.host] += d * d
				}
				for _, h := range town.hosts {
					if math.Abs(h.mean.memory-means[h]) > 1e-3 || math.Abs(h.variance.memory-variances[h]) > 1 {
						t.Fatalf("worker %s: mean %v, variance %v; want %v, %v", h.id, h.mean.memory, h.variance.memory, means[h], variances[h])
					}
					for fn, s := range h.functions {
						if copies[key{h, fn}] != s.copies {
							t.Fatalf("worker %s: %d copies of %s, want %d", h.id, s.copies, fn, copies[key{h, fn}])
						}
						if h.zone.copies[fn] != zones[h.zone.name+string(fn)] {
							t.Fatalf("zone %s: %d copies of %s", h.zone.name, h.zone.copies[fn], fn)
						}
					}
					if open := h.index >= 0; open && h.zone.open[h.index] != h {
						t.Fatalf("worker %s is not at its index", h.id)
					}
				}
			},
		})
	})
}

// crowd is a region of 10,000 workers in three zones, 60 % full of 2,000 functions.
func crowd() *town {
	town := newTown()
	random := rand.New(rand.NewPCG(1, 1))
	for i := range 10_000 {
		h := town.worker(lambent.WorkerID(fmt.Sprint(i)), fmt.Sprint("zone", i%3), 256*gib, 64)
		for range 40 {
			h.add(lambent.FunctionID(fmt.Sprint(random.IntN(2000))), demand{resources{400, 0.1}, resources{100, 0.05}}, 1+random.IntN(14))
		}
	}
	return town
}

func BenchmarkChoose10000Workers(b *testing.B) {
	town := crowd()
	random := rand.New(rand.NewPCG(2, 2))
	want := wanted{function: "7", demand: demand{resources{400, 0.1}, resources{100, 0.05}}, count: 8, spare: 0.1}
	for b.Loop() {
		if h, _ := choose(&town.region, want, town.now, random); h == nil {
			b.Fatal("nothing fits")
		}
	}
}

// The choice from a sample is nearly as good as that from all: the promise that sampling rests on.
func TestSampleIsNearlyTheBest(t *testing.T) {
	town := crowd()
	want := wanted{function: "new", demand: demand{resources{400, 0.1}, resources{100, 0.05}}, count: 1, spare: 0.1}
	var scores []float64
	for _, h := range town.hosts {
		if mean, bound := h.with(want.function, want.demand, 1); h.fits(bound, fitsWithSpare, want.spare) {
			scores = append(scores, h.score(want, mean, bound, fitsWithSpare))
		}
	}
	better := 0
	const rounds = 50
	for seed := range uint64(rounds) {
		h, _ := town.choose(want, seed)
		mean, bound := h.with(want.function, want.demand, 1)
		mine := h.score(want, mean, bound, fitsWithSpare)
		for _, s := range scores {
			if s > mine {
				better++
			}
		}
	}
	if share := float64(better) / rounds / float64(len(scores)); share > 0.05 {
		t.Errorf("%.1f %% of the workers would have been better on average", share*100)
	}
}
