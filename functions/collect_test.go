package functions_test

import (
	"fmt"
	"io"
	"sync"
	"testing"

	"lambent"
	"lambent/functions"
	metamemory "lambent/meta/memory"
)

// stored counts the archives in the blob store.
func (b *bench) stored(t *testing.T) int {
	t.Helper()
	n := 0
	if err := b.blobs.List(t.Context(), func(lambent.CodeRef) bool { n++; return true }); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestCollect(t *testing.T) {
	b := newBench(t)
	b.create(t, "f")
	b.create(t, "g")
	b.publish(t, "f")
	replace := func() {
		if _, err := b.UpdateFunctionCode(t.Context(), functions.UpdateFunctionCodeRequest{Function: name("f"), Code: code(t, "new")}); err != nil {
			t.Fatal(err)
		}
		b.settle(t, ref("f", ""))
	}
	remove := func(fn, qualifier string) func() {
		return func() {
			if err := b.DeleteFunction(t.Context(), ref(fn, qualifier)); err != nil {
				t.Fatal(err)
			}
		}
	}
	steps := []struct {
		name string
		do   func()
		left int
	}{
		{"nothing is free", func() {}, 2},
		{"the old code is that of version 1", replace, 3},
		{"version 1 is gone", remove("f", "1"), 2},
		{"a function is gone", remove("g", ""), 1},
		{"all are gone", remove("f", ""), 0},
	}
	for _, step := range steps {
		step.do()
		if err := b.Collect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := b.stored(t); got != step.left {
			t.Errorf("%s: %d archives are left, want %d", step.name, got, step.left)
		}
	}
}

// TestCollectDuringCreates: functions come and go with few different archives, while the collector runs without a pause:
// whatever exists has its code.
func TestCollectDuringCreates(t *testing.T) {
	b := newBench(t)
	stop := make(chan struct{})
	var collector, group sync.WaitGroup
	collector.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := b.Collect(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
	for worker := range 4 {
		group.Go(func() {
			fn := fmt.Sprint("f", worker)
			for i := range 60 {
				r := request(t, fn)
				r.Code = code(t, fmt.Sprint(i%2))
				created, err := b.CreateFunction(t.Context(), r)
				if err != nil {
					t.Error(err)
					return
				}
				reader, err := b.OpenCode(t.Context(), created.Code)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := io.Copy(io.Discard, reader); err != nil {
					t.Error(err)
				}
				reader.Close()
				if err := b.DeleteFunction(t.Context(), ref(fn, "")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	close(stop)
	collector.Wait()
}

// TestSweep: a function with more versions than one commit deletes is gone at once, and what is left of it later.
func TestSweep(t *testing.T) {
	store := metamemory.Open(metamemory.Options{})
	t.Cleanup(func() { store.Close() })
	b := &bench{meta: store, blobs: newBlobs()}
	b.Service = openService(t, functions.Options{Meta: b.meta, Blobs: b.blobs})
	b.create(t, "f")
	const aliases = 600
	for i := range aliases {
		if _, err := b.CreateAlias(t.Context(), functions.CreateAliasRequest{Function: name("f"), Name: fmt.Sprint("a", i), Version: "$LATEST"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.DeleteFunction(t.Context(), ref("f", "")); err != nil {
		t.Fatal(err)
	}
	b.create(t, "f")
	if page, err := b.ListAliases(t.Context(), functions.ListAliasesRequest{Function: name("f")}); err != nil || len(page.Aliases) != 0 {
		t.Errorf("the new function has the old one's aliases: %+v, %v", page, err)
	}
	count := func() int {
		items, _, err := store.List(t.Context(), "functions/alias/", "", 0)
		if err != nil {
			t.Fatal(err)
		}
		return len(items)
	}
	if left := count(); left == 0 {
		t.Error("this test has nothing to sweep")
	}
	if err := b.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := count(); left != 0 {
		t.Errorf("%d aliases are left", left)
	}
}
