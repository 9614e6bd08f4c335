package microvm

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"lambent/sandbox"
)

// mute is a machine whose guest answers nothing: calls end when the machine does.
type mute struct {
	machine
	ended chan struct{}
}

func (m *mute) End() error { close(m.ended); return nil }

// A guest that does not answer, nor says that it has given up, is ended, and so are the calls to it.
func TestMuteGuestIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mute{ended: make(chan struct{})}
		s := &Sandbox{machine: m}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		err := s.ask(ctx, func(context.Context) error { <-m.ended; return io.EOF })
		if took := time.Since(began); !errors.Is(err, io.EOF) || took != 3*time.Second+lastPatience {
			t.Errorf("the call ended after %v with %v", took, err)
		}
	})
}

// A guest that answers in time, or gives up in time, goes on.
func TestGuestThatAnswersGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Sandbox{machine: &mute{ended: nil}} // End would panic
		if err := s.ask(t.Context(), func(context.Context) error { return nil }); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.ask(ctx, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		time.Sleep(time.Hour) //nolint:forbidigo // virtual: nothing happens any more
	})
}

// Readers of meters that do not come get the last values, soon, and ask once.
func TestMeterDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m meter
		if usage, err := m.read(func() (sandbox.Usage, error) { return sandbox.Usage{MemoryBytes: 7}, nil }); err != nil || usage.MemoryBytes != 7 {
			t.Errorf("%+v, %v", usage, err)
		}
		asked, answer := 0, make(chan struct{})
		slow := func() (sandbox.Usage, error) { asked++; <-answer; return sandbox.Usage{MemoryBytes: 9}, nil }
		for range 3 {
			began := time.Now()
			usage, err := m.read(slow)
			if err != nil || usage.MemoryBytes != 7 || time.Since(began) != meterPatience {
				t.Errorf("after %v: %+v, %v", time.Since(began), usage, err)
			}
		}
		close(answer)
		synctest.Wait()
		if usage, err := m.lastRead(); err != nil || usage.MemoryBytes != 9 || asked != 1 {
			t.Errorf("%+v, %v, asked %d times", usage, err, asked)
		}
	})
}
