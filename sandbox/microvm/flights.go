package microvm

import (
	"context"
	"os"
	"sync"

	"golang.org/x/sync/singleflight"
)

// flights is work that many wait for and that is done once. It goes on when those who wait give up, for the next ones will want it,
// and ends with close. It is safe for use by many goroutines.
type flights struct {
	work   context.Context
	cancel context.CancelFunc
	group  singleflight.Group

	mu      sync.Mutex
	closed  bool
	waiting sync.WaitGroup // Add only under mu, and not once closed
}

func newFlights() *flights {
	f := &flights{}
	f.work, f.cancel = context.WithCancel(context.Background())
	return f
}

// do returns when the work of that name is done, by this call's function or by that of another one, or when the context ends.
func (f *flights) do(ctx context.Context, name string, work func(context.Context) error) error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return os.ErrClosed
	}
	f.waiting.Add(1)
	f.mu.Unlock()
	landed := f.group.DoChan(name, func() (any, error) { return nil, work(f.work) })
	select {
	case result := <-landed:
		f.waiting.Done()
		return result.Err
	case <-ctx.Done():
		go func() {
			defer f.waiting.Done()
			<-landed
		}()
		return ctx.Err()
	}
}

// close ends all work and waits for that.
func (f *flights) close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.cancel()
	f.waiting.Wait()
}
