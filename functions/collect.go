package functions

import (
	"context"
	"fmt"
	"strings"
	"time"

	"lambent"
	"lambent/meta"
)

// kicksPerInterval is how much sooner than by itself the collector comes after a change that may have freed code.
const kicksPerInterval = 20

// kickCollector tells the collector that code may have become free.
func (s *Service) kickCollector() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// collectLoop collects once in an interval, and sooner after a kick.
func (s *Service) collectLoop() {
	interval := s.options.CollectInterval
	timer := time.NewTimer(interval / kicksPerInterval)
	defer timer.Stop()
	due := time.Now().Add(interval / kicksPerInterval)
	for {
		select {
		case <-s.running.Done():
			return
		case <-s.kick:
			if soon := time.Now().Add(interval / kicksPerInterval); soon.Before(due) {
				due = soon
				timer.Reset(time.Until(due))
			}
		case <-timer.C:
			if err := s.Collect(s.running); err != nil && s.running.Err() == nil {
				s.log.Warn("unused code could not be collected", "error", err)
			}
			due = time.Now().Add(interval)
			timer.Reset(interval)
		}
	}
}

// Collect deletes archives that nothing refers to, and what is left of deleted functions. The Service calls it by itself;
// it is here for operators.
func (s *Service) Collect(ctx context.Context) error {
	s.collector.Lock()
	defer s.collector.Unlock()
	if err := s.sweep(ctx); err != nil {
		return err
	}
	used, err := s.referenced(ctx)
	if err != nil {
		return err
	}
	var unused []string
	err = s.options.Blobs.List(ctx, func(ref lambent.CodeRef) bool {
		if _, ok := used[ref.SHA256]; !ok {
			unused = append(unused, ref.SHA256)
		}
		return true
	})
	if err != nil {
		return fmt.Errorf("functions: list the blobs: %w", err)
	}
	if len(unused) == 0 {
		return nil
	}
	taken, end := s.pins.collect(unused)
	defer end()
	// A request that had pinned one of them before may have written its reference meanwhile.
	if used, err = s.referenced(ctx); err != nil {
		return err
	}
	for _, digest := range taken {
		if _, ok := used[digest]; ok {
			continue
		}
		if err := s.options.Blobs.Delete(ctx, digest); err != nil {
			return fmt.Errorf("functions: delete a blob: %w", err)
		}
	}
	return nil
}

// referenced returns the digests that records refer to, as of one revision of the store.
func (s *Service) referenced(ctx context.Context) (map[string]struct{}, error) {
	items, _, err := s.options.Meta.List(ctx, rootPrefix, "", 0)
	if err != nil {
		return nil, storeError(err)
	}
	used := make(map[string]struct{})
	for _, item := range items {
		var code lambent.CodeRef
		switch {
		case strings.HasPrefix(item.Key, headPrefix):
			var h head
			err = decode(item, &h)
			code = h.Latest.Code
		case strings.HasPrefix(item.Key, versionPrefix):
			var v version
			err = decode(item, &v)
			code = v.Code
		default:
			continue
		}
		if err != nil {
			return nil, err // it may refer to anything
		}
		used[code.SHA256] = struct{}{}
	}
	return used, nil
}

// sweep deletes versions and aliases of functions that are gone.
func (s *Service) sweep(ctx context.Context) error {
	items, _, err := s.options.Meta.List(ctx, rootPrefix, "", 0)
	if err != nil {
		return storeError(err)
	}
	live := make(map[lambent.FunctionID]struct{})
	for _, item := range items {
		if strings.HasPrefix(item.Key, headPrefix) {
			var h head
			if err := decode(item, &h); err != nil {
				return err
			}
			live[h.ID] = struct{}{}
		}
	}
	var ops []meta.Op
	for _, item := range items {
		for _, prefix := range []string{versionPrefix, aliasPrefix} {
			if !strings.HasPrefix(item.Key, prefix) {
				continue
			}
			if id, _ := splitKey(prefix, item.Key); !contains(live, id) {
				ops = append(ops, meta.Op{Key: item.Key, Delete: true})
			}
		}
	}
	for len(ops) > 0 {
		n := min(len(ops), maxInline)
		if _, err := s.options.Meta.Commit(ctx, nil, ops[:n]); err != nil {
			return storeError(err)
		}
		ops = ops[n:]
	}
	return nil
}

func contains[K comparable](set map[K]struct{}, key K) bool {
	_, ok := set[key]
	return ok
}
