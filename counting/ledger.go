package counting

import (
	"time"

	"lambent"
)

const (
	maxChunk       = 64 // credits that a session gets in advance, at most
	perConcurrency = 10 // requests a second that each unit of concurrency allows
)

// ledger is the state machine of a shard: which session holds how many credits of which pool. It is pure: no clock, no
// chance, no I/O, and no arithmetic that differs between processors, so that every replica comes to the same state.
//
// Invariants:
//   - a grant never brings the credits held of a pool above its capacity, nor those of an account above its limit, also
//     while limits change (invariant 1 of package lambent);
//   - a session that does not exist holds nothing;
//   - a function that is newly reserved gets credits only when every session has moved the slots that the function uses
//     out of its account's pool;
//   - while rebuilding, and before the limits are known, nothing is granted.
type ledger struct {
	accountLimit int
	group        uint64
	rebuilding   bool // the quorum was lost: sessions of before may still admit, and are adopted
	clock        time.Duration
	round        int64 // of the latest recall of any pool

	synced   bool  // the limits are known
	revision int64 // of the catalogue that they come from
	version  int64 // grows with each change of them
	floor    int64 // what was removed up to this version is forgotten
	limits   map[lambent.FunctionID]reservation

	sessions map[string]*holder
	pools    map[Pool]*pool
	accounts map[string]*account
}

// reservation is a function's limit, or the memory of one that was removed.
type reservation struct {
	Limit
	Changed int64 // version
	Routed  int64 // version in which the function moved to the pool that it draws from
}

// holder is a session.
type holder struct {
	Seq     uint64
	Version int64 // of the limits that it has in force
	Last    Answer
	Holds   map[Pool]*hold
}

type hold struct {
	N        int
	Answered int64 // recalls
}

type pool struct {
	Held  int
	Round int64 // of the latest recall
	// The rate: a bucket of permits, counted in permits times nanoseconds so that whole numbers do.
	Level int64
	At    time.Duration
}

type account struct{ reserved, held int }

func newLedger(group uint64, accountLimit int, rebuilding bool) *ledger {
	first := int64(group) << 32 // above all numbers of former groups
	return &ledger{accountLimit: accountLimit, group: group, rebuilding: rebuilding, version: first, floor: first, round: first,
		limits: map[lambent.FunctionID]reservation{}, sessions: map[string]*holder{}, pools: map[Pool]*pool{},
		accounts: map[string]*account{}}
}

// command is an entry of the log.
type command struct {
	Now    time.Duration // the leader's, counted on from the ledger's clock
	Ask    *Ask          `json:",omitempty"`
	Expire *expiry       `json:",omitempty"`
	Limits *limitChange  `json:",omitempty"`
	Settle bool          `json:",omitempty"` // no session of before the loss of the quorum can admit any more
}

// expiry ends a session, unless it was heard of again.
type expiry struct {
	Session string
	Seq     uint64
}

// limitChange puts limits in force, if they are still those of version Base.
type limitChange struct {
	Base     int64
	Revision int64
	Changes  []Limit
}

// outcome is what the leader tells the sessions after a command.
type outcome struct {
	answer  *Answer
	recalls []Recall // to the other sessions that hold credits
	freed   []Pool   // whoever waits for these may ask again
	stirred bool     // whoever waits may ask again
	changed bool     // limits: everybody should put them in force
}

func (l *ledger) apply(c command) outcome {
	l.clock = max(l.clock, c.Now)
	switch {
	case c.Ask != nil:
		return l.exchange(*c.Ask)
	case c.Expire != nil:
		if s := l.sessions[c.Expire.Session]; s != nil && s.Seq == c.Expire.Seq {
			l.drop(c.Expire.Session)
			return outcome{stirred: true}
		}
	case c.Limits != nil:
		return outcome{changed: l.setLimits(*c.Limits)}
	case c.Settle:
		l.rebuilding = false
		return outcome{stirred: true}
	}
	return outcome{}
}

// exchange applies what a session says and answers it.
func (l *ledger) exchange(a Ask) outcome {
	s := l.sessions[a.Session]
	switch {
	case a.Close:
		l.drop(a.Session)
		return outcome{answer: &Answer{Session: a.Session, Seq: a.Seq, Status: Done}, stirred: s != nil}
	case s == nil && a.Open && (!a.Adopt || l.rebuilding):
		s = &holder{Version: l.version, Holds: map[Pool]*hold{}}
		l.sessions[a.Session] = s
	case s == nil:
		return outcome{answer: &Answer{Session: a.Session, Seq: a.Seq, Status: Unknown}}
	case a.Seq == s.Seq: // repeated
		return outcome{answer: l.complete(a, s)}
	case a.Seq < s.Seq:
		return outcome{}
	}
	var out outcome
	s.Seq = a.Seq
	confirmed := a.Version > s.Version
	if a.Adopt || confirmed {
		s.Version = a.Version
	}
	for _, line := range a.Lines {
		if l.setHold(s, line) {
			out.freed = append(out.freed, line.Pool)
		}
	}
	s.Last = Answer{Session: a.Session, Seq: a.Seq, Status: Done}
	for _, line := range a.Lines {
		answer, recall := l.grant(s, line)
		s.Last.Lines = append(s.Last.Lines, answer)
		if recall {
			out.recalls = append(out.recalls, Recall{line.Pool, answer.Round})
		}
	}
	out.answer, out.stirred = l.complete(a, s), confirmed
	return out
}

// complete adds the limits, which are told as they are now, to a session's last answer.
func (l *ledger) complete(a Ask, s *holder) *Answer {
	answer := s.Last
	answer.Version, answer.Account = a.Version, l.accountLimit
	if l.synced {
		answer.Version = l.version
		answer.Full, answer.Limits = l.limitsSince(a.Version)
	}
	return &answer
}

// setHold notes how many credits a session has left, and tells whether somebody may gain by it.
func (l *ledger) setHold(s *holder, line AskLine) bool {
	h := s.Holds[line.Pool]
	if h == nil {
		h = &hold{}
		s.Holds[line.Pool] = h
	}
	p, acct := l.pool(line.Pool), l.account(line.Pool.Account)
	gain := line.Hold < h.N || line.Answered > h.Answered
	p.Held += line.Hold - h.N
	acct.held += line.Hold - h.N
	h.N, h.Answered = line.Hold, max(h.Answered, line.Answered)
	if h.N == 0 && line.Want == 0 {
		delete(s.Holds, line.Pool)
	}
	l.forget(line.Pool)
	return gain
}

// drop ends a session; its credits come back.
func (l *ledger) drop(session string) {
	s := l.sessions[session]
	if s == nil {
		return
	}
	for id, h := range s.Holds {
		l.pool(id).Held -= h.N
		l.account(id.Account).held -= h.N
		l.forget(id)
	}
	delete(l.sessions, session)
}

// grant decides about one line of a session. It tells whether idle credits are to be recalled.
func (l *ledger) grant(s *holder, line AskLine) (AnswerLine, bool) {
	out := AnswerLine{Pool: line.Pool}
	p, room := l.pool(line.Pool), l.capacity(line.Pool)
	if l.synced {
		out.Debt = min(line.Hold, max(0, p.Held-room))
	}
	if !l.grants(line.Pool) {
		if l.synced && line.Pool.Function != "" { // others may use slots of the function that the pool does not know of yet
			out.Debt = line.Hold
		}
		l.forget(line.Pool)
		return out, false
	}
	free := min(room-p.Held, l.accountLimit-l.account(line.Pool.Account).held)
	ahead := min(max(free-line.Want, 0)/(4*len(l.sessions)), maxChunk)
	if line.Want > 0 && free > 0 {
		out.Granted = min(free, line.Want+ahead)
		l.lend(s, line.Pool, out.Granted)
	}
	others := p.Held > l.held(s, line.Pool)
	out.Ahead, out.Scarce = ahead, ahead == 0 && others
	l.permit(p, room, line.Permits, &out)
	if out.Granted >= line.Want {
		return out, false
	}
	if line.Round > 0 && line.Round <= p.Round {
		out.Round, out.Full = line.Round, l.answered(s, line.Pool, line.Round)
	} else {
		l.round++
		p.Round = l.round
		out.Round, out.Full = p.Round, !others
	}
	if p.Held < room { // the account's other pools are still above limits that have shrunk
		out.Account, out.Full = true, out.Full && l.confirmed(l.version)
	}
	return out, !out.Full
}

func (l *ledger) lend(s *holder, id Pool, n int) {
	h := s.Holds[id]
	if h == nil {
		h = &hold{}
		s.Holds[id] = h
	}
	h.N += n
	l.pool(id).Held += n
	l.account(id.Account).held += n
}

func (l *ledger) held(s *holder, id Pool) int {
	if h := s.Holds[id]; h != nil {
		return h.N
	}
	return 0
}

// grants tells whether the pool may grant now.
func (l *ledger) grants(id Pool) bool {
	if !l.synced || l.rebuilding {
		return false
	}
	if id.Function == "" {
		return true
	}
	r, ok := l.limits[id.Function]
	return ok && !r.None && l.confirmed(r.Routed)
}

// confirmed tells whether every session has the limits of a version in force.
func (l *ledger) confirmed(version int64) bool {
	for _, s := range l.sessions {
		if s.Version < version {
			return false
		}
	}
	return true
}

// answered tells whether every other session has given back its idle credits for a recall.
func (l *ledger) answered(asker *holder, id Pool, round int64) bool {
	for _, s := range l.sessions {
		if h := s.Holds[id]; s != asker && h != nil && h.N > 0 && h.Answered < round {
			return false
		}
	}
	return true
}

// permit hands out what the pool's request rate allows: perConcurrency a second for each unit of its capacity, a second's
// worth at once. A session gets up to half of its share in advance.
func (l *ledger) permit(p *pool, room, want int, out *AnswerLine) {
	if want == 0 || room == 0 {
		return
	}
	rate := int64(min(room, 1<<28)) * perConcurrency // whole numbers reach no further
	elapsed := min(l.clock-p.At, time.Second)
	p.Level, p.At = min(p.Level+int64(elapsed)*rate, rate*int64(time.Second)), l.clock
	have := int(p.Level / int64(time.Second))
	out.Permits = min(have, max(want, have/(2*len(l.sessions))))
	p.Level -= int64(out.Permits) * int64(time.Second)
	if have == 0 {
		out.PermitIn = time.Duration((int64(time.Second) - p.Level + rate - 1) / rate)
	}
}

func (l *ledger) pool(id Pool) *pool {
	p := l.pools[id]
	if p == nil {
		p = &pool{At: l.clock - time.Second} // its bucket is full
		l.pools[id] = p
	}
	return p
}

func (l *ledger) account(name string) *account {
	a := l.accounts[name]
	if a == nil {
		a = &account{}
		l.accounts[name] = a
	}
	return a
}

// forget drops the pool of a function that has no reservation, once nothing is held of it.
func (l *ledger) forget(id Pool) {
	if p := l.pools[id]; p == nil || p.Held != 0 || id.Function == "" {
		return
	}
	if r, ok := l.limits[id.Function]; !ok || r.None {
		delete(l.pools, id)
	}
}
