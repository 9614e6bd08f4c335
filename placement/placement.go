// Package placement chooses workers, grants capacity on them to managers, and watches their health. Its decisions are pure
// functions (choose.go, health.go); this file keeps the state around them.
package placement

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"lambent"
)

// Options configure placement. Zero members have the defaults that are written beside them.
type Options struct {
	LeaseMin, LeaseMax time.Duration // terms of worker leases: 6 and 10 hours
	SuspectAfter       time.Duration // without a heartbeat: 700 ms
	DeadAfter          time.Duration // without a heartbeat: 3 s
	MaxFailures        int           // host faults per boot before a worker is cordoned: 10
	GrantTerm          time.Duration // 10 minutes without use gives a manager's unused grant back
	Seed               uint64        // of the random source; 0: from the clock
	Now                func() time.Time
	Logger             *slog.Logger
}

// Service implements lambent.Placement. State is in memory: workers register again by their heartbeats.
//
// Invariants: a worker's granted copies never exceed what choose allowed; a grant that is freed or whose worker died counts
// no more.
type Service struct {
	options Options

	mu      sync.Mutex
	workers map[lambent.WorkerID]*host
	grants  map[lambent.GrantID]*grant
	random  *rand.Rand
	epoch   uint64
	serial  uint64
}

type host struct {
	status   lambent.WorkerStatus
	heard    time.Time
	epoch    uint64
	expiry   time.Time
	cordoned bool
	drain    bool
	load     load
	copies   map[lambent.FunctionID]int
}

type grant struct {
	worker   lambent.WorkerID
	function lambent.FunctionID
	demand   lambent.Demand
	count    int
}

var _ lambent.Placement = (*Service)(nil)

// Open makes a placement service with no workers.
func Open(o Options) (*Service, error) {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&o.LeaseMin, 6*time.Hour)
	set(&o.LeaseMax, 10*time.Hour)
	set(&o.SuspectAfter, 700*time.Millisecond)
	set(&o.DeadAfter, 3*time.Second)
	set(&o.GrantTerm, 10*time.Minute)
	if o.LeaseMax < o.LeaseMin {
		return nil, errors.New("placement: LeaseMax is below LeaseMin")
	}
	if o.MaxFailures == 0 {
		o.MaxFailures = 10
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Seed == 0 {
		o.Seed = uint64(o.Now().UnixNano())
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Service{options: o, workers: map[lambent.WorkerID]*host{}, grants: map[lambent.GrantID]*grant{},
		random: rand.New(rand.NewPCG(o.Seed, 1))}, nil
}

// Place implements lambent.Placement.
func (s *Service) Place(_ context.Context, req lambent.PlaceRequest) (lambent.Grant, error) {
	if req.Count < 1 {
		return lambent.Grant{}, lambent.Errorf(lambent.Internal, "Placement was asked for %d sandboxes.", req.Count)
	}
	avoid := map[lambent.WorkerID]bool{}
	for _, id := range req.Avoid {
		avoid[id] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.options.Now()
	id, count := choose(s.candidatesLocked(req.Key.Function, now), req.Demand, req.Count, avoid, now, s.random)
	if count == 0 {
		return lambent.Grant{}, lambent.Errorf(lambent.Unavailable, "No worker has room for a sandbox of the function.")
	}
	h := s.workers[id]
	h.load = h.load.with(req.Demand, h.copies[req.Key.Function], count)
	h.copies[req.Key.Function] += count
	s.serial++
	g := lambent.Grant{ID: lambent.GrantID(fmt.Sprintf("g-%d", s.serial)), Worker: id, Zone: h.status.Zone, Count: count, Expires: h.expiry}
	s.grants[g.ID] = &grant{worker: id, function: req.Key.Function, demand: req.Demand, count: count}
	return g, nil
}

func (s *Service) candidatesLocked(function lambent.FunctionID, now time.Time) []candidate {
	candidates := make([]candidate, 0, len(s.workers))
	for id, h := range s.workers {
		candidates = append(candidates, candidate{id: id, zone: h.status.Zone, health: s.healthLocked(h, now), expiry: h.expiry,
			memoryMiB: float64(h.status.MemoryMiB), vcpu: h.status.VCPU, load: h.load, copies: h.copies[function]})
	}
	return candidates
}

// Free implements lambent.Placement.
func (s *Service) Free(_ context.Context, id lambent.GrantID, n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, ok := s.grants[id]
	if !ok {
		return nil
	}
	n = min(n, g.count)
	g.count -= n
	if h, ok := s.workers[g.worker]; ok {
		h.load = h.load.with(g.demand, h.copies[g.function], -n)
		if h.copies[g.function] -= n; h.copies[g.function] <= 0 {
			delete(h.copies, g.function)
		}
		if len(h.copies) == 0 {
			h.load = load{} // rounding does not add up over the years
		}
	}
	if g.count == 0 {
		delete(s.grants, id)
	}
	return nil
}

// Heartbeat implements lambent.Placement.
func (s *Service) Heartbeat(_ context.Context, status lambent.WorkerStatus) (lambent.WorkerLease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.options.Now()
	h, ok := s.workers[status.Worker]
	if !ok || h.status.Boot != status.Boot {
		if ok {
			s.dropGrantsLocked(status.Worker)
		}
		h = &host{copies: map[lambent.FunctionID]int{}}
		s.workers[status.Worker] = h
	}
	term := h.expiry.Sub(now)
	if !h.drain && term < s.options.LeaseMin/2 {
		spread := s.options.LeaseMax - s.options.LeaseMin
		term = s.options.LeaseMin + time.Duration(s.random.Int64N(int64(spread)+1))
		s.epoch++
		h.epoch, h.expiry = s.epoch, now.Add(term)
	}
	h.status, h.heard = status, now
	if status.Failures >= s.options.MaxFailures && !h.cordoned {
		h.cordoned = true
		s.options.Logger.Warn("a worker fails to start sandboxes and is cordoned", "worker", status.Worker, "failures", status.Failures)
	}
	return lambent.WorkerLease{Epoch: h.epoch, Term: max(term, 0), Drain: h.drain}, nil
}

func (s *Service) dropGrantsLocked(worker lambent.WorkerID) {
	for id, g := range s.grants {
		if g.worker == worker {
			delete(s.grants, id)
		}
	}
}

// Workers implements lambent.Placement.
func (s *Service) Workers(context.Context) ([]lambent.WorkerState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.options.Now()
	states := make([]lambent.WorkerState, 0, len(s.workers))
	for _, h := range s.workers {
		state := lambent.WorkerState{Status: h.status, Health: s.healthLocked(h, now), Expiry: h.expiry}
		for _, n := range h.copies {
			state.Grants += n
		}
		states = append(states, state)
	}
	return states, nil
}

// Cordon keeps new sandboxes away from a worker, or, with on false, lets them come again.
func (s *Service) Cordon(id lambent.WorkerID, on bool) error {
	return s.mark(id, func(h *host) { h.cordoned = on })
}

// Drain makes a worker finish what runs and start nothing new.
func (s *Service) Drain(id lambent.WorkerID) error {
	return s.mark(id, func(h *host) { h.drain = true })
}

func (s *Service) mark(id lambent.WorkerID, set func(*host)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, ok := s.workers[id]
	if !ok {
		return lambent.Errorf(lambent.NotFound, "Worker %s is not known.", id)
	}
	set(h)
	return nil
}

func (s *Service) healthLocked(h *host, now time.Time) lambent.WorkerHealth {
	return health(vital{silence: now.Sub(h.heard), lease: h.expiry.Sub(now), cordoned: h.cordoned, draining: h.drain || h.status.Draining},
		s.options.SuspectAfter, s.options.DeadAfter)
}
