package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"lambent/sandbox"
)

// How the pool follows the load.
const (
	poolWindow    = 10 * time.Second // over which creations are counted
	poolLook      = 5 * time.Second  // how often an idle pool is looked at
	poolPause     = time.Second      // after a failure
	poolHistory   = 1024             // creations that are remembered
	createTimeout = 30 * time.Second
)

// poolTarget is how many sandboxes should be ready, by Little's law: as many as are taken while one is being made, at the rate
// of the last second or of the window, whichever is higher. Twice that, because load comes in bursts, beside the minimum.
func poolTarget(taken []time.Time, now time.Time, cost time.Duration, minimum, maximum int) int {
	second, window := 0, 0
	for _, at := range taken {
		if age := now.Sub(at); age < time.Second {
			second++
			window++
		} else if age < poolWindow {
			window++
		}
	}
	rate := max(float64(second), float64(window)/poolWindow.Seconds())
	return min(maximum, minimum+int(math.Ceil(2*rate*cost.Seconds())))
}

type poolOptions struct {
	driver   sandbox.Driver
	prefix   string // of the sandboxes' names
	min, max int
	logger   *slog.Logger
	failed   func() // a sandbox could not be made
}

// pool holds ready-made sandboxes, which belong to nobody yet. One goroutine makes them, one at a time.
type pool struct {
	options poolOptions
	work    context.Context
	cancel  context.CancelFunc
	wake    chan struct{}
	done    sync.WaitGroup

	mu     sync.Mutex
	closed bool
	ready  []sandbox.Sandbox
	taken  []time.Time
	cost   time.Duration // of making one, smoothed
	next   int
}

func openPool(options poolOptions) *pool {
	p := &pool{options: options, wake: make(chan struct{}, 1), cost: 10 * time.Millisecond}
	p.work, p.cancel = context.WithCancel(context.Background())
	p.done.Go(p.fill)
	return p
}

// close destroys what is ready.
func (p *pool) close() error {
	p.cancel()
	p.done.Wait()
	p.mu.Lock()
	ready := p.ready
	p.ready, p.closed = nil, true
	p.mu.Unlock()
	var all []error
	for _, box := range ready {
		all = append(all, box.Destroy(context.Background()))
	}
	return errors.Join(all...)
}

// take returns a ready-made sandbox, or makes one if there is none.
func (p *pool) take(ctx context.Context) (sandbox.Sandbox, error) {
	p.mu.Lock()
	if len(p.taken) == poolHistory {
		p.taken = append(p.taken[:0], p.taken[poolHistory/2:]...)
	}
	p.taken = append(p.taken, time.Now())
	var box sandbox.Sandbox
	if n := len(p.ready); n > 0 {
		box = p.ready[n-1]
		p.ready[n-1] = nil
		p.ready = p.ready[:n-1]
	}
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
	if box != nil {
		return box, nil
	}
	return p.make(ctx)
}

func (p *pool) make(ctx context.Context) (sandbox.Sandbox, error) {
	p.mu.Lock()
	p.next++
	name := fmt.Sprintf("%s-%d", p.options.prefix, p.next)
	p.mu.Unlock()
	began := time.Now()
	box, err := p.options.driver.Create(ctx, name, sandbox.Template{})
	if err != nil {
		if ctx.Err() == nil {
			p.options.failed()
		}
		return nil, fmt.Errorf("make a sandbox: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cost = (7*p.cost + time.Since(began)) / 8
	return box, nil
}

// fill keeps the pool at its target.
func (p *pool) fill() {
	timer := time.NewTimer(poolLook)
	defer timer.Stop()
	failing := false
	for {
		err := p.adjust()
		pause := poolLook
		if err != nil {
			pause = poolPause
			if !failing && p.work.Err() == nil {
				p.options.logger.Error("ready-made sandboxes cannot be kept", "error", err)
			}
		}
		failing = err != nil
		timer.Reset(pause)
		wake := p.wake
		if failing {
			wake = nil // takers find out for themselves
		}
		select {
		case <-wake:
		case <-timer.C:
		case <-p.work.Done():
			return
		}
	}
}

// adjust makes the sandboxes that are missing, or destroys one that is not needed any more.
func (p *pool) adjust() error {
	for p.work.Err() == nil {
		p.mu.Lock()
		missing := poolTarget(p.taken, time.Now(), p.cost, p.options.min, p.options.max) - len(p.ready)
		var spare sandbox.Sandbox
		if missing < 0 {
			spare = p.ready[0]
			p.ready = p.ready[1:]
		}
		p.mu.Unlock()
		if missing == 0 {
			return nil
		}
		if spare != nil {
			return spare.Destroy(context.WithoutCancel(p.work))
		}
		ctx, cancel := context.WithTimeout(p.work, createTimeout)
		box, err := p.make(ctx)
		cancel()
		if err != nil {
			return err
		}
		p.mu.Lock()
		p.ready = append(p.ready, box)
		p.mu.Unlock()
	}
	return nil
}
