package counting

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lambent"
)

// lease is the life of a session between two losses of it. Credits, and slots, belong to one lease, and end with it.
type lease struct {
	session    *part
	id         string
	validUntil atomic.Int64 // on the session's clock
	functions  sync.Map     // lambent.FunctionID to *function

	// The session's mutex guards what follows.
	purses   map[Pool]*purse
	due      []*purse // that the next exchange speaks of
	account  int      // limit of each account
	limits   map[lambent.FunctionID]Limit
	reserved map[string]int // of each account
	version  int64
}

func newLease(s *part, id string) *lease {
	return &lease{session: s, id: id, purses: map[Pool]*purse{}, limits: map[lambent.FunctionID]Limit{}, reserved: map[string]int{}}
}

// until is when the lease ends unless it is renewed: before the group can have given its credits to others.
func (l *lease) until() time.Duration { return time.Duration(l.validUntil.Load()) }

func (l *lease) function(id lambent.FunctionID) *function {
	if f, ok := l.functions.Load(id); ok {
		return f.(*function)
	}
	return nil
}

// functionLocked returns the function's entry, which it makes if there is none.
func (l *lease) functionLocked(id Pool) *function {
	if f := l.function(id.Function); f != nil {
		return f
	}
	f := &function{id: id, lease: l, purse: l.purseLocked(l.routeLocked(id))}
	f.purse.functions[id.Function] = f
	l.functions.Store(id.Function, f)
	return f
}

// routeLocked is the pool that a function draws from.
func (l *lease) routeLocked(id Pool) Pool {
	if _, ok := l.limits[id.Function]; ok {
		return id
	}
	return Pool{Account: id.Account}
}

func (l *lease) purseLocked(id Pool) *purse {
	p := l.purses[id]
	if p == nil {
		p = &purse{lease: l, pool: id, functions: map[lambent.FunctionID]*function{}}
		l.purses[id] = p
	}
	return p
}

func (l *lease) capacityLocked(id Pool) int {
	if id.Function == "" {
		return max(0, l.account-l.reserved[id.Account])
	}
	return l.limits[id.Function].Reserved
}

// pursesLocked lists the purses in a fixed order.
func (l *lease) pursesLocked() []*purse {
	return slices.SortedFunc(maps.Values(l.purses), func(a, b *purse) int { return comparePools(a.pool, b.pool) })
}

// limitLocked puts limits in force, at once and pessimistically: of each pool that they touch, no credit is used again before
// the group has said how many there may be. A limit that looks the same may have been another in between.
func (l *lease) limitLocked(a *Answer) {
	changes := a.Limits
	if a.Full {
		changes = l.completeLocked(a.Limits)
	}
	l.version = a.Version
	for _, c := range changes {
		l.changeLocked(c)
		l.rerouteLocked(c.Pool)
	}
	for _, c := range changes {
		for _, id := range []Pool{c.Pool, {Account: c.Pool.Account}} {
			if p := l.purses[id]; p != nil {
				p.freezeLocked()
				p.tellLocked()
			}
		}
	}
}

// completeLocked turns a full list of limits into changes.
func (l *lease) completeLocked(all []Limit) []Limit {
	listed := map[lambent.FunctionID]bool{}
	for _, c := range all {
		listed[c.Pool.Function] = true
	}
	changes := slices.Clone(all)
	for id, c := range l.limits {
		if !listed[id] {
			changes = append(changes, Limit{Pool: c.Pool, None: true})
		}
	}
	return changes
}

func (l *lease) changeLocked(c Limit) {
	if old, ok := l.limits[c.Pool.Function]; ok {
		l.reserved[c.Pool.Account] -= old.Reserved
		delete(l.limits, c.Pool.Function)
	}
	if !c.None {
		l.limits[c.Pool.Function] = c
		l.reserved[c.Pool.Account] += c.Reserved
	}
}

// rerouteLocked moves a function, with the slots that it uses and the acquires that wait, to the pool that it draws from.
func (l *lease) rerouteLocked(id Pool) {
	f := l.function(id.Function)
	if f == nil {
		return
	}
	from, to := f.purse, l.purseLocked(l.routeLocked(id))
	if from == to {
		return
	}
	f.mu.Lock()
	from.free += f.free
	from.total -= f.used
	to.total += f.used
	f.free, f.least, f.purse = 0, 0, to
	f.mu.Unlock()
	delete(from.functions, id.Function)
	to.functions[id.Function] = f
	to.waiters = append(to.waiters, from.withdrawLocked(func(w *waiter) bool { return w.function == id })...)
}
