package counting

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"lambent"
)

// capacity is how many slots of the pool may be in use.
func (l *ledger) capacity(id Pool) int {
	if id.Function == "" {
		return max(0, l.accountLimit-l.account(id.Account).reserved)
	}
	if r, ok := l.limits[id.Function]; ok && !r.None {
		return r.Reserved
	}
	return 0
}

// setLimits puts changes in force. It does nothing, and says so, when they were drawn up against other limits.
func (l *ledger) setLimits(c limitChange) bool {
	if c.Base != l.version || c.Revision < l.revision {
		return false
	}
	l.synced, l.revision = true, c.Revision
	l.version++
	for _, change := range c.Changes {
		old, known := l.limits[change.Pool.Function]
		reserved := known && !old.None
		r := reservation{Limit: change, Changed: l.version, Routed: old.Routed}
		if reserved == change.None {
			r.Routed = l.version
		}
		acct := l.account(change.Pool.Account)
		if reserved {
			acct.reserved -= old.Reserved
		}
		if !change.None {
			acct.reserved += change.Reserved
		}
		l.limits[change.Pool.Function] = r
		l.forget(change.Pool)
	}
	l.prune()
	return true
}

// prune forgets removed reservations that every session knows to be removed.
func (l *ledger) prune() {
	known := l.version
	for _, s := range l.sessions {
		known = min(known, s.Version)
	}
	for id, r := range l.limits {
		if r.None && r.Changed <= known {
			delete(l.limits, id)
			l.floor = max(l.floor, r.Changed)
		}
	}
}

// limitsSince returns what changed after a version, or, if that is not known any more, all limits.
func (l *ledger) limitsSince(version int64) (full bool, changed []Limit) {
	if version == l.version {
		return false, nil
	}
	full = version < l.floor || version > l.version
	for _, r := range l.limits {
		if full && !r.None || !full && r.Changed > version {
			changed = append(changed, r.Limit)
		}
	}
	slices.SortFunc(changed, func(a, b Limit) int { return cmp.Compare(a.Pool.Function, b.Pool.Function) })
	return full, changed
}

// difference is what has to change for the ledger to have the view's limits.
func (l *ledger) difference(v *limitView) []Limit {
	var changes []Limit
	for id, want := range v.limits {
		if have, ok := l.limits[id]; !ok || have.None || have.Reserved != want.Reserved {
			changes = append(changes, want)
		}
	}
	for id, have := range l.limits {
		if _, ok := v.limits[id]; !ok && !have.None {
			changes = append(changes, Limit{Pool: have.Pool, None: true})
		}
	}
	slices.SortFunc(changes, func(a, b Limit) int { return cmp.Compare(a.Pool.Function, b.Pool.Function) })
	return changes
}

// limitView is what a replica knows from the catalogue: all reservations as of a revision. It is immutable.
type limitView struct {
	revision int64
	limits   map[lambent.FunctionID]Limit
}

// snapshot is the ledger's state for a replica that lags.
type snapshot struct {
	AccountLimit int
	Group        uint64
	Rebuilding   bool
	Clock        time.Duration
	Round        int64
	Synced       bool
	Revision     int64
	Version      int64
	Floor        int64
	Limits       []reservation
	Sessions     []sessionState
	Pools        []poolState
}

type sessionState struct {
	ID      string
	Seq     uint64
	Version int64
	Last    Answer
	Holds   []holdState
}

type holdState struct {
	Pool Pool
	Hold hold
}

type poolState struct {
	ID   Pool
	Pool pool
}

func (l *ledger) snapshot() snapshot {
	s := snapshot{AccountLimit: l.accountLimit, Group: l.group, Rebuilding: l.rebuilding, Clock: l.clock, Round: l.round, Synced: l.synced,
		Revision: l.revision, Version: l.version, Floor: l.floor}
	for _, id := range slices.Sorted(maps.Keys(l.limits)) {
		s.Limits = append(s.Limits, l.limits[id])
	}
	for _, id := range l.sessionIDs() {
		h := l.sessions[id]
		state := sessionState{ID: id, Seq: h.Seq, Version: h.Version, Last: h.Last}
		for _, p := range slices.SortedFunc(maps.Keys(h.Holds), comparePools) {
			state.Holds = append(state.Holds, holdState{p, *h.Holds[p]})
		}
		s.Sessions = append(s.Sessions, state)
	}
	for _, id := range slices.SortedFunc(maps.Keys(l.pools), comparePools) {
		s.Pools = append(s.Pools, poolState{id, *l.pools[id]})
	}
	return s
}

// sessionIDs lists the sessions in a fixed order.
func (l *ledger) sessionIDs() []string { return slices.Sorted(maps.Keys(l.sessions)) }

func comparePools(a, b Pool) int {
	return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.Function, b.Function))
}

func restore(s snapshot) *ledger {
	l := newLedger(s.Group, s.AccountLimit, s.Rebuilding)
	l.clock, l.round, l.synced, l.revision, l.version, l.floor = s.Clock, s.Round, s.Synced, s.Revision, s.Version, s.Floor
	for _, r := range s.Limits {
		l.limits[r.Pool.Function] = r
		if !r.None {
			l.account(r.Pool.Account).reserved += r.Reserved
		}
	}
	for _, p := range s.Pools {
		l.pools[p.ID] = &p.Pool
		l.account(p.ID.Account).held += p.Pool.Held
	}
	for _, state := range s.Sessions {
		h := &holder{Seq: state.Seq, Version: state.Version, Last: state.Last, Holds: map[Pool]*hold{}}
		for _, held := range state.Holds {
			h.Holds[held.Pool] = &held.Hold
		}
		l.sessions[state.ID] = h
	}
	return l
}
