package rpc

import (
	"context"
	"crypto/rand"
	"slices"
	"sync"
	"time"

	"lambent"
	"lambent/rpc/pki"
)

const (
	maxReturns    = 256              // in one message
	maxCarried    = 8                // in a claim
	returnFor     = 30 * time.Second // how long a manager that does not answer is told that a claim has ended
	returnTimeout = 2 * time.Second  // of one attempt
	returnPause   = 100 * time.Millisecond
	abandonFor    = time.Second // how long a claim that nobody wants any more is waited for
	abandonPause  = 10 * time.Millisecond
)

// ManagerClient is a Worker Manager on another host.
//
// Return only notes what has ended; the manager is told in the background, and again until it has answered. Each Claim tells the
// last few that are noted and not answered yet before it asks, so a sandbox that was returned is there for the caller's next claim.
type ManagerClient struct {
	peer    *Peer
	kick    chan struct{} // of capacity 1
	stopped chan struct{} // closed when the last returns have been told
	running context.Context
	stop    context.CancelFunc

	mu      sync.Mutex
	returns []returned // that the manager has not answered, oldest first
	serial  uint64
	settled chan struct{} // closed when returns is empty; nil when nobody waits
}

// returned is a claim that has ended.
type returned struct {
	Claim   lambent.Claim
	Outcome lambent.Outcome

	serial uint64
	since  time.Time
}

var _ lambent.Manager = (*ManagerClient)(nil)

// Manager returns the peer's Worker Manager. The caller closes it, before the peer.
func (p *Peer) Manager() *ManagerClient {
	c := &ManagerClient{peer: p, kick: make(chan struct{}, 1), stopped: make(chan struct{})}
	c.running, c.stop = context.WithCancel(p.running)
	go c.tell()
	return c
}

// Close tells the manager what it has not been told, within 2 s, and waits for the client's goroutines.
func (c *ManagerClient) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), returnTimeout)
	defer cancel()
	err := c.Flush(ctx)
	c.stop()
	<-c.stopped
	return err
}

// Flush waits until the manager knows of all claims that were returned before.
func (c *ManagerClient) Flush(ctx context.Context) error {
	c.mu.Lock()
	if len(c.returns) == 0 {
		c.mu.Unlock()
		return nil
	}
	if c.settled == nil {
		c.settled = make(chan struct{})
	}
	settled := c.settled
	c.mu.Unlock()
	select {
	case <-settled:
		return nil
	case <-ctx.Done():
		return lambent.Wrap(lambent.Unavailable, ctx.Err(), "The worker manager was not told of all claims that have ended.")
	}
}

// Return implements lambent.Manager.
func (c *ManagerClient) Return(claim lambent.Claim, outcome lambent.Outcome) {
	c.mu.Lock()
	c.serial++
	c.returns = append(c.returns, returned{claim, outcome, c.serial, time.Now()})
	c.mu.Unlock()
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// oldest returns what the manager has not answered for longest, as much as goes into one message.
func (c *ManagerClient) oldest() []returned {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.returns[:min(len(c.returns), maxReturns)])
}

// latest returns what was returned last and the manager has not answered.
func (c *ManagerClient) latest() []returned {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.returns[max(0, len(c.returns)-maxCarried):])
}

// told forgets what the manager has answered, and what it has not for too long: then another one owns the sandboxes.
func (c *ManagerClient) told(batch []returned, now time.Time) {
	known := make(map[uint64]bool, len(batch))
	for _, r := range batch {
		known[r.serial] = true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := c.returns[:0]
	for _, r := range c.returns {
		if !known[r.serial] && now.Sub(r.since) < returnFor {
			kept = append(kept, r)
		}
	}
	clear(c.returns[len(kept):])
	if c.returns = kept; len(kept) == 0 && c.settled != nil {
		close(c.settled)
		c.settled = nil
	}
}

// tell tells the manager of the claims that have ended.
func (c *ManagerClient) tell() {
	defer close(c.stopped)
	for {
		select {
		case <-c.kick:
		case <-c.running.Done():
			return
		}
		for batch := c.oldest(); len(batch) > 0; batch = c.oldest() {
			ctx, cancel := context.WithTimeout(c.running, returnTimeout)
			_, err := call[[]returned, nothing](ctx, c.peer, "manager.return", batch)
			cancel()
			if err == nil {
				c.told(batch, time.Now())
				continue
			}
			c.told(nil, time.Now())
			select {
			case <-time.After(returnPause):
			case <-c.running.Done():
				return
			}
		}
	}
}

// claimRequest asks for a sandbox, after telling which claims have ended.
type claimRequest struct {
	Call    string // names the call, for abandon
	Returns []returned
	Request lambent.ClaimRequest
}

// Claim implements lambent.Manager. When ctx ends first, the manager is told that nobody waits any more, and has a second to
// answer; a claim that it has given all the same is returned.
func (c *ManagerClient) Claim(ctx context.Context, req lambent.ClaimRequest) (lambent.Claim, error) {
	if err := ctx.Err(); err != nil {
		return lambent.Claim{}, ended(err)
	}
	message := claimRequest{Call: rand.Text(), Returns: c.latest(), Request: req}
	// The call outlives ctx: its end would break the connection off, with a claim on it perhaps.
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	if deadline, ok := ctx.Deadline(); ok {
		inner, cancel = context.WithDeadline(inner, deadline.Add(abandonFor))
		defer cancel()
	}
	abandoned := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(abandoned)
		c.abandon(inner, message.Call, cancel)
	})
	claim, err := call[claimRequest, lambent.Claim](inner, c.peer, "manager.claim", message)
	if err == nil {
		c.told(message.Returns, time.Now())
	}
	if stop() {
		return claim, err
	}
	cancel()
	<-abandoned
	if err == nil {
		c.Return(claim, lambent.OutcomeIdle)
	}
	return lambent.Claim{}, ended(ctx.Err())
}

// abandon tells the manager that nobody waits for a claim any more, until the claim is answered, which ends ctx. The manager may
// hear of it before it hears of the claim.
func (c *ManagerClient) abandon(ctx context.Context, claim string, giveUp context.CancelFunc) {
	defer time.AfterFunc(abandonFor, giveUp).Stop()
	for ctx.Err() == nil {
		_, _ = call[string, nothing](ctx, c.peer, "manager.abandon", claim) // the answer to the claim tells more
		select {
		case <-ctx.Done():
		case <-time.After(abandonPause):
		}
	}
}

func ended(err error) error {
	return lambent.Wrap(lambent.Unavailable, err, "No execution environment became ready before the request ended.")
}

// claims are the claims that a server's callers wait for, so that they can be given up.
type claims struct {
	mu      sync.Mutex
	waiting map[claimKey]context.CancelFunc
}

type claimKey struct{ caller, call string }

func (c *claims) enter(key claimKey, cancel context.CancelFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting == nil {
		c.waiting = map[claimKey]context.CancelFunc{}
	}
	c.waiting[key] = cancel
}

func (c *claims) leave(key claimKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, key)
}

func (c *claims) abandon(key claimKey) {
	c.mu.Lock()
	cancel := c.waiting[key]
	c.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

func serveClaim(ctx context.Context, s *Server, caller pki.Peer, req claimRequest) (lambent.Claim, error) {
	manager := s.options.Manager
	if manager == nil {
		return lambent.Claim{}, absent("worker manager")
	}
	if req.Request.Version == nil || len(req.Returns) > maxReturns {
		return lambent.Claim{}, lambent.Errorf(lambent.InvalidParameter, "A claim is of a version, with at most %d returns.", maxReturns)
	}
	for _, r := range req.Returns {
		manager.Return(r.Claim, r.Outcome)
	}
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	key := claimKey{caller.Name, req.Call}
	s.claims.enter(key, cancel)
	defer s.claims.leave(key)
	claim, err := manager.Claim(waiting, req.Request)
	if err == nil && ctx.Err() != nil { // the caller is gone
		manager.Return(claim, lambent.OutcomeIdle)
		return lambent.Claim{}, ended(ctx.Err())
	}
	return claim, err
}

func serveAbandon(_ context.Context, s *Server, caller pki.Peer, call string) (nothing, error) {
	s.claims.abandon(claimKey{caller.Name, call})
	return nothing{}, nil
}

func serveReturn(_ context.Context, s *Server, _ pki.Peer, returns []returned) (nothing, error) {
	if s.options.Manager == nil {
		return nothing{}, absent("worker manager")
	}
	if len(returns) > maxReturns {
		return nothing{}, lambent.Errorf(lambent.InvalidParameter, "At most %d claims are returned together.", maxReturns)
	}
	for _, r := range returns {
		s.options.Manager.Return(r.Claim, r.Outcome)
	}
	return nothing{}, nil
}

// Report implements lambent.Manager. A worker reports of itself alone.
func (c *ManagerClient) Report(ctx context.Context, report lambent.WorkerReport) error {
	_, err := call[lambent.WorkerReport, nothing](ctx, c.peer, "manager.report", report)
	return err
}

func serveReport(ctx context.Context, s *Server, caller pki.Peer, report lambent.WorkerReport) (nothing, error) {
	if s.options.Manager == nil {
		return nothing{}, absent("worker manager")
	}
	if !caller.Has(pki.Placement) {
		if err := isItself(caller, string(report.Worker)); err != nil {
			return nothing{}, err
		}
	}
	return nothing{}, s.options.Manager.Report(ctx, report)
}
