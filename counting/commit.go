package counting

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// drain does what Raft asks for: it keeps entries, sends messages and applies what is committed. It returns what is to be
// sent.
func (m *member) drain() []Message {
	for m.node.HasReady() {
		rd := m.node.Ready()
		if !raft.IsEmptySnap(rd.Snapshot) {
			m.install(rd.Snapshot)
		}
		if err := m.store.Append(rd.Entries); err != nil {
			m.logger.Error("a counting replica could not keep its log", "error", err)
		}
		if !raft.IsEmptyHardState(rd.HardState) {
			_ = m.store.SetHardState(rd.HardState) // in memory: it cannot fail
		}
		m.role(rd.SoftState)
		for _, rm := range rd.Messages {
			m.carry(rm)
		}
		for _, e := range rd.CommittedEntries {
			m.commit(e)
		}
		m.node.Advance(rd)
		m.trim()
	}
	out := m.out
	m.out = nil
	return out
}

// carry sends a message of Raft to another replica.
func (m *member) carry(rm *raftpb.Message) {
	data, err := proto.Marshal(rm)
	if err != nil {
		m.logger.Error("a counting message was not encoded", "error", err)
		return
	}
	m.out = append(m.out, Message{From: m.address(), To: Address{Seat: seatOf(rm.GetTo())}, Group: m.group, Raft: data})
	if rm.GetType() == raftpb.MsgSnap { // if it is lost, the next probe finds out
		m.node.ReportSnapshot(rm.GetTo(), raft.SnapshotFinish)
	}
}

// role notices the beginning and the end of leading. A new leader counts every session's term anew from now, and the
// ledger's clock on from where it is.
func (m *member) role(soft *raft.SoftState) {
	if soft == nil {
		return
	}
	leads := soft.RaftState == raft.StateLeader
	if leads && !m.leading {
		m.heard, m.waiting, m.proposed = map[string]time.Duration{}, map[Pool]map[string]bool{}, 0
		for id := range m.ledger.sessions {
			m.heard[id] = m.now
		}
		m.base = m.ledger.clock - m.now
	}
	m.leading = leads
	m.reconcile()
}

func (m *member) install(s *raftpb.Snapshot) {
	var state snapshot
	if err := json.Unmarshal(s.GetData(), &state); err != nil {
		m.logger.Error("a counting snapshot is damaged", "error", err)
		return
	}
	if err := m.store.ApplySnapshot(s); err != nil {
		return // older than what is here
	}
	m.ledger, m.conf = restore(state), s.GetMetadata().GetConfState()
	m.applied = s.GetMetadata().GetIndex()
	m.cut = m.applied
}

func (m *member) commit(e *raftpb.Entry) {
	m.applied = e.GetIndex()
	if e.GetType() != raftpb.EntryNormal {
		m.configure(e)
		return
	}
	var c command
	if len(e.GetData()) == 0 {
		return
	}
	if err := json.Unmarshal(e.GetData(), &c); err != nil {
		m.logger.Error("a counting command is damaged", "error", err)
		return
	}
	o := m.ledger.apply(c)
	if m.leading {
		m.announce(c, o)
	}
}

// configure applies a change of the members. A snapshot follows at once: one from before would not name a new member, which
// would refuse it.
func (m *member) configure(e *raftpb.Entry) {
	var change raftpb.ConfChangeI
	v1, v2 := &raftpb.ConfChange{}, &raftpb.ConfChangeV2{}
	err := proto.Unmarshal(e.GetData(), v2)
	change = v2
	if e.GetType() == raftpb.EntryConfChange {
		err = proto.Unmarshal(e.GetData(), v1)
		change = v1
	}
	if err != nil {
		m.logger.Error("a change of the counting group is damaged", "error", err)
		return
	}
	m.conf = m.node.ApplyConfChange(change)
	m.keep()
}

// announce tells sessions, as the leader, what a command gave.
func (m *member) announce(c command, o outcome) {
	asker := ""
	if c.Ask != nil {
		asker = c.Ask.Session
		m.heard[asker] = m.now
	}
	m.wake(o, asker)
	if o.answer != nil {
		m.tell(asker, Message{Answer: o.answer})
		for i, line := range o.answer.Lines {
			m.await(asker, line, c.Ask.Lines[i].Want > line.Granted && !line.Full)
		}
	}
	for _, r := range o.recalls {
		m.recall(r, asker)
	}
	if o.changed {
		for _, id := range m.ledger.sessionIDs() {
			m.tell(id, Message{Notice: &Notice{Version: m.ledger.version}})
		}
	}
	if c.Limits != nil { // others may have come from the catalogue meanwhile
		m.proposed = 0
		m.reconcile()
	}
}

// await notes whether acquires of a session wait for a pool.
func (m *member) await(session string, line AnswerLine, waits bool) {
	sessions := m.waiting[line.Pool]
	switch {
	case waits && sessions == nil:
		m.waiting[line.Pool] = map[string]bool{session: true}
	case waits:
		sessions[session] = true
	case len(sessions) > 0:
		delete(sessions, session)
	}
	if len(m.waiting[line.Pool]) == 0 {
		delete(m.waiting, line.Pool)
	}
}

// wake has the sessions ask again that wait for what has come free.
func (m *member) wake(o outcome, asker string) {
	again := map[string]bool{}
	for id, sessions := range m.waiting {
		if !o.stirred && !o.changed && !slices.Contains(o.freed, id) {
			continue
		}
		for session := range sessions {
			if session != asker {
				again[session] = true
				delete(sessions, session)
			}
		}
	}
	for _, session := range slices.Sorted(maps.Keys(again)) {
		m.tell(session, Message{Notice: &Notice{Version: m.ledger.version, Again: true}})
	}
}

// recall asks the other sessions for the idle credits of a pool.
func (m *member) recall(r Recall, asker string) {
	for _, id := range m.ledger.sessionIDs() {
		if h := m.ledger.sessions[id].Holds[r.Pool]; id != asker && h != nil && h.N > 0 && h.Answered < r.Round {
			m.tell(id, Message{Notice: &Notice{Version: m.ledger.version, Recalls: []Recall{r}}})
		}
	}
}

// tell sends to a session.
func (m *member) tell(session string, msg Message) {
	name := session[:strings.LastIndexByte(session, '.')] // without the number of the lease
	msg.From, msg.To, msg.Group = m.address(), Address{Session: name}, m.group
	m.out = append(m.out, msg)
}

// trim cuts the log behind a snapshot.
func (m *member) trim() {
	if m.applied < m.cut+2*keepEntries {
		return
	}
	m.keep()
	m.cut = m.applied - keepEntries
	if err := m.store.Compact(m.cut); err != nil {
		m.logger.Warn("a counting log was not cut", "error", err)
	}
}

// keep makes a snapshot.
func (m *member) keep() {
	data, err := json.Marshal(m.ledger.snapshot())
	if err == nil {
		_, err = m.store.CreateSnapshot(m.applied, m.conf, data)
	}
	if err != nil {
		m.logger.Error("a counting snapshot was not made", "error", err)
	}
}
