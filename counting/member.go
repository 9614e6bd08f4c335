package counting

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

const (
	tick          = 40 * time.Millisecond
	electionTicks = 6 // 240 to 480 ms without a leader start an election
	beatTicks     = 2
	keepEntries   = 1024 // of the log behind a snapshot
	nearlyThere   = 64   // entries that a new member may lag when it gets its vote
)

// seatBits is how many bits of a replica's ID are its seat. The others count the starts, so that no ID is used twice.
const seatBits = 8

func replicaID(start uint64, seat int) uint64 { return start<<seatBits | uint64(seat) }

func seatOf(id uint64) int { return int(id & (1<<seatBits - 1)) }

// memberOptions configure a replica.
type memberOptions struct {
	id           uint64
	group        uint64
	seats        int
	voters       []uint64 // the group's first members; nil: this one joins a group that exists
	rebuilding   bool     // the group follows one that has lost its quorum
	accountLimit int
	term         time.Duration // of sessions
	logger       *slog.Logger
}

// member is one replica of a shard: Raft, the ledger that it replicates, and what the leader knows beyond it. It is a pure
// state machine: messages and the time in, messages out. Time is its own clock, that only has to run at the right rate.
//
// The log is in memory, so a replica that ended has forgotten its vote. It never comes back: another takes its seat, under
// an ID that was never used, and becomes a voter by a change of the configuration, in which the old one leaves.
type member struct {
	memberOptions
	node   *raft.RawNode
	store  *raft.MemoryStorage
	conf   *raftpb.ConfState
	ledger *ledger
	view   *limitView // from the catalogue; nil: not known yet
	begun  time.Duration
	now    time.Duration
	last   time.Duration // tick
	out    []Message

	applied uint64
	cut     uint64 // the log begins here

	// What only the leader has.
	leading  bool
	base     time.Duration // of the ledger's clock
	heard    map[string]time.Duration
	waiting  map[Pool]map[string]bool // sessions whose acquires wait
	proposed time.Duration            // when limits were proposed, or the group's settling
}

func newMember(o memberOptions, now time.Duration) (*member, error) {
	m := &member{memberOptions: o, store: raft.NewMemoryStorage(), ledger: newLedger(o.group, o.accountLimit, o.rebuilding),
		conf: &raftpb.ConfState{Voters: o.voters}, begun: now, now: now, last: now}
	config := &raft.Config{ID: o.id, ElectionTick: electionTicks, HeartbeatTick: beatTicks, Storage: m.store, MaxSizePerMsg: 1 << 20,
		MaxInflightMsgs: 256, CheckQuorum: true, PreVote: true, StepDownOnRemoval: true, Logger: quiet{}}
	if len(o.voters) > 0 { // all first members begin with the same snapshot
		data, err := json.Marshal(m.ledger.snapshot())
		if err != nil {
			return nil, fmt.Errorf("counting: first snapshot: %w", err)
		}
		first := uint64(1)
		err = m.store.ApplySnapshot(&raftpb.Snapshot{Data: data, Metadata: &raftpb.SnapshotMetadata{ConfState: m.conf, Index: &first, Term: &first}})
		if err != nil {
			return nil, fmt.Errorf("counting: first snapshot: %w", err)
		}
		config.Applied, m.applied, m.cut = 1, 1, 1
	}
	node, err := raft.NewRawNode(config)
	if err != nil {
		return nil, fmt.Errorf("counting: start Raft: %w", err)
	}
	m.node = node
	return m, nil
}

// step takes in one message.
func (m *member) step(msg Message, now time.Duration) []Message {
	m.now = now
	switch {
	case msg.Ask != nil:
		m.asked(msg.Ask)
	case msg.Group != m.group:
	case msg.Join != 0:
		m.joins(msg.Join)
	case msg.Raft != nil:
		var rm raftpb.Message
		if err := proto.Unmarshal(msg.Raft, &rm); err != nil {
			m.logger.Warn("a counting message is damaged", "error", err)
		} else if rm.GetTo() == m.id {
			_ = m.node.Step(&rm) // refused: from a member that has left, which needs no answer
		}
	}
	return m.drain()
}

// observe takes in a new view of the catalogue.
func (m *member) observe(v *limitView, now time.Duration) []Message {
	m.now, m.view, m.proposed = now, v, 0
	m.reconcile()
	return m.drain()
}

// campaign has the replica stand for leader without waiting for an election's time.
func (m *member) campaign(now time.Duration) []Message {
	m.now = now
	_ = m.node.Campaign() // refused: not a voter, and no harm
	return m.drain()
}

// tick is the replica's clockwork. It is due every tick.
func (m *member) tick(now time.Duration) []Message {
	m.now = now
	if pause := now - m.last - electionTicks*tick; pause > 0 { // the sessions' renewals may lie in the inbox
		for id := range m.heard {
			m.heard[id] += pause
		}
	}
	m.last = now
	m.node.Tick()
	if !m.isVoter(m.id) {
		for seat := range m.seats {
			m.out = append(m.out, Message{From: m.address(), To: Address{Seat: seat}, Group: m.group, Join: m.id})
		}
	}
	if m.leading {
		m.expire()
		m.reconcile()
		m.settle()
	}
	return m.drain()
}

func (m *member) address() Address { return Address{Seat: seatOf(m.id)} }

func (m *member) isVoter(id uint64) bool { return slices.Contains(m.conf.GetVoters(), id) }

// asked proposes what a session asks, if this replica leads.
func (m *member) asked(a *Ask) {
	if !m.leading || !m.propose(command{Ask: a}) {
		leader := -1
		if lead := m.node.BasicStatus().Lead; lead != raft.None && lead != m.id {
			leader = seatOf(lead)
		}
		m.tell(a.Session, Message{Answer: &Answer{Session: a.Session, Seq: a.Seq, Status: NotLeader, Leader: leader}})
	}
}

func (m *member) propose(c command) bool {
	c.Now = m.base + m.now
	data, err := json.Marshal(c)
	if err != nil {
		m.logger.Error("a counting command was not encoded", "error", err)
		return false
	}
	return m.node.Propose(data) == nil
}

// joins proposes to admit a replica: as a learner first, and with a vote, in place of its predecessor, when it has caught up.
func (m *member) joins(id uint64) {
	if !m.leading || m.isVoter(id) {
		return
	}
	progress := m.node.Status().Progress
	change := &raftpb.ConfChangeV2{}
	add := func(kind raftpb.ConfChangeType, id uint64) {
		change.Changes = append(change.Changes, &raftpb.ConfChangeSingle{Type: &kind, NodeId: &id})
	}
	learner, known := progress[id]
	if !known {
		add(raftpb.ConfChangeAddLearnerNode, id)
	} else if learner.Match+nearlyThere >= m.applied {
		add(raftpb.ConfChangeAddNode, id)
	} else {
		return
	}
	for other := range progress {
		switch {
		case other == id || seatOf(other) != seatOf(id):
		case other > id:
			return // the one that asks has been succeeded already
		case known || !m.isVoter(other):
			add(raftpb.ConfChangeRemoveNode, other)
		}
	}
	_ = m.node.ProposeConfChange(change) // refused while another change is under way: the replica asks again
}

// expire ends the sessions that were silent for their term, by the slowest clock.
func (m *member) expire() {
	for id := range m.heard {
		if m.ledger.sessions[id] == nil {
			delete(m.heard, id)
		}
	}
	silence := time.Duration(float64(m.term) * (1 + drift))
	for _, id := range m.ledger.sessionIDs() {
		if m.now-m.heard[id] > silence {
			m.heard[id] += tick * electionTicks // when to propose it again, should this come to nothing
			m.propose(command{Expire: &expiry{Session: id, Seq: m.ledger.sessions[id].Seq}})
		}
	}
}

// reconcile proposes the catalogue's limits where the ledger has others.
func (m *member) reconcile() {
	if !m.leading || m.view == nil || m.view.revision < m.ledger.revision || m.proposed > m.now {
		return
	}
	if changes := m.ledger.difference(m.view); len(changes) > 0 || !m.ledger.synced {
		m.proposed = m.now + tick*electionTicks
		m.propose(command{Limits: &limitChange{Base: m.ledger.version, Revision: m.view.revision, Changes: changes}})
	}
}

// settle ends rebuilding when every session of before has ended, or was adopted.
func (m *member) settle() {
	if m.ledger.rebuilding && m.now-m.begun > time.Duration(float64(m.term)*(1+drift)) {
		m.propose(command{Settle: true})
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
func (quiet) Fatal(v ...any)            { panic(fmt.Sprint(v...)) }
func (quiet) Fatalf(f string, v ...any) { panic(fmt.Sprintf(f, v...)) }
func (quiet) Panic(v ...any)            { panic(fmt.Sprint(v...)) }
func (quiet) Panicf(f string, v ...any) { panic(fmt.Sprintf(f, v...)) }
