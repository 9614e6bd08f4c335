// Package metatest is the suite that every metadata store passes.
package metatest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"lambent/meta"
)

// patience is how long the suite waits for what must happen. It bounds a failure, never a success.
const patience = 20 * time.Second

// Run runs the suite. open gives an empty store, and closes it at the end of the test that it is given. slowBacklog is how
// many commits a watch of that store may fall behind, and should be small.
func Run(t *testing.T, slowBacklog int, open func(*testing.T) meta.Store) {
	tests := []struct {
		name string
		run  func(*testing.T, meta.Store)
	}{
		{"Reads", testReads},
		{"Conditions", testConditions},
		{"BadOps", testBadOps},
		{"List", testList},
		{"ListAgainstModel", testModel},
		{"Increments", testIncrements},
		{"WatchFromThePast", testWatchPast},
		{"WatchBatches", testWatchBatches},
		{"WatchEndsWithContext", testWatchEnds},
		{"WatchSlow", func(t *testing.T, s meta.Store) { testWatchSlow(t, s, slowBacklog) }},
		{"ContextEnded", testContext},
		{"CloseEndsWatches", testClose},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

func put(key, value string) meta.Op { return meta.Op{Key: key, Value: []byte(value)} }

func remove(key string) meta.Op { return meta.Op{Key: key, Delete: true} }

func commit(t *testing.T, s meta.Store, ops ...meta.Op) int64 {
	t.Helper()
	revision, err := s.Commit(t.Context(), nil, ops)
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

func testReads(t *testing.T, s meta.Store) {
	if _, ok, err := s.Get(t.Context(), "a"); ok || err != nil {
		t.Fatalf("a key that was never written: found %v, error %v", ok, err)
	}
	revision := commit(t, s, put("a", "1"), put("b", ""))
	item, ok, err := s.Get(t.Context(), "a")
	if err != nil || !ok || string(item.Value) != "1" || item.Revision != revision || item.Key != "a" {
		t.Fatalf("read %+v, %v, %v; want the value 1 of revision %d", item, ok, err, revision)
	}
	if item, ok, err := s.Get(t.Context(), "b"); err != nil || !ok || len(item.Value) != 0 {
		t.Fatalf("an empty value: read %+v, %v, %v", item, ok, err)
	}
	if now, err := s.Revision(t.Context()); err != nil || now != revision {
		t.Fatalf("revision %d, %v; want %d", now, err, revision)
	}
	later := commit(t, s, put("c", "2"))
	if later <= revision {
		t.Fatalf("revision %d after %d", later, revision)
	}
	if item, _, _ := s.Get(t.Context(), "a"); item.Revision != revision {
		t.Fatalf("a key that was not changed has revision %d, not %d", item.Revision, revision)
	}
	commit(t, s, remove("a"))
	if _, ok, _ := s.Get(t.Context(), "a"); ok {
		t.Fatal("a deleted key is there")
	}
	before, _ := s.Revision(t.Context())
	if after := commit(t, s, remove("a")); after != before {
		t.Fatalf("deleting nothing moved the revision from %d to %d", before, after)
	}
}

func testConditions(t *testing.T, s meta.Store) {
	ctx := t.Context()
	first, err := s.Commit(ctx, []meta.Condition{{Key: "a"}}, []meta.Op{put("a", "1")})
	if err != nil {
		t.Fatal(err)
	}
	second := commit(t, s, put("b", "1"))
	refused := [][]meta.Condition{
		{{Key: "a"}},
		{{Key: "a", Revision: second}},
		{{Key: "a", Revision: first}, {Key: "b", Revision: first}},
		{{Key: "none", Revision: first}},
	}
	for _, conditions := range refused {
		if _, err := s.Commit(ctx, conditions, []meta.Op{put("a", "x"), put("c", "x")}); !errors.Is(err, meta.ErrConflict) {
			t.Errorf("conditions %+v: error %v, want a conflict", conditions, err)
		}
	}
	if _, ok, _ := s.Get(ctx, "c"); ok {
		t.Fatal("a refused commit wrote something")
	}
	held := []meta.Condition{{Key: "a", Revision: first}, {Key: "b", Revision: second}, {Key: "none"}}
	if _, err := s.Commit(ctx, held, []meta.Op{put("a", "2"), remove("b")}); err != nil {
		t.Fatalf("conditions that hold: %v", err)
	}
	if _, ok, _ := s.Get(ctx, "b"); ok {
		t.Fatal("the delete was not applied with the put")
	}
}

func testBadOps(t *testing.T, s meta.Store) {
	for _, ops := range [][]meta.Op{{put("a", "1"), put("a", "2")}, {put("a", "1"), remove("a")}, {put("", "1")}} {
		if _, err := s.Commit(t.Context(), nil, ops); err == nil || errors.Is(err, meta.ErrConflict) {
			t.Errorf("ops %+v: error %v", ops, err)
		}
	}
	if _, ok, _ := s.Get(t.Context(), "a"); ok {
		t.Error("a refused commit wrote something")
	}
}

func testList(t *testing.T, s meta.Store) {
	commit(t, s, put("p", "0"), put("p/a", "1"), put("p/b", "2"), put("p/b/x", "3"), put("p0", "4"), put("q", "5"), put("\xff", "6"))
	cases := []struct {
		prefix, from string
		limit        int
		want         []string
	}{
		{"p/", "", 0, []string{"p/a", "p/b", "p/b/x"}},
		{"p/", "p/b", 0, []string{"p/b", "p/b/x"}},
		{"p/", "p/b\x00", 0, []string{"p/b/x"}},
		{"p/", "a", 2, []string{"p/a", "p/b"}},
		{"p/", "z", 0, nil},
		{"p", "", 0, []string{"p", "p/a", "p/b", "p/b/x", "p0"}},
		{"none", "", 0, nil},
		{"", "", 0, []string{"p", "p/a", "p/b", "p/b/x", "p0", "q", "\xff"}},
		{"", "q", 1, []string{"q"}},
		{"\xff", "", 0, []string{"\xff"}},
	}
	for _, c := range cases {
		items, revision, err := s.List(t.Context(), c.prefix, c.from, c.limit)
		if err != nil {
			t.Fatal(err)
		}
		var keys []string
		for _, item := range items {
			keys = append(keys, item.Key)
		}
		if now, _ := s.Revision(t.Context()); !slices.Equal(keys, c.want) || revision != now {
			t.Errorf("list %q from %q limit %d: %q at %d, want %q", c.prefix, c.from, c.limit, keys, revision, c.want)
		}
	}
}

// testModel compares random commits with a map, and the watch of them all with the commits.
func testModel(t *testing.T, s meta.Store) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	start, _ := s.Revision(ctx)
	watch := s.Watch(ctx, "k", start)
	model, mirror, seen := map[string]string{}, map[string]string{}, start
	rapid.Check(t, func(t *rapid.T) {
		ops := map[string]meta.Op{}
		for _, n := range rapid.SliceOfN(rapid.IntRange(0, 5), 1, 4).Draw(t, "keys") {
			key := "k" + strconv.Itoa(n)
			ops[key] = meta.Op{Key: key, Delete: rapid.Bool().Draw(t, "delete"), Value: []byte(rapid.StringN(0, 4, 8).Draw(t, "value"))}
		}
		var list []meta.Op
		for _, op := range ops {
			list = append(list, op)
			if model[op.Key] = string(op.Value); op.Delete {
				delete(model, op.Key)
			}
		}
		revision, err := s.Commit(ctx, nil, list)
		if err != nil {
			t.Fatal(err)
		}
		for seen < revision {
			batch := <-watch
			if len(batch) == 0 {
				t.Fatalf("the watch ended at %d of %d", seen, revision)
			}
			seen = batch[0].Revision
			for _, change := range batch {
				if mirror[change.Key] = string(change.Value); change.Deleted {
					delete(mirror, change.Key)
				}
			}
		}
		items, _, err := s.List(ctx, "k", "", 0)
		if err != nil {
			t.Fatal(err)
		}
		stored := map[string]string{}
		for _, item := range items {
			stored[item.Key] = string(item.Value)
		}
		if diff := cmp.Diff(model, stored) + cmp.Diff(model, mirror); diff != "" {
			t.Fatal(diff)
		}
	})
}

// testIncrements loses no update of writers that compete.
func testIncrements(t *testing.T, s meta.Store) {
	const writers, rounds = 8, 10
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			for done := 0; done < rounds; {
				item, _, err := s.Get(t.Context(), "n")
				if err != nil {
					t.Error(err)
					return
				}
				n, _ := strconv.Atoi(string(item.Value))
				_, err = s.Commit(t.Context(), []meta.Condition{{Key: "n", Revision: item.Revision}}, []meta.Op{put("n", strconv.Itoa(n+1))})
				switch {
				case err == nil:
					done++
				case !errors.Is(err, meta.ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	if item, _, _ := s.Get(t.Context(), "n"); string(item.Value) != strconv.Itoa(writers*rounds) {
		t.Fatalf("the counter is %s, want %d", item.Value, writers*rounds)
	}
}

// receive returns the next batch of a watch.
func receive(t *testing.T, watch <-chan []meta.Change) []meta.Change {
	t.Helper()
	select {
	case batch, ok := <-watch:
		if !ok {
			t.Fatal("the watch ended")
		}
		return batch
	case <-time.After(patience):
		t.Fatal("the watch delivers nothing")
	}
	return nil
}

func describe(batch []meta.Change) string {
	var text []string
	for _, change := range batch {
		if change.Deleted {
			if change.Value != nil {
				text = append(text, "VALUE")
			}
			text = append(text, "-"+change.Key)
			continue
		}
		text = append(text, change.Key+"="+string(change.Value))
	}
	slices.Sort(text)
	return fmt.Sprint(text)
}

func testWatchPast(t *testing.T, s meta.Store) {
	first := commit(t, s, put("w/a", "1"))
	second := commit(t, s, put("w/b", "2"), put("other", "x"))
	third := commit(t, s, remove("w/a"), put("w/c", "3"))
	watch := s.Watch(t.Context(), "w/", first)
	for _, want := range []struct {
		text     string
		revision int64
	}{{"[w/b=2]", second}, {"[-w/a w/c=3]", third}} {
		batch := receive(t, watch)
		if describe(batch) != want.text || batch[0].Revision != want.revision {
			t.Fatalf("batch %s of %d, want %s of %d", describe(batch), batch[0].Revision, want.text, want.revision)
		}
	}
	commit(t, s, put("x", "not watched"))
	commit(t, s, put("w/d", "4"))
	if got := describe(receive(t, watch)); got != "[w/d=4]" {
		t.Fatalf("live batch %s", got)
	}
	all := s.Watch(t.Context(), "", 0)
	if got := describe(receive(t, all)); got != "[w/a=1]" {
		t.Fatalf("a watch of everything begins with %s", got)
	}
}

func testWatchBatches(t *testing.T, s meta.Store) {
	start, _ := s.Revision(t.Context())
	live := s.Watch(t.Context(), "b/", start)
	const commits, size = 50, 20
	var group sync.WaitGroup
	group.Go(func() {
		for i := range commits {
			var ops []meta.Op
			for j := range size {
				ops = append(ops, put(fmt.Sprintf("b/%d/%d", i, j), "v"))
			}
			if _, err := s.Commit(t.Context(), nil, ops); err != nil {
				t.Error(err)
			}
		}
	})
	check := func(name string, watch <-chan []meta.Change) {
		newest := start
		for range commits {
			batch := receive(t, watch)
			for _, change := range batch {
				if len(batch) != size || change.Revision != batch[0].Revision || change.Revision <= newest {
					t.Fatalf("%s: a batch of %d changes, revision %d after %d", name, len(batch), change.Revision, newest)
				}
			}
			newest = batch[0].Revision
		}
	}
	check("live", live)
	group.Wait()
	check("from the past", s.Watch(t.Context(), "b/", start))
}

// ended waits until a watch's channel closes, and returns how many batches came before.
func ended(t *testing.T, watch <-chan []meta.Change) int {
	t.Helper()
	deadline := time.After(patience)
	for batches := 0; ; batches++ {
		select {
		case _, ok := <-watch:
			if !ok {
				return batches
			}
		case <-deadline:
			t.Fatal("the watch does not end")
		}
	}
}

func testWatchEnds(t *testing.T, s meta.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	start, _ := s.Revision(ctx)
	idle := s.Watch(ctx, "a", start)
	commit(t, s, put("a", "1"))
	receive(t, idle)
	blocked := s.Watch(ctx, "a", start)
	cancel()
	ended(t, idle)
	ended(t, blocked)
}

// testWatchSlow fills the backlog of a watch that nobody reads: it ends, the other goes on, and so do the writers.
func testWatchSlow(t *testing.T, s meta.Store, backlog int) {
	start, _ := s.Revision(t.Context())
	quick, slow := s.Watch(t.Context(), "s", start), s.Watch(t.Context(), "s", start)
	const margin = 50
	for i := range backlog + margin {
		commit(t, s, put("s", strconv.Itoa(i)))
		receive(t, quick)
	}
	if n := ended(t, slow); n > backlog+1 {
		t.Fatalf("the slow watch delivered %d batches, past its backlog of %d", n, backlog)
	}
}

func testContext(t *testing.T, s meta.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Commit(ctx, nil, []meta.Op{put("a", "1")})
	_, _, get := s.Get(ctx, "a")
	_, _, list := s.List(ctx, "a", "", 0)
	_, revision := s.Revision(ctx)
	for name, err := range map[string]error{"Commit": err, "Get": get, "List": list, "Revision": revision} {
		if err == nil {
			t.Errorf("%s works after its context has ended", name)
		}
	}
	ended(t, s.Watch(ctx, "a", 0))
}

func testClose(t *testing.T, s meta.Store) {
	start, _ := s.Revision(t.Context())
	idle, blocked := s.Watch(t.Context(), "none", start), s.Watch(t.Context(), "a", start)
	commit(t, s, put("a", "1"))
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	ended(t, idle)
	ended(t, blocked)
	ended(t, s.Watch(t.Context(), "a", start))
	if _, _, err := s.Get(t.Context(), "a"); err == nil {
		t.Error("a closed store answers")
	}
}
