package counting

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

const (
	tick          = 10 * time.Millisecond
	electionTicks = 10   // 100 to 200 ms without a leader start an election
	keepEntries   = 1024 // of the log behind a snapshot
)

// errNotLeader: ask another replica.
var errNotLeader = errors.New("counting: this replica does not lead")

// transport carries messages to another replica. It may drop and reorder them, and never blocks.
type transport func(*raftpb.Message)

// replica is one member of a shard's Raft group. One goroutine owns all of its state.
//
// Its log is in memory, so a replica that ended has forgotten its vote: it never comes back under its ID.
type replica struct {
	id     uint64
	node   *raft.RawNode
	store  *raft.MemoryStorage
	ledger *ledger
	send   transport
	logger *slog.Logger
	term   time.Duration // of sessions

	inbox     chan *raftpb.Message
	proposals chan proposal
	done      chan struct{}

	serial  uint64
	waiting map[uint64]chan result
	leading bool
	heard   map[string]time.Time // leader: when each session renewed last
	applied uint64
	compact uint64
}

type proposal struct {
	command command
	reply   chan result // room for one; closed without one when the replica does not lead
}

func newReplica(id uint64, peers []raft.Peer, accountLimit int, term time.Duration, send transport, logger *slog.Logger) (*replica, error) {
	store := raft.NewMemoryStorage()
	node, err := raft.NewRawNode(&raft.Config{
		ID: id, ElectionTick: electionTicks, HeartbeatTick: 2, Storage: store, MaxSizePerMsg: 1 << 20, MaxInflightMsgs: 256,
		CheckQuorum: true, PreVote: true, Logger: quiet{},
	})
	if err != nil {
		return nil, err
	}
	if err := node.Bootstrap(peers); err != nil {
		return nil, err
	}
	return &replica{id: id, node: node, store: store, ledger: newLedger(accountLimit), send: send, logger: logger, term: term,
		inbox: make(chan *raftpb.Message, 1024), proposals: make(chan proposal), done: make(chan struct{}),
		serial: id << 48, waiting: map[uint64]chan result{}, heard: map[string]time.Time{}}, nil
}

// propose asks the group to apply a command and returns its result. Unavailable: no quorum answered in time.
func (r *replica) propose(ctx context.Context, c command) (result, error) {
	p := proposal{c, make(chan result, 1)}
	select {
	case r.proposals <- p:
	case <-r.done:
		return result{}, errNotLeader
	case <-ctx.Done():
		return result{}, ctx.Err()
	}
	select {
	case res, ok := <-p.reply:
		if !ok {
			return result{}, errNotLeader
		}
		return res, nil
	case <-r.done:
		return result{}, errNotLeader
	case <-ctx.Done():
		return result{}, ctx.Err()
	}
}

// deliver is the receiving end of the transport.
func (r *replica) deliver(m *raftpb.Message) {
	select {
	case r.inbox <- m:
	default: // Raft sends again
	}
}

// run drives the replica until ctx ends.
func (r *replica) run(ctx context.Context, campaign bool) {
	defer close(r.done)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for first := campaign; ; {
		r.ready()
		if first && r.applied > 0 { // the group's first members are applied: no need to wait for the election's time
			first = false
			if err := r.node.Campaign(); err != nil {
				r.logger.Warn("a counting replica could not campaign", "error", err)
			}
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			r.node.Tick()
			r.expireSessions(time.Now())
		case m := <-r.inbox:
			if err := r.node.Step(m); err != nil && !errors.Is(err, raft.ErrStepPeerNotFound) {
				r.logger.Debug("a counting message was refused", "error", err)
			}
		case p := <-r.proposals:
			r.start(p)
		}
	}
}

// start proposes a command if the replica leads.
func (r *replica) start(p proposal) {
	r.serial++
	p.command.ID = r.serial
	data, err := json.Marshal(p.command)
	if err == nil && r.node.BasicStatus().RaftState == raft.StateLeader {
		err = r.node.Propose(data)
	} else if err == nil {
		err = errNotLeader
	}
	if err != nil {
		close(p.reply)
		return
	}
	r.waiting[p.command.ID] = p.reply
}

// ready does what Raft asks for: it keeps entries, sends messages and applies what is committed.
func (r *replica) ready() {
	for r.node.HasReady() {
		rd := r.node.Ready()
		if !raft.IsEmptySnap(rd.Snapshot) {
			r.install(rd.Snapshot)
		}
		if err := r.store.Append(rd.Entries); err != nil {
			r.logger.Error("a counting replica could not keep its log", "error", err)
		}
		if !raft.IsEmptyHardState(rd.HardState) {
			r.store.SetHardState(rd.HardState)
		}
		for _, m := range rd.Messages {
			r.send(m)
		}
		for _, e := range rd.CommittedEntries {
			r.commit(e)
		}
		r.node.Advance(rd)
		r.role()
		r.trim()
	}
}

func (r *replica) install(s *raftpb.Snapshot) {
	var state snapshot
	if err := json.Unmarshal(s.GetData(), &state); err != nil {
		r.logger.Error("a counting snapshot is damaged", "error", err)
		return
	}
	if err := r.store.ApplySnapshot(s); err == nil {
		r.ledger, r.applied = restore(state), s.GetMetadata().GetIndex()
	}
}

func (r *replica) commit(e *raftpb.Entry) {
	r.applied = e.GetIndex()
	switch e.GetType() {
	case raftpb.EntryConfChange:
		var change raftpb.ConfChange
		if err := proto.Unmarshal(e.GetData(), &change); err == nil {
			r.node.ApplyConfChange(&change)
		}
	case raftpb.EntryNormal:
		var c command
		if len(e.GetData()) == 0 || json.Unmarshal(e.GetData(), &c) != nil {
			return
		}
		res := r.ledger.apply(c)
		if c.Kind == open || c.Kind == renew {
			r.heard[c.Session] = time.Now()
		}
		if reply, ok := r.waiting[c.ID]; ok {
			delete(r.waiting, c.ID)
			reply <- res
		}
	}
}

// role notices the beginning and the end of leading. A new leader counts every session's term anew from now.
func (r *replica) role() {
	leads := r.node.BasicStatus().RaftState == raft.StateLeader
	if leads && !r.leading {
		for _, id := range r.ledger.sessionIDs() {
			r.heard[id] = time.Now()
		}
	}
	if !leads && r.leading {
		for id, reply := range r.waiting {
			close(reply)
			delete(r.waiting, id)
		}
	}
	r.leading = leads
}

// expireSessions ends sessions that were silent for their term and a tenth: no two clocks' rates differ by as much.
func (r *replica) expireSessions(now time.Time) {
	if !r.leading {
		return
	}
	for _, id := range r.ledger.sessionIDs() {
		if now.Sub(r.heard[id]) > r.term+r.term/10 {
			r.heard[id] = now // proposed once a term
			r.start(proposal{command{Kind: expire, Session: id}, make(chan result, 1)})
		}
	}
}

// trim cuts the log behind a snapshot.
func (r *replica) trim() {
	if r.applied < r.compact+2*keepEntries {
		return
	}
	data, err := json.Marshal(r.ledger.snapshot())
	if err != nil {
		r.logger.Error("a counting snapshot was not made", "error", err)
		return
	}
	state := r.node.Status().Config
	conf := raftpb.ConfState{}
	for id := range state.Voters.IDs() {
		conf.Voters = append(conf.Voters, id)
	}
	if _, err := r.store.CreateSnapshot(r.applied, &conf, data); err == nil {
		r.compact = r.applied - keepEntries
		if err := r.store.Compact(r.compact); err != nil {
			r.logger.Warn("a counting log was not cut", "error", err)
		}
	}
}

// quiet keeps Raft's own log out of the region's.
type quiet struct{}

func (quiet) Debug(...any)              {}
func (quiet) Debugf(string, ...any)     {}
func (quiet) Error(...any)              {}
func (quiet) Errorf(string, ...any)     {}
func (quiet) Info(...any)               {}
func (quiet) Infof(string, ...any)      {}
func (quiet) Warning(...any)            {}
func (quiet) Warningf(string, ...any)   {}
func (quiet) Fatal(v ...any)            { panic(v) }
func (quiet) Fatalf(f string, v ...any) { panic(f) }
func (quiet) Panic(v ...any)            { panic(v) }
func (quiet) Panicf(f string, v ...any) { panic(f) }
