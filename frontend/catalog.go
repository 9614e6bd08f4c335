package frontend

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"lambent"
)

// rewatchDelay is how long the watch waits after it broke.
const rewatchDelay = 100 * time.Millisecond

// catalog is a copy of the function catalog. Readers take no lock; one goroutine writes, and replaces an entry rather
// than changing it. When the watch breaks, the old copy serves until a new one is complete.
type catalog struct {
	source lambent.Catalog
	logger *slog.Logger
	stop   context.CancelFunc
	done   chan struct{}
	synced chan struct{} // closed after the first complete delivery

	current atomic.Pointer[sync.Map] // lambent.FunctionName to *entry

	mu       sync.Mutex
	revision int64
	moved    chan struct{} // closed when revision grows
	next     *flight       // the question that nobody has begun to ask
	asking   bool
}

// entry is one function. It is immutable.
type entry struct {
	id       lambent.FunctionID
	versions map[string]*lambent.FunctionVersion
	aliases  map[string]*lambent.Alias
}

// flight is one question for the store's revision, which all who came before it was asked share.
type flight struct {
	done chan struct{}
	err  error
}

func openCatalog(source lambent.Catalog, logger *slog.Logger) *catalog {
	ctx, stop := context.WithCancel(context.Background())
	c := &catalog{source: source, logger: logger, stop: stop, done: make(chan struct{}), synced: make(chan struct{}), moved: make(chan struct{})}
	c.current.Store(&sync.Map{})
	go c.follow(ctx)
	return c
}

func (c *catalog) close() {
	c.stop()
	<-c.done
}

func (c *catalog) ready(ctx context.Context) error {
	select {
	case <-c.synced:
		return nil
	default:
	}
	select {
	case <-c.synced:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *catalog) entry(name lambent.FunctionName) *entry {
	e, ok := c.current.Load().Load(name)
	if !ok {
		return nil
	}
	return e.(*entry)
}

// follow keeps the copy up to date until ctx ends.
func (c *catalog) follow(ctx context.Context) {
	defer close(c.done)
	for ctx.Err() == nil {
		events, err := c.source.Watch(ctx)
		if err == nil {
			c.apply(events)
		}
		if ctx.Err() != nil {
			return
		}
		c.logger.Warn("the catalog watch ended, watching again", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(rewatchDelay):
		}
	}
}

// apply reads one watch to its end.
func (c *catalog) apply(events <-chan lambent.CatalogEvent) {
	filling, complete := &sync.Map{}, false
	for e := range events {
		switch e.Kind {
		case lambent.CatalogReset:
			filling, complete = &sync.Map{}, false
		case lambent.CatalogSynced:
			complete = true
			c.current.Store(filling)
		default:
			change(filling, e)
		}
		if complete {
			c.advance(e.Revision)
		}
		if e.Kind == lambent.CatalogSynced {
			c.markSynced()
		}
	}
}

func (c *catalog) markSynced() {
	select {
	case <-c.synced:
	default:
		close(c.synced)
	}
}

// change applies one event to a map.
func change(functions *sync.Map, event lambent.CatalogEvent) {
	if event.Kind == lambent.CatalogDeleted && event.Deleted == "" {
		functions.Delete(event.Function)
		return
	}
	next := &entry{id: event.ID, versions: map[string]*lambent.FunctionVersion{}, aliases: map[string]*lambent.Alias{}}
	if old, ok := functions.Load(event.Function); ok && old.(*entry).id == event.ID {
		next.versions, next.aliases = maps.Clone(old.(*entry).versions), maps.Clone(old.(*entry).aliases)
	}
	switch event.Kind {
	case lambent.CatalogVersion:
		next.versions[event.Version.Key.Version] = event.Version
	case lambent.CatalogAlias:
		next.aliases[event.Alias.Name] = event.Alias
	case lambent.CatalogDeleted:
		delete(next.versions, event.Deleted)
		delete(next.aliases, event.Deleted)
	default:
		return
	}
	functions.Store(event.Function, next)
}

func (c *catalog) advance(revision int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if revision <= c.revision {
		return
	}
	c.revision = revision
	close(c.moved)
	c.moved = make(chan struct{})
}

// catchUp returns when the copy holds all that the store held when catchUp was called. Callers share questions: one is
// under way at a time, and those who come meanwhile share the next.
func (c *catalog) catchUp(ctx context.Context) error {
	c.mu.Lock()
	if c.next == nil {
		c.next = &flight{done: make(chan struct{})}
	}
	mine := c.next
	if !c.asking {
		c.asking = true
		go c.ask(context.WithoutCancel(ctx))
	}
	c.mu.Unlock()
	select {
	case <-mine.done:
		return mine.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// askTimeout bounds one question.
const askTimeout = 2 * time.Second

// ask answers flights until there is none.
func (c *catalog) ask(ctx context.Context) {
	for {
		c.mu.Lock()
		f := c.next
		c.next = nil
		if f == nil {
			c.asking = false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		f.err = c.reach(ctx)
		close(f.done)
	}
}

// reach waits until the copy has the revision that the store has now.
func (c *catalog) reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	wanted, err := c.source.Revision(ctx)
	if err != nil {
		return err
	}
	for {
		c.mu.Lock()
		reached, moved := c.revision >= wanted, c.moved
		c.mu.Unlock()
		if reached {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		case <-c.done:
			return context.Canceled
		}
	}
}
