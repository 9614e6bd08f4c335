package frontendtest

import (
	"context"
	"fmt"
	"sync"

	"lambent"
)

// Region is all that a front end talks to, in memory: a catalogue, a counter, a manager and a worker. It notes what a front
// end must never do.
type Region struct {
	mu       sync.Mutex
	revision int64
	events   []lambent.CatalogEvent // what exists, in the order of its changes
	watchers map[chan lambent.CatalogEvent]chan struct{}
	held     bool // changes are not delivered
	away     bool // the metadata store cannot be asked
	asked    int

	limit   int
	slots   int
	claims  map[lambent.ClaimID]lambent.Claim
	serial  lambent.ClaimID
	refusal error // of Claim
	onRun   func(context.Context, lambent.WorkerInvoke) (lambent.WorkerResult, error)
	runs    map[string]int // request IDs that reached a function
	lost    bool
	remote  bool
	faults  []string
}

// NewRegion makes a region without functions, whose worker answers with the request's payload.
func NewRegion() *Region {
	return &Region{
		limit: 1000, claims: make(map[lambent.ClaimID]lambent.Claim), runs: make(map[string]int),
		watchers: make(map[chan lambent.CatalogEvent]chan struct{}),
	}
}

var (
	_ lambent.Catalog = (*Region)(nil)
	_ lambent.Counter = (*Region)(nil)
	_ lambent.Manager = (*Region)(nil)
	_ lambent.Worker  = (*worker)(nil)
)

// Manager returns the manager of every function.
func (r *Region) Manager(lambent.FunctionID) lambent.Manager { return r }

// Worker returns the only worker, unless it is lost.
func (r *Region) Worker(id lambent.WorkerID) (lambent.Worker, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &worker{region: r}, id == "worker" && !r.lost
}

// Faults returns what the front end did and must never do.
func (r *Region) Faults() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	faults := append([]string(nil), r.faults...)
	for id, n := range r.runs {
		if n > 1 {
			faults = append(faults, fmt.Sprintf("request %s was run %d times", id, n))
		}
	}
	return faults
}

// Held returns how many slots and claims are held.
func (r *Region) Held() (slots, claims int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.slots, len(r.claims)
}

// Runs returns how often a request reached a function.
func (r *Region) Runs(requestID string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.runs[requestID]
}

// Asked returns how often the metadata store was asked for its revision.
func (r *Region) Asked() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

// Set changes the region under its lock.
func (r *Region) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

// SetLimit limits how many invokes may run at once.
func (r *Region) SetLimit(n int) { r.set(func() { r.limit = n }) }

// SetRefusal makes claims fail; nil lets them succeed.
func (r *Region) SetRefusal(err error) { r.set(func() { r.refusal = err }) }

// SetLost makes the worker unknown.
func (r *Region) SetLost(lost bool) { r.set(func() { r.lost = lost }) }

// SetAway makes the metadata store fail.
func (r *Region) SetAway(away bool) { r.set(func() { r.away = away }) }

// SetRemote says that the front end reaches manager and worker over a wire: the worker's panics are then errors, and the manager
// may be told of a claim's end late and more than once.
func (r *Region) SetRemote(remote bool) { r.set(func() { r.remote = remote }) }

func (r *Region) isRemote() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.remote
}

// OnRun sets what the worker does with an invoke. Default: it answers with the request's payload.
func (r *Region) OnRun(f func(context.Context, lambent.WorkerInvoke) (lambent.WorkerResult, error)) {
	r.set(func() { r.onRun = f })
}

// Acquire implements lambent.Counter.
func (r *Region) Acquire(ctx context.Context, _ lambent.FunctionName, id lambent.FunctionID) (lambent.Slot, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if id == "" {
		r.faults = append(r.faults, "a slot was taken for no function")
	}
	if r.slots >= r.limit {
		return nil, &lambent.Error{Code: lambent.Throttled, Reason: lambent.ConcurrentLimit, Message: "Rate Exceeded."}
	}
	r.slots++
	return &slot{region: r}, nil
}

type slot struct {
	region *Region
	once   sync.Once
}

// Release implements lambent.Slot.
func (s *slot) Release() { s.once.Do(func() { s.region.set(func() { s.region.slots-- }) }) }

// Claim implements lambent.Manager.
func (r *Region) Claim(ctx context.Context, req lambent.ClaimRequest) (lambent.Claim, error) {
	if err := ctx.Err(); err != nil {
		return lambent.Claim{}, lambent.Wrap(lambent.Unavailable, err, "The request ended.")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refusal != nil {
		return lambent.Claim{}, r.refusal
	}
	if r.slots == 0 || req.Version == nil {
		r.faults = append(r.faults, "a claim without a slot or version")
	}
	r.serial++
	claim := lambent.Claim{ID: r.serial, Manager: "manager", Worker: "worker", Sandbox: lambent.SandboxID(fmt.Sprint("sandbox-", r.serial)), Epoch: 2}
	r.claims[claim.ID] = claim
	return claim, nil
}

// Return implements lambent.Manager.
func (r *Region) Return(claim lambent.Claim, outcome lambent.Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, held := r.claims[claim.ID]; r.remote && !held && claim.ID != 0 && claim.ID <= r.serial {
		return // told again, as a wire may: it is idempotent
	}
	if r.claims[claim.ID] != claim || outcome != lambent.OutcomeIdle && outcome != lambent.OutcomeGone {
		r.faults = append(r.faults, fmt.Sprintf("claim %+v was returned with outcome %d", claim, outcome))
	}
	if r.slots == 0 && !r.remote {
		r.faults = append(r.faults, "a claim was returned after its slot")
	}
	delete(r.claims, claim.ID)
}

// Report implements lambent.Manager.
func (r *Region) Report(context.Context, lambent.WorkerReport) error { return nil }

// worker is the region's worker.
type worker struct {
	lambent.Worker // what a front end has no business with
	region         *Region
}

// Invoke implements lambent.Worker.
func (w *worker) Invoke(ctx context.Context, req lambent.WorkerInvoke) (lambent.WorkerResult, error) {
	r := w.region
	r.mu.Lock()
	if r.claims[req.Claim.ID] != req.Claim {
		r.faults = append(r.faults, fmt.Sprintf("an invoke under claim %+v, which is not held", req.Claim))
	}
	run := r.onRun
	r.mu.Unlock()
	if run != nil {
		return run(ctx, req)
	}
	return r.Run(req), nil
}

// Run counts a run of the request, and answers it with its payload.
func (r *Region) Run(req lambent.WorkerInvoke) lambent.WorkerResult {
	r.set(func() { r.runs[req.Request.RequestID]++ })
	return lambent.WorkerResult{Response: lambent.InvokeResponse{Payload: req.Request.Payload}, Outcome: lambent.OutcomeIdle}
}
