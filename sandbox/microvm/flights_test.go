package microvm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// Whoever gives up does not end what others wait for.
func TestFlightsGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlights()
		go1, done := make(chan struct{}), 0
		work := func(context.Context) error { <-go1; done++; return nil }
		impatient, cancel := context.WithCancel(t.Context())
		gaveUp := make(chan error)
		go func() { gaveUp <- f.do(impatient, "x", work) }()
		synctest.Wait()
		patient := make(chan error)
		go func() { patient <- f.do(t.Context(), "x", work) }()
		synctest.Wait()
		cancel()
		if err := <-gaveUp; !errors.Is(err, context.Canceled) {
			t.Errorf("the impatient one was told %v", err)
		}
		close(go1)
		if err := <-patient; err != nil || done != 1 {
			t.Errorf("the patient one was told %v after %d times", err, done)
		}
		f.close()
	})
}

// close ends the work that nobody waits for any more, and waits for its end.
func TestFlightsClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlights()
		ended := false
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_ = f.do(ctx, "x", func(ctx context.Context) error { <-ctx.Done(); ended = true; return ctx.Err() })
		f.close()
		if !ended {
			t.Error("it was not ended")
		}
		if err := f.do(t.Context(), "y", func(context.Context) error { return nil }); !errors.Is(err, os.ErrClosed) {
			t.Errorf("afterwards it said %v", err)
		}
	})
}

// Of images that nobody uses the least recently used ones go first; those in use stay.
func TestEvict(t *testing.T) {
	s := newImageStore(t.TempDir(), "", "", 250, nil)
	defer s.flights.close()
	now := time.Now()
	write := func(name string, age time.Duration) string {
		path := filepath.Join(s.dir, name+".erofs")
		if err := os.WriteFile(path, make([]byte, 100), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, now.Add(-age), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	used, old, newer, newest := write("used", 4*time.Hour), write("old", 3*time.Hour), write("newer", 2*time.Hour), write("newest", time.Hour)
	release := s.use(used)
	if err := s.evict(); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{used: true, old: false, newer: false, newest: true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: %v", filepath.Base(path), err)
		}
	}
	release()
	s.capacity = 100
	if err := s.evict(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(used); err == nil {
		t.Error("what is not used any more stayed, though it is the oldest")
	}
}
