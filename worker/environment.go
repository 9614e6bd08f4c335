package worker

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"lambent"
	"lambent/runtimes"
	"lambent/sandbox"
	"lambent/worker/codecache"
	"lambent/worker/runtimeapi"
)

// environment is an execution environment: one sandbox that is bound to one function version until it is destroyed.
//
//	          Start          begin          end
//	(none) --------> starting ----> idle <-------> busy
//	                    |            |              |
//	                    `-- retire --+---- retire --'        (Stop, Drain, a lost lease, a sandbox that cannot be reset)
//	                                 v
//	                             retired ---> destroyed
//
// Invariants: request, version and box never change; epoch never decreases; the processes (process, meter, initial) are owned from
// begin to end by one goroutine, the invoke's, and in between by who holds mu.
type environment struct {
	worker  *Worker
	request lambent.StartRequest
	version *lambent.FunctionVersion
	created time.Time
	journal journal

	// Set while starting.
	entered bool // it is among the worker's residents
	box     sandbox.Sandbox
	warm    *warmRuntime // that runs in box already; nil: none, or it has been told its environment
	aged    bool         // box was made ahead of need
	api     *runtimeapi.Server
	output  *output
	launch  runtimes.Launch
	command sandbox.Command
	program *fault // why there is no program to start; nil: there is
	trees   []*codecache.Tree
	context context.Context // ends when the environment is destroyed
	cancel  context.CancelFunc
	started chan struct{} // closed when Start is done with it

	// Owned by who starts it, then by the invoke that runs.
	process *process      // nil: to be started by the next invoke
	initial time.Duration // what the first invoke reports as Init Duration
	meter   meter
	line    []byte // room for log lines
	event   runtimeapi.Event

	usedBytes atomic.Int64 // of memory, when last looked at
	lookedAt  atomic.Int64 // Unix nanoseconds

	mu       sync.Mutex
	phase    lambent.SandboxPhase
	epoch    uint64 // the newest that was seen
	claimed  bool   // a claim of that epoch has run
	retired  bool   // no invoke begins any more
	frozen   bool
	lastUsed time.Time
	overdue  time.Time // when the runtime has to have asked for its next event
	freezer  *time.Timer
	calm     chan struct{} // closed when no invoke runs any more, after retire; nil: nobody asked
	destroy  func() error  // once
}

// newEnvironment makes an environment in its first phase.
func (w *Worker) newEnvironment(request lambent.StartRequest) *environment {
	now := time.Now()
	e := &environment{worker: w, request: request, version: request.Version, created: now, lastUsed: now,
		journal: newJournal(request.Version.Logging, request.Tenant), phase: lambent.SandboxStarting, epoch: request.Epoch, started: make(chan struct{})}
	e.context, e.cancel = context.WithCancel(context.Background())
	e.destroy = sync.OnceValue(e.destroyNow)
	e.freezer = time.AfterFunc(time.Hour, e.freezeIfIdle)
	e.freezer.Stop()
	return e
}

// streamName makes the name of a log stream, which is new for each environment.
func streamName(version *lambent.FunctionVersion, now time.Time) string {
	var random [16]byte
	rand.Read(random[:])
	name := ""
	if version.Logging.Group != "" && version.Logging.Group != defaultGroup(version) {
		name = version.Name // groups that functions share tell them apart
	}
	return now.UTC().Format("2006/01/02/") + name + "[" + version.Key.Version + "]" + hex.EncodeToString(random[:])
}

func defaultGroup(version *lambent.FunctionVersion) string { return "/aws/lambda/" + version.Name }

func (e *environment) status() lambent.SandboxStatus {
	e.mu.Lock()
	defer e.mu.Unlock()
	phase := e.phase
	if e.retired {
		phase = lambent.SandboxDraining
	}
	return lambent.SandboxStatus{Sandbox: e.request.Sandbox, Key: e.version.Key, Function: e.version.FunctionName, Tenant: e.request.Tenant,
		Manager: e.request.Manager, Grant: e.request.Grant, Epoch: e.epoch, Phase: phase, MemoryMiB: e.version.MemoryMiB,
		Started: e.created, LastUsed: e.lastUsed}
}

// begin takes the environment for one invoke, and thaws it. It is where invariant 2 holds.
func (e *environment) begin(invoke *lambent.WorkerInvoke) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	claim := &invoke.Claim
	switch {
	case e.retired || e.phase == lambent.SandboxStarting:
		return e.gone("it is " + string(lambent.SandboxDraining))
	case invoke.Key != e.version.Key || invoke.Request.TenantID != e.request.Tenant:
		return e.gone("it belongs to another version or tenant")
	case claim.Epoch < e.epoch || claim.Epoch == e.epoch && e.claimed:
		return lambent.Errorf(lambent.StaleEpoch, "The claim's epoch %d is not newer than the sandbox's, %d", claim.Epoch, e.epoch)
	case e.phase == lambent.SandboxBusy:
		return lambent.Errorf(lambent.StaleEpoch, "The sandbox runs the claim of epoch %d", e.epoch)
	}
	e.freezer.Stop()
	if e.frozen {
		if err := e.box.Thaw(); err != nil {
			e.retired = true
			e.worker.failed(e, err)
			return lambent.Wrap(lambent.SandboxGone, err, "The sandbox %s could not be thawed", e.request.Sandbox)
		}
		e.frozen = false
	}
	e.phase, e.epoch, e.claimed = lambent.SandboxBusy, claim.Epoch, true
	e.worker.busy.Add(1)
	return nil
}

func (e *environment) gone(why string) error {
	return lambent.Errorf(lambent.SandboxGone, "The sandbox %s cannot run the invoke: %s", e.request.Sandbox, why)
}

// end gives the environment back after an invoke or its start. The runtime has time until overdue to ask for its next event.
// usable is false when the environment must be destroyed.
func (e *environment) end(now, overdue time.Time, usable bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.phase == lambent.SandboxBusy {
		e.worker.busy.Add(-1)
	}
	e.phase, e.lastUsed, e.overdue = lambent.SandboxIdle, now, overdue
	e.retired = e.retired || !usable
	if e.retired {
		if e.calm != nil {
			close(e.calm)
			e.calm = nil
		}
		return
	}
	after := e.worker.options.FreezeAfter
	if e.process != nil && e.process.dead() {
		after = 0 // what it has left behind is to be ended
	}
	e.freezer.Reset(after)
}

// runtimeReady is called when the runtime asks for an event that nobody has for it yet.
func (e *environment) runtimeReady() {
	e.mu.Lock()
	due := e.phase == lambent.SandboxIdle && time.Since(e.lastUsed) >= e.worker.options.FreezeAfter
	e.mu.Unlock()
	if due {
		e.freezeIfIdle()
	}
}

// freezeIfIdle freezes an idle environment. A runtime that has not asked for its next event yet runs on, but no longer than the
// invoke before was allowed to; then, or when it has ended by itself, all its processes are ended.
func (e *environment) freezeIfIdle() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.phase != lambent.SandboxIdle || e.retired || e.frozen || e.process == nil {
		return
	}
	ready := e.api.Ready()
	if left := time.Until(e.overdue); !ready && left > 0 && !e.process.dead() {
		e.freezer.Reset(left)
		return
	}
	var err error
	if ready && !e.process.dead() {
		err = e.box.Freeze()
		e.frozen = err == nil
	} else {
		err = e.reset()
	}
	if err != nil {
		e.retired = true
		e.worker.failed(e, err)
	}
}

// retire lets no further invoke begin.
func (e *environment) retire() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.retired = true
	e.freezer.Stop()
}

// retireIdle retires the environment if nothing runs in it, and tells whether it did.
func (e *environment) retireIdle() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.phase != lambent.SandboxIdle || e.retired {
		return false
	}
	e.retired = true
	e.freezer.Stop()
	return true
}

// quiet returns a channel that is closed when no invoke runs. The environment is retired.
func (e *environment) quiet() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.phase == lambent.SandboxBusy {
		if e.calm == nil {
			e.calm = make(chan struct{})
		}
		return e.calm
	}
	closed := make(chan struct{})
	close(closed)
	return closed
}

// destroy ends a retired environment and removes what is left of it. It is idempotent.
func (w *Worker) destroy(e *environment) error {
	err := e.destroy()
	if w.environments.CompareAndDelete(e.request.Sandbox, e) {
		w.count.Add(-1)
		if e.entered && err == nil { // else something of it may live on
			w.options.Residents.leave(e.resident())
		}
	}
	return err
}

// destroyNow does so once. It ends an invoke that runs.
func (e *environment) destroyNow() error {
	e.retire()
	e.cancel()
	<-e.started // which cancel has cut short
	var all []error
	if e.box != nil {
		all = append(all, e.box.Destroy(context.Background()))
	}
	if e.warm != nil {
		e.warm.release()
	}
	if e.api != nil {
		all = append(all, e.api.Close())
	}
	if e.output != nil {
		if errors.Join(all...) == nil { // else something may live on and keep its pipe open
			e.output.readers.Wait()
		}
		e.output.stream.Close()
	}
	for _, tree := range e.trees {
		tree.Release()
	}
	if err := errors.Join(all...); err != nil {
		return fmt.Errorf("destroy sandbox %s: %w", e.request.Sandbox, err)
	}
	return nil
}

// failed destroys an environment that has failed outside of an invoke, and tells its manager.
func (w *Worker) failed(e *environment, cause error) {
	w.spawn(func() {
		w.discard(e, cause)
		w.tell(e.request.Manager, []lambent.SandboxID{e.request.Sandbox})
	})
}

// discard destroys an environment that has failed.
func (w *Worker) discard(e *environment, cause error) {
	w.logger.Error("a sandbox has failed and is destroyed", "sandbox", string(e.request.Sandbox), "error", errors.Join(cause, w.destroy(e)))
}

// meter holds a sandbox's meters. Reading them costs dozens of microseconds, so that short invokes in a row share a reading.
type meter struct {
	read    time.Time
	cpu     time.Duration // at the last reading
	peakMiB int
	share   time.Duration // CPU of each of the invokes before the last reading
	invokes int           // since
}

// meterEvery is how old a reading may be.
const meterEvery = 50 * time.Millisecond

// measure notes the end of an invoke, and reads the meters if that is due.
func (e *environment) measure(now time.Time, due bool) {
	m := &e.meter
	m.invokes++
	if !due && now.Sub(m.read) < meterEvery {
		return
	}
	usage, err := e.box.Usage()
	if err != nil {
		e.worker.logger.Debug("the meters of a sandbox cannot be read", "sandbox", string(e.request.Sandbox), "error", err)
		return
	}
	m.share = max(0, usage.CPU-m.cpu) / time.Duration(m.invokes)
	m.read, m.cpu, m.invokes = now, usage.CPU, 0
	e.lookedAt.Store(now.UnixNano())
	m.peakMiB = int(min((max(usage.PeakMemoryBytes, usage.MemoryBytes)+1<<20-1)>>20, int64(e.version.MemoryMiB)))
	e.usedBytes.Store(usage.MemoryBytes)
}

// lookAgain is how old the memory that heartbeats tell of may be.
const lookAgain = 2 * time.Second

// lookAtMemory reads the memory of an environment that has not been looked at for long: it may be in a long invoke.
func (e *environment) lookAtMemory(now time.Time) bool {
	if now.UnixNano()-e.lookedAt.Load() < int64(lookAgain) {
		return false
	}
	e.mu.Lock()
	running := !e.frozen && !e.retired && e.phase != lambent.SandboxStarting
	e.mu.Unlock()
	if !running {
		return false
	}
	e.lookedAt.Store(now.UnixNano())
	usage, err := e.box.Usage()
	if err != nil {
		return false // it is being destroyed
	}
	e.usedBytes.Store(usage.MemoryBytes)
	return true
}
