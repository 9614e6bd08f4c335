package counting

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"lambent"
)

const (
	beat      = 40 * time.Millisecond // of a session's clockwork
	retryAsk  = 80 * time.Millisecond // an exchange that was not answered is repeated to another replica
	repeatAsk = 40 * time.Millisecond // acquires that wait are asked for again
	look      = time.Second           // between two looks for idle credits
)

// drift is how far the rates of two clocks may differ from true time, as a fraction: a session counts its term shorter by
// it, the group longer.
const drift = 0.1

// part is a front end's session with the group of one shard. It holds credits, admits from them without a message, asks for
// more when they run out, and gives back what it does not use.
//
// Invariants: nothing is admitted when the lease has ended, which is before the group can have given its credits to others
// (by a bound on how far two clocks' rates differ); a session has one exchange under way, and repeats it unchanged.
type part struct {
	options   SessionOptions
	transport Transport
	now       func() time.Duration
	lease     atomic.Pointer[lease]
	life      atomic.Pointer[life]
	opened    chan struct{} // closed when the group knows the session
	closed    chan struct{} // closed when the group has forgotten it
	stop      context.CancelFunc
	stopped   chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex
	group   uint64
	leases  int
	seq     uint64
	pending *Ask          // under way
	began   time.Duration // when it was sent first
	retryAt time.Duration
	hops    int // times that it was passed on by a replica that does not lead
	seat    int // that is asked
	renewAt time.Duration
	lookAt  time.Duration
	confirm bool // the group waits to hear that limits are in force
	closing bool
}

// life is the time from when a lease is valid until it is not.
type life struct {
	context context.Context
	cancel  context.CancelFunc
}

// newPart begins a session. It is a pure state machine: it does nothing but when it is called, and what it sends goes to
// the transport.
func newPart(o SessionOptions, t Transport) *part {
	s := &part{options: o, transport: t, now: o.clock, opened: make(chan struct{}), closed: make(chan struct{}), stopped: make(chan struct{})}
	if s.now == nil {
		begun := time.Now()
		s.now = func() time.Duration { return time.Since(begun) }
	}
	s.beginLife()
	s.lookAt = s.now() + look
	s.mu.Lock()
	s.beginLeaseLocked()
	s.mu.Unlock()
	return s
}

// start connects the session and sets its clockwork going.
func (s *part) start() {
	s.transport.Listen(Address{Session: s.options.ID}, s.step)
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	go s.run(ctx)
}

// run drives the session until ctx ends.
func (s *part) run(ctx context.Context) {
	defer close(s.stopped)
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for s.tick(); ; s.tick() {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// close gives all credits back, ends the session and waits for its goroutine.
func (s *part) close() error {
	s.end()
	patience := time.NewTimer(s.options.Patience)
	defer patience.Stop()
	var err error
	select {
	case <-s.closed:
	case <-s.stopped: // closed before
	case <-patience.C:
		err = errors.New("counting: the session's end could not be told")
	}
	s.stop()
	<-s.stopped
	s.transport.Listen(Address{Session: s.options.ID}, nil)
	return err
}

func (s *part) beginLife() {
	l := &life{}
	l.context, l.cancel = context.WithCancel(context.Background())
	s.life.Store(l)
}

// beginLeaseLocked begins anew, with nothing but the acquires that wait.
func (s *part) beginLeaseLocked() {
	s.leases++
	l := newLease(s, s.options.ID+"."+strconv.Itoa(s.leases))
	if old := s.lease.Load(); old != nil {
		old.validUntil.Store(0)
		for _, p := range old.pursesLocked() {
			for _, w := range p.waiters {
				to := l.functionLocked(w.function).purse
				to.waiters = append(to.waiters, w)
			}
			p.waiters = nil
		}
		for _, p := range l.pursesLocked() {
			p.tellLocked()
			p.tightenLocked()
		}
	}
	s.lease.Store(l)
	s.seq++
	s.beginLocked(&Ask{Session: l.id, Seq: s.seq, Open: true})
}

// beginLocked puts an exchange under way.
func (s *part) beginLocked(a *Ask) {
	s.pending, s.began, s.retryAt, s.hops = a, s.now(), 0, 0
}

// send passes messages on. The mutex is not held.
func (s *part) send(out []Message) {
	for _, m := range out {
		s.transport.Send(m)
	}
}

// flushLocked sends the pending exchange if it is time, or begins the next if there is something to say.
func (s *part) flushLocked(now time.Duration) []Message {
	l := s.lease.Load()
	if s.pending == nil && !s.closing && (s.confirm || len(l.due) > 0 || now >= s.renewAt) {
		s.seq++
		a := &Ask{Session: l.id, Seq: s.seq, Version: l.version}
		due := l.due
		l.due = nil
		slices.SortFunc(due, func(a, b *purse) int { return comparePools(a.pool, b.pool) })
		for _, p := range due {
			a.Lines = append(a.Lines, p.lineLocked(now))
		}
		s.confirm = false
		s.beginLocked(a)
	}
	if s.pending == nil || now < s.retryAt {
		return nil
	}
	s.retryAt = now + retryAsk
	return []Message{{From: Address{Session: s.options.ID}, To: Address{Seat: s.seat}, Ask: s.pending}}
}

// step takes in a message. It does not block.
func (s *part) step(m Message) {
	s.mu.Lock()
	now := s.now()
	switch {
	case m.Answer != nil:
		s.answeredLocked(m.Group, m.Answer, now)
	case m.Notice != nil && m.Group == s.group:
		s.noticedLocked(m.Notice)
	}
	out := s.flushLocked(now)
	s.mu.Unlock()
	s.send(out)
}

func (s *part) noticedLocked(n *Notice) {
	l := s.lease.Load()
	s.confirm = s.confirm || n.Version > l.version
	for _, r := range n.Recalls {
		if p := l.purseLocked(r.Pool); r.Round > p.recall {
			p.recall = r.Round
			p.tellLocked()
		}
	}
	for _, p := range l.purses {
		if n.Again && len(p.waiters) > 0 {
			p.tellLocked()
		}
	}
}

// answeredLocked ends the exchange under way, if it is the one that is answered.
func (s *part) answeredLocked(group uint64, a *Answer, now time.Duration) {
	l := s.lease.Load()
	if s.pending == nil || a.Session != l.id || a.Seq != s.pending.Seq || group < s.group {
		return
	}
	switch a.Status {
	case NotLeader:
		s.passOnLocked(a.Leader, now)
	case Unknown:
		s.unknownLocked(group, now)
	case Done:
		s.group = group
		closing := s.pending.Close
		s.pending = nil
		if closing {
			close(s.closed)
			return
		}
		s.doneLocked(l, a, now)
	}
}

// passOnLocked asks the replica that leads, or waits for an election.
func (s *part) passOnLocked(leader int, now time.Duration) {
	s.hops++
	if leader < 0 || leader == s.seat || s.hops > s.options.Seats {
		s.hops = 0
		s.retryAt = min(s.retryAt, now+beat)
		return
	}
	s.seat, s.retryAt = leader, now
}

// unknownLocked goes on when the group does not know the session: it was lost, or else the group is a new one, which adopts
// a session with what it holds while its lease is valid.
func (s *part) unknownLocked(group uint64, now time.Duration) {
	l := s.lease.Load()
	isNew, valid := group > s.group && s.group > 0, now < l.until()
	s.group = group
	if !isNew || !valid || s.pending.Open || s.closing {
		s.options.Logger.Warn("a counting session was lost", "session", l.id)
		s.fenceLocked()
		s.beginLeaseLocked()
		return
	}
	s.seq++
	a := &Ask{Session: l.id, Seq: s.seq, Open: true, Adopt: true, Version: l.version}
	for _, p := range l.pursesLocked() {
		if p.recall, p.answered, p.round, p.cohort = 0, 0, 0, 0; p.total > 0 {
			a.Lines = append(a.Lines, AskLine{Pool: p.pool, Hold: p.total})
		}
		if len(p.waiters) > 0 {
			p.tellLocked()
		}
	}
	s.beginLocked(a)
}

// doneLocked takes in an answer. The lease is counted from when the exchange was first sent, which was before the group can
// have heard of it.
func (s *part) doneLocked(l *lease, a *Answer, now time.Duration) {
	if s.life.Load().context.Err() != nil {
		s.beginLife()
	}
	l.validUntil.Store(int64(s.began + time.Duration(float64(s.options.Term)*(1-drift))))
	s.renewAt = s.began + s.options.Term/5
	l.account = a.Account
	for _, line := range a.Lines {
		l.purseLocked(line.Pool).creditLocked(line)
	}
	if a.Version != l.version {
		l.limitLocked(a)
		s.confirm = true
	}
	for _, line := range a.Lines {
		l.purseLocked(line.Pool).answerLocked(line, now)
	}
	for _, p := range l.purses {
		p.serveLocked(now)
	}
	select {
	case <-s.opened:
	default:
		close(s.opened)
	}
}

// fenceLocked ends the life of the slots in use.
func (s *part) fenceLocked() {
	s.lease.Load().validUntil.Store(0)
	s.life.Load().cancel()
}

// tick is the session's clockwork. It is due every beat.
func (s *part) tick() {
	s.mu.Lock()
	now := s.now()
	l := s.lease.Load()
	if now+beat >= l.until() && s.life.Load().context.Err() == nil && l.until() > 0 {
		s.options.Logger.Warn("a counting session could not be renewed in time", "session", l.id)
		s.fenceLocked()
	}
	if s.pending != nil && now >= s.retryAt && s.retryAt > 0 {
		s.seat, s.hops = (s.seat+1)%s.options.Seats, 0
	}
	rest := now >= s.lookAt
	if rest {
		s.lookAt = now + look
	}
	for id, p := range l.purses {
		if len(p.waiters) > 0 && now >= p.asked+repeatAsk {
			p.tellLocked()
		}
		if rest && p.restLocked() {
			delete(l.purses, id)
		}
	}
	out := s.flushLocked(now)
	s.mu.Unlock()
	s.send(out)
}

// request admits an invoke, refuses it, or has it wait.
func (s *part) request(id Pool) (*slot, *waiter, error) {
	s.mu.Lock()
	now := s.now()
	slot, w, err := s.requestLocked(id, now)
	out := s.flushLocked(now)
	s.mu.Unlock()
	s.send(out)
	return slot, w, err
}

func (s *part) requestLocked(id Pool, now time.Duration) (*slot, *waiter, error) {
	if s.closing {
		return nil, nil, lambent.Errorf(lambent.Unavailable, "The service is stopping.")
	}
	l := s.lease.Load()
	f := l.functionLocked(id)
	p := f.purse
	if now < l.until() {
		if p.free == 0 {
			p.collectLocked()
		}
		switch {
		case p.free == 0 && p.exhaustedLocked():
			return nil, nil, throttled(p.pool, lambent.ConcurrentLimit, lambent.ReservedConcurrentLimit, 0)
		case p.free > 0 && p.permit():
			return p.admitLocked(f), nil, nil
		case p.permits.Load() <= 0 && now < p.permitAt:
			return nil, nil, p.tooManyRequests(now)
		}
	}
	w := &waiter{function: id, done: make(chan verdict, 1)}
	p.waiters = append(p.waiters, w)
	p.tightenLocked()
	p.serveLocked(now)
	if !w.settled && p.round == 0 {
		p.tellLocked()
	}
	return nil, w, nil
}

// abandon ends an acquire's waiting. It is false when the verdict came first.
func (s *part) abandon(w *waiter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.settled {
		return false
	}
	w.settled = true
	for _, p := range s.lease.Load().purses {
		p.withdrawLocked(func(other *waiter) bool { return other == w })
		p.tightenLocked()
	}
	return true
}

// takeBack takes the credit of a slot that was released while its purse was tight.
func (s *part) takeBack(p *purse) {
	s.mu.Lock()
	var out []Message
	if p.lease == s.lease.Load() {
		now := s.now()
		p.returnedLocked(now)
		out = s.flushLocked(now)
	}
	s.mu.Unlock()
	s.send(out)
}

// end tells the group that the session is over. Acquires that wait are refused.
func (s *part) end() {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		return
	}
	s.closing = true
	l := s.lease.Load()
	for _, p := range l.purses {
		p.refuseLocked(0, len(p.waiters), lambent.Errorf(lambent.Unavailable, "The service is stopping."))
	}
	s.fenceLocked()
	s.seq++
	s.beginLocked(&Ask{Session: l.id, Seq: s.seq, Close: true})
	out := s.flushLocked(s.now())
	s.mu.Unlock()
	s.send(out)
}
