package memory_test

import (
	"testing"

	"go.uber.org/goleak"

	"lambent/meta"
	"lambent/meta/memory"
	"lambent/meta/metatest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	const backlog = 60
	metatest.Run(t, backlog, func(t *testing.T) meta.Store {
		store := memory.Open(memory.Options{History: backlog})
		t.Cleanup(func() { store.Close() })
		return store
	})
}

// TestCompact ends watches that need what was forgotten, and no others.
func TestCompact(t *testing.T) {
	store := memory.Open(memory.Options{})
	defer store.Close()
	for range 3 {
		if _, err := store.Commit(t.Context(), nil, []meta.Op{{Key: "a"}}); err != nil {
			t.Fatal(err)
		}
	}
	now, _ := store.Revision(t.Context())
	store.Compact()
	if _, ok := <-store.Watch(t.Context(), "a", now-1); ok {
		t.Error("a watch delivers what was forgotten")
	}
	watch := store.Watch(t.Context(), "a", now)
	if _, err := store.Commit(t.Context(), nil, []meta.Op{{Key: "a"}}); err != nil {
		t.Fatal(err)
	}
	if batch := <-watch; len(batch) != 1 || batch[0].Revision != now+1 {
		t.Errorf("the watch delivers %+v", batch)
	}
}
