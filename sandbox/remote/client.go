package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lambent/sandbox"
	"lambent/sandbox/cgroup"
)

// Client uses the drivers of a server. It is safe for use by many goroutines.
type Client struct {
	link Link
	done chan struct{} // closed when nothing more is received

	mu        sync.Mutex
	next      uint64 // the last call or process
	calls     map[uint64]chan reply
	processes map[uint64]*process
	failed    error // why nothing more is received
}

type reply struct {
	*message
	files []*os.File
}

// ErrGone says that the server, or the connection to it, is gone. Its sandboxes are lost.
var ErrGone = errors.New("what makes the sandboxes is gone")

// Dial makes a client, which takes the link over. Close closes it.
func Dial(link Link) *Client {
	c := &Client{link: link, done: make(chan struct{}), calls: map[uint64]chan reply{}, processes: map[uint64]*process{}}
	go c.receive()
	return c
}

// Done is closed when the server is gone.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the connection and waits until nothing is received any more. Calls fail with ErrGone.
func (c *Client) Close() error {
	err := c.link.Close()
	<-c.done
	return err
}

// Driver returns a driver of the server. Its Close destroys the sandboxes that were made through it, and leaves the rest to the
// server.
func (c *Client) Driver(name string) *Driver {
	return &Driver{client: c, name: name, boxes: map[string]*box{}}
}

func (c *Client) receive() {
	defer close(c.done)
	for {
		m, files, err := receive(c.link)
		if err != nil {
			closeFiles(files)
			c.fail(err)
			return
		}
		switch m.Kind {
		case kindAnswer:
			c.mu.Lock()
			waiting := c.calls[m.ID]
			delete(c.calls, m.ID)
			c.mu.Unlock()
			if waiting != nil {
				waiting <- reply{m, files}
				continue
			}
		case kindExit:
			c.mu.Lock()
			p := c.processes[m.Process]
			delete(c.processes, m.Process)
			c.mu.Unlock()
			if p != nil && m.Exit != nil {
				p.finish(*m.Exit)
			}
		}
		if len(files) > 0 {
			closeFiles(files)
			c.fail(errors.New("files came that nobody asked for"))
			_ = c.link.Close() // nothing more is wanted of it
			return
		}
	}
}

// fail ends whatever waits for the server.
func (c *Client) fail(err error) {
	c.mu.Lock()
	c.failed = fmt.Errorf("%w: %w", ErrGone, err)
	calls, processes := c.calls, c.processes
	c.calls, c.processes = map[uint64]chan reply{}, map[uint64]*process{}
	c.mu.Unlock()
	for _, waiting := range calls {
		close(waiting)
	}
	for _, p := range processes {
		p.finish(sandbox.Exit{Signal: int(unix.SIGKILL)}) // a sandbox ends with its server
	}
}

// numbers returns n numbers that no other call or process has, the first of them.
func (c *Client) numbers(n uint64) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := c.next + 1
	c.next += n
	return first
}

// ask makes a call and returns its answer. When the context ends the server is asked to give up, and its answer still awaited, so
// that it is known what there is.
func (c *Client) ask(ctx context.Context, m *message) (reply, error) {
	waiting := make(chan reply, 1)
	c.mu.Lock()
	c.next++
	m.ID = c.next
	failed := c.failed
	if failed == nil {
		c.calls[m.ID] = waiting
	}
	c.mu.Unlock()
	if failed != nil {
		return reply{}, failed
	}
	if err := send(c.link, m, nil); err != nil {
		c.mu.Lock()
		delete(c.calls, m.ID)
		c.mu.Unlock()
		return reply{}, fmt.Errorf("%w: %w", ErrGone, err)
	}
	var r reply
	var ok bool
	select {
	case r, ok = <-waiting:
	case <-ctx.Done():
		_ = send(c.link, &message{Kind: kindCancel, ID: m.ID}, nil) // a server that is gone has given up
		r, ok = <-waiting
	}
	if !ok {
		c.mu.Lock()
		defer c.mu.Unlock()
		return reply{}, c.failed
	}
	if err := r.err(); err != nil {
		closeFiles(r.files)
		return reply{}, err
	}
	if len(r.files) > 0 && !bringsFiles(m.Kind) {
		closeFiles(r.files)
		return reply{}, fmt.Errorf("the answer to %s has files", m.Kind)
	}
	return r, nil
}

// bringsFiles says whether there are files in the answer to a call.
func bringsFiles(method string) bool {
	switch method {
	case methodCreate, methodAttach, methodRestore, methodStart:
		return true
	}
	return false
}

// expect notes a process before the server can tell of its end.
func (c *Client) expect(id uint64) *process {
	p := &process{done: make(chan struct{})}
	c.mu.Lock()
	failed := c.failed
	if failed == nil {
		c.processes[id] = p
	}
	c.mu.Unlock()
	if failed != nil {
		p.finish(sandbox.Exit{Signal: int(unix.SIGKILL)})
	}
	return p
}

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.processes, id)
}

// Driver is a driver of a server. It implements sandbox.Snapshotter, whose methods fail where the server's driver does not.
type Driver struct {
	client *Client
	name   string

	mu    sync.Mutex
	boxes map[string]*box
}

var _ sandbox.Snapshotter = (*Driver)(nil)

func (d *Driver) message(kind, id string) *message {
	return &message{Kind: kind, Driver: d.name, Sandbox: id}
}

// Recover implements sandbox.Driver.
func (d *Driver) Recover(ctx context.Context) error {
	_, err := d.client.ask(ctx, d.message(methodRecover, ""))
	return err
}

// Create implements sandbox.Driver.
func (d *Driver) Create(ctx context.Context, id string, template sandbox.Template) (sandbox.Sandbox, error) {
	m := d.message(methodCreate, id)
	m.Template = &template
	r, err := d.client.ask(ctx, m)
	if err != nil {
		return nil, err
	}
	b, _, err := d.take(id, r)
	if err != nil {
		return nil, err
	}
	return b, nil
}

// Attach returns a sandbox that the server has already, with the processes that run in it: after a connection was lost.
func (d *Driver) Attach(ctx context.Context, id string) (sandbox.Sandbox, []sandbox.Process, error) {
	r, err := d.client.ask(ctx, d.message(methodAttach, id))
	if err != nil {
		return nil, nil, err
	}
	return d.take(id, r)
}

// Snapshot implements sandbox.Snapshotter. The directory is the server's.
func (d *Driver) Snapshot(ctx context.Context, s sandbox.Sandbox, dir string) error {
	b, ok := s.(*box)
	if !ok || b.driver != d {
		return errors.New("snapshot: the sandbox is another driver's")
	}
	m := d.message(methodSnapshot, b.id)
	m.Dir = dir
	_, err := d.client.ask(ctx, m)
	return err
}

// maxRestored bounds the processes of a snapshot.
const maxRestored = 64

// Restore implements sandbox.Snapshotter. The directory is the server's.
func (d *Driver) Restore(ctx context.Context, id, dir string) (sandbox.Sandbox, []sandbox.Process, error) {
	m := d.message(methodRestore, id)
	m.Dir, m.Process = dir, d.client.numbers(maxRestored)
	r, err := d.client.ask(ctx, m)
	if err != nil {
		return nil, nil, err
	}
	return d.take(id, r)
}

// take makes a sandbox of an answer that describes one. When that fails, the server is told to destroy it.
func (d *Driver) take(id string, r reply) (*box, []sandbox.Process, error) {
	b := &box{driver: d, id: id}
	processes, err := b.open(r)
	if err != nil {
		_, destroyed := d.client.ask(context.Background(), d.message(methodDestroy, id))
		return nil, nil, errors.Join(fmt.Errorf("take over sandbox %s: %w", id, err), destroyed)
	}
	d.mu.Lock()
	d.boxes[id] = b
	d.mu.Unlock()
	return b, processes, nil
}

// Close implements sandbox.Driver.
func (d *Driver) Close() error {
	d.mu.Lock()
	living := make([]*box, 0, len(d.boxes))
	for _, b := range d.boxes {
		living = append(living, b)
	}
	d.mu.Unlock()
	failures := make([]error, len(living))
	var group sync.WaitGroup
	for i, b := range living {
		group.Go(func() { failures[i] = b.Destroy(context.Background()) })
	}
	group.Wait()
	return errors.Join(failures...)
}

// box is a sandbox of a server.
type box struct {
	driver   *Driver
	id       string
	listener net.Listener
	handle   *cgroup.Handle // nil: every question goes to the server

	mu      sync.Mutex
	baseCPU time.Duration // used before Specialise; only with a handle
}

// open takes the files that came with an answer: those of the handle, the processes' outputs, the listener.
func (b *box) open(r reply) ([]sandbox.Process, error) {
	n := len(r.files) - 1 - len(r.Processes)
	if n < 0 || r.Handle == nil && n > 0 || r.Handle != nil && !b.driver.client.link.Descriptors() {
		closeFiles(r.files)
		return nil, errors.New("the answer does not have the files that it describes")
	}
	handle, outputs, last := r.files[:n], r.files[n:len(r.files)-1], r.files[len(r.files)-1]
	defer last.Close()
	var err error
	if b.listener, err = net.FileListener(last); err != nil {
		closeFiles(r.files[:len(r.files)-1])
		return nil, err
	}
	if r.Handle != nil {
		if b.handle, err = cgroup.Import(*r.Handle, handle); err != nil {
			closeFiles(outputs)
			return nil, errors.Join(err, b.listener.Close())
		}
	}
	var processes []sandbox.Process
	for i, id := range r.Processes {
		p := b.driver.client.expect(id)
		p.output = outputs[i]
		processes = append(processes, p)
	}
	return processes, nil
}

func (b *box) ask(ctx context.Context, m *message) (reply, error) {
	return b.driver.client.ask(ctx, m)
}

func (b *box) simple(ctx context.Context, method string) error {
	_, err := b.ask(ctx, b.driver.message(method, b.id))
	return err
}

// RuntimeAPI implements sandbox.Sandbox.
func (b *box) RuntimeAPI() net.Listener { return b.listener }

// Specialise implements sandbox.Sandbox.
func (b *box) Specialise(ctx context.Context, spec sandbox.Spec) error {
	m := b.driver.message(methodSpecialise, b.id)
	m.Spec = &spec
	if _, err := b.ask(ctx, m); err != nil {
		return err
	}
	if b.handle == nil {
		return nil
	}
	usage, err := b.handle.Usage()
	if err != nil {
		return fmt.Errorf("read the meters: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.baseCPU = usage.CPU
	return nil
}

// Start implements sandbox.Sandbox.
func (b *box) Start(ctx context.Context, cmd sandbox.Command) (sandbox.Process, error) {
	m := b.driver.message(methodStart, b.id)
	m.Command, m.Process = encodeCommand(cmd), b.driver.client.numbers(1)
	p := b.driver.client.expect(m.Process)
	r, err := b.ask(ctx, m)
	if err == nil && len(r.files) != 1 {
		closeFiles(r.files)
		err = fmt.Errorf("start process %s: its output did not come", cmd.Path)
	}
	if err != nil {
		b.driver.client.forget(m.Process)
		return nil, err
	}
	p.output = r.files[0]
	return p, nil
}

// Freeze implements sandbox.Sandbox.
func (b *box) Freeze() error {
	if b.handle != nil {
		return b.handle.Freeze()
	}
	return b.simple(context.Background(), methodFreeze)
}

// Thaw implements sandbox.Sandbox.
func (b *box) Thaw() error {
	if b.handle != nil {
		return b.handle.Thaw()
	}
	return b.simple(context.Background(), methodThaw)
}

// Kill implements sandbox.Sandbox. The handle must know that nothing is frozen any more.
func (b *box) Kill(ctx context.Context) error {
	if err := b.simple(ctx, methodKill); err != nil {
		return err
	}
	if b.handle != nil {
		return b.handle.Thaw()
	}
	return nil
}

// SetVCPU implements sandbox.Sandbox.
func (b *box) SetVCPU(vcpu float64) error {
	if b.handle != nil {
		return b.handle.SetVCPU(vcpu)
	}
	m := b.driver.message(methodVCPU, b.id)
	m.VCPU = vcpu
	_, err := b.ask(context.Background(), m)
	return err
}

// Usage implements sandbox.Sandbox.
func (b *box) Usage() (sandbox.Usage, error) {
	if b.handle != nil {
		usage, err := b.handle.Usage()
		b.mu.Lock()
		defer b.mu.Unlock()
		usage.CPU = max(0, usage.CPU-b.baseCPU)
		return usage, err
	}
	r, err := b.ask(context.Background(), b.driver.message(methodUsage, b.id))
	if err != nil {
		return sandbox.Usage{}, err
	}
	if r.message.Usage == nil {
		return sandbox.Usage{}, errors.New("the answer has no meters")
	}
	return *r.message.Usage, nil
}

// Destroy implements sandbox.Sandbox.
func (b *box) Destroy(ctx context.Context) error {
	err := b.simple(ctx, methodDestroy)
	if errors.Is(err, os.ErrClosed) || errors.Is(err, ErrGone) { // it was destroyed, or ended with the server
		err = nil
	}
	if err != nil {
		return err
	}
	b.driver.mu.Lock()
	if b.driver.boxes[b.id] == b {
		delete(b.driver.boxes, b.id)
	}
	b.driver.mu.Unlock()
	if b.handle != nil {
		b.handle.Close()
	}
	if err := b.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close the Runtime API: %w", err)
	}
	return nil
}

// process is a process in a sandbox of a server.
type process struct {
	output *os.File
	done   chan struct{}
	exit   sandbox.Exit // valid when done is closed
}

func (p *process) finish(exit sandbox.Exit) {
	p.exit = exit
	close(p.done)
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
