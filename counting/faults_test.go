package counting

import (
	"os"
	"strconv"
	"testing"
	"time"

	"lambent"
)

// schedule is one life of a world: load, changes of limits and faults for a while, then peace, in which all must heal.
type schedule struct {
	w       *world
	trouble time.Duration // how long faults happen
	every   time.Duration // between two of them, on average
}

func newSchedule(seed uint64) *schedule {
	w := newWorld(seed, 1+int(seed%3), 6+int(seed%5)*4, time.Second)
	w.loss, w.repeat, w.slow = 0.02*float64(seed%3), 0.02*float64(seed%2), 0.01*float64(seed%4)
	s := &schedule{w: w, trouble: 3 * time.Second, every: time.Duration(150+seed%7*100) * time.Millisecond}
	w.reserve("f", 3, false)
	s.load()
	s.changes()
	w.after(w.between(0, s.every), s.fault)
	return s
}

// load has front ends acquire at random.
func (s *schedule) load() {
	w := s.w
	if w.now > s.trouble {
		return
	}
	fronts := w.liveFronts()
	f, id := fronts[w.rng.IntN(len(fronts))], w.functions[w.rng.IntN(len(w.functions))]
	hold := w.between(time.Millisecond, 300*time.Millisecond)
	w.onFront(f, func() { w.acquire(f, id, hold) })
	w.after(w.between(0, 20*time.Millisecond), s.load)
}

func (s *schedule) changes() {
	w := s.w
	w.after(w.between(50*time.Millisecond, time.Second), func() {
		if w.now > s.trouble {
			return
		}
		w.reserve(w.functions[w.rng.IntN(2)], w.rng.IntN(w.accountLimit/2), w.rng.IntN(3) == 0)
		s.changes()
	})
}

// fault does one bad thing, and undoes it after a while.
func (s *schedule) fault() {
	w := s.w
	if w.now > s.trouble {
		return
	}
	lasts := w.between(10*time.Millisecond, 1500*time.Millisecond)
	switch w.rng.IntN(6) {
	case 0:
		s.cutOff(lasts)
	case 1:
		s.pauseReplica(lasts)
	case 2:
		s.pauseFront(lasts)
	case 3:
		s.crashReplicas(1, lasts)
	case 4:
		if w.rng.IntN(3) == 0 {
			s.crashReplicas(2, lasts)
		}
	case 5:
		s.crashFront()
	}
	w.after(w.between(0, 2*s.every), s.fault)
}

// cutOff separates a party from some others, in one direction or both.
func (s *schedule) cutOff(lasts time.Duration) {
	w := s.w
	nodes := []node{0, 1, 2}
	for _, f := range w.liveFronts() {
		nodes = append(nodes, f.id)
	}
	one, ways := nodes[w.rng.IntN(len(nodes))], 1+w.rng.IntN(3)
	for _, other := range nodes {
		if other == one || w.rng.IntN(4) == 0 {
			continue
		}
		for i, pair := range [][2]node{{one, other}, {other, one}} {
			if ways&(1<<i) != 0 {
				w.cut[pair] = true
				w.after(lasts, func() { delete(w.cut, pair) })
			}
		}
	}
}

func (s *schedule) pauseReplica(lasts time.Duration) {
	r := s.w.replicas[s.w.rng.IntN(3)]
	if !r.paused {
		r.paused = true
		s.w.after(lasts, func() { s.w.resume(&r.pausable) })
	}
}

func (s *schedule) pauseFront(lasts time.Duration) {
	fronts := s.w.liveFronts()
	f := fronts[s.w.rng.IntN(len(fronts))]
	if !f.paused {
		f.paused = true
		s.w.after(lasts, func() { s.w.resume(&f.pausable) })
	}
}

// crashReplicas loses replicas, and puts others in their seats: these join, or, when the quorum is lost, all begin anew.
func (s *schedule) crashReplicas(n int, lasts time.Duration) {
	w := s.w
	first := w.rng.IntN(3)
	for i := range n {
		seat := (first + i) % 3
		w.replicas[seat].member = nil
		w.after(lasts, func() { s.restart(seat) })
	}
}

func (s *schedule) restart(seat int) {
	w := s.w
	if w.hasQuorum() {
		w.join(seat)
		return
	}
	for _, r := range w.replicas {
		r.member = nil
	}
	w.form(true)
}

// crashFront loses a front end. Its invokes run on until its session ends; another takes its place.
func (s *schedule) crashFront() {
	fronts := s.w.liveFronts()
	f := fronts[s.w.rng.IntN(len(fronts))]
	f.gone = true
	s.w.addFront()
}

// heal ends all faults and lets everything calm down.
func (s *schedule) heal() {
	w := s.w
	w.run(s.trouble + 1600*time.Millisecond)
	clear(w.cut)
	w.loss, w.repeat, w.slow = 0, 0, 0
	for _, r := range w.replicas {
		w.resume(&r.pausable)
	}
	for _, f := range w.liveFronts() {
		w.resume(&f.pausable)
	}
	for seat, r := range w.replicas {
		if r.member == nil {
			s.restart(seat)
		}
	}
	w.run(w.now + 4*w.term)
}

// recovered checks that nothing was lost for good: one front end gets every slot of every limit, which others have at hand,
// and not one more.
func (s *schedule) recovered() {
	w := s.w
	if len(w.failures) > 0 {
		return
	}
	w.compare()
	leader := w.leader()
	if leader == nil || len(leader.conf.GetVoters()) != 3 {
		w.fail("no leader of three voters")
		return
	}
	if got, want := len(leader.ledger.sessions), len(w.liveFronts()); got != want {
		w.fail("%d sessions, %d front ends", got, want)
	}
	f := w.liveFronts()[0]
	reserved := 0
	for _, id := range w.functions {
		reserved += w.view.limits[id].Reserved
	}
	rest := w.accountLimit - reserved
	for _, id := range w.functions {
		limit, ok := w.view.limits[id]
		n := limit.Reserved
		if !ok {
			n, rest = max(0, rest), 0
		}
		before := w.admitted
		for range n + 1 {
			w.onFront(f, func() { w.acquire(f, id, 0) })
			w.run(w.now + 100*time.Millisecond)
		}
		if got := w.admitted - before; got != n && len(w.failures) == 0 {
			w.fail("%d slots of %s can be had, %d should be; %d wait; ledger %+v", got, id, n, len(f.waits), leader.ledger.snapshot())
		}
	}
}

func runSchedule(seed uint64) *world {
	s := newSchedule(seed)
	defer s.w.restore()
	s.heal()
	s.recovered()
	return s.w
}

// TestSchedules runs seeded schedules of faults until a number of them, or a time, is reached. LAMBENT_SEED runs one alone,
// LAMBENT_SCHEDULES that many, from that seed on.
func TestSchedules(t *testing.T) {
	first, one := strconv.ParseUint(os.Getenv("LAMBENT_SEED"), 10, 64)
	n, many := strconv.Atoi(os.Getenv("LAMBENT_SCHEDULES"))
	patience := time.Hour
	switch {
	case many == nil:
	case one == nil:
		n = 1
	default:
		n, patience = 2000, 15*time.Second
	}
	begun, admitted, refused, done := time.Now(), 0, 0, 0
	for ; done < n && time.Since(begun) < patience && !t.Failed(); done++ {
		w := runSchedule(first + uint64(done))
		report(t, w)
		admitted, refused = admitted+w.admitted, refused+w.refused
	}
	t.Logf("%d schedules: %d acquires admitted, %d throttled", done, admitted, refused)
	if done > 10 && (admitted == 0 || refused == 0) {
		t.Error("this shows nothing")
	}
}

func report(t *testing.T, w *world) {
	t.Helper()
	for _, failure := range w.failures[:min(4, len(w.failures))] {
		t.Errorf("seed %d: %s (LAMBENT_SEED=%d runs it alone)", w.seed, failure, w.seed)
	}
}

var _ lambent.Counter = (*Session)(nil)
