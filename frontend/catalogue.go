package frontend

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"lambent"
)

const (
	rewatchAfter = 100 * time.Millisecond // the watch has broken
	// askEvery bounds how often the store is asked for its revision, whatever names callers invent.
	askEvery = 10 * time.Millisecond
)

// catalogue is a copy of the function catalogue that a watch keeps up to date. While a watch is broken or delivers everything
// anew, the copy as it was goes on serving.
type catalogue struct {
	source  lambent.Catalog
	timeout time.Duration // of callers
	log     *slog.Logger

	current atomic.Pointer[table] // nil before the first delivery
	synced  chan struct{}         // closes after the first delivery

	mu       sync.Mutex
	revision int64         // the copy holds all changes up to this one of the store
	moved    chan struct{} // closes when revision grows; nil when nobody waits
	next     *question     // that nobody has begun to ask; nil when nobody wants to know
	asking   bool          // a goroutine asks
	closing  bool

	running context.Context // ends when the catalogue is closed
	stop    context.CancelFunc
	tasks   sync.WaitGroup
}

// question is a request for the store's revision, shared by all who came before it was asked.
type question struct {
	answered chan struct{}
	err      error // set before answered closes
}

func openCatalogue(source lambent.Catalog, timeout time.Duration, log *slog.Logger) *catalogue {
	c := &catalogue{source: source, timeout: timeout, log: log, synced: make(chan struct{})}
	c.running, c.stop = context.WithCancel(context.Background())
	c.tasks.Go(c.follow)
	return c
}

func (c *catalogue) close() {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	c.stop()
	c.tasks.Wait()
}

// find returns a function by its name, nil if the copy does not hold it.
func (c *catalogue) find(name lambent.FunctionName) *function { return c.current.Load().find(name) }

// ready waits for the first delivery.
func (c *catalogue) ready(ctx context.Context) error {
	select {
	case <-c.synced:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-c.running.Done():
		return c.running.Err()
	}
}

// firstDelivery waits for the first delivery as long as an invoke may.
func (c *catalogue) firstDelivery(ctx context.Context) error {
	if c.current.Load() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if err := c.ready(ctx); err != nil {
		return lambent.Wrap(lambent.Unavailable, err, "The functions are not loaded yet. Please try again.")
	}
	return nil
}

// follow watches until the catalogue is closed.
func (c *catalogue) follow() {
	for c.running.Err() == nil {
		events, err := c.source.Watch(c.running)
		if err == nil {
			c.take(events)
		}
		if c.running.Err() != nil {
			return
		}
		c.log.Warn("the watch of the catalogue ended and begins again", "error", err)
		select {
		case <-time.After(rewatchAfter):
		case <-c.running.Done():
		}
	}
}

// take takes in one watch, to its end.
func (c *catalogue) take(events <-chan lambent.CatalogEvent) {
	filling := make(draft) // nil when the delivery is complete
	for event := range events {
		switch {
		case event.Kind == lambent.CatalogReset:
			filling = make(draft)
		case event.Kind == lambent.CatalogSynced && filling != nil:
			first := c.current.Swap(newTable(filling)) == nil
			filling = nil
			if first {
				close(c.synced)
			}
		case filling != nil:
			filling.apply(event)
		default:
			c.current.Load().apply(event)
		}
		if filling == nil {
			c.advance(event.Revision)
		}
	}
}

// advance notes how far the copy has come.
func (c *catalogue) advance(revision int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if revision <= c.revision {
		return
	}
	c.revision = revision
	if c.moved != nil {
		close(c.moved)
		c.moved = nil
	}
}

// catchUp returns when the copy holds all that the store held when catchUp was called. However many call it, the store is asked
// by one at a time, and not often; each caller shares a question that is asked after it came.
func (c *catalogue) catchUp(ctx context.Context) error {
	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
		return lambent.Errorf(lambent.Unavailable, "The front end is shutting down.")
	}
	if c.next == nil {
		c.next = &question{answered: make(chan struct{})}
	}
	mine := c.next
	if !c.asking {
		c.asking = true
		c.tasks.Go(c.ask)
	}
	c.mu.Unlock()
	var err error
	select {
	case <-mine.answered:
		err = mine.err
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return lambent.Wrap(lambent.Unavailable, err, "Whether the function exists cannot be told now. Please try again.")
	}
	return nil
}

// ask answers questions until there is none.
func (c *catalogue) ask() {
	for {
		c.mu.Lock()
		q := c.next
		c.next = nil
		c.asking = q != nil
		c.mu.Unlock()
		if q == nil {
			return
		}
		q.err = c.reach()
		close(q.answered)
		select {
		case <-time.After(askEvery):
		case <-c.running.Done():
		}
	}
}

// reach waits until the copy has come as far as the store is now.
func (c *catalogue) reach() error {
	ctx, cancel := context.WithTimeout(c.running, c.timeout)
	defer cancel()
	revision, err := c.source.Revision(ctx)
	if err != nil {
		return err
	}
	for {
		c.mu.Lock()
		if c.revision >= revision {
			c.mu.Unlock()
			return nil
		}
		if c.moved == nil {
			c.moved = make(chan struct{})
		}
		moved := c.moved
		c.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
