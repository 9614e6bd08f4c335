package managertest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"lambent"
)

// Region is a placement service and workers for managers to be tested with. They work, in memory, and note what a manager must
// never do.
type Region struct {
	mu      sync.Mutex
	workers map[lambent.WorkerID]*Worker
	order   []*Worker
	grants  map[lambent.GrantID]*grant
	void    map[lambent.GrantID]bool // on workers that died
	serial  int
	places  int
	faults  []string
	remote  bool
}

type grant struct {
	worker *Worker
	count  int
}

var (
	_ lambent.Placement = (*Region)(nil)
	_ lambent.Worker    = (*Worker)(nil)
)

// NewRegion makes a region with workers that have room for so many sandboxes each.
func NewRegion(room int, workers ...lambent.WorkerID) *Region {
	r := &Region{workers: make(map[lambent.WorkerID]*Worker), grants: make(map[lambent.GrantID]*grant), void: make(map[lambent.GrantID]bool)}
	for _, id := range workers {
		w := &Worker{region: r, ID: id, room: room, health: lambent.WorkerHealthy, boot: "first", boxes: make(map[lambent.SandboxID]*box)}
		r.workers[id] = w
		r.order = append(r.order, w)
	}
	return r
}

// Worker returns a worker of the region, for lambent.Manager's use; a dead one is not known.
func (r *Region) Worker(id lambent.WorkerID) (lambent.Worker, bool) {
	w := r.Fake(id)
	r.mu.Lock()
	defer r.mu.Unlock()
	return w, w != nil && w.health != lambent.WorkerDead
}

// Fake returns a worker, for the test's use.
func (r *Region) Fake(id lambent.WorkerID) *Worker {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.workers[id]
}

// SetRemote says that the manager is reached over a wire: a claim may overtake the return of another caller.
func (r *Region) SetRemote(remote bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.remote = remote
}

// surplus is how many sandboxes there may be for so many invokes at once.
func (r *Region) surplus(clients int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.remote {
		return clients
	}
	return 0
}

// Faults returns what managers did and must never do.
func (r *Region) Faults() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.faults...)
}

// Granted returns for how many sandboxes room is granted, and how often placement was asked for some.
func (r *Region) Granted() (sandboxes, calls int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range r.grants {
		sandboxes += g.count
	}
	return sandboxes, r.places
}

// Sandboxes returns how many sandboxes all workers have.
func (r *Region) Sandboxes() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, w := range r.order {
		n += len(w.boxes)
	}
	return n
}

// SetHealth sets what placement thinks of a worker. A dead worker loses all sandboxes and grants.
func (r *Region) SetHealth(id lambent.WorkerID, health lambent.WorkerHealth) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.workers[id]
	w.health = health
	if health != lambent.WorkerDead {
		return
	}
	clear(w.boxes)
	for id, g := range r.grants {
		if g.worker == w {
			delete(r.grants, id)
			r.void[id] = true
		}
	}
}

// SetRoom sets for how many sandboxes a worker has room.
func (r *Region) SetRoom(id lambent.WorkerID, room int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.workers[id].room = room
}

func (r *Region) faultLocked(format string, args ...any) {
	r.faults = append(r.faults, fmt.Sprintf(format, args...))
}

// Place implements lambent.Placement: the worker with most room is chosen.
func (r *Region) Place(ctx context.Context, req lambent.PlaceRequest) (lambent.Grant, error) {
	if err := ctx.Err(); err != nil {
		return lambent.Grant{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.places++
	if req.Count < 1 || req.Manager == "" || req.Key.Function == "" || req.Demand.MemoryMiB <= 0 || !req.Isolation.Known() {
		r.faultLocked("placement was asked for %+v", req)
	}
	avoid := make(map[lambent.WorkerID]bool)
	for _, id := range req.Avoid {
		avoid[id] = true
	}
	var best *Worker
	var most int
	for _, w := range r.order {
		if free := w.room - r.grantedLocked(w); !avoid[w.ID] && w.health == lambent.WorkerHealthy && free > most {
			best, most = w, free
		}
	}
	if best == nil {
		for _, w := range r.order {
			w.refused = time.Now()
		}
		return lambent.Grant{}, lambent.Errorf(lambent.Unavailable, "The region is full.")
	}
	r.serial++
	g := lambent.Grant{ID: lambent.GrantID(fmt.Sprint("grant-", r.serial)), Worker: best.ID, Count: min(req.Count, most), Expires: time.Now().Add(6 * time.Hour)}
	r.grants[g.ID] = &grant{best, g.Count}
	return g, nil
}

func (r *Region) grantedLocked(w *Worker) (n int) {
	for _, g := range r.grants {
		if g.worker == w {
			n += g.count
		}
	}
	return n
}

// Free implements lambent.Placement.
func (r *Region) Free(ctx context.Context, id lambent.GrantID, n int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	g, ok := r.grants[id]
	if !ok {
		return nil // of a worker that died
	}
	if n < 1 || n > g.count {
		r.faultLocked("%d of %d sandboxes of grant %s were freed", n, g.count, id)
	}
	if g.count -= n; g.count <= 0 {
		delete(r.grants, id)
	}
	return nil
}

// Heartbeat implements lambent.Placement: there are no heartbeats here.
func (r *Region) Heartbeat(context.Context, lambent.WorkerStatus) (lambent.WorkerLease, error) {
	return lambent.WorkerLease{}, lambent.Errorf(lambent.NotImplemented, "This region needs no heartbeats.")
}

// Workers implements lambent.Placement.
func (r *Region) Workers(ctx context.Context) ([]lambent.WorkerState, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var states []lambent.WorkerState
	for _, w := range r.order {
		states = append(states, lambent.WorkerState{
			Status: lambent.WorkerStatus{Worker: w.ID, Boot: w.boot, Sandboxes: len(w.boxes)}, Health: w.health, Grants: r.grantedLocked(w),
			Expiry: time.Now().Add(time.Hour), Short: w.short || w.room > 0 && time.Since(w.refused) < time.Second,
		})
	}
	return states, nil
}
