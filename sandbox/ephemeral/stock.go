package ephemeral

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Stock keeps a few empty file systems of one kind ahead of need: to set up a loop device and to mount it the kernel waits for
// grace periods, milliseconds that whoever makes a sandbox need not wait for. Each is given away once, and never comes back. It is safe
// for use by many goroutines.
type Stock struct {
	options Options
	count   int
	ready   chan *FS
	context context.Context
	stop    context.CancelFunc

	begin sync.Once
	group sync.WaitGroup
}

// NewStock returns a stock that holds count file systems once the first was taken. Their owner is who takes them. Close empties it.
func NewStock(options Options, count int) *Stock {
	ctx, stop := context.WithCancel(context.Background())
	options.UID, options.GID = 0, 0
	return &Stock{options: options, count: count, ready: make(chan *FS), context: ctx, stop: stop}
}

// Take returns a file system that belongs to uid and gid, and makes it when none is ready.
func (s *Stock) Take(uid, gid uint32) (*FS, error) {
	s.begin.Do(func() {
		for range s.count {
			s.group.Go(s.keep)
		}
	})
	select {
	case fs := <-s.ready:
		if err := fs.root.Chown(int(uid), int(gid)); err != nil {
			return nil, fmt.Errorf("give /tmp to its owner: %w", errors.Join(err, fs.Release(0)))
		}
		return fs, nil
	default:
	}
	options := s.options
	options.UID, options.GID = uid, gid
	return Make(options)
}

// keep holds one file system at a time. When it cannot make one it ends: who takes will see why.
func (s *Stock) keep() {
	for s.context.Err() == nil {
		fs, err := Make(s.options)
		if err != nil {
			return
		}
		select {
		case s.ready <- fs:
		case <-s.context.Done():
			_ = fs.Release(0) // closing a descriptor
		}
	}
}

// Close gives back what is left. Take is not called any more.
func (s *Stock) Close() {
	s.begin.Do(func() {}) // nothing begins from now on
	s.stop()
	s.group.Wait()
}
