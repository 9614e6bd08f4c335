package counting

import (
	"container/heap"
	cryptorand "crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"lambent"
)

// world is a region in virtual time: replicas and front ends with clocks of their own, on a network that loses, repeats and
// reorders, where anything can be cut off, paused or lost. All chance comes from the seed.
type world struct {
	seed    uint64
	restore func() // ends the world
	rng     *rand.Rand
	now     time.Duration // true time
	queue   events
	serial  int

	accountLimit int
	term         time.Duration
	loss, repeat float64
	slow         float64 // share of messages that take very long
	cut          map[[2]node]bool

	replicas []*simReplica // by seat
	starts   uint64
	group    uint64
	fronts   []*simFront
	names    int

	view      *limitView
	versions  map[int64]map[lambent.FunctionID]reservation // every version of the limits that a ledger had
	functions []lambent.FunctionID

	failures []string
	admitted int
	refused  int
	history  []operation // of all acquires and releases
}

// node is a party of the network: a seat, or a front end below zero.
type node int

type event struct {
	at     time.Duration
	serial int
	do     func()
}

type events []event

func (q events) Len() int { return len(q) }
func (q events) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].serial < q[j].serial
}
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *events) Push(x any)   { *q = append(*q, x.(event)) }
func (q *events) Pop() any {
	old := *q
	e := old[len(old)-1]
	*q = old[:len(old)-1]
	return e
}

// clock runs at a rate of its own, from an offset that means nothing.
type clock struct {
	rate   float64
	offset time.Duration
}

func (c clock) read(now time.Duration) time.Duration {
	return c.offset + time.Duration(float64(now)*c.rate)
}

// pausable holds back what a party does while it is paused.
type pausable struct {
	paused  bool
	backlog []func()
}

type simReplica struct {
	pausable
	clock  clock
	member *member // nil: lost
}

type simFront struct {
	pausable
	id      node
	name    string
	clock   clock
	session *part
	gone    bool
	slots   map[*simSlot]bool
	waits   []*simWait
	lease   *lease                 // at the last look
	idle    map[Pool]bool          // whether there was an idle credit at the last look
	dry     map[Pool]time.Duration // when there was none last
}

type simSlot struct {
	slot  *slot
	lease *lease
	life  *life
	id    lambent.FunctionID
}

type simWait struct {
	waiter      *waiter
	since, hold time.Duration
}

// operation is one entry of a history, for porcupine.
type operation struct {
	front        node
	id           lambent.FunctionID
	release      bool
	result       string // of an acquire: "admitted", "throttled", "unknown"
	call, answer time.Duration
}

func newWorld(seed uint64, fronts, accountLimit int, term time.Duration) *world {
	w := &world{seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), accountLimit: accountLimit, term: term, cut: map[[2]node]bool{},
		versions: map[int64]map[lambent.FunctionID]reservation{},
		view:     &limitView{revision: 1, limits: map[lambent.FunctionID]Limit{}}, functions: []lambent.FunctionID{"f", "g", "h"}}
	w.restore = w.seedRaft()
	w.replicas = make([]*simReplica, 3)
	for seat := range w.replicas {
		w.replicas[seat] = &simReplica{clock: w.newClock()}
	}
	w.form(false)
	for seat := range w.replicas {
		w.tickReplica(seat)
	}
	for range fronts {
		w.addFront()
	}
	return w
}

// seedRaft makes the chance in Raft's election times come from the seed too. It returns what undoes it.
func (w *world) seedRaft() func() {
	old := cryptorand.Reader
	cryptorand.Reader = chance{rand.NewPCG(w.seed, 2)}
	return func() { cryptorand.Reader = old }
}

type chance struct{ source rand.Source }

func (c chance) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(c.source.Uint64() >> 32)
	}
	return len(p), nil
}

var _ io.Reader = chance{}

func (w *world) newClock() clock {
	return clock{rate: 0.92 + 0.16*w.rng.Float64(), offset: w.between(time.Second, time.Hour)}
}

func (w *world) between(least, most time.Duration) time.Duration {
	return least + time.Duration(w.rng.Int64N(int64(most-least)+1))
}

func (w *world) after(d time.Duration, do func()) {
	w.serial++
	heap.Push(&w.queue, event{w.now + d, w.serial, do})
}

func (w *world) fail(format string, args ...any) {
	w.failures = append(w.failures, fmt.Sprintf("%v: ", w.now)+fmt.Sprintf(format, args...))
}

// run lets time pass until a moment, or the first failure.
func (w *world) run(until time.Duration) {
	for len(w.queue) > 0 && w.queue[0].at <= until && len(w.failures) == 0 {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		e.do()
	}
	w.now = until
}

// form begins a group with new replicas in all seats.
func (w *world) form(rebuilding bool) {
	w.group++
	var voters []uint64
	for seat := range w.replicas {
		w.starts++
		voters = append(voters, replicaID(w.starts, seat))
	}
	for seat, id := range voters {
		w.startReplica(seat, memberOptions{id: id, voters: voters, rebuilding: rebuilding})
	}
}

func (w *world) startReplica(seat int, o memberOptions) {
	o.group, o.seats, o.accountLimit, o.term, o.logger = w.group, len(w.replicas), w.accountLimit, w.term, quietLog()
	r := w.replicas[seat]
	m, err := newMember(o, r.clock.read(w.now))
	if err != nil {
		w.fail("start a replica: %v", err)
		return
	}
	m.view = w.view
	r.member, r.paused, r.backlog = m, false, nil
}

// join puts a new replica in a seat.
func (w *world) join(seat int) {
	if w.replicas[seat].member == nil {
		w.starts++
		w.startReplica(seat, memberOptions{id: replicaID(w.starts, seat)})
	}
}

// hasQuorum tells whether the group can still decide: it knows better than any replica.
func (w *world) hasQuorum() bool {
	alive := map[uint64]bool{}
	var newest *member
	for _, r := range w.replicas {
		if r.member != nil {
			alive[r.member.id] = true
			if newest == nil || r.member.applied > newest.applied {
				newest = r.member
			}
		}
	}
	if newest == nil || len(newest.conf.GetVoters()) == 0 {
		return false
	}
	return majority(newest.conf.GetVoters(), alive) && (len(newest.conf.GetVotersOutgoing()) == 0 || majority(newest.conf.GetVotersOutgoing(), alive))
}

func (w *world) tickReplica(seat int) {
	r := w.replicas[seat]
	w.after(time.Duration(float64(tick)/r.clock.rate), func() {
		w.onReplica(seat, func(m *member) []Message { return m.tick(r.clock.read(w.now)) })
		w.tickReplica(seat)
	})
}

// onReplica has a replica do something, now or when its pause is over.
func (w *world) onReplica(seat int, do func(*member) []Message) {
	r := w.replicas[seat]
	m := r.member
	if m == nil {
		return
	}
	if r.paused {
		r.backlog = append(r.backlog, func() {
			if r.member == m {
				w.onReplica(seat, do)
			}
		})
		return
	}
	for _, out := range do(m) {
		w.Send(out)
	}
	if l := m.ledger; l.synced && w.versions[l.version] == nil {
		w.versions[l.version] = maps.Clone(l.limits)
	}
}

// Send implements Transport.
func (w *world) Send(m Message) {
	from, to := w.nodeOf(m.From), w.nodeOf(m.To)
	if w.cut[[2]node{from, to}] {
		return
	}
	for w.rng.Float64() >= w.loss {
		delay := w.between(50*time.Microsecond, 2*time.Millisecond)
		if w.rng.Float64() < w.slow {
			delay = w.between(0, 400*time.Millisecond)
		}
		w.after(delay, func() { w.deliver(to, m) })
		if w.rng.Float64() >= w.repeat {
			return
		}
	}
}

// Listen implements Transport.
func (w *world) Listen(Address, func(Message)) {}

func (w *world) nodeOf(a Address) node {
	if a.Session == "" {
		return node(a.Seat)
	}
	for _, f := range w.fronts {
		if f.name == a.Session {
			return f.id
		}
	}
	return math.MinInt
}

func (w *world) deliver(to node, m Message) {
	if to >= 0 {
		w.onReplica(int(to), func(r *member) []Message { return r.step(m, w.replicas[to].clock.read(w.now)) })
		return
	}
	for _, f := range w.fronts {
		if f.id == to {
			w.onFront(f, func() { f.session.step(m) })
		}
	}
}

func (w *world) addFront() *simFront {
	w.names++
	f := &simFront{id: node(-w.names), name: fmt.Sprint("front", w.names), clock: w.newClock(), slots: map[*simSlot]bool{},
		idle: map[Pool]bool{}, dry: map[Pool]time.Duration{}}
	f.session = newPart(SessionOptions{ID: f.name, Seats: 3, Term: w.term, Logger: quietLog(),
		clock: func() time.Duration { return f.clock.read(w.now) }}, w)
	w.fronts = append(w.fronts, f)
	w.tickFront(f)
	return f
}

func (w *world) tickFront(f *simFront) {
	if f.gone {
		return
	}
	w.after(time.Duration(float64(beat)/f.clock.rate), func() {
		w.onFront(f, f.session.tick)
		w.tickFront(f)
	})
}

// onFront has a front end do something, now or when its pause is over, and looks at what came of it.
func (w *world) onFront(f *simFront, do func()) {
	switch {
	case f.gone:
	case f.paused:
		f.backlog = append(f.backlog, func() { w.onFront(f, do) })
	default:
		do()
		w.collect(f)
		w.look(f)
	}
}

// acquire is what Session.Acquire does, without waiting.
func (w *world) acquire(f *simFront, id lambent.FunctionID, hold time.Duration) {
	since := w.now
	if fn := f.session.lease.Load().function(id); fn != nil {
		if slot := fn.take(f.session.now()); slot != nil {
			w.admit(f, id, slot, since, hold)
			return
		}
	}
	slot, waiter, err := f.session.request(Pool{testAccount, id})
	switch {
	case waiter != nil:
		wait := &simWait{waiter, since, hold}
		f.waits = append(f.waits, wait)
		w.after(2*time.Second, func() { w.onFront(f, func() { w.giveUp(f, wait) }) })
	case err != nil:
		w.refuse(f, id, err, since)
	default:
		w.admit(f, id, slot, since, hold)
	}
}

func (w *world) giveUp(f *simFront, wait *simWait) {
	if i := slices.Index(f.waits, wait); i >= 0 && f.session.abandon(wait.waiter) {
		f.waits = slices.Delete(f.waits, i, i+1)
		w.history = append(w.history, operation{front: f.id, id: wait.waiter.function.Function, result: "unknown", call: wait.since, answer: w.now})
	}
}

// collect takes the verdicts that acquires have waited for.
func (w *world) collect(f *simFront) {
	waits := f.waits
	f.waits = nil
	for _, wait := range waits {
		select {
		case v := <-wait.waiter.done:
			id := wait.waiter.function.Function
			if v.err != nil {
				w.refuse(f, id, v.err, wait.since)
			} else {
				w.admit(f, id, v.slot, wait.since, wait.hold)
			}
		default:
			f.waits = append(f.waits, wait)
		}
	}
}

func (w *world) admit(f *simFront, id lambent.FunctionID, s *slot, since, hold time.Duration) {
	w.admitted++
	held := &simSlot{slot: s, lease: s.function.lease, life: f.session.life.Load(), id: id}
	f.slots[held] = true
	w.history = append(w.history, operation{front: f.id, id: id, result: "admitted", call: since, answer: w.now})
	w.check(id)
	if hold > 0 {
		w.after(hold, func() { w.onFront(f, func() { w.release(f, held) }) })
	}
}

func (w *world) release(f *simFront, s *simSlot) {
	if f.slots[s] {
		delete(f.slots, s)
		w.history = append(w.history, operation{front: f.id, id: s.id, release: true, call: w.now, answer: w.now})
		s.slot.Release()
	}
}

// counts tells whether a slot is in use: its invoke ends with the lease, wherever it runs.
func (w *world) counts(f *simFront, s *simSlot) bool {
	return s.life.context.Err() == nil && f.clock.read(w.now) < s.lease.until()
}

// check compares the slots in use with the limits. A limit that changes is in force when every front end knows of it.
func (w *world) check(id lambent.FunctionID) {
	total, own := 0, 0
	for _, f := range w.fronts {
		for s := range f.slots {
			if w.counts(f, s) {
				total++
				if s.id == id {
					own++
				}
			}
		}
	}
	if total > w.accountLimit {
		w.fail("%d slots in use, the account's limit is %d", total, w.accountLimit)
	}
	if limit := w.limitOf(id); own > limit {
		w.fail("%d slots of %s in use, its limit is %d%s", own, id, limit, w.leases())
	}
}

// limitOf is the highest limit of a function from the oldest version that a live front end has in force on. A version in
// which the function has no reservation is bound by its account's limit only.
func (w *world) limitOf(id lambent.FunctionID) int {
	oldest := int64(math.MaxInt64)
	for _, f := range w.fronts {
		if l := f.session.lease.Load(); f.clock.read(w.now) < l.until() {
			oldest = min(oldest, l.version)
		}
	}
	most := 0
	for version, limits := range w.versions {
		limit, ok := limits[id]
		switch {
		case version < oldest:
		case !ok || limit.None:
			return w.accountLimit
		default:
			most = max(most, limit.Reserved)
		}
	}
	return most
}

func (w *world) refuse(f *simFront, id lambent.FunctionID, err error, since time.Duration) {
	reason := reasonOf(err)
	result := "unknown"
	w.look(f)
	if reason == lambent.ConcurrentLimit || reason == lambent.ReservedConcurrentLimit {
		result = "throttled"
		w.refused++
		w.falseThrottle(f, id, since)
	}
	w.history = append(w.history, operation{front: f.id, id: id, result: result, call: since, answer: w.now})
}

// falseThrottle checks that each front end that may admit had no idle credit at some moment since the acquire began.
func (w *world) falseThrottle(f *simFront, id lambent.FunctionID, since time.Duration) {
	own := f.session.lease.Load()
	pool := own.routeLocked(Pool{testAccount, id})
	for _, other := range w.fronts {
		l := other.session.lease.Load()
		if other.gone || other.clock.read(w.now) >= l.until() || l.version != own.version {
			continue
		}
		if other.idle[pool] && other.dry[pool] < since {
			w.fail("%s was throttled at %s since %v; %s has had idle credits of %v since %v\n%s\n%s", id, f.name, since,
				other.name, pool, other.dry[pool], describe(own), describe(l))
		}
	}
}

// look notes which pools have idle credits at a front end, and checks the books.
func (w *world) look(f *simFront) {
	l := f.session.lease.Load()
	if l != f.lease {
		clear(f.idle)
		f.lease = l
	}
	for id, p := range l.purses {
		idle, counted := p.free, p.free
		for _, fn := range p.functions {
			idle += fn.free
			counted += fn.free + fn.used
		}
		if !f.idle[id] || idle == 0 {
			f.dry[id] = w.now
		}
		f.idle[id] = idle > 0
		if counted != p.total || p.free < 0 || p.total < 0 || p.debt < 0 {
			w.fail("%s: %d credits of %v, %d counted, %d free, debt %d", f.name, p.total, id, counted, p.free, p.debt)
		}
	}
}

// reserve changes a function's reservation in the catalogue; the replicas learn of it at different times.
func (w *world) reserve(id lambent.FunctionID, n int, none bool) {
	limits := maps.Clone(w.view.limits)
	if none {
		delete(limits, id)
	} else {
		limits[id] = Limit{Pool: Pool{testAccount, id}, Reserved: n}
	}
	view := &limitView{revision: w.view.revision + 1, limits: limits}
	w.view = view
	for seat := range w.replicas {
		w.after(w.between(0, 50*time.Millisecond), func() {
			w.onReplica(seat, func(m *member) []Message {
				if m.view.revision >= view.revision {
					return nil
				}
				return m.observe(view, w.replicas[seat].clock.read(w.now))
			})
		})
	}
}

// resume ends a pause.
func (w *world) resume(p *pausable) {
	p.paused = false
	backlog := p.backlog
	p.backlog = nil
	for _, do := range backlog {
		do()
	}
}

// compare checks that replicas that have applied the same entries have the same ledger.
func (w *world) compare() {
	states := map[uint64]string{}
	for _, r := range w.replicas {
		if r.member == nil || r.member.applied == 0 {
			continue
		}
		data, err := json.Marshal(r.member.ledger.snapshot())
		if err != nil {
			w.fail("%v", err)
		}
		if other, ok := states[r.member.applied]; ok && other != string(data) {
			w.fail("replicas differ at %d:\n%s\n%s", r.member.applied, other, data)
		}
		states[r.member.applied] = string(data)
	}
}

func (w *world) leader() *member {
	for _, r := range w.replicas {
		if r.member != nil && r.member.leading && !r.paused {
			return r.member
		}
	}
	return nil
}

func (w *world) liveFronts() []*simFront {
	return slices.DeleteFunc(slices.Clone(w.fronts), func(f *simFront) bool { return f.gone })
}

func describe(l *lease) string {
	text := fmt.Sprintf("%s version %d limits %v:", l.id, l.version, l.limits)
	for _, p := range l.pursesLocked() {
		text += fmt.Sprintf(" %v total %d free %d debt %d waiters %d round %d due %v;", p.pool, p.total, p.free, p.debt, len(p.waiters), p.round, p.due)
	}
	return text + fmt.Sprintf(" under way %+v", l.session.pending)
}

func (w *world) leases() string {
	text := ""
	for _, f := range w.liveFronts() {
		text += fmt.Sprintf("\n%v: %s", f.clock.read(w.now) < f.session.lease.Load().until(), describe(f.session.lease.Load()))
	}
	return text
}
