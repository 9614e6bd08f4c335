package managertest

import (
	"context"
	"time"

	"lambent"
)

// Worker is a worker of a Region.
type Worker struct {
	ID     lambent.WorkerID
	region *Region

	// guarded by region.mu
	room    int
	health  lambent.WorkerHealth
	boot    string
	short   bool
	refused time.Time // when somebody last found no room
	boxes   map[lambent.SandboxID]*box
	starts  int
	onStart func(context.Context, lambent.StartRequest) error
}

type box struct {
	req      lambent.StartRequest
	phase    lambent.SandboxPhase
	epoch    uint64
	lastUsed time.Time
}

// OnStart sets what happens in Start before the sandbox is ready; an error fails it. Default: nothing.
func (w *Worker) OnStart(f func(context.Context, lambent.StartRequest) error) {
	w.region.mu.Lock()
	defer w.region.mu.Unlock()
	w.onStart = f
}

// Starts returns how often Start was called.
func (w *Worker) Starts() int {
	w.region.mu.Lock()
	defer w.region.mu.Unlock()
	return w.starts
}

// SetShort says that placement lacks room there.
func (w *Worker) SetShort(short bool) {
	w.region.mu.Lock()
	defer w.region.mu.Unlock()
	w.short = short
}

// Reboot ends all sandboxes, as when the worker's host starts anew.
func (w *Worker) Reboot(boot string) {
	w.region.SetHealth(w.ID, lambent.WorkerDead)
	w.region.mu.Lock()
	defer w.region.mu.Unlock()
	w.boot, w.health = boot, lambent.WorkerHealthy
}

// Lose ends one sandbox without a word to anybody.
func (w *Worker) Lose(id lambent.SandboxID) {
	w.region.mu.Lock()
	defer w.region.mu.Unlock()
	delete(w.boxes, id)
}

// Start implements lambent.Worker.
func (w *Worker) Start(ctx context.Context, req lambent.StartRequest) error {
	r := w.region
	r.mu.Lock()
	w.starts++
	if _, exists := w.boxes[req.Sandbox]; exists || req.Version == nil || req.Epoch == 0 {
		r.faultLocked("a start of %+v", req)
	}
	if r.void[req.Grant] {
		r.mu.Unlock()
		return lambent.Errorf(lambent.Unavailable, "The grant is of the worker's former life.")
	}
	if g, ok := r.grants[req.Grant]; !ok || g.worker != w || g.count < 1 {
		r.faultLocked("a start under grant %s, which is not there", req.Grant)
	}
	b := &box{req: req, phase: lambent.SandboxStarting, epoch: req.Epoch, lastUsed: time.Now()}
	w.boxes[req.Sandbox] = b
	wait := w.onStart
	r.mu.Unlock()
	var err error
	if wait != nil {
		err = wait(ctx, req)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		delete(w.boxes, req.Sandbox)
		return err
	}
	if w.boxes[req.Sandbox] != b {
		return lambent.Errorf(lambent.Unavailable, "The sandbox was stopped while it started.")
	}
	b.phase = lambent.SandboxIdle
	return nil
}

// Begin begins an invoke under a claim, and End ends it. Begin refuses claims as a worker does, and notes a claim that runs
// into another one of the same manager.
func (w *Worker) Begin(claim lambent.Claim, key lambent.VersionKey) error {
	r := w.region
	r.mu.Lock()
	defer r.mu.Unlock()
	b, ok := w.boxes[claim.Sandbox]
	switch {
	case !ok:
		return lambent.Errorf(lambent.SandboxGone, "There is no sandbox %s.", claim.Sandbox)
	case b.req.Version.Key != key:
		r.faultLocked("sandbox %s of %v was claimed for %v", claim.Sandbox, b.req.Version.Key, key)
		return lambent.Errorf(lambent.SandboxGone, "The sandbox is of another version.")
	case claim.Epoch <= b.epoch:
		return lambent.Errorf(lambent.StaleEpoch, "Epoch %d is not after %d.", claim.Epoch, b.epoch)
	case b.phase != lambent.SandboxIdle:
		if b.req.Manager == claim.Manager && !b.adopted(claim) {
			r.faultLocked("sandbox %s was claimed while it was %s", claim.Sandbox, b.phase)
		}
		return lambent.Errorf(lambent.StaleEpoch, "The sandbox is %s.", b.phase)
	}
	b.phase, b.epoch = lambent.SandboxBusy, claim.Epoch
	return nil
}

// adopted says whether the claim is of a manager that took the sandbox over since its last claim: its epoch has jumped.
func (b *box) adopted(claim lambent.Claim) bool { return claim.Epoch-b.epoch > 1000 }

// End ends an invoke that Begin began. gone destroys the sandbox.
func (w *Worker) End(claim lambent.Claim, gone bool) {
	w.region.mu.Lock()
	defer w.region.mu.Unlock()
	b, ok := w.boxes[claim.Sandbox]
	switch {
	case !ok:
	case gone:
		delete(w.boxes, claim.Sandbox)
	default:
		b.phase, b.lastUsed = lambent.SandboxIdle, time.Now()
	}
}

// Invoke implements lambent.Worker. The answer is the request's payload.
func (w *Worker) Invoke(_ context.Context, req lambent.WorkerInvoke) (lambent.WorkerResult, error) {
	if err := w.Begin(req.Claim, req.Key); err != nil {
		return lambent.WorkerResult{}, err
	}
	w.End(req.Claim, false)
	return lambent.WorkerResult{Response: lambent.InvokeResponse{Payload: req.Request.Payload}, Outcome: lambent.OutcomeIdle}, nil
}

// Stop implements lambent.Worker.
func (w *Worker) Stop(_ context.Context, id lambent.SandboxID, epoch uint64) error {
	w.region.mu.Lock()
	defer w.region.mu.Unlock()
	b, ok := w.boxes[id]
	if !ok {
		return nil
	}
	if b.phase == lambent.SandboxBusy {
		if b.epoch > epoch {
			return lambent.Errorf(lambent.StaleEpoch, "The sandbox runs a newer claim.")
		}
		w.region.faultLocked("sandbox %s was stopped while it ran an invoke", id)
	}
	delete(w.boxes, id)
	return nil
}

// List implements lambent.Worker.
func (w *Worker) List(ctx context.Context) ([]lambent.SandboxStatus, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w.region.mu.Lock()
	defer w.region.mu.Unlock()
	var all []lambent.SandboxStatus
	for id, b := range w.boxes {
		all = append(all, lambent.SandboxStatus{
			Sandbox: id, Key: b.req.Version.Key, Function: b.req.Version.FunctionName, Tenant: b.req.Tenant, Manager: b.req.Manager,
			Grant: b.req.Grant, Epoch: b.epoch, Phase: b.phase, MemoryMiB: b.req.Version.MemoryMiB, LastUsed: b.lastUsed,
		})
	}
	return all, nil
}

// Logs implements lambent.Worker: there are none.
func (w *Worker) Logs(context.Context, lambent.LogQuery) ([]lambent.LogEvent, error) { return nil, nil }
