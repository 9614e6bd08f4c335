package counting

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"lambent"
)

// perConcurrency is how many requests a second each unit of a function's concurrency allows.
const perConcurrency = 10

// Session is a front end's side of the Counting Service. It holds credits, admits from them without a message, asks for more
// when they run out, and gives back what it does not use.
//
// Invariants: slots in use and free credits of a pool together never exceed the credits that the service counts for the
// session; nothing is admitted after validUntil, which lies before the moment when the service may give the session's
// credits to others, by a bound on how far two clocks' rates differ.
type Session struct {
	service *Service
	id      string
	begun   time.Time

	validUntil atomic.Int64 // nanoseconds since begun
	version    atomic.Int64 // of the reservations, as far as known
	functions  sync.Map     // Pool of a function to *route
	purses     sync.Map     // Pool to *purse

	stop  context.CancelFunc
	tasks sync.WaitGroup
}

// route is where a function draws from, as of a version of the reservations.
type route struct {
	purse   *purse
	version int64
	rate    rate
}

// purse holds the session's credits of one pool.
type purse struct {
	session *Session
	pool    Pool

	mu       sync.Mutex
	free     int
	used     int
	capacity int
	least    int // fewest free since the last look: they were not needed
}

// slot is one unit in use. It is released once.
type slot struct {
	purse    *purse
	released atomic.Bool
}

// Session begins a session under an ID that no other uses.
func (s *Service) Session(ctx context.Context, id string) (*Session, error) {
	c := &Session{service: s, id: id, begun: time.Now()}
	if err := c.extend(ctx, open); err != nil {
		return nil, err
	}
	background, stop := context.WithCancel(context.Background())
	c.stop = stop
	c.tasks.Go(func() { c.keep(background) })
	return c, nil
}

// Close gives all credits back and ends the session. Slots in use may be released after it.
func (c *Session) Close() error {
	c.stop()
	c.tasks.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), c.service.options.Term)
	defer cancel()
	c.validUntil.Store(0)
	_, err := c.service.ask(ctx, command{Kind: expire, Session: c.id})
	return err
}

// Acquire implements lambent.Counter.
func (c *Session) Acquire(ctx context.Context, fn lambent.FunctionName, id lambent.FunctionID) (lambent.Slot, error) {
	function := Pool{Account: fn.Account, Function: id}
	now := time.Since(c.begun)
	if found, ok := c.functions.Load(function); ok && int64(now) < c.validUntil.Load() {
		r := found.(*route)
		if r.version == c.version.Load() && r.purse.take() {
			return r.admit(now)
		}
	}
	return c.ask(ctx, function)
}

// admit gives a slot for a credit that was taken, if the function's request rate allows.
func (r *route) admit(now time.Duration) (lambent.Slot, error) {
	s := &slot{purse: r.purse}
	if !r.rate.take(now, r.purse.limit()) {
		s.Release()
		return nil, throttled(r.purse.pool, lambent.RateLimit, lambent.ReservedRateLimit)
	}
	return s, nil
}

// ask gets credits from the service.
func (c *Session) ask(ctx context.Context, function Pool) (lambent.Slot, error) {
	select {
	case <-c.service.synced:
	case <-ctx.Done():
		return nil, lambent.Wrap(lambent.Unavailable, ctx.Err(), "The counting service is starting. Try again.")
	}
	ctx, cancel := context.WithTimeout(ctx, c.service.options.Term)
	defer cancel()
	c.returnStale(ctx, function)
	res, err := c.service.ask(ctx, command{Kind: take, Session: c.id, Pool: function, N: 1})
	if err != nil || !res.Known {
		return nil, lambent.Wrap(lambent.Unavailable, err, "The counting service cannot be asked. Try again.")
	}
	c.learn(res.Version)
	r := c.route(function, res)
	r.purse.mu.Lock()
	r.purse.free += res.Granted
	r.purse.capacity = res.Capacity
	ok := r.purse.takeLocked()
	r.purse.mu.Unlock()
	now := time.Since(c.begun)
	if ok && int64(now) < c.validUntil.Load() {
		return r.admit(now)
	}
	if ok {
		(&slot{purse: r.purse}).Release()
		return nil, lambent.Errorf(lambent.Unavailable, "The counting service cannot be asked. Try again.")
	}
	return nil, throttled(res.Pool, lambent.ConcurrentLimit, lambent.ReservedConcurrentLimit)
}

// returnStale gives back the credits that a function would draw from when reservations have changed since they were granted.
func (c *Session) returnStale(ctx context.Context, function Pool) {
	found, ok := c.functions.Load(function)
	if !ok || found.(*route).version == c.version.Load() {
		return
	}
	p := found.(*route).purse
	p.mu.Lock()
	n := p.free
	p.free, p.least = 0, 0
	p.mu.Unlock()
	c.give(ctx, p.pool, n)
}

func throttled(p Pool, unreserved, reserved lambent.ThrottleReason) error {
	reason := unreserved
	if p.Function != "" {
		reason = reserved
	}
	return &lambent.Error{Code: lambent.Throttled, Reason: reason, Message: "Rate Exceeded."}
}

// route remembers where a function draws from.
func (c *Session) route(function Pool, res result) *route {
	p, _ := c.purses.LoadOrStore(res.Pool, &purse{session: c, pool: res.Pool})
	if old, ok := c.functions.Load(function); ok {
		if r := old.(*route); r.purse == p && r.version == res.Version {
			return r
		}
	}
	r := &route{purse: p.(*purse), version: res.Version}
	c.functions.Store(function, r)
	return r
}

func (p *purse) take() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.takeLocked()
}

func (p *purse) takeLocked() bool {
	if p.free == 0 {
		return false
	}
	p.free--
	p.used++
	p.least = min(p.least, p.free)
	return true
}

func (p *purse) limit() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.capacity
}

// Release implements lambent.Slot.
func (s *slot) Release() {
	if s.released.Swap(true) {
		return
	}
	s.purse.mu.Lock()
	defer s.purse.mu.Unlock()
	s.purse.used--
	s.purse.free++
}

// keep renews the session and gives back what was not used, until ctx ends.
func (c *Session) keep(ctx context.Context) {
	ticker := time.NewTicker(c.service.options.Term / 8)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if err := c.extend(ctx, renew); err != nil && ctx.Err() == nil {
				c.service.options.Logger.Warn("a counting session was not renewed", "session", c.id, "error", err)
			}
			c.purses.Range(func(_, value any) bool {
				c.giveBack(ctx, value.(*purse))
				return true
			})
		}
	}
}

// extend renews the session's validity, counted from before the service can have begun to count it.
func (c *Session) extend(ctx context.Context, k kind) error {
	term := c.service.options.Term
	ctx, cancel := context.WithTimeout(ctx, term)
	defer cancel()
	sent := time.Since(c.begun)
	res, err := c.service.ask(ctx, command{Kind: k, Session: c.id})
	if err != nil {
		return err
	}
	if !res.Known {
		return c.reopen(ctx)
	}
	c.learn(res.Version)
	c.validUntil.Store(int64(sent + term - term/10))
	return nil
}

// reopen begins anew after the service has ended the session: its credits are gone.
func (c *Session) reopen(ctx context.Context) error {
	c.validUntil.Store(0)
	c.purses.Range(func(key, _ any) bool { c.purses.Delete(key); return true })
	c.functions.Range(func(key, _ any) bool { c.functions.Delete(key); return true })
	return c.extend(ctx, open)
}

// learn notes a new version of the reservations: from then on nothing is admitted by the old ones.
func (c *Session) learn(version int64) {
	for old := c.version.Load(); version > old; old = c.version.Load() {
		if c.version.CompareAndSwap(old, version) {
			return
		}
	}
}

// giveBack returns the credits that were not needed since the last look.
func (c *Session) giveBack(ctx context.Context, p *purse) {
	p.mu.Lock()
	n := min(p.least, p.free)
	p.free -= n
	p.least = p.free
	p.mu.Unlock()
	c.give(ctx, p.pool, n)
}

func (c *Session) give(ctx context.Context, pool Pool, n int) {
	if n == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, c.service.options.Term)
	defer cancel()
	if _, err := c.service.ask(ctx, command{Kind: give, Session: c.id, Pool: pool, N: n}); err != nil && ctx.Err() == nil {
		c.service.options.Logger.Warn("credits were not given back", "session", c.id, "error", err)
	}
}

// rate is a function's request rate: perConcurrency requests a second for each unit of its limit, a second's worth at once.
type rate struct {
	mu     sync.Mutex
	tokens float64
	at     time.Duration
	begun  bool
}

func (r *rate) take(now time.Duration, limit int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	full := float64(limit * perConcurrency)
	if !r.begun {
		r.begun, r.tokens = true, full
	}
	r.tokens = min(full, r.tokens+full*max(0, now-r.at).Seconds())
	r.at = now
	if r.tokens < 1 {
		return false
	}
	r.tokens--
	return true
}
