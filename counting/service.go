package counting

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"time"

	"lambent"
)

// Options configure the Counting Service. Zero members have the defaults that are written beside them.
type Options struct {
	Shards       int             // groups of replicas, over which accounts are hashed: 1
	Replicas     int             // of each shard: 3, one per zone; 5 stand the loss of two
	AccountLimit int             // concurrency of each account: 1,000
	Term         time.Duration   // a session that is silent so long ends, and its slots are free: 5 s
	Patience     time.Duration   // an acquire waits so long for an answer: 2 s
	Catalog      lambent.Catalog // required: where reservations come from
	Logger       *slog.Logger    // slog.Default()
}

// Service runs the replicas of all shards in this process. They talk as they would over a wire: in messages that carry no
// pointer into another's state.
type Service struct {
	options Options
	groups  []*group // by shard
	stop    context.CancelFunc
	follows chan struct{} // closed when the watch of the catalogue has ended
}

// Open starts the replicas, which elect leaders at once, and the watch of reservations. It does not wait for either: acquires
// do.
//
// It begins with nobody's slots in use. That is right when the front ends run in this process, and ended with the last one.
func Open(o Options) (*Service, error) {
	if o.Catalog == nil {
		return nil, errors.New("counting: Catalog is required")
	}
	o.Shards = cmp.Or(o.Shards, 1)
	o.Replicas = cmp.Or(o.Replicas, 3)
	o.AccountLimit = cmp.Or(o.AccountLimit, 1000)
	o.Term = cmp.Or(o.Term, 5*time.Second)
	o.Patience = cmp.Or(o.Patience, 2*time.Second)
	o.Logger = cmp.Or(o.Logger, slog.Default())
	s := &Service{options: o, follows: make(chan struct{})}
	for range o.Shards {
		g, err := openGroup(o)
		if err != nil {
			s.closeGroups()
			return nil, err
		}
		s.groups = append(s.groups, g)
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	go s.follow(ctx)
	return s, nil
}

// Close ends the replicas and waits for them. Sessions are to be closed before.
func (s *Service) Close() error {
	s.stop()
	<-s.follows
	s.closeGroups()
	return nil
}

func (s *Service) closeGroups() {
	for _, g := range s.groups {
		g.close()
	}
}

// Session begins a front end's session and waits until the groups know it. The session keeps itself alive until it is
// closed. Unavailable: no quorum answered before ctx ended.
func (s *Service) Session(ctx context.Context, frontEnd string) (*Session, error) {
	o := SessionOptions{ID: frontEnd + "/" + rand.Text(), Seats: s.options.Replicas, Term: s.options.Term, Patience: s.options.Patience,
		Logger: s.options.Logger}
	for _, g := range s.groups {
		o.Transports = append(o.Transports, g.network)
	}
	return OpenSession(ctx, o)
}

// Stop ends the replicas in a seat, from 0 on, as the loss of their host would: what they knew is gone.
func (s *Service) Stop(seat int) {
	for _, g := range s.groups {
		g.stop(seat)
	}
}

// Start puts replicas in a seat that was stopped. They join their groups as new members. A group that has lost its quorum is
// rebuilt: new replicas in all seats adopt the sessions that are alive, with what they hold, and grant nothing more before
// all others must have ended.
func (s *Service) Start(seat int) error {
	for _, g := range s.groups {
		if err := g.start(seat); err != nil {
			return err
		}
	}
	return nil
}
