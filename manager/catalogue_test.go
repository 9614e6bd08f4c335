package manager

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"lambent"
	"lambent/manager/managertest"
)

// feed is a catalogue that says what a test says.
type feed struct {
	watches chan chan lambent.CatalogEvent
	breaks  chan struct{}
}

// tellTo returns a function that sends events, and waits until the manager has dealt with them.
func tellTo(events chan lambent.CatalogEvent) func(...lambent.CatalogEvent) {
	return func(all ...lambent.CatalogEvent) {
		for _, event := range all {
			events <- event
		}
		synctest.Wait()
	}
}

func (f *feed) Watch(ctx context.Context) (<-chan lambent.CatalogEvent, error) {
	events, out := make(chan lambent.CatalogEvent), make(chan lambent.CatalogEvent)
	select {
	case f.watches <- events:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	go func() {
		defer close(out)
		for {
			select {
			case event := <-events:
				out <- event
			case <-f.breaks:
				return
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

func (f *feed) Revision(context.Context) (int64, error) { return 0, nil }

func told(id lambent.FunctionID, revision string) lambent.CatalogEvent {
	v := managertest.Version(id, revision)
	return lambent.CatalogEvent{Kind: lambent.CatalogVersion, Function: v.FunctionName, ID: id, Version: v}
}

func withCatalogue(t *testing.T, run func(t *testing.T, b *bench, f *feed, tell func(...lambent.CatalogEvent))) {
	synctest.Test(t, func(t *testing.T) {
		f := &feed{watches: make(chan chan lambent.CatalogEvent), breaks: make(chan struct{})}
		r := managertest.NewRegion(20, "a", "b")
		b := &bench{t, r, open(t, r, Options{Catalog: f})}
		run(t, b, f, tellTo(<-f.watches))
		for _, fault := range r.Faults() {
			t.Error(fault)
		}
	})
}

var synced = lambent.CatalogEvent{Kind: lambent.CatalogSynced}

// A new revision ends the sandboxes of the one before: idle ones at once, busy ones when they are returned.
func TestNewRevision(t *testing.T) {
	for name, catalogue := range map[string]bool{"by the catalogue": true, "by a claim": false} {
		t.Run(name, func(t *testing.T) {
			withCatalogue(t, func(t *testing.T, b *bench, _ *feed, tell func(...lambent.CatalogEvent)) {
				tell(synced)
				idle, busy, other := b.claim("f"), b.claim("f"), b.claim("g")
				b.done(idle, other)
				if catalogue {
					tell(told("f", "r2"))
				} else {
					b.done(b.claimRevision("f", "r2"))
				}
				synctest.Wait()
				left := 2 // busy, and that of g
				if !catalogue {
					left++
				}
				if n := b.r.Sandboxes(); n != left {
					t.Errorf("%d sandboxes are left, want %d", n, left)
				}
				b.done(busy)
				synctest.Wait()
				if n := b.r.Sandboxes(); n != left-1 {
					t.Errorf("%d sandboxes are left after the last return, want %d", n, left-1)
				}
				// A front end that is behind is served, but nothing is kept warm for it.
				b.done(b.claimRevision("f", "r1"))
				synctest.Wait()
				if n := b.r.Sandboxes(); n != left-1 {
					t.Errorf("%d sandboxes are left after a late claim of the old revision, want %d", n, left-1)
				}
			})
		})
	}
}

// A claim that comes before the catalogue's news does not end what the catalogue last called current, and stays warm.
func TestClaimBeforeTheNews(t *testing.T) {
	withCatalogue(t, func(t *testing.T, b *bench, _ *feed, tell func(...lambent.CatalogEvent)) {
		old := b.claim("f")
		b.done(old)
		tell(told("f", "r1"))
		tell(synced)
		fresh := b.claimRevision("f", "r2")
		b.done(fresh)
		synctest.Wait()
		if n := b.r.Sandboxes(); n != 2 {
			t.Errorf("%d sandboxes before the news, want 2", n)
		}
		tell(told("f", "r2"))
		synctest.Wait()
		if n := b.r.Sandboxes(); n != 1 {
			t.Errorf("%d sandboxes after the news, want 1", n)
		}
		if warm := b.claimRevision("f", "r2"); warm.Sandbox != fresh.Sandbox {
			t.Errorf("the claim is %+v, want the warm sandbox %s", warm, fresh.Sandbox)
		}
	})
}

func TestDeletedFunction(t *testing.T) {
	withCatalogue(t, func(t *testing.T, b *bench, _ *feed, tell func(...lambent.CatalogEvent)) {
		tell(synced)
		b.done(b.claim("f"), b.claim("g"))
		tell(lambent.CatalogEvent{Kind: lambent.CatalogDeleted, ID: "f", Deleted: "7"}) // another version
		tell(lambent.CatalogEvent{Kind: lambent.CatalogDeleted, ID: "unknown"})
		synctest.Wait()
		if n := b.r.Sandboxes(); n != 2 {
			t.Errorf("%d sandboxes, want 2", n)
		}
		tell(lambent.CatalogEvent{Kind: lambent.CatalogDeleted, ID: "f"})
		synctest.Wait()
		if n := b.r.Sandboxes(); n != 1 {
			t.Errorf("%d sandboxes after the function was deleted, want 1", n)
		}
	})
}

// What was deleted while the watch was broken, or fell behind, ends when everything has been delivered anew.
func TestDeletedUnseen(t *testing.T) {
	withCatalogue(t, func(t *testing.T, b *bench, f *feed, tell func(...lambent.CatalogEvent)) {
		tell(synced)
		b.done(b.claim("f"), b.claim("g"), b.claim("h"))
		pass(time.Second)
		tell(lambent.CatalogEvent{Kind: lambent.CatalogReset})
		tell(told("f", "r1"))
		tell(told("g", "r1"))
		b.done(b.claim("young")) // created and claimed while the delivery goes on
		tell(synced)
		synctest.Wait()
		if n := b.r.Sandboxes(); n != 3 {
			t.Errorf("%d sandboxes after the reset, want those of f, g and the young one", n)
		}
		f.breaks <- struct{}{}
		tell = tellTo(<-f.watches)
		tell(told("f", "r2"))
		tell(told("young", "r1"))
		tell(synced)
		synctest.Wait()
		if n := b.r.Sandboxes(); n != 1 {
			t.Errorf("%d sandboxes after another watch, want that of the young one", n)
		}
		tell(told("f", "r1")) // it was changed back
		b.done(b.claim("f"))
		synctest.Wait()
		if n := b.r.Sandboxes(); n != 2 {
			t.Errorf("%d sandboxes, want a warm one of f again", n)
		}
	})
}
