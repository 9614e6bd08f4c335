package counting

import (
	"context"
	"sync/atomic"
	"time"
)

// inboxSize is how many messages may wait for a replica. More are lost, and sent again.
const inboxSize = 4096

// Replica runs one member of a group: it gives it messages and the time, and sends what it says. One goroutine owns the
// member.
type Replica struct {
	member    *member
	transport Transport
	begun     time.Time
	inbox     chan Message
	views     chan *limitView
	state     atomic.Pointer[replicaState]
	stop      context.CancelFunc
	done      chan struct{}
}

// replicaState is what a replica believes.
type replicaState struct {
	leads    bool
	applied  uint64
	voters   []uint64
	outgoing []uint64 // voters that leave, while the configuration changes
}

// startReplica runs a member. With campaign, it stands for leader at once.
func startReplica(o memberOptions, t Transport, campaign bool) (*Replica, error) {
	m, err := newMember(o, 0)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &Replica{member: m, transport: t, begun: time.Now(), inbox: make(chan Message, inboxSize), views: make(chan *limitView, 1),
		stop: stop, done: make(chan struct{})}
	r.publish()
	t.Listen(m.address(), r.Deliver)
	go r.run(ctx, campaign)
	return r, nil
}

// Deliver is the receiving end of the transport. It does not block.
func (r *Replica) Deliver(m Message) {
	select {
	case r.inbox <- m:
	default:
	}
}

// observe hands the replica the newest view of the catalogue. One goroutine calls it.
func (r *Replica) observe(v *limitView) {
	select {
	case <-r.views: // one that nobody has looked at, and that is out of date
	default:
	}
	r.views <- v
}

// Close ends the replica and waits for it. What it knew is gone.
func (r *Replica) Close() error {
	r.transport.Listen(r.member.address(), nil)
	r.stop()
	<-r.done
	return nil
}

func (r *Replica) run(ctx context.Context, campaign bool) {
	defer close(r.done)
	// Replicas of one host start together. If they also ticked together, two would stand for leader at once, and split the vote.
	next := time.NewTimer(tick + tick*time.Duration(seatOf(r.member.id))/time.Duration(r.member.seats))
	defer next.Stop()
	if campaign {
		r.send(r.member.campaign(r.now()))
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
			next.Reset(tick)
			r.send(r.member.tick(r.now()))
		case m := <-r.inbox:
			r.send(r.member.step(m, r.now()))
		case v := <-r.views:
			r.send(r.member.observe(v, r.now()))
		}
		r.publish()
	}
}

func (r *Replica) now() time.Duration { return time.Since(r.begun) }

func (r *Replica) send(out []Message) {
	for _, m := range out {
		r.transport.Send(m)
	}
}

// publish makes what the replica believes known outside of its goroutine.
func (r *Replica) publish() {
	m := r.member
	old := r.state.Load()
	if old != nil && old.leads == m.leading && old.applied == m.applied {
		return
	}
	r.state.Store(&replicaState{leads: m.leading, applied: m.applied, voters: m.conf.GetVoters(), outgoing: m.conf.GetVotersOutgoing()})
}
