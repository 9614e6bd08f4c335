// Package memory is a metadata store in memory, with the semantics of the real one: for tests, and for regions that need
// not survive a restart.
package memory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"lambent/meta"
)

// Options of a Store.
type Options struct {
	// History is how many commits are kept for watches that start in the past, and how many a watch may fall behind;
	// 0: 10,000.
	History int
}

// Store is a meta.Store in memory.
type Store struct {
	history int
	watches sync.WaitGroup
	closing chan struct{}

	mu       sync.Mutex
	revision int64
	items    map[string]meta.Item
	keys     []string // of items, sorted
	commits  []commit // the newest ones, oldest first
	oldest   int64    // changes after this revision are in commits
	changed  chan struct{}
	closed   bool
}

// commit is the changes of one revision.
type commit struct {
	revision int64
	changes  []meta.Change
}

var _ meta.Store = (*Store)(nil)

// ErrClosed is the answer of a store that was closed.
var ErrClosed = errors.New("meta/memory: the store is closed")

// Open makes an empty store. Its first revision is 1, as etcd's is.
func Open(options Options) *Store {
	if options.History == 0 {
		options.History = 10_000
	}
	return &Store{
		history:  options.History,
		closing:  make(chan struct{}),
		revision: 1,
		items:    make(map[string]meta.Item),
		changed:  make(chan struct{}),
	}
}

// Get implements meta.Store.
func (s *Store) Get(ctx context.Context, key string) (meta.Item, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usableLocked(ctx); err != nil {
		return meta.Item{}, false, err
	}
	item, ok := s.items[key]
	return copyItem(item), ok, nil
}

// List implements meta.Store.
func (s *Store) List(ctx context.Context, prefix, from string, limit int) ([]meta.Item, int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usableLocked(ctx); err != nil {
		return nil, 0, err
	}
	var items []meta.Item
	first, _ := slices.BinarySearch(s.keys, max(prefix, from))
	for _, key := range s.keys[first:] {
		if !strings.HasPrefix(key, prefix) || (limit > 0 && len(items) == limit) {
			break
		}
		items = append(items, copyItem(s.items[key]))
	}
	return items, s.revision, nil
}

// Commit implements meta.Store.
func (s *Store) Commit(ctx context.Context, conditions []meta.Condition, ops []meta.Op) (int64, error) {
	if err := meta.CheckOps(ops); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usableLocked(ctx); err != nil {
		return 0, err
	}
	for _, condition := range conditions {
		if s.items[condition.Key].Revision != condition.Revision {
			return 0, meta.ErrConflict
		}
	}
	changes := s.applyLocked(ops)
	if len(changes) == 0 {
		return s.revision, nil
	}
	s.revision++
	s.commits = append(s.commits, commit{s.revision, changes})
	if excess := len(s.commits) - s.history; excess > 0 {
		s.oldest = s.commits[excess-1].revision
		s.commits = slices.Delete(s.commits, 0, excess)
	}
	close(s.changed)
	s.changed = make(chan struct{})
	return s.revision, nil
}

// applyLocked makes the changes of the next revision. Deleting what is not there is no change.
func (s *Store) applyLocked(ops []meta.Op) []meta.Change {
	var changes []meta.Change
	for _, op := range ops {
		at, exists := slices.BinarySearch(s.keys, op.Key)
		item := meta.Item{Key: op.Key, Revision: s.revision + 1}
		switch {
		case !op.Delete:
			item.Value = append([]byte{}, op.Value...)
			s.items[op.Key] = item
			if !exists {
				s.keys = slices.Insert(s.keys, at, op.Key)
			}
		case exists:
			delete(s.items, op.Key)
			s.keys = slices.Delete(s.keys, at, at+1)
		default:
			continue
		}
		changes = append(changes, meta.Change{Item: item, Deleted: op.Delete})
	}
	return changes
}

// Watch implements meta.Store.
func (s *Store) Watch(ctx context.Context, prefix string, after int64) <-chan []meta.Change {
	out := make(chan []meta.Change)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		close(out)
		return out
	}
	s.watches.Go(func() { s.feed(ctx, prefix, after, out) })
	return out
}

func (s *Store) feed(ctx context.Context, prefix string, after int64, out chan<- []meta.Change) {
	defer close(out)
	for {
		commits, changed, ok := s.since(after)
		if !ok {
			return
		}
		for _, c := range commits {
			after = c.revision
			batch := selectPrefix(c.changes, prefix)
			if len(batch) == 0 {
				continue
			}
			select {
			case out <- batch:
			case <-ctx.Done():
				return
			case <-s.closing:
				return
			}
			if s.behind(after) {
				return
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		case <-s.closing:
			return
		}
	}
}

// since returns the commits after a revision and a channel that closes at the next one; ok is false when they are no longer
// all known.
func (s *Store) since(after int64) (commits []commit, changed <-chan struct{}, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if after < s.oldest {
		return nil, nil, false
	}
	first := 0
	for first < len(s.commits) && s.commits[first].revision <= after {
		first++
	}
	return slices.Clone(s.commits[first:]), s.changed, true
}

// behind tells whether a watch at a revision has lost commits.
func (s *Store) behind(after int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return after < s.oldest
}

// Revision implements meta.Store.
func (s *Store) Revision(ctx context.Context) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usableLocked(ctx); err != nil {
		return 0, err
	}
	return s.revision, nil
}

// Compact forgets the history up to now, so that watches that are behind end.
func (s *Store) Compact() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.oldest = s.revision
	s.commits = nil
}

// Close implements meta.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.closing)
	}
	s.mu.Unlock()
	s.watches.Wait()
	return nil
}

func (s *Store) usableLocked(ctx context.Context) error {
	if s.closed {
		return ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("meta/memory: %w", err)
	}
	return nil
}

func selectPrefix(changes []meta.Change, prefix string) []meta.Change {
	var selected []meta.Change
	for _, change := range changes {
		if strings.HasPrefix(change.Key, prefix) {
			change.Item = copyItem(change.Item)
			selected = append(selected, change)
		}
	}
	return selected
}

func copyItem(item meta.Item) meta.Item {
	item.Value = bytes.Clone(item.Value)
	return item
}
