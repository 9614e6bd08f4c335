package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"lambent"
	"lambent/sandbox"
)

const (
	poolLook      = 5 * time.Second // how often an idle pool is looked at
	poolPause     = time.Second     // after a failure
	createTimeout = 30 * time.Second
)

type poolOptions struct {
	drivers  map[lambent.Isolation]sandbox.Driver
	first    lambent.Isolation // kept ready before anything is asked for
	prefix   string            // of the sandboxes' names
	min, max int               // of each class that is in use
	budget   float64           // MiB that all ready-made sandboxes may take
	logger   *slog.Logger
	failed   func(lambent.Isolation, time.Time) // a sandbox could not be made
	// withdrawn says that a driver is not to be used now.
	withdrawn func(lambent.Isolation, time.Time) bool
}

// pool holds ready-made sandboxes, which belong to nobody yet, by their class. What classes there are it learns from what is
// taken. For each driver one goroutine makes them, one at a time, so that a slow driver does not hold up a fast one.
//
// Invariants: a ready-made sandbox is given out at most once; no more than max of a class are ready, and none of a class that has
// not been taken from for classIdle, but for the first one.
type pool struct {
	options poolOptions
	work    context.Context
	cancel  context.CancelFunc
	wake    map[lambent.Isolation]chan struct{}
	done    sync.WaitGroup

	mu      sync.Mutex
	classes map[class]*stock
	next    int
}

// stock are the ready-made sandboxes of one class.
type stock struct {
	class
	start  *sandbox.Command // of the runtime, if it is warm
	ready  []*readyBox
	making int // by the pool itself
	taken  []time.Time
	cost   time.Duration // of making one ahead of need, smoothed
	size   float64       // MiB that the newest took
	failed time.Time     // when the last one could not be made; zero: it could
}

// readyBox is a ready-made sandbox.
type readyBox struct {
	sandbox.Sandbox
	warm *warmRuntime // nil: nothing runs in it
	aged bool         // it was made ahead of need, and may have ended by itself meanwhile
}

// discard destroys a box that was not given out.
func (b *readyBox) discard() error {
	err := b.Destroy(context.Background())
	if b.warm != nil {
		b.warm.release()
	}
	return err
}

func openPool(options poolOptions) *pool {
	p := &pool{options: options, wake: make(map[lambent.Isolation]chan struct{}), classes: make(map[class]*stock)}
	p.work, p.cancel = context.WithCancel(context.Background())
	p.stockLocked(p.first())
	for isolation := range options.drivers {
		p.wake[isolation] = make(chan struct{}, 1)
	}
	for isolation := range options.drivers {
		p.done.Go(func() { p.fill(isolation) })
	}
	return p
}

// first is the class of which there is always some.
func (p *pool) first() class {
	return class{isolation: p.options.first, memoryMiB: sizeClass(p.options.first, 0)}
}

// close destroys what is ready.
func (p *pool) close() error {
	p.cancel()
	p.done.Wait()
	p.mu.Lock()
	classes := p.classes
	p.classes = nil
	p.mu.Unlock()
	var all []error
	for _, st := range classes {
		for _, box := range st.ready {
			all = append(all, box.discard())
		}
	}
	return errors.Join(all...)
}

// stockLocked returns the stock of a class, which is made when there is none.
func (p *pool) stockLocked(of class) *stock {
	st, ok := p.classes[of]
	if !ok {
		st = &stock{class: of, cost: 10 * time.Millisecond, size: leastMiB(of.isolation)}
		p.classes[of] = st
	}
	return st
}

// take returns a ready-made sandbox of a class, or makes one if there is none. start is the runtime's command, for a class whose
// runtime may be started ahead. A sandbox in which nothing runs may be returned all the same.
func (p *pool) take(ctx context.Context, of class, start *sandbox.Command) (*readyBox, error) {
	of.warm = start != nil
	p.mu.Lock()
	st := p.stockLocked(of)
	st.start = start
	if len(st.taken) == poolHistory {
		st.taken = append(st.taken[:0], st.taken[poolHistory/2:]...)
	}
	st.taken = append(st.taken, time.Now())
	box, ended := p.popLocked(st)
	p.mu.Unlock()
	select {
	case p.wake[of.isolation] <- struct{}{}:
	default:
	}
	for _, b := range ended {
		if err := b.discard(); err != nil {
			p.options.logger.Error("a ready-made sandbox could not be destroyed", "error", err)
		}
	}
	if box != nil && waitsFrozen(of.isolation) {
		if err := box.Thaw(); err != nil {
			p.options.logger.Warn("a ready-made sandbox has ended by itself", "isolation", of.isolation, "error", errors.Join(err, box.discard()))
			box = nil
		}
	}
	if box != nil {
		return box, nil
	}
	return p.fresh(ctx, of)
}

// fresh makes a sandbox of a class now. Who waits for it does not wait for the sake of later ones as well: its runtime is started when
// it is known.
func (p *pool) fresh(ctx context.Context, of class) (*readyBox, error) {
	made, err := p.make(ctx, of)
	if err != nil {
		return nil, err
	}
	return &readyBox{Sandbox: made}, nil
}

// popLocked takes the newest box of a stock, else one of another class in which nothing runs: it fits as well. nil: there is none.
// ended are boxes whose runtimes have ended while they waited.
func (p *pool) popLocked(st *stock) (box *readyBox, ended []*readyBox) {
	for {
		box = st.popLocked()
		if box == nil || box.warm == nil || !box.warm.dead() {
			break
		}
		ended = append(ended, box)
	}
	if box != nil {
		return box, ended
	}
	for other, from := range p.classes {
		if other.isolation == st.isolation && other.memoryMiB == st.memoryMiB && !other.warm && len(from.ready) > 0 {
			return from.popLocked(), ended
		}
	}
	return nil, ended
}

func (st *stock) popLocked() *readyBox {
	n := len(st.ready)
	if n == 0 {
		return nil
	}
	box := st.ready[n-1]
	st.ready[n-1] = nil
	st.ready = st.ready[:n-1]
	return box
}

// make makes a sandbox of a class.
func (p *pool) make(ctx context.Context, of class) (sandbox.Sandbox, error) {
	p.mu.Lock()
	p.next++
	name := fmt.Sprintf("%s-%d", p.options.prefix, p.next)
	p.mu.Unlock()
	box, err := p.options.drivers[of.isolation].Create(ctx, name, sandbox.Template{Class: of.runtime, MemoryMiB: of.memoryMiB})
	if err != nil {
		if ctx.Err() == nil {
			p.options.failed(of.isolation, time.Now())
		}
		return nil, fmt.Errorf("make a sandbox: %w", err)
	}
	return box, nil
}

// prepare makes a sandbox ahead of need, with the runtime in it if that may be.
func (p *pool) prepare(st *stock, start *sandbox.Command) (*readyBox, float64, error) {
	ctx, cancel := context.WithTimeout(p.work, createTimeout)
	defer cancel()
	made, err := p.make(ctx, st.class)
	if err != nil {
		return nil, 0, err
	}
	box := &readyBox{Sandbox: made, aged: true}
	if start != nil {
		if box.warm, err = startWarm(ctx, made, *start); err != nil {
			return nil, 0, errors.Join(fmt.Errorf("start the runtime %s ahead: %w", st.runtime, err), box.discard())
		}
	}
	size := leastMiB(st.isolation)
	if usage, err := made.Usage(); err == nil {
		size = max(size, float64(usage.MemoryBytes)/(1<<20))
	}
	if waitsFrozen(st.isolation) {
		if err := made.Freeze(); err != nil {
			return nil, 0, errors.Join(fmt.Errorf("freeze a ready-made sandbox: %w", err), box.discard())
		}
	}
	return box, size, nil
}

// fill keeps the classes of one driver at what they should be.
func (p *pool) fill(isolation lambent.Isolation) {
	timer := time.NewTimer(poolLook)
	defer timer.Stop()
	for {
		pause := poolLook
		if !p.adjust(isolation) {
			pause = poolPause
		}
		timer.Reset(pause)
		select {
		case <-p.wake[isolation]:
		case <-timer.C:
		case <-p.work.Done():
			return
		}
	}
}

// adjust makes the sandboxes of a driver that are missing, and destroys what is not needed any more: at once what stands in
// another's way or was not used for long, the rest one at each look. False: something could not be made.
func (p *pool) adjust(isolation lambent.Isolation) bool {
	for p.work.Err() == nil {
		now := time.Now()
		p.mu.Lock()
		targets := p.targetsLocked(now)
		short, failing := p.shortLocked(isolation, targets, now)
		spare, urgent := p.spareLocked(isolation, targets, short)
		var start *sandbox.Command
		if short != nil && !urgent {
			short.making++
			start = short.start
		}
		p.mu.Unlock()
		switch {
		case urgent, short == nil && spare != nil:
			if err := spare.discard(); err != nil {
				p.options.logger.Error("a ready-made sandbox could not be destroyed", "error", err)
			}
			if !urgent {
				return !failing
			}
		case short == nil:
			return !failing
		default:
			p.add(short, start)
		}
	}
	return true
}

// add makes one sandbox more of a class.
func (p *pool) add(st *stock, start *sandbox.Command) {
	began := time.Now()
	box, size, err := p.prepare(st, start)
	p.mu.Lock()
	defer p.mu.Unlock()
	st.making--
	if err != nil {
		if st.failed.IsZero() && p.work.Err() == nil {
			p.options.logger.Error("ready-made sandboxes cannot be kept", "isolation", st.isolation, "class", st.runtime, "error", err)
		}
		st.failed = time.Now()
		return
	}
	st.failed, st.size = time.Time{}, size
	st.cost = (7*st.cost + time.Since(began)) / 8
	st.ready = append(st.ready, box)
}

// targetsLocked says how many of each class should be ready, and forgets classes that have none and should have none.
func (p *pool) targetsLocked(now time.Time) map[*stock]int {
	var stocks []*stock
	for of, st := range p.classes {
		if st.unused(now) && of != p.first() && len(st.ready)+st.making == 0 {
			delete(p.classes, of)
			continue
		}
		stocks = append(stocks, st)
	}
	slices.SortFunc(stocks, func(a, b *stock) int { // what was used last comes first
		return cmp.Or(b.lastTaken().Compare(a.lastTaken()), cmp.Compare(a.runtime, b.runtime), cmp.Compare(a.memoryMiB, b.memoryMiB))
	})
	wishes := make([]wish, len(stocks))
	for i, st := range stocks {
		wishes[i].sizeMiB = st.size
		if !st.unused(now) || st.class == p.first() {
			wishes[i].count = poolTarget(st.taken, now, st.cost, p.options.min, p.options.max)
		}
	}
	targets := make(map[*stock]int, len(stocks))
	for i, n := range apportion(wishes, p.options.budget) {
		targets[stocks[i]] = n
	}
	return targets
}

func (st *stock) lastTaken() time.Time {
	if len(st.taken) == 0 {
		return time.Time{}
	}
	return st.taken[len(st.taken)-1]
}

// unused tells whether nothing is to be kept for the class any more.
func (st *stock) unused(now time.Time) bool { return now.Sub(st.lastTaken()) >= classIdle }

// shortLocked returns the stock of a driver that lacks the largest share of its target, nil if none lacks any. One that has just
// failed is left alone for a while; then failing is true.
func (p *pool) shortLocked(isolation lambent.Isolation, targets map[*stock]int, now time.Time) (short *stock, failing bool) {
	for st, target := range targets {
		have := len(st.ready) + st.making
		switch {
		case st.isolation != isolation || have >= target:
		case !st.failed.IsZero() && now.Sub(st.failed) < poolPause || p.options.withdrawn(isolation, now):
			failing = true
		case short == nil || have*targets[short] < (len(short.ready)+short.making)*target:
			short = st
		}
	}
	return short, failing
}

// spareLocked takes a box that is more than its class should have, the oldest, nil if there is none. urgent: it has to go now, as
// its class is not used any more, or what is short would not fit beside it.
func (p *pool) spareLocked(isolation lambent.Isolation, targets map[*stock]int, short *stock) (spare *readyBox, urgent bool) {
	used := 0.0
	if short != nil {
		used = short.size
	}
	var from *stock
	for st, target := range targets {
		used += float64(len(st.ready)+st.making) * st.size
		if st.isolation != isolation && short == nil || len(st.ready) <= target {
			continue
		}
		if from == nil || target == 0 {
			from = st
		}
	}
	if from == nil {
		return nil, false
	}
	urgent = targets[from] == 0 || used > p.options.budget
	if short != nil && !urgent {
		return nil, false
	}
	spare = from.ready[0]
	from.ready = slices.Delete(from.ready, 0, 1)
	return spare, urgent
}
