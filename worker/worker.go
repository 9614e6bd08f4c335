package worker

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"lambent"
	"lambent/runtimes"
	"lambent/sandbox"
	"lambent/worker/codecache"
	"lambent/worker/logstore"
)

// Runtimes knows how to start a function version. Its errors carry the code InvalidRuntime for what this host cannot run.
type Runtimes interface {
	Launch(version *lambent.FunctionVersion) (runtimes.Launch, error)
}

// Placement is what a worker needs of the Placement Service.
type Placement interface {
	Heartbeat(ctx context.Context, status lambent.WorkerStatus) (lambent.WorkerLease, error)
}

// Options configure a worker. ID, MemoryMiB, Drivers, Runtimes, Blobs, Placement and Dir are required. What they refer to stays
// the caller's, and outlives the worker.
type Options struct {
	ID   lambent.WorkerID
	Zone string
	// MemoryMiB is the host's memory for sandboxes. Nothing is started while they use more.
	MemoryMiB int
	// VCPU is the host's CPU for sandboxes. Default: the number of processors.
	VCPU float64
	// Drivers make the sandboxes, each those of one isolation. Their Recover has been called. A version is run under its own
	// isolation or not at all.
	Drivers map[lambent.Isolation]sandbox.Driver
	// Isolation is the one of which sandboxes are kept ready before it is known what is asked for. Default: the weakest that
	// there is a driver for.
	Isolation lambent.Isolation
	// SharedHosts are the isolations that hold between accounts: sandboxes of different accounts are here at the same time only
	// if all of them are under these. nil: lambent.DefaultSharedHosts; empty: the worker is never shared.
	SharedHosts []lambent.Isolation
	// Residents is shared by the workers that are on one host, so that accounts are apart there, too; SharedHosts is not looked
	// at then. Default: the worker's own, for a host that has no other worker.
	Residents *Residents
	Runtimes  Runtimes
	Blobs     lambent.Blobs
	Placement Placement
	// Report tells a manager of sandboxes that ended by themselves. Default: nobody is told, and managers learn it by List or
	// by a claim that is refused.
	Report func(ctx context.Context, manager lambent.ManagerID, report lambent.WorkerReport) error
	// Dir holds unpacked code (code/) and logs (logs/).
	Dir string

	// PoolMin and PoolMax bound the number of ready-made sandboxes of each class (driver, runtime, size) that is in use.
	// Defaults: 2 and 32.
	PoolMin, PoolMax int
	// PoolMiB is how much of the host's memory all ready-made sandboxes may take. Default: a sixteenth of MemoryMiB.
	PoolMiB int
	// FreezeAfter is how long an idle sandbox runs on before it is frozen, so that a busy one never is. Default: 10 ms.
	FreezeAfter time.Duration
	// InitTimeout bounds the initialisation of a runtime before its first invoke. Default: 10 s, as on Lambda.
	InitTimeout time.Duration
	// HeartbeatEvery is the time between heartbeats. Default: 250 ms.
	HeartbeatEvery time.Duration
	// MaxSandboxes bounds how many environments there are at once. Default: 4,096.
	MaxSandboxes int
	// CodeBytes is how much unpacked code is kept on disk unused. Default: 10 GiB.
	CodeBytes int64
	// LogBytes is how much is kept of the logs. Default: 1 GiB.
	LogBytes int64
	// Logger receives what no caller is there to be told. Default: slog.Default().
	Logger *slog.Logger
}

func (o *Options) defaults() error {
	for name, missing := range map[string]bool{"ID": o.ID == "", "MemoryMiB": o.MemoryMiB <= 0,
		"Runtimes": o.Runtimes == nil, "Blobs": o.Blobs == nil, "Placement": o.Placement == nil, "Dir": o.Dir == ""} {
		if missing {
			return fmt.Errorf("open worker: option %s is required", name)
		}
	}
	if err := o.checkDrivers(); err != nil {
		return err
	}
	orDefault(&o.VCPU, float64(runtime.NumCPU()))
	orDefault(&o.PoolMin, 2)
	orDefault(&o.PoolMax, 32)
	orDefault(&o.PoolMiB, max(1, o.MemoryMiB/16))
	orDefault(&o.FreezeAfter, 10*time.Millisecond)
	orDefault(&o.InitTimeout, 10*time.Second)
	orDefault(&o.HeartbeatEvery, 250*time.Millisecond)
	orDefault(&o.MaxSandboxes, 4096)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	o.Logger = o.Logger.With("worker", string(o.ID))
	return nil
}

func orDefault[T comparable](option *T, value T) {
	var zero T
	if *option == zero {
		*option = value
	}
}

// Worker is one host. It implements lambent.Worker.
//
// Invariants, by their numbers in package lambent:
//
//	2  An environment runs one invoke at a time, and no claim of an epoch older than the newest it has seen (environment.begin).
//	3  An environment never changes its version, account or tenant: its StartRequest is final, and its sandbox is destroyed.
//	6  Without a valid lease nothing is started and no invoke begins (Worker.mayStart, Worker.mayInvoke); what runs, ends.
type Worker struct {
	options Options
	logger  *slog.Logger
	boot    string
	code    *codecache.Cache
	logs    *logstore.Store
	pool    *pool
	lease   atomic.Pointer[lease]
	buffers *sync.Pool // of *[readSize]byte

	environments sync.Map // lambent.SandboxID to *environment
	count        atomic.Int64
	busy         atomic.Int64
	faults       *faults
	draining     atomic.Bool

	work   context.Context // ends with Close
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu     sync.Mutex
	closed bool // done takes no more goroutines
}

// Open starts a worker. It sends a first heartbeat, but does not fail when there is no answer.
func Open(options Options) (*Worker, error) {
	if err := options.defaults(); err != nil {
		return nil, err
	}
	w := &Worker{options: options, logger: options.Logger, faults: newFaults(options.Isolation), buffers: &sync.Pool{New: func() any { return new([readSize]byte) }}}
	var random [8]byte
	rand.Read(random[:])
	w.boot = hex.EncodeToString(random[:])
	var err error
	w.code, err = codecache.Open(codecache.Options{Dir: filepath.Join(options.Dir, "code"), Blobs: options.Blobs,
		MaxBytes: options.CodeBytes, Logger: w.logger})
	if err != nil {
		return nil, fmt.Errorf("open worker: %w", err)
	}
	w.logs, err = logstore.Open(logstore.Options{Dir: filepath.Join(options.Dir, "logs"), Owner: string(options.ID),
		MaxBytes: options.LogBytes, Logger: w.logger})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open worker: %w", err), w.code.Close())
	}
	w.work, w.cancel = context.WithCancel(context.Background())
	w.pool = openPool(poolOptions{drivers: options.Drivers, first: options.Isolation, prefix: "s" + w.boot, min: options.PoolMin,
		max: options.PoolMax, budget: float64(options.PoolMiB), logger: w.logger, failed: w.faults.failed,
		withdrawn: w.faults.withdrawn})
	w.heartbeat()
	w.done.Go(w.keepLease)
	w.done.Go(w.watchMemory)
	return w, nil
}

// Drain starts nothing new, waits for running invokes until ctx ends, and destroys all sandboxes. The worker stays open for
// List, Stop and Logs.
func (w *Worker) Drain(ctx context.Context) error {
	w.draining.Store(true)
	var group sync.WaitGroup
	turns := make(chan struct{}, 2*runtime.GOMAXPROCS(0))
	var mu sync.Mutex
	var all []error
	for _, e := range w.all() {
		group.Go(func() {
			e.retire()
			select {
			case <-e.quiet():
			case <-ctx.Done():
			}
			turns <- struct{}{}
			err := w.destroy(e)
			<-turns
			mu.Lock()
			defer mu.Unlock()
			all = append(all, err)
		})
	}
	group.Wait()
	return errors.Join(all...)
}

// Close ends the worker: running invokes are lost, all sandboxes are destroyed, and every goroutine of the worker has ended
// when it returns. For a gentle end, call Drain before.
func (w *Worker) Close() error {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	w.draining.Store(true)
	w.cancel()
	all := []error{w.Drain(ended)}
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.done.Wait()
	all = append(all, w.Drain(ended), w.pool.close(), w.code.Close(), w.logs.Close())
	return errors.Join(all...)
}

// spawn runs f in the background, unless the worker is closed.
func (w *Worker) spawn(f func()) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	w.done.Go(f)
	return true
}

// enter counts a call that Close waits for; the caller calls done.Done at its end.
func (w *Worker) enter() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	w.done.Add(1)
	return true
}

// all returns the environments.
func (w *Worker) all() []*environment {
	var all []*environment
	w.environments.Range(func(_, value any) bool {
		all = append(all, value.(*environment))
		return true
	})
	return all
}

// find returns an environment, nil when there is none.
func (w *Worker) find(id lambent.SandboxID) *environment {
	value, ok := w.environments.Load(id)
	if !ok {
		return nil
	}
	return value.(*environment)
}

// List implements lambent.Worker.
func (w *Worker) List(context.Context) ([]lambent.SandboxStatus, error) {
	all := w.all()
	statuses := make([]lambent.SandboxStatus, 0, len(all))
	for _, e := range all {
		statuses = append(statuses, e.status())
	}
	return statuses, nil
}

// Logs implements lambent.Worker.
func (w *Worker) Logs(ctx context.Context, query lambent.LogQuery) ([]lambent.LogEvent, error) {
	return w.logs.Query(ctx, query)
}
