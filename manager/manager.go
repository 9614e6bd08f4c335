// Package manager is the Worker Manager of a share of the functions: it knows which of their sandboxes are idle, busy and
// starting, and claims one per invoke. claim.go is the way of a claim; start.go makes sandboxes; keep.go lets go of them.
package manager

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"lambent"
)

// Options are what a manager needs. ID, Placement and Workers are required; other zero members have the defaults that are
// written beside them.
type Options struct {
	ID          lambent.ManagerID
	Placement   lambent.Placement
	Workers     func(lambent.WorkerID) (lambent.Worker, bool)
	Catalog     lambent.Catalog // tells of changed and deleted functions; nil: their sandboxes idle out
	ScaleRate   int             // new sandboxes of a function per 10 s: 1,000
	IdleTimeout time.Duration   // after which an unused sandbox is stopped: 10 minutes
	Sweep       time.Duration   // between looks at idle sandboxes and workers: 200 ms
	Logger      *slog.Logger    // slog.Default()
}

// Manager implements lambent.Manager.
//
// Invariants, each sandbox being in at most one place: idle in its pool's stack, busy under exactly one claim, or handed to
// one waiter. Epochs of a sandbox's claims only grow. A pool starts no more sandboxes than it has waiters.
type Manager struct {
	options Options
	logger  *slog.Logger
	pools   sync.Map // poolKey to *pool
	boxes   sync.Map // lambent.SandboxID to *box
	rates   sync.Map // lambent.FunctionID to *bucket
	claims  atomic.Uint64
	epoch   uint64 // first epoch of new sandboxes, above all that an earlier manager gave
	serial  atomic.Uint64
	boot    string // makes the sandbox IDs of this manager's life unique

	ctx   context.Context
	stop  context.CancelFunc
	tasks sync.WaitGroup
}

var _ lambent.Manager = (*Manager)(nil)

// poolKey is what a sandbox is bound to for life (invariant 3 of package lambent).
type poolKey struct {
	version lambent.VersionKey
	tenant  string
}

// Open starts a manager and adopts the sandboxes that its workers already run for it. Close ends it.
func Open(ctx context.Context, o Options) (*Manager, error) {
	if o.ID == "" || o.Placement == nil || o.Workers == nil {
		return nil, errors.New("manager: ID, Placement and Workers are required")
	}
	if o.ScaleRate == 0 {
		o.ScaleRate = 1000
	}
	if o.IdleTimeout == 0 {
		o.IdleTimeout = 10 * time.Minute
	}
	if o.Sweep == 0 {
		o.Sweep = 200 * time.Millisecond
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	m := &Manager{options: o, logger: o.Logger, boot: bootID(time.Now())}
	m.ctx, m.stop = context.WithCancel(context.Background())
	if err := m.adopt(ctx); err != nil {
		m.stop()
		return nil, err
	}
	m.tasks.Go(m.sweep)
	if o.Catalog != nil {
		m.tasks.Go(m.follow)
	}
	return m, nil
}

// Close ends the manager's goroutines and waits for them. Sandboxes stay with their workers.
func (m *Manager) Close() error {
	m.stop()
	m.tasks.Wait()
	return nil
}

// pool holds the sandboxes of one function version and tenant on all workers.
type pool struct {
	key     poolKey
	version *lambent.FunctionVersion

	mu       sync.Mutex
	idle     []*box // a stack: the sandbox that was used last is warmest
	waiters  []*waiter
	starting int
	grants   []*allowance
	chunk    int  // size of the next grant
	retired  bool // the function changed or is gone: returned sandboxes are stopped
}

// box is one sandbox. Its members below mu belong to the lock of its pool.
type box struct {
	id     lambent.SandboxID
	worker lambent.WorkerID
	grant  lambent.GrantID
	pool   *pool

	epoch    uint64
	claim    lambent.ClaimID // 0: idle
	used     bool
	gone     bool
	lastUsed time.Time
}

// waiter is one Claim that waits. It gets exactly one result, unless it leaves first.
type waiter struct {
	result chan handover // has room for one
}

type handover struct {
	claim lambent.Claim
	err   error
}

// pool returns the pool of a version, which it makes when there is none.
func (m *Manager) pool(version *lambent.FunctionVersion, tenant string) *pool {
	key := poolKey{version.Key, tenant}
	if p, ok := m.pools.Load(key); ok {
		return p.(*pool)
	}
	p, _ := m.pools.LoadOrStore(key, &pool{key: key, version: version, chunk: 1})
	return p.(*pool)
}
