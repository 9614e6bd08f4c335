package placement

import (
	"context"
	"slices"
	"time"

	"lambent"
)

// Heartbeat implements lambent.Placement. Each heartbeat renews the lease for its whole term.
func (s *Service) Heartbeat(ctx context.Context, status lambent.WorkerStatus) (lambent.WorkerLease, error) {
	if err := ctx.Err(); err != nil {
		return lambent.WorkerLease{}, err
	}
	if status.Worker == "" || status.Boot == "" {
		return lambent.WorkerLease{}, lambent.Errorf(lambent.InvalidParameter, "A heartbeat names the worker and its boot.")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	w, known := s.workers[status.Worker]
	switch {
	case !known:
		w = s.registerLocked(status)
	case w.status.Boot != status.Boot || w.status.Zone != status.Zone:
		s.rebootLocked(w, status)
	case !now.Before(w.vitals.leaseEnd):
		s.log.Warn("a worker's lease had run out: it is used again when it is empty", "worker", status.Worker)
		s.dropGrantsLocked(w)
		s.leaseLocked(w)
		w.mustEmpty = true
	default:
		if more := status.Failures - w.status.Failures; more > 0 {
			w.failures = append(recentFailures(w.failures, now), failure{now, more})
		}
	}
	w.mustEmpty = w.mustEmpty && status.Sandboxes > 0
	w.status = status
	w.capacity = resources{memory: float64(max(0, status.MemoryMiB)), vcpu: max(0, status.VCPU)}
	w.resident = float64(max(0, status.UsedMiB))
	w.tenancy.offers, w.tenancy.residents = status.Drivers, status.Residents
	w.leaseEnd = now.Add(w.term)
	w.vitals.seen, w.vitals.leaseEnd = now, w.leaseEnd
	s.judgeLocked(w, now)
	return lambent.WorkerLease{Epoch: w.epoch, Term: w.term, Drain: w.drained || w.mustEmpty}, nil
}

// registerLocked takes in a worker that was not known.
func (s *Service) registerLocked(status lambent.WorkerStatus) *worker {
	w := &worker{
		host:   s.region.newHost(status.Worker, status.Zone),
		health: lambent.WorkerDead, // until it is judged
		grants: make(map[lambent.GrantID]*grant),
	}
	s.workers[status.Worker] = w
	s.order = append(s.order, w)
	s.leaseLocked(w)
	return w
}

// rebootLocked takes in a worker that was started anew, with nothing running. Only what operators want of it stays.
func (s *Service) rebootLocked(w *worker, status lambent.WorkerStatus) {
	s.dropGrantsLocked(w)
	w.setOpen(false)
	w.host = s.region.newHost(status.Worker, status.Zone)
	w.failures, w.mustEmpty, w.health, w.shortUntil = nil, false, lambent.WorkerDead, time.Time{}
	s.leaseLocked(w)
}

// leaseLocked gives a worker a lease of a new epoch.
func (s *Service) leaseLocked(w *worker) {
	s.serial++
	w.epoch, w.term = s.serial, s.termLocked()
}

func (s *Service) dropGrantsLocked(w *worker) {
	for _, g := range w.grants {
		s.forgetLocked(g)
	}
	w.clear()
}

// Cordon keeps new sandboxes away from a worker. What it runs stays. NotFound when there is no such worker.
func (s *Service) Cordon(id lambent.WorkerID) error {
	return s.operate(id, func(w *worker) { w.vitals.cordoned = true })
}

// Uncordon takes back Cordon and Drain, and forgets failures that made the worker look bad.
func (s *Service) Uncordon(id lambent.WorkerID) error {
	return s.operate(id, func(w *worker) { w.vitals.cordoned, w.drained, w.failures = false, false, nil })
}

// Drain lets a worker finish what it runs, start nothing new, and end what is idle.
func (s *Service) Drain(id lambent.WorkerID) error {
	return s.operate(id, func(w *worker) { w.drained = true })
}

func (s *Service) operate(id lambent.WorkerID, change func(*worker)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	w, ok := s.workers[id]
	if !ok {
		return lambent.Errorf(lambent.NotFound, "There is no worker %q.", id)
	}
	change(w)
	s.judgeLocked(w, time.Now())
	return nil
}

// judgeLocked brings a worker's health up to date, and all that follows from it.
func (s *Service) judgeLocked(w *worker, now time.Time) {
	w.vitals.draining = w.status.Draining || w.drained || w.mustEmpty
	w.vitals.bad = len(w.failures) > 0 && isBad(w.failures, now) && s.mayBeBadLocked(w)
	after := health(w.vitals, now, s.options.SuspectAfter, s.options.DeadAfter)
	if after == w.health {
		return
	}
	s.log.Info("a worker's health changed", "worker", w.id, "from", w.health, "to", after, "bad", w.vitals.bad)
	w.health = after
	w.setOpen(after == lambent.WorkerHealthy)
	if after == lambent.WorkerDead {
		s.dropGrantsLocked(w)
	}
}

// mayBeBadLocked says whether one more worker may be kept away because it looks bad.
func (s *Service) mayBeBadLocked(w *worker) bool {
	bad := 1
	for _, other := range s.order {
		if other != w && other.vitals.bad {
			bad++
		}
	}
	return bad*badShare <= len(s.order)
}

func (s *Service) sweepLoop(ctx context.Context) {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			s.sweep(now)
		}
	}
}

// sweep judges all workers, ends grants that have run out, and forgets workers that died long ago. Time in which this process
// itself did not run, because the host slept or was overloaded, does not count as the workers' silence.
func (s *Service) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slept := now.Sub(s.swept) - 2*sweepEvery
	s.swept = now
	for _, w := range s.order {
		if slept > 0 {
			w.vitals.seen = w.vitals.seen.Add(slept)
		}
		s.judgeLocked(w, now)
		s.endGrantsLocked(w, now)
	}
	s.order = slices.DeleteFunc(s.order, func(w *worker) bool {
		if w.health != lambent.WorkerDead || now.Sub(w.vitals.seen) < s.options.ForgetAfter {
			return false
		}
		delete(s.workers, w.id)
		return true
	})
}

func (s *Service) endGrantsLocked(w *worker, now time.Time) {
	for _, g := range w.grants {
		if now.Sub(g.expires) >= grantGrace {
			g.load(-g.count)
			s.forgetLocked(g)
		}
	}
}
