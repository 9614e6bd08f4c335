package manager

import (
	"hash/maphash"
	"sync"
)

// shards is a map for many goroutines, in parts that are locked by themselves: a claim waits for another one at most while
// it looks up a key.
type shards[K comparable, V any] struct {
	seed maphash.Seed
	part [64]shard[K, V]
}

type shard[K comparable, V any] struct {
	mu      sync.RWMutex
	entries map[K]V
	_       [96]byte // neighbours do not share a cache line
}

func newShards[K comparable, V any]() *shards[K, V] {
	s := &shards[K, V]{seed: maphash.MakeSeed()}
	for i := range s.part {
		s.part[i].entries = make(map[K]V)
	}
	return s
}

func (s *shards[K, V]) of(key K) *shard[K, V] {
	return &s.part[maphash.Comparable(s.seed, key)%uint64(len(s.part))]
}

func (s *shards[K, V]) load(key K) (V, bool) {
	p := s.of(key)
	p.mu.RLock()
	defer p.mu.RUnlock()
	value, ok := p.entries[key]
	return value, ok
}

func (s *shards[K, V]) store(key K, value V) {
	p := s.of(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.entries[key] = value
}

func (s *shards[K, V]) remove(key K) {
	p := s.of(key)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.entries, key)
}

// each calls f for every entry that stays there meanwhile, without a lock held.
func (s *shards[K, V]) each(f func(K, V)) {
	type entry struct {
		key   K
		value V
	}
	var all []entry
	for i := range s.part {
		p := &s.part[i]
		all = all[:0]
		p.mu.RLock()
		for key, value := range p.entries {
			all = append(all, entry{key, value})
		}
		p.mu.RUnlock()
		for _, e := range all {
			f(e.key, e.value)
		}
	}
}
