package remote

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"

	"lambent/sandbox"
	"lambent/sandbox/cgroup"
)

// maxCalls is how many calls of a client are worked on at the same time. The next ones wait in the connection.
const maxCalls = 256

// Options configure a server.
type Options struct {
	// Drivers by the names that clients use. They stay the caller's. Required.
	Drivers map[string]sandbox.Driver
	// Source turns the path of what a client wants to mount into the one that the driver is given, or refuses it. Release is called
	// when the sandbox is destroyed. Default: the driver is given what the client said, which is right where the client is trusted
	// more than the server.
	Source func(path string) (source string, release func(), err error)
	// Directory says whether a client may have a snapshot written to a directory, or read from it. Default: it may.
	Directory func(path string) error
	// Logger receives what no client is told. Default: slog.Default().
	Logger *slog.Logger
}

// Server lets clients use drivers. It outlives its connections: the sandboxes of a client that is gone stay until Destroy, or the
// driver's Close.
type Server struct {
	options Options

	mu    sync.Mutex
	boxes map[boxKey]*served
}

type boxKey struct{ driver, id string }

// served is a sandbox that a client made.
type served struct {
	key boxKey
	box sandbox.Sandbox

	serial sync.Mutex // one call at a time of those that its owner makes one at a time

	mu        sync.Mutex
	releases  []func() // of what it mounts
	processes []*servedProcess
}

type servedProcess struct {
	sandbox.Process
	id uint64
}

// NewServer makes a server.
func NewServer(options Options) *Server {
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	return &Server{options: options, boxes: map[boxKey]*served{}}
}

// session is one connection.
type session struct {
	*Server
	link   Link
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu    sync.Mutex
	calls map[uint64]context.CancelFunc
}

// Serve answers a client until the link fails or the context ends, and returns when no call is worked on any more. It closes the
// link. The error says why it ended; io.EOF that the client has left.
func (s *Server) Serve(ctx context.Context, link Link) error {
	c := &session{Server: s, link: link, calls: map[uint64]context.CancelFunc{}}
	c.ctx, c.cancel = context.WithCancel(ctx)
	stop := context.AfterFunc(c.ctx, func() { _ = link.Close() }) // what Receive then says is why
	err := c.receive()
	c.cancel()
	stop()
	c.work.Wait()
	return errors.Join(err, link.Close())
}

func (c *session) receive() error {
	turns := make(chan struct{}, maxCalls)
	for {
		m, files, err := receive(c.link)
		closeFiles(files) // clients send none
		if err != nil {
			return err
		}
		if m.Kind == kindCancel {
			c.mu.Lock()
			if cancel := c.calls[m.ID]; cancel != nil {
				cancel()
			}
			c.mu.Unlock()
			continue
		}
		turns <- struct{}{}
		ctx, cancel := context.WithCancel(c.ctx)
		c.mu.Lock()
		c.calls[m.ID] = cancel
		c.mu.Unlock()
		c.work.Go(func() {
			defer func() { <-turns }()
			c.call(ctx, m)
			cancel()
			c.mu.Lock()
			delete(c.calls, m.ID)
			c.mu.Unlock()
		})
	}
}

// result is what a method returns beside its error. Its files are closed after they were sent, those of keep are not.
type result struct {
	answer message
	files  []*os.File
	keep   []*os.File // sent before files
	after  func()     // called when the answer was sent
}

// call works on one call.
func (c *session) call(ctx context.Context, m *message) {
	r, err := c.dispatch(ctx, m)
	r.answer.Kind, r.answer.ID = kindAnswer, m.ID
	r.answer.setError(err)
	err = send(c.link, &r.answer, append(slices.Clone(r.keep), r.files...))
	closeFiles(r.files)
	if err != nil {
		if c.ctx.Err() == nil {
			c.options.Logger.Error("an answer about a sandbox could not be sent", "sandbox", m.Sandbox, "method", m.Kind, "error", err)
		}
		return
	}
	if r.after != nil {
		r.after()
	}
}

func (c *session) dispatch(ctx context.Context, m *message) (result, error) {
	driver := c.options.Drivers[m.Driver]
	if driver == nil {
		return result{}, fmt.Errorf("there is no driver %q", m.Driver)
	}
	switch m.Kind {
	case methodRecover:
		return result{}, driver.Recover(ctx)
	case methodCreate:
		return c.create(ctx, driver, m)
	case methodRestore:
		return c.restore(ctx, driver, m)
	}
	s := c.find(boxKey{m.Driver, m.Sandbox})
	if s == nil {
		return result{}, fmt.Errorf("there is no sandbox %q: %w", m.Sandbox, os.ErrClosed)
	}
	switch m.Kind {
	case methodFreeze:
		return result{}, s.box.Freeze()
	case methodThaw:
		return result{}, s.box.Thaw()
	case methodVCPU:
		return result{}, s.box.SetVCPU(m.VCPU)
	case methodUsage:
		usage, err := s.box.Usage()
		return result{answer: message{Usage: &usage}}, err
	case methodDestroy:
		return result{}, c.destroy(ctx, s)
	}
	s.serial.Lock()
	defer s.serial.Unlock()
	switch m.Kind {
	case methodSpecialise:
		return result{}, c.specialise(ctx, s, m)
	case methodStart:
		return c.start(ctx, s, m)
	case methodKill:
		return result{}, s.box.Kill(ctx)
	case methodAttach:
		return c.describe(s)
	case methodSnapshot:
		return result{}, c.snapshot(ctx, driver, s, m)
	}
	return result{}, fmt.Errorf("there is no method %q", m.Kind)
}

func (s *Server) find(key boxKey) *served {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.boxes[key]
}

func (s *Server) add(b *served) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.boxes[b.key] = b
}

func (c *session) create(ctx context.Context, driver sandbox.Driver, m *message) (result, error) {
	if m.Template == nil {
		return result{}, errors.New("no template")
	}
	box, err := driver.Create(ctx, m.Sandbox, *m.Template)
	if err != nil {
		return result{}, err
	}
	s := &served{key: boxKey{m.Driver, m.Sandbox}, box: box}
	r, err := c.describe(s)
	if err != nil {
		return r, errors.Join(err, box.Destroy(context.WithoutCancel(ctx)))
	}
	c.add(s)
	return r, nil
}

// describe returns what a client needs to use a sandbox: the Runtime API's listener, its handle if it has one, its processes.
func (c *session) describe(s *served) (result, error) {
	var r result
	listener, ok := s.box.RuntimeAPI().(interface{ File() (*os.File, error) })
	if !ok {
		return r, fmt.Errorf("the listener of sandbox %s cannot be handed over", s.key.id)
	}
	file, err := listener.File()
	if err != nil {
		return r, fmt.Errorf("hand over the Runtime API: %w", err)
	}
	if box, ok := s.box.(interface{ Handle() *cgroup.Handle }); ok && c.link.Descriptors() {
		layout, files := box.Handle().Export()
		r.answer.Handle = &layout
		r.keep = files
	}
	r.files = []*os.File{file}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.processes {
		r.answer.Processes = append(r.answer.Processes, p.id)
		r.keep = append(r.keep, p.Output())
	}
	living := slices.Clone(s.processes)
	r.after = func() {
		for _, p := range living {
			c.watch(s, p)
		}
	}
	return r, nil
}

func (c *session) specialise(ctx context.Context, s *served, m *message) error {
	if m.Spec == nil {
		return errors.New("no specification")
	}
	spec := *m.Spec
	spec.Mounts = slices.Clone(spec.Mounts)
	for i := range spec.Mounts {
		if c.options.Source == nil {
			break
		}
		source, release, err := c.options.Source(spec.Mounts[i].Source)
		if err != nil {
			return fmt.Errorf("mount at %s: %w", spec.Mounts[i].Target, err)
		}
		spec.Mounts[i].Source = source
		s.mu.Lock()
		s.releases = append(s.releases, release)
		s.mu.Unlock()
	}
	return s.box.Specialise(ctx, spec)
}

func (c *session) start(ctx context.Context, s *served, m *message) (result, error) {
	if m.Command == nil {
		return result{}, errors.New("no command")
	}
	process, err := s.box.Start(ctx, m.Command.decode())
	if err != nil {
		return result{}, err
	}
	p := &servedProcess{Process: process, id: m.Process}
	s.mu.Lock()
	s.processes = append(s.processes, p)
	s.mu.Unlock()
	return result{keep: []*os.File{process.Output()}, after: func() { c.watch(s, p) }}, nil
}

// watch tells the client of a process's end. Where the client has a descriptor of the output this process lets go of its own at
// once: it would keep the pipe open. Otherwise a later connection may need it.
func (c *session) watch(s *served, p *servedProcess) {
	if c.link.Descriptors() {
		p.Output().Close()
	}
	c.work.Go(func() {
		exit, err := p.Wait(c.ctx)
		if err != nil {
			return // the connection ends; whoever attaches next is told
		}
		p.Output().Close()
		s.mu.Lock()
		s.processes = slices.DeleteFunc(s.processes, func(other *servedProcess) bool { return other == p })
		s.mu.Unlock()
		err = send(c.link, &message{Kind: kindExit, Driver: s.key.driver, Sandbox: s.key.id, Process: p.id, Exit: &exit}, nil)
		if err != nil && c.ctx.Err() == nil {
			c.options.Logger.Error("the end of a process could not be told", "sandbox", s.key.id, "error", err)
		}
	})
}

func (c *session) destroy(ctx context.Context, s *served) error {
	if err := s.box.Destroy(ctx); err != nil {
		return err
	}
	c.Server.mu.Lock()
	if c.boxes[s.key] == s {
		delete(c.boxes, s.key)
	}
	c.Server.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, release := range s.releases {
		release()
	}
	s.releases = nil
	return nil
}

// snapshotter returns what a driver can do with snapshots, in a directory that the client may use.
func (c *session) snapshotter(driver sandbox.Driver, m *message) (sandbox.Snapshotter, error) {
	able, ok := driver.(sandbox.Snapshotter)
	if !ok {
		return nil, fmt.Errorf("driver %q makes no snapshots", m.Driver)
	}
	if c.options.Directory != nil {
		if err := c.options.Directory(m.Dir); err != nil {
			return nil, err
		}
	}
	return able, nil
}

func (c *session) snapshot(ctx context.Context, driver sandbox.Driver, s *served, m *message) error {
	able, err := c.snapshotter(driver, m)
	if err != nil {
		return err
	}
	return able.Snapshot(ctx, s.box, m.Dir)
}

func (c *session) restore(ctx context.Context, driver sandbox.Driver, m *message) (result, error) {
	able, err := c.snapshotter(driver, m)
	if err != nil {
		return result{}, err
	}
	box, processes, err := able.Restore(ctx, m.Sandbox, m.Dir)
	if err != nil {
		return result{}, err
	}
	s := &served{key: boxKey{m.Driver, m.Sandbox}, box: box}
	for i, p := range processes {
		s.processes = append(s.processes, &servedProcess{Process: p, id: m.Process + uint64(i)})
	}
	r, err := c.describe(s)
	if err != nil {
		return r, errors.Join(err, box.Destroy(context.WithoutCancel(ctx)))
	}
	c.add(s)
	return r, nil
}
