package manager

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"lambent"
)

// Options are what a Manager needs. ID, Placement and Workers are required.
type Options struct {
	ID        lambent.ManagerID
	Placement lambent.Placement
	// Workers returns a worker by its identity; false when it is not known, or not any more.
	Workers func(lambent.WorkerID) (lambent.Worker, bool)
	// Catalog tells which functions were changed or deleted, so that their sandboxes end. Default: none; a new revision is
	// noticed when it is claimed, and sandboxes of deleted functions idle out.
	Catalog lambent.Catalog
	// Owns says whether a function is this manager's, so that it adopts the function's sandboxes from whoever started them.
	// Default: the sandboxes that a manager of this ID started are adopted.
	Owns func(lambent.FunctionID) bool
	// ScaleRate is how many new sandboxes a function may get in 10 s. Default: 1,000.
	ScaleRate int
	// IdleTimeout is how long a sandbox may be unused before it is stopped. Default: 10 min.
	IdleTimeout time.Duration
	// Patience is how long a claim waits for room on the workers. Default: 5 s.
	Patience time.Duration
	// PollInterval is how often placement is asked for the workers' health. Default: 200 ms.
	PollInterval time.Duration
	// Logger is told about what goes wrong. Default: nothing is logged.
	Logger *slog.Logger
}

// Manager implements lambent.Manager.
//
// Invariants, all of them kept under the lock of the one pool that they are about:
//   - A sandbox is starting, idle, busy under exactly one claim, or gone; gone for good.
//   - The epochs of a sandbox's claims grow.
//   - Every waiter has a sandbox under way for it: a pool has at most as many waiters as starts.
//   - Nobody waits while a sandbox that can be used is idle.
//   - The idle sandboxes of a pool are ordered by when they were used last, the longest unused first.
type Manager struct {
	options Options
	log     *slog.Logger

	pools     *shards[poolKey, *pool]
	sandboxes *shards[lambent.SandboxID, *sandbox]
	claims    atomic.Uint64 // the last claim's ID
	evicted   atomic.Int64  // when a sandbox was last stopped to make room, in Unix nanoseconds
	closed    atomic.Bool

	mu        sync.Mutex // taken before a pool's lock, never while one is held
	functions map[lambent.FunctionID]*function

	hosts hosts

	running context.Context // ends when the Manager is closed
	stop    context.CancelFunc
	tasks   tasks
}

// function is what the versions of one function share.
type function struct {
	id      lambent.FunctionID
	rate    *bucket
	pools   map[poolKey]*pool // guarded by Manager.mu
	current map[string]string // version to the revision that the catalogue has told last; guarded by Manager.mu
}

var _ lambent.Manager = (*Manager)(nil)

// Open starts a manager, and adopts the sandboxes of its functions that the workers already run; workers that do not answer
// are asked again later. ctx bounds the opening only. The caller closes the Manager.
func Open(ctx context.Context, options Options) (*Manager, error) {
	if options.ID == "" || options.Placement == nil || options.Workers == nil {
		return nil, errors.New("manager: ID, Placement and Workers are required")
	}
	options.ScaleRate = cmp.Or(options.ScaleRate, 1000)
	options.IdleTimeout = cmp.Or(options.IdleTimeout, 10*time.Minute)
	options.Patience = cmp.Or(options.Patience, 5*time.Second)
	options.PollInterval = cmp.Or(options.PollInterval, 200*time.Millisecond)
	if options.ScaleRate < 0 || options.IdleTimeout < 0 || options.Patience < 0 || options.PollInterval < 0 {
		return nil, errors.New("manager: ScaleRate, IdleTimeout, Patience and PollInterval are not negative")
	}
	m := &Manager{
		options:   options,
		log:       cmp.Or(options.Logger, slog.New(slog.DiscardHandler)),
		pools:     newShards[poolKey, *pool](),
		sandboxes: newShards[lambent.SandboxID, *sandbox](),
		functions: make(map[lambent.FunctionID]*function),
	}
	m.claims.Store(rand.Uint64() >> 1) // not those of an earlier life
	m.hosts.byID = make(map[lambent.WorkerID]*host)
	m.running, m.stop = context.WithCancel(context.Background())
	m.poll(ctx, true)
	m.tasks.start(m.pollLoop)
	m.tasks.start(m.reapLoop)
	if options.Catalog != nil {
		m.tasks.start(m.follow)
	}
	return m, nil
}

// Close fails the claims that wait, ends the manager's goroutines and waits for them. Sandboxes stay with their workers, for
// the next manager to adopt.
func (m *Manager) Close() error {
	m.closed.Store(true)
	m.stop()
	m.pools.each(func(_ poolKey, p *pool) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.failWaitersLocked(len(p.waiters), errClosing())
	})
	m.tasks.wait()
	return nil
}

func errClosing() error {
	return lambent.Errorf(lambent.Unavailable, "The worker manager is shutting down.")
}

// lockPool returns the pool of a version and tenant with its lock held. It makes the pool when there is none.
func (m *Manager) lockPool(key poolKey) *pool {
	for {
		p, ok := m.pools.load(key)
		if !ok {
			p = m.makePool(key)
		}
		p.mu.Lock()
		if !p.removed {
			return p
		}
		p.mu.Unlock() // it was removed between the two: make another
	}
}

// makePool makes a pool, unless somebody else just did. A revision that is seen for the first time supersedes the others of
// the same version, unless the catalogue knows better.
func (m *Manager) makePool(key poolKey) *pool {
	m.mu.Lock()
	if p, ok := m.pools.load(key); ok {
		m.mu.Unlock()
		return p
	}
	fn, ok := m.functions[key.version.Function]
	if !ok {
		fn = &function{
			id:      key.version.Function,
			rate:    newBucket(m.options.ScaleRate, rateWindow, time.Now()),
			pools:   make(map[poolKey]*pool),
			current: make(map[string]string),
		}
		m.functions[fn.id] = fn
	}
	p := &pool{key: key, function: fn, made: time.Now(), used: time.Now()}
	var superseded []*pool
	if current, ok := fn.current[key.version.Version]; !ok || current == key.version.Revision {
		for other, older := range fn.pools {
			if other.version.Version == key.version.Version && other.version.Revision != key.version.Revision {
				superseded = append(superseded, older)
			}
		}
	}
	fn.pools[key] = p
	m.pools.store(key, p)
	m.mu.Unlock()
	for _, older := range superseded {
		m.retire(older)
	}
	return p
}

// removePool forgets a pool that has nothing and is wanted by nobody.
func (m *Manager) removePool(p *pool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.removed || !p.emptyLocked() {
		return
	}
	p.removed = true
	m.pools.remove(p.key)
	delete(p.function.pools, p.key)
	if len(p.function.pools) == 0 && p.function.rate.full(time.Now()) {
		delete(m.functions, p.function.id)
	}
}

// tasks are goroutines that Close waits for.
type tasks struct {
	mu      sync.Mutex
	waiting bool // no task begins any more
	running sync.WaitGroup
}

// start runs f in a goroutine, unless wait was called.
func (t *tasks) start(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.waiting {
		t.running.Go(f)
	}
}

func (t *tasks) wait() {
	t.mu.Lock()
	t.waiting = true
	t.mu.Unlock()
	t.running.Wait()
}
