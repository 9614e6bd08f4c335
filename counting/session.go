package counting

import (
	"cmp"
	"context"
	"errors"
	"hash/fnv"
	"log/slog"
	"time"

	"lambent"
)

// SessionOptions configure a front end's session.
type SessionOptions struct {
	ID         string        // required; no other session may ever use it
	Seats      int           // replicas of each group: 3
	Term       time.Duration // as the replicas have it: 5 s
	Patience   time.Duration // an acquire waits so long for an answer: 2 s
	Transports []Transport   // required: to the group of each shard, in the order of the shards
	Logger     *slog.Logger  // slog.Default()

	clock func() time.Duration // monotonic; tests set it
}

// Session is a front end's side of the Counting Service: a lambent.Counter. It has a part for each shard. It keeps itself
// alive until it is closed.
type Session struct {
	parts []*part
}

// OpenSession begins a session and waits until the groups know it. Unavailable: no quorum answered before ctx ended.
func OpenSession(ctx context.Context, o SessionOptions) (*Session, error) {
	if o.ID == "" || len(o.Transports) == 0 {
		return nil, errors.New("counting: a session needs an ID and transports")
	}
	o.Seats = cmp.Or(o.Seats, 3)
	o.Term = cmp.Or(o.Term, 5*time.Second)
	o.Patience = cmp.Or(o.Patience, 2*time.Second)
	o.Logger = cmp.Or(o.Logger, slog.Default())
	s := &Session{}
	for _, t := range o.Transports {
		p := newPart(o, t)
		p.start()
		s.parts = append(s.parts, p)
	}
	for _, p := range s.parts {
		select {
		case <-p.opened:
		case <-ctx.Done():
			_ = s.Close() // there is nothing to give back
			return nil, lambent.Wrap(lambent.Unavailable, ctx.Err(), "The counting service cannot be reached. Try again.")
		}
	}
	return s, nil
}

// Acquire implements lambent.Counter. Unavailable also when nobody could say in time whether there is a credit.
func (s *Session) Acquire(ctx context.Context, fn lambent.FunctionName, id lambent.FunctionID) (lambent.Slot, error) {
	return s.part(fn.Account).acquire(ctx, Pool{fn.Account, id})
}

// Lease is done when slots of the account that were acquired before are not counted any more, because the group could not be
// reached for so long that it may have given them to others: the invokes that hold them have to end at once. Ask for it
// before Acquire.
func (s *Session) Lease(account string) context.Context { return s.part(account).life.Load().context }

// Close gives all credits back, ends the session and waits for its goroutines. Acquires that wait are refused; invokes that
// hold slots are to have ended. The error tells that a group was not reached: it finds out when the session's term is over.
func (s *Session) Close() error {
	done := make(chan error, len(s.parts))
	for _, p := range s.parts {
		go func() { done <- p.close() }()
	}
	var errs []error
	for range s.parts {
		errs = append(errs, <-done)
	}
	return errors.Join(errs...)
}

// part is the session with the shard of an account.
func (s *Session) part(account string) *part {
	if len(s.parts) == 1 {
		return s.parts[0]
	}
	return s.parts[shardOf(account, len(s.parts))]
}

// shardOf is the shard that counts an account. It is the same on every host.
func shardOf(account string, shards int) int {
	h := fnv.New32a()
	h.Write([]byte(account))
	return int(h.Sum32() % uint32(shards))
}
