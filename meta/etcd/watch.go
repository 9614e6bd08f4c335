package etcd

import (
	"context"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"

	"lambent/meta"
)

// watchGroup counts the goroutines of watches, and takes no more once it is closed.
type watchGroup struct {
	running sync.WaitGroup

	mu     sync.Mutex
	closed bool
}

// start runs feed unless the group is closed.
func (g *watchGroup) start(feed func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.running.Go(feed)
	return true
}

// close tells whether this was the first call.
func (g *watchGroup) close() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	first := !g.closed
	g.closed = true
	return first
}

func (g *watchGroup) wait() { g.running.Wait() }

// Watch implements meta.Store. The watch ends when it is more than Options.WatchBacklog commits behind, or when the history
// that it needs is older than ten minutes.
func (s *Store) Watch(ctx context.Context, prefix string, after int64) <-chan []meta.Change {
	out := make(chan []meta.Change)
	if !s.watches.start(func() { s.feed(ctx, prefix, after, out) }) {
		close(out)
	}
	return out
}

// feed passes etcd's answers on, one commit at a time. etcd's client would buffer for a slow receiver without a bound, so
// the backlog is kept, and bounded, here.
func (s *Store) feed(ctx context.Context, prefix string, after int64, out chan<- []meta.Change) {
	defer close(out)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.watching, cancel)()

	answers := s.client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(after+1))
	var backlog [][]meta.Change
	for {
		var ready chan<- []meta.Change
		var next []meta.Change
		if len(backlog) > 0 {
			ready, next = out, backlog[0]
		}
		select {
		case answer, ok := <-answers:
			if !ok || answer.Err() != nil {
				return
			}
			backlog = append(backlog, split(answer.Events)...)
			if len(backlog) > s.backlog {
				return
			}
		case ready <- next:
			backlog = backlog[1:]
		case <-ctx.Done():
			return
		}
	}
}

// split turns events into one batch for each commit.
func split(events []*clientv3.Event) [][]meta.Change {
	var batches [][]meta.Change
	var newest int64
	for _, event := range events {
		change := meta.Change{
			Item:    meta.Item{Key: string(event.Kv.Key), Value: event.Kv.Value, Revision: event.Kv.ModRevision},
			Deleted: event.Type == clientv3.EventTypeDelete,
		}
		if change.Deleted {
			change.Value = nil
		}
		if len(batches) == 0 || change.Revision != newest {
			batches = append(batches, nil)
			newest = change.Revision
		}
		last := len(batches) - 1
		batches[last] = append(batches[last], change)
	}
	return batches
}
