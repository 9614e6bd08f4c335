// Package logstore keeps the log events of a worker's sandboxes: in memory for a moment, then in segment files that one
// background writer appends to. Appending costs the appender no disk access and no lock that others hold for long.
//
// An event's sequence number is the time of its append in nanoseconds, made unique and growing. A flush takes exactly the
// events up to a sequence number, so that what is in the files is in order, and a reader that remembers the last event it has
// seen misses none.
package logstore

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Options configure a store. Dir is required.
type Options struct {
	// Dir holds the segment files. It is made when it is missing, and belongs to one store at a time.
	Dir string
	// Owner is mixed into the IDs of events, so that those of two stores differ. Default: empty.
	Owner string
	// MaxBytes is how much is kept on disk; the oldest segments go first. Default: 1 GiB.
	MaxBytes int64
	// SegmentBytes is the size from which on a segment is complete. Default: 16 MiB, at most MaxBytes/4.
	SegmentBytes int64
	// FlushEvery is how long events stay in memory only. Default: 50 ms.
	FlushEvery time.Duration
	// PendingBytes is how much waits in memory for the writer, of all streams together. Default: 64 MiB.
	PendingBytes int64
	// Logger is told when events cannot be written. Default: slog.Default().
	Logger *slog.Logger
}

func (o *Options) defaults() {
	if o.MaxBytes == 0 {
		o.MaxBytes = 1 << 30
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 16 << 20
	}
	o.SegmentBytes = max(1, min(o.SegmentBytes, o.MaxBytes/4, 1<<30))
	if o.FlushEvery == 0 {
		o.FlushEvery = 50 * time.Millisecond
	}
	if o.PendingBytes == 0 {
		o.PendingBytes = 64 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
}

// Store holds events. It is safe for use by many goroutines.
//
// Invariants: all events up to written are in the segments, and later ones in a stream's pending or in flight; a segment that
// is not the last does not change.
type Store struct {
	options Options
	owner   uint32
	last    atomic.Int64 // the last sequence number that was given out
	pending atomic.Int64 // bytes that wait for the writer
	dirty   chan struct{}
	stop    chan struct{}
	done    sync.WaitGroup
	loaded  chan struct{} // closed when the older segments are known

	flushing sync.Mutex // held by who moves events from streams to the files

	mu       sync.Mutex
	streams  map[*Stream]struct{}
	inFlight []event // taken from the streams, and not indexed yet
	segments []*segment
	current  *os.File
	failing  bool // the last write failed
}

// Open opens the store of a directory. The newest segment is checked, and cut where a crash tore it; the older ones are read
// behind the caller.
func Open(options Options) (*Store, error) {
	options.defaults()
	if options.Dir == "" {
		return nil, errors.New("open log store: no directory")
	}
	if err := os.MkdirAll(options.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open log store: %w", err)
	}
	s := &Store{options: options, owner: crc32.ChecksumIEEE([]byte(options.Owner)), dirty: make(chan struct{}, 1), stop: make(chan struct{}),
		loaded: make(chan struct{}), streams: map[*Stream]struct{}{}}
	if err := s.recover(); err != nil {
		return nil, fmt.Errorf("open log store: %w", err)
	}
	s.done.Go(s.load)
	s.done.Go(s.write)
	return s, nil
}

// Close writes what is pending and ends the store.
func (s *Store) Close() error {
	close(s.stop)
	s.done.Wait()
	err := s.Flush()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.segments {
		g.release()
	}
	s.segments = nil
	if s.current != nil {
		err = errors.Join(err, s.current.Close())
		s.current = nil
	}
	return err
}

// next returns a new sequence number: the time, unless that has been given out.
func (s *Store) next(now time.Time) int64 {
	nanos := now.UnixNano()
	for {
		last := s.last.Load()
		sequence := max(nanos, last+1)
		if s.last.CompareAndSwap(last, sequence) {
			return sequence
		}
	}
}

// write flushes now and then, when there is something to write.
func (s *Store) write() {
	timer := time.NewTimer(0)
	<-timer.C
	defer timer.Stop()
	for {
		select {
		case <-s.dirty:
		case <-s.stop:
			return
		}
		timer.Reset(s.options.FlushEvery)
		select {
		case <-timer.C:
		case <-s.stop:
			return
		}
		if err := s.Flush(); err != nil {
			s.complain(err)
		}
	}
}

// complain logs the first of a row of failures.
func (s *Store) complain(err error) {
	s.mu.Lock()
	first := !s.failing
	s.failing = true
	s.mu.Unlock()
	if first {
		s.options.Logger.Error("log events cannot be written and are lost", "error", err)
	}
}

// Flush writes what has been appended. Events that cannot be written are lost: functions do not wait for a disk.
func (s *Store) Flush() error {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	events, streams := s.collect()
	if len(events) == 0 {
		return nil
	}
	err := s.store(events)
	s.mu.Lock()
	s.inFlight = nil
	s.failing = s.failing && err != nil
	s.mu.Unlock()
	size := int64(0)
	for i := range events {
		size += int64(len(events[i].message)) + eventOverhead
	}
	s.pending.Add(-size)
	for _, st := range streams {
		st.flushed()
	}
	return err
}

// collect moves the events that have been appended up to now into flight, in order.
func (s *Store) collect() ([]event, []*Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// An event gets its number while its stream is locked, so that after locking each stream all up to the horizon are seen.
	horizon := s.next(time.Now())
	var events []event
	var streams []*Stream
	for st := range s.streams {
		before := len(events)
		var ended bool
		events, ended = st.take(events, horizon)
		if len(events) > before {
			streams = append(streams, st)
		}
		if ended {
			delete(s.streams, st)
		}
	}
	sortEvents(events)
	s.inFlight = events
	return events, streams
}

// wakeWriter has the writer flush soon.
func (s *Store) wakeWriter() {
	select {
	case s.dirty <- struct{}{}:
	default:
	}
}

// awaitLoaded waits until all segments are known.
func (s *Store) awaitLoaded(ctx context.Context) error {
	select {
	case <-s.loaded:
		return nil
	case <-s.stop:
		return os.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}
