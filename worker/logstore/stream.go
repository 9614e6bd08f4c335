package logstore

import (
	"slices"
	"sync"
	"time"
)

// MaxMessage is the largest message of an event, in bytes, as in CloudWatch Logs. Longer ones are the appender's to split.
const MaxMessage = 256 << 10

// streamBytes is how much of one stream waits for the writer. With one flush each 50 ms that is 10 MB/s.
const streamBytes = 2 * MaxMessage

// eventOverhead is what an event costs in memory beside its message.
const eventOverhead = 64

// event is one event in memory.
type event struct {
	sequence int64
	time     int64 // Unix nanoseconds
	stream   *Stream
	message  []byte
}

// Stream is a log stream that is written to. It is safe for use by many goroutines.
type Stream struct {
	store                *Store
	account, group, name string
	room                 chan struct{}

	mu     sync.Mutex
	arena  []byte // the messages of events
	events []event
	size   int
	ended  bool
}

// Stream makes a stream for writing. The caller closes it.
func (s *Store) Stream(account, group, name string) *Stream {
	st := &Stream{store: s, account: account, group: group, name: name, room: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[st] = struct{}{}
	return st
}

// Name returns the stream's name.
func (st *Stream) Name() string { return st.name }

// Append adds an event, and copies its message. It never waits: it returns false, and drops the event, when too much waits for
// the writer or the stream is closed.
func (st *Stream) Append(now time.Time, message []byte) bool {
	cost := len(message) + eventOverhead
	if st.store.pending.Load() > st.store.options.PendingBytes {
		return false
	}
	st.mu.Lock()
	if st.ended || st.size+cost > streamBytes && st.size > 0 {
		st.mu.Unlock()
		return false
	}
	first := st.size == 0
	st.size += cost
	start := len(st.arena)
	if start+len(message) > cap(st.arena) { // a new arena: events refer into the old one
		st.arena, start = make([]byte, 0, max(len(message), min(2*cap(st.arena), 64<<10), 2<<10)), 0
	}
	st.arena = append(st.arena, message...)
	st.events = append(st.events, event{sequence: st.store.next(now), time: now.UnixNano(), stream: st,
		message: st.arena[start:len(st.arena):len(st.arena)]})
	st.mu.Unlock()
	st.store.pending.Add(int64(cost))
	if first {
		st.store.wakeWriter()
	}
	return true
}

// Full tells whether appending should wait for Room, because half of what a stream may have pending is.
func (st *Stream) Full() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.size > streamBytes/2 && !st.ended || st.store.pending.Load() > st.store.options.PendingBytes/2
}

// Room gets a value after a flush has made room. One goroutine at a time waits for it.
func (st *Stream) Room() <-chan struct{} { return st.room }

// Close ends the stream: nothing can be appended any more, and what was appended is kept.
func (st *Stream) Close() {
	st.mu.Lock()
	st.ended = true
	st.mu.Unlock()
	st.store.wakeWriter()
}

// take moves the events up to the horizon to the end of all, and tells whether the stream is of no more use.
func (st *Stream) take(all []event, horizon int64) (_ []event, ended bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	n, _ := slices.BinarySearchFunc(st.events, horizon, func(e event, h int64) int {
		if e.sequence <= h {
			return -1
		}
		return 1
	})
	all = append(all, st.events[:n]...)
	rest := copy(st.events, st.events[n:])
	clear(st.events[rest:])
	st.events = st.events[:rest]
	st.arena = nil // what is left of it stays with the events
	st.size = 0
	for i := range st.events {
		st.size += len(st.events[i].message) + eventOverhead
	}
	return all, st.ended && rest == 0
}

// snapshot appends the events up to the horizon to all.
func (st *Stream) snapshot(all []event, horizon int64) []event {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, e := range st.events {
		if e.sequence <= horizon {
			all = append(all, e)
		}
	}
	return all
}

// flushed tells a waiting appender that there is room.
func (st *Stream) flushed() {
	select {
	case st.room <- struct{}{}:
	default:
	}
}

func sortEvents(events []event) {
	slices.SortFunc(events, func(a, b event) int {
		switch {
		case a.sequence < b.sequence:
			return -1
		case a.sequence > b.sequence:
			return 1
		}
		return 0
	})
}
