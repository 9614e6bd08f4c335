package counting

import (
	"fmt"
	"sync"
)

// group is the replicas of one shard, in one process.
type group struct {
	options Options
	network *network

	mu       sync.Mutex
	replicas []*Replica // by seat; nil: stopped
	starts   uint64     // of replicas, ever
	number   uint64     // of the group: it grows when it is rebuilt
	view     *limitView
	closed   bool
}

func openGroup(o Options) (*group, error) {
	g := &group{options: o, network: newNetwork(), replicas: make([]*Replica, o.Replicas)}
	g.mu.Lock()
	err := g.formLocked(false)
	g.mu.Unlock()
	if err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

func (g *group) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	for seat := range g.replicas {
		g.stopLocked(seat)
	}
}

// formLocked begins a group with a replica in every seat.
func (g *group) formLocked(rebuilding bool) error {
	g.number++
	var voters []uint64
	for seat := range g.replicas {
		g.starts++
		voters = append(voters, replicaID(g.starts, seat))
	}
	for seat, id := range voters {
		if err := g.startLocked(seat, memberOptions{id: id, voters: voters, rebuilding: rebuilding}); err != nil {
			return err
		}
	}
	return nil
}

func (g *group) startLocked(seat int, o memberOptions) error {
	o.group, o.seats, o.accountLimit, o.term, o.logger = g.number, g.options.Replicas, g.options.AccountLimit, g.options.Term, g.options.Logger
	r, err := startReplica(o, g.network, o.voters != nil && seat == len(o.voters)-1) // the last: the others are there
	if err != nil {
		return fmt.Errorf("start the replica in seat %d: %w", seat, err)
	}
	g.replicas[seat] = r
	if g.view != nil {
		r.observe(g.view)
	}
	return nil
}

func (g *group) stopLocked(seat int) {
	if r := g.replicas[seat]; r != nil {
		_ = r.Close() // it cannot fail
		g.replicas[seat] = nil
	}
}

// stop ends the replica in a seat, as the loss of its host would.
func (g *group) stop(seat int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopLocked(seat)
}

// start puts a replica in a seat. It joins the group, or, when the quorum is lost, the group is rebuilt.
func (g *group) start(seat int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed || seat < 0 || seat >= len(g.replicas):
		return fmt.Errorf("counting: there is no seat %d", seat)
	case g.replicas[seat] != nil:
		return nil
	case g.hasQuorumLocked():
		g.starts++
		return g.startLocked(seat, memberOptions{id: replicaID(g.starts, seat)})
	}
	for seat := range g.replicas {
		g.stopLocked(seat)
	}
	g.options.Logger.Warn("the counting group has lost its quorum and is rebuilt", "group", g.number)
	return g.formLocked(true)
}

// observe hands all replicas a view of the catalogue: whichever leads has it put in force.
func (g *group) observe(v *limitView) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.view = v
	for _, r := range g.replicas {
		if r != nil {
			r.observe(v)
		}
	}
}

// hasQuorumLocked tells whether a majority of the members lives, by the newest configuration that a living one knows.
func (g *group) hasQuorumLocked() bool {
	alive := map[uint64]bool{}
	var newest *replicaState
	for _, r := range g.replicas {
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
