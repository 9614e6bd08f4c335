package native

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"lambent/sandbox"
	"lambent/sandbox/native/wire"
)

// starter is a process that waits to become a function's.
type starter struct {
	link *link
	pid  int // inside
}

func (s *starter) close() { s.link.close() }

// prepare has the init start a starter in the function's cgroups, and waits until that has given up its rights.
func (s *Sandbox) prepare() (ready *starter, err error) {
	p, err := s.beginPreparing()
	if err != nil {
		return nil, fmt.Errorf("prepare a process: %w", err)
	}
	defer func() { p.end(err == nil) }()
	answers, err := s.control.askAll(nil, p.question())
	if err != nil {
		return nil, fmt.Errorf("prepare a process: %w", err)
	}
	return p.finish(answers[0])
}

// preparation is what the init is asked for when it is to start a starter.
type preparation struct {
	link            *link
	inside, unified *os.File
	tasks           []*os.File
}

// beginPreparing opens all that the starter needs. It is to be ended.
func (s *Sandbox) beginPreparing() (*preparation, error) {
	p := &preparation{}
	var err error
	if p.link, p.inside, err = newLink("starter"); err != nil {
		return nil, err
	}
	if p.unified, p.tasks, err = s.group.OpenEntries(); err != nil {
		p.end(false)
		return nil, err
	}
	return p, nil
}

func (p *preparation) question() question {
	parts := []string{wire.Prepare}
	if p.unified != nil {
		parts = append(parts, wire.Unified)
	}
	return question{descriptors(append([]*os.File{p.inside, p.unified}, p.tasks...)), parts}
}

// finish waits, after the init's answer, for the starter to be ready.
func (p *preparation) finish(answer message) (*starter, error) {
	wire.CloseAll(answer.files)
	p.inside.Close() // so that the end of the starter is seen
	if len(answer.parts) != 2 {
		return nil, fmt.Errorf("prepare a process: %w", wire.ErrMalformed)
	}
	pid, err := strconv.Atoi(answer.parts[1])
	if err != nil || pid <= 1 {
		return nil, fmt.Errorf("prepare a process: %w", wire.ErrMalformed)
	}
	if _, err := hear(p.link, wire.Ready); err != nil {
		return nil, fmt.Errorf("prepare a process: %w", err)
	}
	return &starter{link: p.link, pid: pid}, nil
}

// end closes what is not the starter's.
func (p *preparation) end(ready bool) {
	closeFiles(append(p.tasks, p.inside, p.unified))
	if !ready {
		p.link.close()
	}
}

// hear reads the message of a name, or the failure that came instead.
func hear(from *link, name string) (message, error) {
	m, err := from.receive()
	if err != nil {
		return message{}, err
	}
	wire.CloseAll(m.files)
	switch m.parts[0] {
	case name:
		return m, nil
	case wire.Failed:
		return message{}, failure(m.parts)
	}
	return message{}, wire.ErrMalformed
}

// process is a started process. It implements sandbox.Process.
type process struct {
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

// exited notes the end of a child of the init.
func (s *Sandbox) exited(e exit) {
	s.mu.Lock()
	p := s.processes[e.pid]
	delete(s.processes, e.pid)
	s.mu.Unlock()
	if p == nil {
		return
	}
	result := sandbox.Exit{Code: e.code, Signal: e.signal}
	if kills, err := s.group.OOMKills(); err == nil {
		result.OOMKilled = kills > p.oomKills
	}
	p.finish(result)
}

// Start implements sandbox.Sandbox.
func (s *Sandbox) Start(_ context.Context, cmd sandbox.Command) (sandbox.Process, error) {
	if len(cmd.Args) == 0 {
		return nil, errors.New("start process: no arguments")
	}
	p, err := s.startSpare(cmd)
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) { // the spare was killed: make another
		p, err = s.startSpare(cmd)
	}
	if err != nil {
		return nil, fmt.Errorf("start process %s: %w", cmd.Path, err)
	}
	return p, nil
}

// startSpare turns the spare starter, or a new one, into the process.
func (s *Sandbox) startSpare(cmd sandbox.Command) (*process, error) {
	ready := s.takeSpare()
	if ready == nil {
		var err error
		if ready, err = s.prepare(); err != nil {
			return nil, err
		}
	}
	defer ready.close()
	kills, err := s.group.OOMKills()
	if err != nil {
		return nil, err
	}
	uid, gid := s.driver.ids.Function(s.firstID)
	reader, writer, err := outputPipe(int(uid), int(gid))
	if err != nil {
		return nil, err
	}
	defer unix.Close(writer)
	p := &process{output: reader, oomKills: kills, done: make(chan struct{})}
	if err := s.register(ready.pid, p); err != nil {
		reader.Close()
		return nil, err
	}
	if err := s.execute(ready, cmd, writer); err != nil {
		s.mu.Lock()
		delete(s.processes, ready.pid)
		s.mu.Unlock()
		reader.Close()
		return nil, err
	}
	return p, nil
}

// outputPipe makes a pipe for a process's output. The function opens /dev/stdout and the like anew, so the pipe must be its own.
func outputPipe(uid, gid int) (reader *os.File, writer int, err error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return nil, -1, fmt.Errorf("make a pipe: %w", err)
	}
	err = unix.Fchown(ends[1], uid, gid)
	if err == nil {
		err = unix.SetNonblock(ends[0], true) // this end, so that reading takes no thread
	}
	if err != nil {
		unix.Close(ends[0])
		unix.Close(ends[1])
		return nil, -1, fmt.Errorf("make a pipe: %w", err)
	}
	return os.NewFile(uintptr(ends[0]), "output"), ends[1], nil
}

// register has the process's exit noted.
func (s *Sandbox) register(pid int, p *process) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost {
		return errInitGone
	}
	s.processes[pid] = p
	return nil
}

// execute tells a starter what to become. Its socket closes by the exec, or carries why there was none.
func (s *Sandbox) execute(ready *starter, cmd sandbox.Command, output int) error {
	dir := cmd.Dir
	if dir == "" {
		dir = "/"
	}
	parts := make([]string, 0, 5+len(cmd.Args)+len(cmd.Env))
	parts = append(parts, wire.Exec, strconv.Itoa(s.descriptors), cmd.Path, dir, strconv.Itoa(len(cmd.Args)))
	parts = append(append(parts, cmd.Args...), cmd.Env...)
	for _, part := range parts {
		if strings.IndexByte(part, 0) >= 0 {
			return unix.EINVAL // the kernel's strings end there
		}
	}
	if err := ready.link.send([]int{output}, parts...); err != nil {
		return err
	}
	answer, err := hear(ready.link, wire.Failed)
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case err == nil:
		return failure(answer.parts)
	}
	return err
}

// closeFiles closes those of the files that are not nil.
func closeFiles(files []*os.File) {
	for _, file := range files {
		if file != nil {
			file.Close()
		}
	}
}

// descriptors returns the files' numbers, which are valid as long as the files are open.
func descriptors(files []*os.File) []int {
	var fds []int
	for _, file := range files {
		if file != nil {
			fds = append(fds, int(file.Fd()))
		}
	}
	return fds
}
