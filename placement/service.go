package placement

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"lambent"
)

// Options are the settings of a Service. All of them may be left zero.
type Options struct {
	// SuspectAfter is how long a worker may be silent before it gets nothing new. Workers send a heartbeat every 250 ms or
	// so. Default: 700 ms.
	SuspectAfter time.Duration
	// DeadAfter is how long a worker may be silent before it and all its sandboxes are given up. Default: 3 s.
	DeadAfter time.Duration
	// ForgetAfter is how long a dead worker is still told of. Default: an hour.
	ForgetAfter time.Duration
	// LeaseMin and LeaseMax bound the terms of leases and grants; each is drawn anew between them, so that they do not run
	// out together. Default: 6 h and 10 h.
	LeaseMin, LeaseMax time.Duration
	// Spare is the share of each worker's capacity that is used only when nothing else is left, so that there is room for
	// bursts and for the load of a lost zone. Default: 0.1.
	Spare float64
	// SharedHosts are the isolations that hold between accounts: sandboxes of different accounts are on one worker at the same
	// time only if all of them are under these. nil: lambent.DefaultSharedHosts; empty: no worker is shared.
	SharedHosts []lambent.Isolation
	// Seed makes the random choices repeatable. Default: a random one.
	Seed uint64
	// Logger is told about workers that come, go and fall ill. Default: nothing is logged.
	Logger *slog.Logger
}

// Service is the Placement Service of a region. It is safe for use by many goroutines; its methods answer from memory.
//
// Invariants: the load of a worker in the snapshot is the sum of its grants; a worker is open in the snapshot exactly while it
// is healthy; a dead worker has no grants; accounts share workers as tenancy has it.
type Service struct {
	options Options
	log     *slog.Logger

	mu      sync.Mutex
	random  *rand.Rand
	region  snapshot
	workers map[lambent.WorkerID]*worker
	order   []*worker // in the order in which they registered
	grants  map[lambent.GrantID]*grant
	copies  map[copies]*group
	serial  uint64    // of the last grant and lease; grows over restarts, as it starts at the time
	swept   time.Time // when sweep last ran

	stop context.CancelFunc
	done sync.WaitGroup
}

// worker is one worker, as the service knows it.
type worker struct {
	*host
	status   lambent.WorkerStatus
	vitals   vitals
	health   lambent.WorkerHealth
	term     time.Duration
	epoch    uint64
	grants   map[lambent.GrantID]*grant
	failures []failure

	drained    bool      // an operator wants it empty
	mustEmpty  bool      // its lease ran out: what it runs has to end before it is used again
	shortUntil time.Time // it is said to be short of room until then
}

// grant is room on a worker that a manager holds.
type grant struct {
	id      lambent.GrantID
	worker  *worker
	copies  copies
	who     lambent.Resident
	demand  demand // of each sandbox; all grants of the same copies have about the same
	count   int
	expires time.Time
}

// copies are the sandboxes of one version that one manager started: what it learns of one of them holds for all.
type copies struct {
	manager lambent.ManagerID
	version lambent.VersionKey
}

// group is the grants of such copies, and about what each sandbox in them is expected to use.
type group struct {
	demand demand
	grants map[lambent.GrantID]*grant
}

var _ lambent.Placement = (*Service)(nil)

const (
	maxGrant = 64 // sandboxes in one grant
	// grantGrace is for how long after a grant's end its room stays taken: the last invokes end in it.
	grantGrace   = 20 * time.Minute
	shortFor     = time.Second
	sweepEvery   = 100 * time.Millisecond
	refusalRetry = time.Second
)

// Open starts a Service that knows no worker yet: they register with their heartbeats. The caller closes it.
func Open(options Options) (*Service, error) {
	options.SuspectAfter = cmp.Or(options.SuspectAfter, 700*time.Millisecond)
	options.DeadAfter = cmp.Or(options.DeadAfter, 3*time.Second)
	options.ForgetAfter = cmp.Or(options.ForgetAfter, time.Hour)
	options.LeaseMin = cmp.Or(options.LeaseMin, 6*time.Hour)
	options.LeaseMax = cmp.Or(options.LeaseMax, max(options.LeaseMin, 10*time.Hour))
	options.Spare = cmp.Or(options.Spare, 0.1)
	if options.SharedHosts == nil {
		options.SharedHosts = lambent.DefaultSharedHosts()
	}
	options.Seed = cmp.Or(options.Seed, rand.Uint64())
	switch {
	case options.DeadAfter < options.SuspectAfter:
		return nil, errors.New("placement: DeadAfter is less than SuspectAfter")
	case options.LeaseMax < options.LeaseMin:
		return nil, errors.New("placement: LeaseMax is less than LeaseMin")
	case options.Spare < 0 || options.Spare >= 1:
		return nil, errors.New("placement: Spare is a share from 0 to less than 1")
	}
	now := time.Now()
	s := &Service{
		options: options,
		log:     cmp.Or(options.Logger, slog.New(slog.DiscardHandler)),
		random:  rand.New(rand.NewPCG(options.Seed, 0)),
		region:  snapshot{shared: options.SharedHosts},
		workers: make(map[lambent.WorkerID]*worker),
		grants:  make(map[lambent.GrantID]*grant),
		copies:  make(map[copies]*group),
		serial:  uint64(now.UnixMicro()),
		swept:   now,
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.done.Go(func() { s.sweepLoop(ctx) })
	return s, nil
}

// Close ends the service's goroutine and waits for it.
func (s *Service) Close() error {
	s.stop()
	s.done.Wait()
	return nil
}

// Place implements lambent.Placement.
func (s *Service) Place(ctx context.Context, req lambent.PlaceRequest) (lambent.Grant, error) {
	if err := ctx.Err(); err != nil {
		return lambent.Grant{}, err
	}
	want := wanted{
		function: req.Key.Function,
		who:      lambent.Resident{Account: req.Account, Isolation: req.Isolation},
		demand:   demandOf(req.Demand),
		count:    min(max(1, req.Count), maxGrant),
		avoid:    req.Avoid,
		spare:    s.options.Spare,
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	of := copies{req.Manager, req.Key}
	s.reviseLocked(of, want.demand)
	h, count := choose(&s.region, want, now, s.random)
	if h == nil {
		return lambent.Grant{}, s.refuseLocked(want, now)
	}
	w := s.workers[h.id]
	s.serial++
	g := &grant{
		id:      lambent.GrantID("g" + strconv.FormatUint(s.serial, 36)),
		worker:  w,
		copies:  of,
		who:     want.who,
		demand:  want.demand,
		count:   count,
		expires: now.Add(s.termLocked()),
	}
	g.load(count)
	s.grants[g.id], w.grants[g.id] = g, g
	if s.copies[of] == nil {
		s.copies[of] = &group{g.demand, make(map[lambent.GrantID]*grant)}
	}
	s.copies[of].grants[g.id] = g
	return lambent.Grant{ID: g.id, Worker: h.id, Zone: h.zone.name, Count: count, Expires: g.expires}, nil
}

// reviseLocked corrects what a manager's copies of a version are expected to use when the manager has learnt that it is something
// else: what was granted while little was known would keep room from others, or promise them room that is in use.
func (s *Service) reviseLocked(of copies, now demand) {
	all := s.copies[of]
	if all == nil || !now.differs(all.demand) {
		return
	}
	all.demand = now
	for _, g := range all.grants {
		g.worker.add(of.version.Function, g.demand, -g.count)
		g.demand = now
		g.worker.add(of.version.Function, g.demand, g.count)
	}
}

// load changes the load of the grant's worker by n of its sandboxes. n may be negative.
func (g *grant) load(n int) {
	g.worker.add(g.copies.version.Function, g.demand, n)
	g.worker.tenancy.hold(g.who, n)
}

// forgetLocked ends a grant that has no load any more.
func (s *Service) forgetLocked(g *grant) {
	delete(s.grants, g.id)
	delete(g.worker.grants, g.id)
	all := s.copies[g.copies]
	delete(all.grants, g.id)
	if len(all.grants) == 0 {
		delete(s.copies, g.copies)
	}
}

// refuseLocked notes where room is missing, and returns the error for it.
func (s *Service) refuseLocked(want wanted, now time.Time) error {
	if short := closest(&s.region, want); short != nil {
		s.workers[short.id].shortUntil = now.Add(shortFor)
	}
	if len(s.order) > 0 && !s.offeredLocked(want.who.Isolation) {
		return lambent.Errorf(lambent.InvalidRuntime,
			"The function is to run under the isolation %s, and no worker of this region offers that. It is not run under another.", want.who.Isolation)
	}
	refusal := lambent.Errorf(lambent.Unavailable, "No worker has room for another sandbox of this function.")
	refusal.RetryAfter = refusalRetry
	return refusal
}

// offeredLocked tells whether any worker that is known, well or not, has a driver for an isolation.
func (s *Service) offeredLocked(isolation lambent.Isolation) bool {
	return slices.ContainsFunc(s.order, func(w *worker) bool { return slices.Contains(w.status.Drivers, isolation) })
}

// Free implements lambent.Placement.
func (s *Service) Free(ctx context.Context, id lambent.GrantID, n int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g, ok := s.grants[id]
	if !ok || n <= 0 {
		return nil
	}
	n = min(n, g.count)
	g.count -= n
	g.load(-n)
	if g.count == 0 {
		s.forgetLocked(g)
	}
	return nil
}

// Workers implements lambent.Placement. Workers are told in the order in which they first registered.
func (s *Service) Workers(ctx context.Context) ([]lambent.WorkerState, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	states := make([]lambent.WorkerState, 0, len(s.order))
	for _, w := range s.order {
		s.judgeLocked(w, now)
		granted := 0
		for _, g := range w.grants {
			granted += g.count
		}
		states = append(states, lambent.WorkerState{
			Status: w.status, Health: w.health, Grants: granted, Expiry: w.vitals.leaseEnd, Short: now.Before(w.shortUntil),
		})
	}
	return states, nil
}

// termLocked draws the term of a lease or grant.
func (s *Service) termLocked() time.Duration {
	return s.options.LeaseMin + time.Duration(s.random.Float64()*float64(s.options.LeaseMax-s.options.LeaseMin))
}
