package worker

import (
	"context"
	"time"

	"lambent"
)

// lease is the right to start sandboxes. Its end is on this host's monotonic clock, counted from before the heartbeat was sent,
// so that it ends here no later than where it was granted.
type lease struct {
	lambent.WorkerLease
	end time.Time
}

func (l *lease) valid(now time.Time) bool { return l != nil && now.Before(l.end) }

// mayInvoke tells whether an invoke may begin (invariant 6).
func (w *Worker) mayInvoke(now time.Time) bool {
	l := w.lease.Load()
	return l.valid(now) && !w.draining.Load()
}

// mayStart says why nothing may be started, nil if something may (invariant 6).
func (w *Worker) mayStart(now time.Time) error {
	l := w.lease.Load()
	switch {
	case w.draining.Load() || l != nil && l.Drain:
		return lambent.Errorf(lambent.Unavailable, "The worker is draining")
	case !l.valid(now):
		return lambent.Errorf(lambent.Unavailable, "The worker holds no lease")
	case w.count.Load() >= int64(w.options.MaxSandboxes):
		return lambent.Errorf(lambent.Unavailable, "The worker has as many sandboxes as it may have")
	case w.usedMiB() >= w.options.MemoryMiB:
		return lambent.Errorf(lambent.Unavailable, "The worker's memory is in use")
	}
	return nil
}

// everyBeat does something in the rhythm of heartbeats until the worker is closed.
func (w *Worker) everyBeat(do func()) {
	ticker := time.NewTicker(w.options.HeartbeatEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-w.work.Done():
			return
		}
		do()
	}
}

// keepLease sends heartbeats.
func (w *Worker) keepLease() {
	w.everyBeat(func() {
		w.heartbeat()
		l := w.lease.Load()
		if l != nil && (l.Drain || !l.valid(time.Now())) {
			w.dropIdle()
		}
	})
}

// watchMemory looks at the sandboxes' memory. Heartbeats do not wait for it: a guest may be slow to tell, or may not want to.
func (w *Worker) watchMemory() {
	w.everyBeat(func() { w.lookAtMemory(time.Now()) })
}

// looksPerBeat bounds how many sandboxes are looked at for one heartbeat.
const looksPerBeat = 16

// lookAtMemory brings what is known of the sandboxes' memory up to date, a few at a time.
func (w *Worker) lookAtMemory(now time.Time) {
	looks := 0
	w.environments.Range(func(_, value any) bool {
		if value.(*environment).lookAtMemory(now) {
			looks++
		}
		return looks < looksPerBeat
	})
}

// heartbeat tells placement of this worker, and renews the lease.
func (w *Worker) heartbeat() {
	ctx, cancel := context.WithTimeout(w.work, max(time.Second, 4*w.options.HeartbeatEvery))
	defer cancel()
	sent := time.Now()
	granted, err := w.options.Placement.Heartbeat(ctx, w.status())
	if err != nil {
		if w.work.Err() == nil {
			w.logger.Debug("placement did not take a heartbeat", "error", err)
		}
		return
	}
	w.lease.Store(&lease{WorkerLease: granted, end: sent.Add(granted.Term)})
}

func (w *Worker) status() lambent.WorkerStatus {
	l := w.lease.Load()
	return lambent.WorkerStatus{Worker: w.options.ID, Zone: w.options.Zone, Boot: w.boot, MemoryMiB: w.options.MemoryMiB,
		VCPU: w.options.VCPU, Sandboxes: int(w.count.Load()), Busy: int(w.busy.Load()), UsedMiB: w.usedMiB(),
		Draining: w.draining.Load() || l != nil && l.Drain, Failures: w.faults.count(),
		Drivers: w.offered(time.Now()), Residents: w.options.Residents.all()}
}

// usedMiB is what all sandboxes used when they were last looked at.
func (w *Worker) usedMiB() int {
	used := int64(0)
	w.environments.Range(func(_, value any) bool {
		used += value.(*environment).usedBytes.Load()
		return true
	})
	return int(used >> 20)
}

// dropIdle destroys the sandboxes that run nothing, and tells their managers. Those that run something follow when they are
// done.
func (w *Worker) dropIdle() {
	gone := map[lambent.ManagerID][]lambent.SandboxID{}
	for _, e := range w.all() {
		if !e.retireIdle() {
			continue
		}
		if err := w.destroy(e); err != nil {
			w.logger.Error("a sandbox could not be destroyed", "sandbox", string(e.request.Sandbox), "error", err)
		}
		gone[e.request.Manager] = append(gone[e.request.Manager], e.request.Sandbox)
	}
	for manager, sandboxes := range gone {
		w.tell(manager, sandboxes)
	}
}

// tell reports sandboxes that are gone to their manager.
func (w *Worker) tell(manager lambent.ManagerID, gone []lambent.SandboxID) {
	if w.options.Report == nil {
		return
	}
	ctx, cancel := context.WithTimeout(w.work, 5*time.Second)
	defer cancel()
	err := w.options.Report(ctx, manager, lambent.WorkerReport{Worker: w.options.ID, Gone: gone})
	if err != nil && w.work.Err() == nil {
		w.logger.Warn("a manager could not be told of sandboxes that are gone", "manager", string(manager), "error", err)
	}
}
