package lambent

import (
	"context"
	"io"
	"time"
)

// The interfaces below are the process boundaries of a region. In one process they are Go calls; between hosts, package
// rpc carries them. What passes through them is plain data. All of them may be called by many goroutines at once, honour
// the context's end, and return errors that carry a Code. None of them is called with a lock held.

// FrontEnd is Front End Invoke: it runs one invoke from the caller's request to the function's answer.
//
// A function that fails, times out or runs out of memory is an answer with FunctionError set. An error means that the
// platform did not run the function (NotFound, AccessDenied, Throttled, Conflict for a function that is Pending or Failed,
// InvalidContent, TooLarge, InvalidRuntime, Unavailable), or that it lost it while it ran (HostLost). No request is run
// twice (invariant 4).
type FrontEnd interface {
	Invoke(ctx context.Context, req InvokeRequest) (InvokeResponse, error)
}

// Catalog is the stream of function metadata that the control plane offers to the data plane.
type Catalog interface {
	// Watch delivers all that exists, then CatalogSynced, then each change, in order, until ctx ends; then it closes the
	// channel. A receiver that is too slow gets CatalogReset and a full delivery. Events are shared and read-only.
	Watch(ctx context.Context) (<-chan CatalogEvent, error)
	// Revision returns the metadata store's revision now, linearizably. A front end that does not know a name asks for it
	// and waits until its watch has come as far before it says NotFound.
	Revision(ctx context.Context) (int64, error)
}

// Counter admits invokes, within the limits of function and account. It is the front end's side of the Counting Service:
// an acquire that finds a credit at hand sends no message.
type Counter interface {
	// Acquire takes one unit of concurrency of the function and of its account. The error is Throttled with its Reason when
	// a limit is reached, Unavailable when no quorum can be asked. The slot is released once; later calls do nothing.
	Acquire(ctx context.Context, fn FunctionName, id FunctionID) (Slot, error)
}

// Slot is one unit of concurrency in use. Release never blocks and sends nothing that the caller waits for.
type Slot interface{ Release() }

// Manager is the Worker Manager of a share of the functions: it owns the state of their sandboxes.
type Manager interface {
	// Claim finds a sandbox of the version for one invoke: an idle one, else whichever comes first of a new one and one that
	// is returned. It waits as long as ctx allows. Errors: Throttled when the function's scale rate is exhausted,
	// InvalidRuntime, Unavailable when there is no capacity. Ownership of the claim passes to the caller, which must Return it.
	Claim(ctx context.Context, req ClaimRequest) (Claim, error)
	// Return ends a claim. It is idempotent, never blocks on another host, and a claim of a former manager is ignored.
	Return(claim Claim, outcome Outcome)
	// Report tells of sandboxes that ended by themselves and of a worker's state. Reports of one worker arrive in order.
	Report(ctx context.Context, report WorkerReport) error
}

// ClaimRequest asks for a sandbox. Tenant is empty unless the function isolates tenants.
type ClaimRequest struct {
	Version   *FunctionVersion
	Tenant    string
	RequestID string
}

// WorkerReport tells a manager what happened to its sandboxes on a worker outside of a claim.
type WorkerReport struct {
	Worker WorkerID
	Gone   []SandboxID
	Lost   bool // the worker itself is dead or cut off: all its sandboxes are gone
}

// Placement chooses workers, grants capacity on them to managers, and watches their health.
type Placement interface {
	// Place grants room for up to req.Count sandboxes of one version on one worker, at least one, that offers the version's
	// isolation and where the account may be. Unavailable: nothing fits now. InvalidRuntime: there are workers, and none of
	// them offers the isolation.
	Place(ctx context.Context, req PlaceRequest) (Grant, error)
	// Free gives back n of a grant's sandboxes. Idempotent only in that more than was granted frees no more.
	Free(ctx context.Context, id GrantID, n int) error
	// Heartbeat registers a worker, reports its load, and renews its lease. A worker whose lease has run out is dead to the
	// region until it heartbeats again, with nothing running.
	Heartbeat(ctx context.Context, status WorkerStatus) (WorkerLease, error)
	// Workers returns the state of every known worker, cordoned and dead ones included.
	Workers(ctx context.Context) ([]WorkerState, error)
}

// Demand is what one sandbox of a function is expected to use while it is busy.
type Demand struct {
	MemoryMiB, MemoryDeviation float64
	VCPU, VCPUDeviation        float64
}

// PlaceRequest asks for room for Count sandboxes of one version.
type PlaceRequest struct {
	Manager   ManagerID
	Key       VersionKey
	Account   string
	Isolation Isolation // only workers that offer it are chosen
	Demand    Demand
	Count     int
	Avoid     []WorkerID // workers that just refused or failed
}

// Grant is room for Count sandboxes of one version on a worker, until Expires.
type Grant struct {
	ID      GrantID
	Worker  WorkerID
	Zone    string
	Count   int
	Expires time.Time
}

// WorkerStatus is a worker's heartbeat.
type WorkerStatus struct {
	Worker    WorkerID
	Zone      string
	Boot      string // differs after each start of the worker
	MemoryMiB int    // capacity for sandboxes
	VCPU      float64
	Sandboxes int
	Busy      int
	UsedMiB   int // resident memory of all sandboxes
	Draining  bool
	Failures  int // sandbox starts that failed through a fault of the host, since Boot
	Drivers   []Isolation
	Residents []Resident // whose sandboxes are on the worker's host, and under what; in no order, each once
}

// WorkerLease is the right of a worker to start new sandboxes, for Term from when the heartbeat was sent. Terms are 6 to 10
// hours, jittered; a worker counts a term on its own monotonic clock.
type WorkerLease struct {
	Epoch uint64
	Term  time.Duration
	Drain bool // finish what runs and start nothing new
}

// WorkerHealth is what placement thinks of a worker.
type WorkerHealth string

// The healths of a worker.
const (
	WorkerHealthy  WorkerHealth = "healthy"
	WorkerSuspect  WorkerHealth = "suspect"  // heartbeats are late: nothing new goes there
	WorkerCordoned WorkerHealth = "cordoned" // an operator or bad-worker detection keeps new sandboxes away
	WorkerDraining WorkerHealth = "draining"
	WorkerDead     WorkerHealth = "dead"
)

// WorkerState is a worker as placement sees it.
type WorkerState struct {
	Status WorkerStatus
	Health WorkerHealth
	Grants int // sandboxes granted
	Expiry time.Time
	Short  bool // a sandbox found no room, and this worker lacked least: managers give up what is idle there
}

// Worker is one host: the authority on its own sandboxes.
type Worker interface {
	// Start makes a sandbox for a version, under the version's isolation and no other, and initialises its runtime. It returns
	// when the runtime has asked for its first event, or when its initialisation has failed or passed 10 s; the failure is then
	// met again, and reported, by the first invoke, as Lambda does. Errors: Unavailable (no lease, no room, draining, the
	// isolation is not offered, or another account's sandboxes are there that this one's may not be beside: try another
	// worker), InvalidRuntime (the host has no such runtime), Internal. Starting a sandbox that exists is an error.
	Start(ctx context.Context, req StartRequest) error
	// Invoke runs one invoke under a claim. SandboxGone and StaleEpoch mean that nothing was run. When ctx ends before the
	// function has answered, the invoke goes on as Lambda's does, and its result is thrown away.
	Invoke(ctx context.Context, req WorkerInvoke) (WorkerResult, error)
	// Stop destroys a sandbox, gently within 2 s. It is idempotent, and refuses one that runs a claim of a newer epoch.
	Stop(ctx context.Context, id SandboxID, epoch uint64) error
	// List returns all sandboxes, so that a manager can rebuild its state.
	List(ctx context.Context) ([]SandboxStatus, error)
	// Logs returns log events that this worker holds, oldest first. Log lines are shipped behind the invoke that wrote them.
	Logs(ctx context.Context, query LogQuery) ([]LogEvent, error)
}

// LogQuery selects log events. Zero members select all.
type LogQuery struct {
	Account string
	Group   string
	Stream  string
	Start   time.Time // inclusive
	End     time.Time // exclusive
	After   string    // the ID of an event: only later ones
	Limit   int       // 0: 10,000
}

// LogEvent is one line of a function's log.
type LogEvent struct {
	ID      string // grows with time, unique in its group
	Account string
	Group   string
	Stream  string
	Time    time.Time
	Message string // without its line feed
}

// StartRequest asks a worker to make a sandbox.
type StartRequest struct {
	Sandbox SandboxID
	Grant   GrantID
	Manager ManagerID
	Epoch   uint64
	Version *FunctionVersion
	Tenant  string
}

// SandboxPhase is the state of a sandbox on its worker.
type SandboxPhase string

// The phases of a sandbox.
const (
	SandboxStarting SandboxPhase = "starting"
	SandboxIdle     SandboxPhase = "idle"
	SandboxBusy     SandboxPhase = "busy"
	SandboxDraining SandboxPhase = "draining"
)

// SandboxStatus is one sandbox as its worker knows it.
type SandboxStatus struct {
	Sandbox   SandboxID
	Key       VersionKey
	Function  FunctionName
	Tenant    string
	Manager   ManagerID
	Grant     GrantID
	Epoch     uint64
	Phase     SandboxPhase
	MemoryMiB int
	Started   time.Time
	LastUsed  time.Time
}

// Blobs reads immutable content by its digest, on a worker and elsewhere.
type Blobs interface {
	// Open returns the content with a lower-case hex SHA-256. The reader must check nothing: Open's reader fails instead of
	// giving content of another digest. NotFound when there is none. The caller closes the reader.
	Open(ctx context.Context, sha256 string) (io.ReadCloser, error)
}
