package gvisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"lambent/sandbox"
	"lambent/sandbox/gvisor/initproc"
	"lambent/sandbox/identity"
)

// process is a started process. It implements sandbox.Process.
type process struct {
	pipe     string // the name of its output in the exchange
	output   *os.File
	oomKills int64 // before it started
	done     chan struct{}
	exit     sandbox.Exit // valid when done is closed
}

// Output implements sandbox.Process.
func (p *process) Output() *os.File { return p.output }

// Wait implements sandbox.Process.
func (p *process) Wait(ctx context.Context) (sandbox.Exit, error) {
	select {
	case <-p.done:
		return p.exit, nil
	default:
	}
	select {
	case <-p.done:
		return p.exit, nil
	case <-ctx.Done():
		return sandbox.Exit{}, ctx.Err()
	}
}

// finish is called once, by who took the process out of its sandbox's map.
func (p *process) finish(e sandbox.Exit) {
	p.exit = e
	close(p.done)
}

// exitOf completes how a process ended by whether memory ran out. When the host takes memory back it ends whatever it likes of the
// Sentry's, so that the function's process may see any death; it is reported as killed.
func (s *Sandbox) exitOf(p *process, e sandbox.Exit) sandbox.Exit {
	kills, err := s.group.OOMKills()
	if err == nil && kills > p.oomKills && (e.Signal != 0 || e.Code != 0) {
		return sandbox.Exit{Signal: int(unix.SIGKILL), OOMKilled: true}
	}
	return e
}

// exited notes the end of a child of the init.
func (s *Sandbox) exited(e exit) {
	s.mu.Lock()
	p := s.processes[e.number]
	delete(s.processes, e.number)
	s.mu.Unlock()
	if p != nil {
		p.finish(s.exitOf(p, sandbox.Exit{Code: e.code, Signal: e.signal}))
	}
}

// lost notes the end of an init's connection.
func (s *Sandbox) lost(of *control) {
	s.mu.Lock()
	if s.control != of {
		s.mu.Unlock()
		return
	}
	s.control = nil
	s.mu.Unlock()
	if !of.leave.Load() {
		s.abandon()
	}
}

// abandon ends, for their waiters, all processes that are gone without the init's having told of it.
func (s *Sandbox) abandon() {
	s.mu.Lock()
	processes := s.processes
	s.processes = map[int]*process{}
	s.mu.Unlock()
	for _, p := range processes {
		p.finish(s.exitOf(p, sandbox.Exit{Signal: int(unix.SIGKILL)}))
	}
}

// Start implements sandbox.Sandbox. After Kill, and after a shortage of memory that ended the Sentry, it begins a new one first.
func (s *Sandbox) Start(ctx context.Context, cmd sandbox.Command) (sandbox.Process, error) {
	if len(cmd.Args) == 0 {
		return nil, errors.New("start process: no arguments")
	}
	p, err := s.start(ctx, cmd)
	if err != nil {
		return nil, fmt.Errorf("start process %s: %w", cmd.Path, err)
	}
	return p, nil
}

func (s *Sandbox) start(ctx context.Context, cmd sandbox.Command) (*process, error) {
	control, err := s.living(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.measure(); err != nil {
		return nil, err
	}
	kills, err := s.group.OOMKills()
	if err != nil {
		return nil, err
	}
	dir := cmd.Dir
	if dir == "" {
		dir = "/"
	}
	s.last++
	number := s.last
	p, err := s.newProcess(number, kills)
	if err != nil {
		return nil, err
	}
	if err := s.register(control, number, p); err != nil {
		return nil, errors.Join(err, s.discard(p))
	}
	parts := append([]string{initproc.Start, strconv.Itoa(number), pipeName(number), cmd.Path, dir, strconv.Itoa(len(cmd.Args))}, cmd.Args...)
	if _, err := control.ask(append(parts, cmd.Env...)...); err != nil {
		s.mu.Lock()
		delete(s.processes, number)
		s.mu.Unlock()
		return nil, errors.Join(err, s.discard(p))
	}
	return p, nil
}

// pipeName is the name, in the exchange, of a process's output.
func pipeName(number int) string { return "out" + strconv.Itoa(number) }

// newProcess makes the output of a process.
func (s *Sandbox) newProcess(number int, oomKills int64) (*process, error) {
	output, err := s.files.pipe(pipeName(number), int(s.firstID)+identity.FunctionUID, int(s.firstID)+identity.FunctionGID)
	if err != nil {
		return nil, err
	}
	return &process{pipe: pipeName(number), output: output, oomKills: oomKills, done: make(chan struct{})}, nil
}

// discard removes the output of a process that was not started.
func (s *Sandbox) discard(p *process) error {
	return errors.Join(p.output.Close(), s.files.remove(p.pipe))
}

// register has the process's exit noted.
func (s *Sandbox) register(c *control, number int, p *process) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.control != c {
		return errInitGone
	}
	s.processes[number] = p
	return nil
}
