package microvm

import (
	"context"
	"sync"
	"time"

	"lambent/sandbox"
)

// What a guest says is up to whoever has broken into it, and so is whether it says anything. No caller waits for it longer than this.
const (
	// guestPatience is how long a guest may take for a call, however long its caller would wait.
	guestPatience = 2 * time.Minute
	// lastPatience is how long it may take to answer that it has given a call up. After that, the machine is ended.
	lastPatience = 2 * time.Second
	// meterPatience is how long a reader of the meters waits for new values before it gets the last ones.
	meterPatience = 500 * time.Millisecond
)

// ask makes a call to the guest. When the context or the patience ends and the guest does not give up, its machine is ended, and with it
// the call.
func (s *Sandbox) ask(ctx context.Context, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, guestPatience)
	defer cancel()
	answered := make(chan struct{})
	defer close(answered)
	context.AfterFunc(ctx, func() {
		timer := time.NewTimer(lastPatience)
		defer timer.Stop()
		select {
		case <-answered:
		case <-timer.C:
			_ = s.machine.End() // whoever destroys the sandbox is told
		}
	})
	return call(ctx)
}

// meter reads meters that may be long in coming. It is safe for use by many goroutines.
type meter struct {
	mu      sync.Mutex
	last    sandbox.Usage
	err     error         // of the last answer
	reading chan struct{} // closed when the answer is there; nil: nothing was asked
}

// read returns what ask returns, or the last values when that takes long. There is one question at a time.
func (m *meter) read(ask func() (sandbox.Usage, error)) (sandbox.Usage, error) {
	m.mu.Lock()
	if m.reading == nil {
		m.reading = make(chan struct{})
		go m.answer(ask)
	}
	reading := m.reading
	m.mu.Unlock()
	timer := time.NewTimer(meterPatience)
	defer timer.Stop()
	select {
	case <-reading:
	case <-timer.C:
	}
	return m.lastRead()
}

func (m *meter) answer(ask func() (sandbox.Usage, error)) {
	usage, err := ask()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err = err; err == nil {
		m.last = usage
	}
	close(m.reading)
	m.reading = nil
}

func (m *meter) lastRead() (sandbox.Usage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last, m.err
}
