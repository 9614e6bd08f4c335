package rpc

import (
	"context"
	"time"

	"lambent"
	"lambent/rpc/pki"
)

// PlacementClient is the Placement Service on another host.
type PlacementClient struct{ peer *Peer }

var _ lambent.Placement = (*PlacementClient)(nil)

// Placement returns the peer's Placement Service.
func (p *Peer) Placement() *PlacementClient { return &PlacementClient{p} }

// grant is a lambent.Grant whose end is told as what is left.
type grant struct {
	Grant lambent.Grant
	Left  remaining
}

// Place implements lambent.Placement. The grant ends no later than the service thinks: its term is counted from before the call.
func (c *PlacementClient) Place(ctx context.Context, req lambent.PlaceRequest) (lambent.Grant, error) {
	asked := time.Now()
	g, err := call[lambent.PlaceRequest, grant](ctx, c.peer, "placement.place", req)
	g.Grant.Expires = g.Left.from(asked)
	return g.Grant, err
}

func servePlace(ctx context.Context, s *Server, caller pki.Peer, req lambent.PlaceRequest) (grant, error) {
	if s.options.Placement == nil {
		return grant{}, absent("placement service")
	}
	if err := isItself(caller, string(req.Manager)); err != nil {
		return grant{}, err
	}
	g, err := s.options.Placement.Place(ctx, req)
	left := remainingUntil(g.Expires)
	g.Expires = time.Time{}
	return grant{g, left}, err
}

// isItself refuses what a host says of another one.
func isItself(caller pki.Peer, named string) error {
	if caller.Name != named {
		return lambent.Errorf(lambent.AccessDenied, "%s may not speak for %.100q.", caller.Name, named)
	}
	return nil
}

type freeRequest struct {
	Grant lambent.GrantID
	Count int
}

// Free implements lambent.Placement.
func (c *PlacementClient) Free(ctx context.Context, id lambent.GrantID, n int) error {
	_, err := call[freeRequest, nothing](ctx, c.peer, "placement.free", freeRequest{id, n})
	return err
}

func serveFree(ctx context.Context, s *Server, _ pki.Peer, req freeRequest) (nothing, error) {
	if s.options.Placement == nil {
		return nothing{}, absent("placement service")
	}
	return nothing{}, s.options.Placement.Free(ctx, req.Grant, req.Count)
}

// Heartbeat implements lambent.Placement. The worker that the status names has to be the host whose certificate it is, in its zone.
func (c *PlacementClient) Heartbeat(ctx context.Context, status lambent.WorkerStatus) (lambent.WorkerLease, error) {
	return call[lambent.WorkerStatus, lambent.WorkerLease](ctx, c.peer, "placement.heartbeat", status)
}

func serveHeartbeat(ctx context.Context, s *Server, caller pki.Peer, status lambent.WorkerStatus) (lambent.WorkerLease, error) {
	if s.options.Placement == nil {
		return lambent.WorkerLease{}, absent("placement service")
	}
	if err := isItself(caller, string(status.Worker)); err != nil {
		return lambent.WorkerLease{}, err
	}
	if caller.Zone != status.Zone {
		return lambent.WorkerLease{}, lambent.Errorf(lambent.AccessDenied, "%s is in zone %s, not in %.100q.", caller.Name, caller.Zone, status.Zone)
	}
	return s.options.Placement.Heartbeat(ctx, status)
}

// workerState is a lambent.WorkerState whose end is told as what is left.
type workerState struct {
	State lambent.WorkerState
	Left  remaining
}

// Workers implements lambent.Placement.
func (c *PlacementClient) Workers(ctx context.Context) ([]lambent.WorkerState, error) {
	asked := time.Now()
	all, err := call[nothing, []workerState](ctx, c.peer, "placement.workers", nothing{})
	if err != nil || len(all) == 0 {
		return nil, err
	}
	states := make([]lambent.WorkerState, len(all))
	for i, w := range all {
		states[i] = w.State
		states[i].Expiry = w.Left.from(asked)
	}
	return states, nil
}

func serveWorkers(ctx context.Context, s *Server, _ pki.Peer, _ nothing) ([]workerState, error) {
	if s.options.Placement == nil {
		return nil, absent("placement service")
	}
	states, err := s.options.Placement.Workers(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]workerState, len(states))
	for i, state := range states {
		all[i] = workerState{state, remainingUntil(state.Expiry)}
		all[i].State.Expiry = time.Time{}
	}
	return all, nil
}
