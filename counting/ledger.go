package counting

import (
	"maps"
	"slices"

	"lambent"
)

// Pool is what concurrency is taken from: a function's reservation, or, with an empty Function, what reservations leave of an
// account's limit.
type Pool struct {
	Account  string
	Function lambent.FunctionID
}

// command is one entry of the replicated log. It is applied in the same order, with the same result, on every replica.
type command struct {
	ID      uint64 // of the proposal, to find who waits for it
	Kind    kind
	Session string  `json:",omitempty"`
	Pool    Pool    // take: the function that asks; give: the pool
	N       int     `json:",omitempty"` // take: wanted; give: given back
	Limits  []limit `json:",omitempty"`
}

type kind int

const (
	open   kind = iota + 1 // a session begins
	renew                  // a session goes on
	expire                 // a session has ended; its credits come back
	take                   // a session wants credits
	give                   // a session gives credits back
	limits                 // reservations change
)

// limit is a reservation; nil: none.
type limit struct {
	Pool     Pool
	Reserved *int
}

// result is what a command gave.
type result struct {
	Known    bool // the session exists
	Pool     Pool // that the function draws from
	Granted  int
	Capacity int   // of the pool
	Others   bool  // other sessions hold credits of the pool
	Version  int64 // of the reservations
	Sessions int
}

// ledger is the state machine of a shard. It is pure: no clock, no chance, no I/O.
//
// Invariants: the credits of a pool that sessions hold never grow beyond the pool's capacity (invariant 1 of package
// lambent); a session that does not exist holds none.
type ledger struct {
	account  int // limit of each account
	reserved map[Pool]int
	version  int64
	sessions map[string]map[Pool]int // credits held
	held     map[Pool]int            // by all sessions
}

func newLedger(accountLimit int) *ledger {
	return &ledger{account: accountLimit, reserved: map[Pool]int{}, sessions: map[string]map[Pool]int{}, held: map[Pool]int{}}
}

// apply changes the state by one command.
func (l *ledger) apply(c command) result {
	held, known := l.sessions[c.Session]
	r := result{Known: known, Version: l.version, Sessions: len(l.sessions)}
	switch c.Kind {
	case open:
		if !known {
			l.sessions[c.Session] = map[Pool]int{}
		}
		r.Known, r.Sessions = true, len(l.sessions)
	case expire:
		for pool, n := range held {
			l.held[pool] -= n
		}
		delete(l.sessions, c.Session)
	case take:
		r.Pool = l.pool(c.Pool)
		r.Capacity = l.capacity(r.Pool)
		if known {
			r.Granted = l.grant(r.Pool, r.Capacity, c.N)
			held[r.Pool] += r.Granted
			l.held[r.Pool] += r.Granted
			r.Others = l.held[r.Pool] > held[r.Pool]
		}
	case give:
		if n := min(c.N, held[c.Pool]); n > 0 {
			held[c.Pool] -= n
			l.held[c.Pool] -= n
		}
	case limits:
		l.setLimits(c.Limits)
		r.Version = l.version
	}
	return r
}

// pool is where a function draws from.
func (l *ledger) pool(function Pool) Pool {
	if _, ok := l.reserved[function]; ok {
		return function
	}
	return Pool{Account: function.Account}
}

func (l *ledger) capacity(p Pool) int {
	if p.Function != "" {
		return l.reserved[p]
	}
	left := l.account
	for other, n := range l.reserved {
		if other.Account == p.Account {
			left -= n
		}
	}
	return max(left, 0)
}

// grant decides how many credits a session gets: what it wants and a share in advance while the pool is mostly free, down to
// what it wants near the limit.
func (l *ledger) grant(p Pool, capacity, wanted int) int {
	free := capacity - l.held[p]
	if free <= 0 {
		return 0
	}
	ahead := free / (4 * max(len(l.sessions), 1))
	return min(free, max(wanted, min(ahead, maxChunk)))
}

// maxChunk bounds the credits that one request brings.
const maxChunk = 64

func (l *ledger) setLimits(changes []limit) {
	for _, c := range changes {
		if c.Reserved == nil {
			delete(l.reserved, c.Pool)
		} else {
			l.reserved[c.Pool] = *c.Reserved
		}
	}
	l.version++
}

// snapshot is the ledger's state for a replica that lags.
type snapshot struct {
	Account  int
	Version  int64
	Reserved []limit
	Sessions map[string][]holding
}

type holding struct {
	Pool Pool
	N    int
}

func (l *ledger) snapshot() snapshot {
	s := snapshot{Account: l.account, Version: l.version, Sessions: map[string][]holding{}}
	for p, n := range l.reserved {
		s.Reserved = append(s.Reserved, limit{p, &n})
	}
	for id, held := range l.sessions {
		s.Sessions[id] = []holding{}
		for p, n := range held {
			s.Sessions[id] = append(s.Sessions[id], holding{p, n})
		}
	}
	return s
}

func restore(s snapshot) *ledger {
	l := newLedger(s.Account)
	l.version = s.Version
	for _, r := range s.Reserved {
		l.reserved[r.Pool] = *r.Reserved
	}
	for id, held := range s.Sessions {
		l.sessions[id] = map[Pool]int{}
		for _, h := range held {
			l.sessions[id][h.Pool] = h.N
			l.held[h.Pool] += h.N
		}
	}
	return l
}

// sessionIDs lists the sessions in a fixed order.
func (l *ledger) sessionIDs() []string { return slices.Sorted(maps.Keys(l.sessions)) }
