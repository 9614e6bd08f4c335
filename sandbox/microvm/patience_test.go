package microvm

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"lambent/sandbox"
)

// silent is a sandbox in a guest that does not answer, and the guest's machine. It fails when the machine ends.
type silent struct {
	sandbox.Sandbox
	machine
	ended chan struct{}
}

var errSilent = errors.New("the guest is gone")

func (s silent) wait() error {
	<-s.ended
	return errSilent
}

func (s silent) Pause(context.Context) error   { return nil }
func (s silent) Resume(context.Context) error  { return nil }
func (s silent) SetVCPU(float64) error         { return s.wait() }
func (s silent) Kill(context.Context) error    { return s.wait() }
func (s silent) Usage() (sandbox.Usage, error) { return sandbox.Usage{}, s.wait() }
func (s silent) Start(context.Context, sandbox.Command) (sandbox.Process, error) {
	return nil, s.wait()
}

func (s silent) End() error {
	close(s.ended)
	return nil
}

// What needs the guest's answer ends with the guest; what does not goes on without it.
func TestSilentGuest(t *testing.T) {
	t.Run("does not matter", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			guest := silent{ended: make(chan struct{})}
			s := &Sandbox{inner: guest, machine: guest}
			_, err := s.Usage()
			if err := errors.Join(err, s.Freeze(), s.Thaw()); err != nil {
				t.Error(err)
			}
			close(guest.ended)
		})
	})
	for name, call := range map[string]func(*Sandbox) error{
		"vcpu": func(s *Sandbox) error { return s.SetVCPU(1) },
		"kill": func(s *Sandbox) error { return s.Kill(context.Background()) },
		"start": func(s *Sandbox) error {
			_, err := s.Start(context.Background(), sandbox.Command{})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				guest := silent{ended: make(chan struct{})}
				if err := call(&Sandbox{inner: guest, machine: guest}); !errors.Is(err, errSilent) {
					t.Errorf("it is answered by %v", err)
				}
			})
		})
	}
}
