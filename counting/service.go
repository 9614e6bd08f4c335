package counting

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"lambent"
)

// Options configure the Counting Service. Zero members have the defaults that are written beside them.
type Options struct {
	Replicas     int             // 3, one per zone; 5 stand the loss of two
	AccountLimit int             // concurrency of each account: 1,000
	Term         time.Duration   // a session that is silent so long ends, and its slots are free: 5 s
	Patience     time.Duration   // an acquire waits so long for an answer: 2 s
	Catalog      lambent.Catalog // required: where reservations come from
	Logger       *slog.Logger    // slog.Default()
}

// Service runs the replicas of one shard in this process. They talk as they would over a wire: in messages that carry no
// pointer into another's state.
type Service struct {
	options Options
	network *network
	stop    context.CancelFunc
	follows chan struct{} // closed when the watch of the catalogue has ended

	mu       sync.Mutex
	replicas []*Replica // by seat; nil: stopped
	starts   uint64     // of replicas, ever
	group    uint64
	view     *limitView
	closed   bool
}

// Open starts the replicas, which elect a leader at once, and the watch of reservations. It does not wait for either:
// acquires do.
//
// It begins with nobody's slots in use. That is right when the front ends run in this process, and ended with the last one.
func Open(o Options) (*Service, error) {
	if o.Catalog == nil {
		return nil, errors.New("counting: Catalog is required")
	}
	o.Replicas = cmp.Or(o.Replicas, 3)
	o.AccountLimit = cmp.Or(o.AccountLimit, 1000)
	o.Term = cmp.Or(o.Term, 5*time.Second)
	o.Patience = cmp.Or(o.Patience, 2*time.Second)
	o.Logger = cmp.Or(o.Logger, slog.Default())
	s := &Service{options: o, network: newNetwork(), follows: make(chan struct{}), replicas: make([]*Replica, o.Replicas)}
	s.mu.Lock()
	err := s.formLocked(false)
	s.mu.Unlock()
	if err != nil {
		return nil, errors.Join(err, s.closeReplicas())
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
	return s.closeReplicas()
}

func (s *Service) closeReplicas() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for seat := range s.replicas {
		s.stopLocked(seat)
	}
	return nil
}

// Session begins a front end's session and waits until the group knows it. The session keeps itself alive until it is
// closed. Unavailable: no quorum answered before ctx ended.
func (s *Service) Session(ctx context.Context, frontEnd string) (*Session, error) {
	return OpenSession(ctx, SessionOptions{ID: frontEnd + "/" + rand.Text(), Seats: s.options.Replicas, Term: s.options.Term,
		Patience: s.options.Patience, Transport: s.network, Logger: s.options.Logger})
}

// formLocked begins a group with a replica in every seat.
func (s *Service) formLocked(rebuilding bool) error {
	s.group++
	var voters []uint64
	for seat := range s.replicas {
		s.starts++
		voters = append(voters, replicaID(s.starts, seat))
	}
	for seat, id := range voters {
		if err := s.startLocked(seat, memberOptions{id: id, voters: voters, rebuilding: rebuilding}); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) startLocked(seat int, o memberOptions) error {
	o.group, o.seats, o.accountLimit, o.term, o.logger = s.group, s.options.Replicas, s.options.AccountLimit, s.options.Term, s.options.Logger
	r, err := startReplica(o, s.network, o.voters != nil && seat == len(o.voters)-1) // the last: the others are there
	if err != nil {
		return fmt.Errorf("start the replica in seat %d: %w", seat, err)
	}
	s.replicas[seat] = r
	s.network.Listen(Address{Seat: seat}, r.Deliver)
	if s.view != nil {
		r.observe(s.view)
	}
	return nil
}

func (s *Service) stopLocked(seat int) {
	if r := s.replicas[seat]; r != nil {
		s.network.Listen(Address{Seat: seat}, nil)
		_ = r.Close() // it cannot fail
		s.replicas[seat] = nil
	}
}

// Stop ends the replica in a seat, from 0 on, as the loss of its host would: what it knew is gone.
func (s *Service) Stop(seat int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopLocked(seat)
}

// Start puts a replica in a seat that was stopped. It joins the group as a new member. When the group has lost its quorum
// it is rebuilt: new replicas in all seats adopt the sessions that are alive, with what they hold, and grant nothing more
// before all others must have ended.
func (s *Service) Start(seat int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed || seat < 0 || seat >= len(s.replicas):
		return fmt.Errorf("counting: there is no seat %d", seat)
	case s.replicas[seat] != nil:
		return nil
	case s.hasQuorumLocked():
		s.starts++
		return s.startLocked(seat, memberOptions{id: replicaID(s.starts, seat)})
	}
	for seat := range s.replicas {
		s.stopLocked(seat)
	}
	s.options.Logger.Warn("the counting group has lost its quorum and is rebuilt", "group", s.group)
	return s.formLocked(true)
}

// hasQuorumLocked tells whether a majority of the members lives, by the newest configuration that a living one knows.
func (s *Service) hasQuorumLocked() bool {
	alive := map[uint64]bool{}
	var newest *replicaState
	for _, r := range s.replicas {
		if r == nil {
			continue
		}
		alive[r.member.id] = true
		if state := r.state.Load(); newest == nil || state.applied > newest.applied {
			newest = state
		}
	}
	if newest == nil || len(newest.voters) == 0 {
		return false
	}
	return majority(newest.voters, alive) && (len(newest.outgoing) == 0 || majority(newest.outgoing, alive))
}

func majority(voters []uint64, alive map[uint64]bool) bool {
	n := 0
	for _, id := range voters {
		if alive[id] {
			n++
		}
	}
	return n > len(voters)/2
}
