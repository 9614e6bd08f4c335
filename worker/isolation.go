package worker

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"lambent"
)

// Residents are whose sandboxes a host has, and under what. Workers that are on one host share it. It is safe for use by many
// goroutines.
//
// Invariant: sandboxes of two accounts are there at the same time only under isolations that hold between accounts. Placement
// keeps to that too, but does not know of what was granted before it started anew; here it is enforced.
type Residents struct {
	shared []lambent.Isolation // that hold between accounts

	mu    sync.Mutex
	count map[lambent.Resident]int
}

// NewResidents says of a host that it has no sandboxes yet. shared are the isolations that hold between accounts; nil:
// lambent.DefaultSharedHosts; empty: the host is never shared.
func NewResidents(shared []lambent.Isolation) *Residents {
	if shared == nil {
		shared = lambent.DefaultSharedHosts()
	}
	return &Residents{shared: shared, count: make(map[lambent.Resident]int)}
}

// enter notes a sandbox, unless it may not be beside those that are there. leave is called when it is gone.
func (r *Residents) enter(who lambent.Resident) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for there := range r.count {
		if there.Account != who.Account && !lambent.MayShareHost(there.Isolation, who.Isolation, r.shared) {
			return lambent.Errorf(lambent.Unavailable, "The worker has sandboxes of another account, which this one may not be beside")
		}
	}
	r.count[who]++
	return nil
}

func (r *Residents) leave(who lambent.Resident) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.count[who]--; r.count[who] <= 0 {
		delete(r.count, who)
	}
}

// all returns them in an order that does not depend on chance.
func (r *Residents) all() []lambent.Resident {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(maps.Keys(r.count), func(a, b lambent.Resident) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.Isolation, b.Isolation))
	})
}

func (e *environment) resident() lambent.Resident {
	return lambent.Resident{Account: e.version.Account, Isolation: e.version.Isolation}
}

// checkDrivers judges the drivers that a worker is given.
func (o *Options) checkDrivers() error {
	if len(o.Drivers) == 0 {
		return errors.New("open worker: option Drivers is required")
	}
	for isolation, driver := range o.Drivers {
		if !isolation.Known() || driver == nil {
			return fmt.Errorf("open worker: option Drivers has no driver for %q, or it is not an isolation", isolation)
		}
	}
	if o.Isolation == "" {
		o.Isolation = o.offered()[0]
	}
	if o.Residents == nil {
		o.Residents = NewResidents(o.SharedHosts)
	}
	return nil
}

// offered returns the isolations that the worker can run sandboxes under now, the weakest first.
func (w *Worker) offered(now time.Time) []lambent.Isolation {
	return slices.DeleteFunc(w.options.offered(), func(i lambent.Isolation) bool { return w.faults.withdrawn(i, now) })
}

// offered returns the isolations that there are drivers for, the weakest first.
func (o *Options) offered() []lambent.Isolation {
	return slices.DeleteFunc(lambent.Isolations(), func(i lambent.Isolation) bool { return o.Drivers[i] == nil })
}
