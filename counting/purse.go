package counting

import (
	"sync/atomic"
	"time"

	"lambent"
)

const (
	keepIdle   = 4  // credits that a session keeps of a pool with plenty, so that the next invoke finds one
	forgetIdle = 60 // looks after which a function without an invoke is forgotten
)

// purse holds a session's credits of one pool: some free, the others with the functions that draw from the pool.
//
// Invariants: total counts each credit once, whether free, with a function, in use, or on its way back from a slot; it is
// never more than what the group counts for the session, because it grows only by what the group granted, and what is given
// back leaves it before the group is told. What the session says is the total at that moment.
type purse struct {
	lease *lease
	pool  Pool

	tight   atomic.Bool  // releases bring their credit here rather than to their function
	permits atomic.Int64 // requests that may be let through

	// The session's mutex guards what follows.
	total     int
	free      int
	least     int // fewest free since the last look
	debt      int // credits that the group lent beyond a limit that has shrunk: a release pays it first
	ahead     int // what the group could spare at the last look
	scarce    bool
	waiters   []*waiter
	cohort    int   // of the waiters, from the first on, that wait for the round
	round     int64 // the recall that they wait for
	recall    int64 // latest recall that came
	answered  int64 // latest recall that was answered
	due       bool  // the group is to be told of the total, and asked for what the waiters need
	asked     time.Duration
	permitAt  time.Duration // no permits before this
	functions map[lambent.FunctionID]*function
}

// permit uses one permit if there is one.
func (p *purse) permit() bool {
	if p.permits.Add(-1) >= 0 {
		return true
	}
	p.permits.Add(1)
	return false
}

// admitLocked takes a free credit for a function. A few more go along, so that the next invokes need no lock but the
// function's.
func (p *purse) admitLocked(f *function) *slot {
	p.free--
	ahead := 0
	if !p.tight.Load() {
		ahead = p.free / 8
	}
	p.free -= ahead
	p.least = min(p.least, p.free)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.free += ahead
	f.used++
	return &slot{function: f}
}

// collectLocked brings the credits that functions have at hand back to the purse.
func (p *purse) collectLocked() {
	for _, f := range p.functions {
		f.mu.Lock()
		p.free += f.free
		f.free, f.least = 0, 0
		f.mu.Unlock()
	}
}

// serveLocked lets waiters through as far as credits and permits go, the longest waiting first.
func (p *purse) serveLocked(now time.Duration) {
	if now < p.lease.until() {
		for len(p.waiters) > 0 && p.free > 0 && p.permit() {
			w := p.waiters[0]
			p.popLocked()
			w.settle(verdict{slot: p.admitLocked(p.functions[w.function.Function])})
		}
	}
	p.tightenLocked()
}

// tellLocked has the next exchange speak of the pool.
func (p *purse) tellLocked() {
	if !p.due {
		p.due = true
		p.lease.due = append(p.lease.due, p)
	}
}

func (p *purse) popLocked() {
	p.waiters[0] = nil
	p.waiters = p.waiters[1:]
	p.cohort = max(0, p.cohort-1)
}

// withdrawLocked removes waiters and returns them.
func (p *purse) withdrawLocked(which func(*waiter) bool) []*waiter {
	var out, stay []*waiter
	cohort := p.cohort
	for i, w := range p.waiters {
		switch {
		case !which(w):
			stay = append(stay, w)
			continue
		case i < cohort:
			p.cohort--
		}
		out = append(out, w)
	}
	p.waiters = stay
	return out
}

// refuseLocked tells the waiters from one position up to another that they may not run.
func (p *purse) refuseLocked(from, to int, err error) {
	i := -1
	for _, w := range p.withdrawLocked(func(*waiter) bool { i++; return i >= from && i < to }) {
		w.settle(verdict{err: err})
	}
}

// settle tells an acquire its verdict. The session's mutex is held.
func (w *waiter) settle(v verdict) {
	w.settled = true
	w.done <- v
}

// tightenLocked decides where the credits of releases go. When it brings them here, those that are with functions follow.
func (p *purse) tightenLocked() {
	tight := len(p.waiters) > 0 || p.debt > 0 || p.scarce
	if tight && !p.tight.Load() {
		p.tight.Store(true)
		p.collectLocked()
		p.payLocked()
		return
	}
	p.tight.Store(tight)
}

// payLocked pays the debt with free credits.
func (p *purse) payLocked() {
	if n := min(p.debt, p.free); n > 0 {
		p.free -= n
		p.total -= n
		p.debt -= n
		p.tellLocked()
	}
}

// freezeLocked uses no credit again until the group has said how many of them are a debt.
func (p *purse) freezeLocked() {
	p.collectLocked()
	p.debt = p.total
	p.payLocked()
	p.tightenLocked()
}

// returnedLocked takes the credit of a slot that was released while the purse is tight.
func (p *purse) returnedLocked(now time.Duration) {
	p.free++
	p.payLocked()
	p.serveLocked(now)
	if p.scarce && p.free > 0 {
		p.tellLocked()
	}
}

// exhaustedLocked tells whether all that the pool can ever lend is with this session.
func (p *purse) exhaustedLocked() bool {
	return p.free == 0 && p.total >= p.lease.capacityLocked(p.pool)
}

// lineLocked says what the group is to know of the pool, and gives back what is idle if the group needs it.
func (p *purse) lineLocked(now time.Duration) AskLine {
	if p.recall > p.answered || p.scarce {
		p.collectLocked()
		p.serveLocked(now)
		p.total -= p.free
		p.free, p.least = 0, 0
	}
	p.answered = p.recall
	line := AskLine{Pool: p.pool, Hold: p.total, Answered: p.answered}
	if n := len(p.waiters); n > 0 {
		if p.cohort == 0 {
			p.cohort, p.round = n, 0
		}
		line.Want, line.Round = max(0, n-p.free), p.round
		line.Permits = max(0, n-int(p.permits.Load()))
	}
	p.due, p.asked = false, now
	return line
}

// creditLocked takes in what the group granted and knows of the pool. Nobody is admitted yet: limits may come with it.
func (p *purse) creditLocked(a AnswerLine) {
	p.total += a.Granted
	p.free += a.Granted
	p.debt = min(a.Debt, p.total)
	p.ahead, p.scarce = a.Ahead, a.Scarce
	p.permits.Add(int64(a.Permits))
	p.payLocked()
}

// answerLocked tells those who wait what the group said.
func (p *purse) answerLocked(a AnswerLine, now time.Duration) {
	p.serveLocked(now)
	if a.PermitIn > 0 {
		p.permitAt = now + a.PermitIn
		p.refuseLocked(0, len(p.waiters), p.tooManyRequests(now))
	}
	switch {
	case a.Full && a.Account:
		p.refuseLocked(p.free, p.cohort, throttled(Pool{}, lambent.ConcurrentLimit, "", 0))
	case a.Full:
		p.refuseLocked(p.free, p.cohort, throttled(p.pool, lambent.ConcurrentLimit, lambent.ReservedConcurrentLimit, 0))
	}
	p.round = a.Round
	if a.Full || p.cohort == 0 {
		p.cohort, p.round = 0, 0
		if len(p.waiters) > 0 {
			p.tellLocked()
		}
	}
	p.tightenLocked()
	if p.scarce && p.free > 0 {
		p.tellLocked()
	}
}

func (p *purse) tooManyRequests(now time.Duration) error {
	return throttled(p.pool, lambent.RateLimit, lambent.ReservedRateLimit, p.permitAt-now)
}

// restLocked gives back what was not needed since the last look, and tells whether the purse is of no more use.
func (p *purse) restLocked() bool {
	waits := map[lambent.FunctionID]bool{}
	for _, w := range p.waiters {
		waits[w.function.Function] = true
	}
	for id, f := range p.functions {
		n, idle := f.rest()
		p.free += n
		if idle > forgetIdle && !waits[id] {
			delete(p.functions, id)
			p.lease.functions.Delete(id)
		}
	}
	if n := min(p.least, p.free) - min(keepIdle, p.ahead); n > 0 {
		p.free -= n
		p.total -= n
		p.tellLocked()
	}
	p.least = p.free
	if n := p.permits.Load() - int64(p.total+1)*perConcurrency; n > 0 {
		p.permits.Add(-n)
	}
	return p.total == 0 && len(p.functions) == 0 && !p.due
}
