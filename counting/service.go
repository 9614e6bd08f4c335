package counting

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"lambent"
)

// Options configure the Counting Service. Zero members have the defaults that are written beside them.
type Options struct {
	Replicas     int             // 3, one per zone
	AccountLimit int             // concurrency of each account: 1,000
	Term         time.Duration   // of sessions: 2 s
	Catalog      lambent.Catalog // required: where reservations come from
	Logger       *slog.Logger    // slog.Default()
}

// Service runs the replicas of one shard in this process. They talk as they would over a wire: in messages that carry no
// pointer into another's state.
type Service struct {
	options  Options
	replicas []*replica
	synced   chan struct{} // closed when the reservations that existed at the start are in force

	ctx   context.Context
	stop  context.CancelFunc
	tasks sync.WaitGroup
}

// Open starts the replicas, which elect a leader at once, and the watch of reservations.
func Open(o Options) (*Service, error) {
	if o.Catalog == nil {
		return nil, errors.New("counting: Catalog is required")
	}
	if o.Replicas == 0 {
		o.Replicas = 3
	}
	if o.AccountLimit == 0 {
		o.AccountLimit = 1000
	}
	if o.Term == 0 {
		o.Term = 2 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	s := &Service{options: o, synced: make(chan struct{})}
	s.ctx, s.stop = context.WithCancel(context.Background())
	var peers []raft.Peer
	for i := range o.Replicas {
		peers = append(peers, raft.Peer{ID: uint64(i + 1)})
	}
	for _, p := range peers {
		r, err := newReplica(p.ID, peers, o.AccountLimit, o.Term, s.carry, o.Logger)
		if err != nil {
			s.stop()
			return nil, err
		}
		s.replicas = append(s.replicas, r)
	}
	for i, r := range s.replicas {
		s.tasks.Go(func() { r.run(s.ctx, i == 0) })
	}
	s.tasks.Go(s.follow)
	return s, nil
}

// carry is the transport between the replicas of one process.
func (s *Service) carry(m *raftpb.Message) {
	if to := m.GetTo(); to >= 1 && to <= uint64(len(s.replicas)) {
		s.replicas[to-1].deliver(m)
	}
}

// Close ends the replicas and waits for them. Sessions are to be closed before.
func (s *Service) Close() error {
	s.stop()
	s.tasks.Wait()
	return nil
}

// ask has the leader apply a command, whichever replica that is now. It tries until ctx ends.
func (s *Service) ask(ctx context.Context, c command) (result, error) {
	retry := time.NewTimer(0)
	defer retry.Stop()
	<-retry.C
	for {
		for _, r := range s.replicas {
			res, err := r.propose(ctx, c)
			if err == nil || !errors.Is(err, errNotLeader) {
				return res, err
			}
		}
		retry.Reset(tick) // an election is under way
		select {
		case <-retry.C:
		case <-ctx.Done():
			return result{}, ctx.Err()
		case <-s.ctx.Done():
			return result{}, s.ctx.Err()
		}
	}
}

// follow puts reservations in force as the catalog tells of them.
func (s *Service) follow() {
	for s.ctx.Err() == nil {
		events, err := s.options.Catalog.Watch(s.ctx)
		if err != nil {
			select {
			case <-s.ctx.Done():
			case <-time.After(tick):
			}
			continue
		}
		var first []limit
		for e := range events {
			switch change, ok := reservation(e); {
			case e.Kind == lambent.CatalogSynced:
				s.reserve(first)
				first = nil
				s.markSynced()
			case !ok:
			case s.isSynced():
				s.reserve([]limit{change})
			default:
				first = append(first, change)
			}
		}
	}
}

// reservation reads an event that changes one.
func reservation(e lambent.CatalogEvent) (limit, bool) {
	pool := Pool{Account: e.Function.Account, Function: e.ID}
	switch {
	case e.Kind == lambent.CatalogSettings:
		return limit{pool, e.Settings.Reserved}, true
	case e.Kind == lambent.CatalogDeleted && e.Deleted == "":
		return limit{pool, nil}, true
	}
	return limit{}, false
}

func (s *Service) reserve(changes []limit) {
	if len(changes) == 0 {
		return
	}
	if _, err := s.ask(s.ctx, command{Kind: limits, Limits: changes}); err != nil && s.ctx.Err() == nil {
		s.options.Logger.Error("reserved concurrency was not put in force", "error", err)
	}
}

func (s *Service) markSynced() {
	if !s.isSynced() {
		close(s.synced)
	}
}

func (s *Service) isSynced() bool {
	select {
	case <-s.synced:
		return true
	default:
		return false
	}
}
