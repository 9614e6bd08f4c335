package native

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lambent/sandbox/native/wire"
)

// answerTimeout bounds how long an init may take for anything. It normally takes less than a millisecond; a host that is
// overloaded may need seconds.
const answerTimeout = 10 * time.Second

// The largest messages in bytes that are taken from inside a sandbox.
const (
	answerLimit = 4096
	eventLimit  = 256
)

// link is the driver's end of a packet socket by which it asks somebody and waits for the answer. It waits in the system call, with a
// thread: answers come within microseconds, and the way through Go's poller and scheduler takes longer than that.
type link struct{ file *os.File }

// newLink makes a link and its other end.
func newLink(name string) (*link, *os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket: %w", err)
	}
	patience := unix.NsecToTimeval(answerTimeout.Nanoseconds())
	err = errors.Join(unix.SetsockoptTimeval(pair[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience),
		unix.SetsockoptTimeval(pair[0], unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience))
	if err != nil {
		wire.CloseAll(pair[:])
		return nil, nil, fmt.Errorf("make a socket: %w", err)
	}
	return &link{os.NewFile(uintptr(pair[0]), name)}, os.NewFile(uintptr(pair[1]), name), nil
}

// with calls f with the socket, which is not closed meanwhile, until no signal interrupts it.
func (l *link) with(f func(fd int) error) error {
	raw, err := l.file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		for failed = unix.EINTR; failed == unix.EINTR; { //nolint:errorlint // a system call gives its number unwrapped
			failed = f(int(fd))
		}
	})
	return errors.Join(err, failed)
}

// send writes one message, within answerTimeout.
func (l *link) send(files []int, parts ...string) error {
	packet, err := wire.Encode(parts...)
	if err != nil {
		return err
	}
	var control []byte
	if len(files) > 0 {
		control = unix.UnixRights(files...)
	}
	return l.with(func(fd int) error { return unix.Sendmsg(fd, packet, control, nil, unix.MSG_NOSIGNAL) })
}

// receive reads one message, within answerTimeout; io.EOF when the peer is gone. The caller closes its files.
func (l *link) receive() (message, error) {
	var buffer [answerLimit]byte
	var control [controlSpace]byte
	var n, controlLen, flags int
	err := l.with(func(fd int) (err error) {
		n, controlLen, flags, _, err = unix.Recvmsg(fd, buffer[:], control[:], unix.MSG_CMSG_CLOEXEC)
		return err
	})
	if errors.Is(err, unix.EAGAIN) {
		return message{}, errTimeout
	}
	if err != nil {
		return message{}, err
	}
	return parseMessage(buffer[:n], control[:controlLen], flags)
}

// close ends the link, also for who waits for an answer.
func (l *link) close() {
	_ = l.with(func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RDWR) }) // it is no harm when the peer is gone
	l.file.Close()
}

// newEvents makes a packet socket whose driver's end is for Go's poller, and its other end.
func newEvents(name string) (*net.UnixConn, *os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket: %w", err)
	}
	inside := os.NewFile(uintptr(pair[1]), name)
	outside := os.NewFile(uintptr(pair[0]), name)
	defer outside.Close()
	conn, err := net.FileConn(outside)
	if err != nil {
		inside.Close()
		return nil, nil, fmt.Errorf("make a socket: %w", err)
	}
	return conn.(*net.UnixConn), inside, nil
}

// message is what a peer inside sent.
type message struct {
	parts []string
	files []int
}

// controlSpace is the room for a message's descriptors.
const controlSpace = 64

// parseMessage reads a message from what a socket gave; io.EOF when that is nothing.
func parseMessage(packet, control []byte, flags int) (message, error) {
	files, err := wire.Files(control)
	m := message{files: files}
	if err == nil && len(packet) == 0 {
		err = io.EOF
	}
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = wire.ErrTooLarge
	}
	if err == nil {
		m.parts, err = wire.Decode(packet)
	}
	if err != nil {
		wire.CloseAll(files)
		return message{}, err
	}
	return m, nil
}

// failure makes an error of a Failed message.
func failure(parts []string) error {
	if len(parts) != 3 {
		return wire.ErrMalformed
	}
	step := parts[1]
	if number, err := strconv.Atoi(parts[2]); err == nil && number > 0 && number < 4096 {
		return fmt.Errorf("%.200q: %w", step, unix.Errno(number))
	}
	return fmt.Errorf("%.200q", step)
}

// exit is the end of a child of the init.
type exit struct{ pid, code, signal int }

// control is the driver's side of an init's sockets, or of the spawner's.
type control struct {
	events *net.UnixConn
	onExit func(exit)
	gone   chan struct{} // closed when the events are at their end

	mu   sync.Mutex // one question at a time
	link *link
}

// newControl makes the sockets of an init, and returns their other ends too. onExit is called by the reader of events and must
// not wait.
func newControl(name string, onExit func(exit)) (c *control, asked, events *os.File, err error) {
	c = &control{onExit: onExit, gone: make(chan struct{})}
	if c.link, asked, err = newLink(name); err != nil {
		return nil, nil, nil, err
	}
	if c.events, events, err = newEvents(name); err != nil {
		asked.Close()
		c.link.close()
		return nil, nil, nil, err
	}
	go c.read()
	return c, asked, events, nil
}

// read passes exits on until the init is gone or says something that it never says.
func (c *control) read() {
	defer close(c.gone)
	defer c.events.Close()
	buffer, space := make([]byte, eventLimit), make([]byte, controlSpace)
	for {
		n, controlLen, flags, _, err := c.events.ReadMsgUnix(buffer, space)
		if err != nil {
			return
		}
		m, err := parseMessage(buffer[:n], space[:controlLen], flags)
		if err != nil {
			return
		}
		wire.CloseAll(m.files)
		e, err := parseExit(m.parts)
		if err != nil {
			return
		}
		c.onExit(e)
	}
}

// parseExit reads an Exit message.
func parseExit(parts []string) (e exit, err error) {
	if len(parts) != 4 || parts[0] != wire.Exit {
		return e, wire.ErrMalformed
	}
	for i, into := range []*int{&e.pid, &e.code, &e.signal} {
		n, err := strconv.Atoi(parts[i+1])
		if err != nil || n < 0 || n > 1<<30 {
			return e, wire.ErrMalformed
		}
		*into = n
	}
	return e, nil
}

var (
	// errInitGone is the end of an init while it was asked something.
	errInitGone = errors.New("the sandbox's init has ended")
	errTimeout  = fmt.Errorf("no answer came within %v", answerTimeout)
)

// question is a message that is answered.
type question struct {
	files []int
	parts []string
}

// ask sends a message and returns its answer, whose files belong to the caller. After a timeout the init is not asked again.
func (c *control) ask(files []int, parts ...string) (message, error) {
	answers, err := c.askAll(nil, question{files, parts})
	if err != nil {
		return message{}, err
	}
	return answers[0], nil
}

// askAll sends messages, calls during while they are answered, and returns the answers in their order. The files of those belong to
// the caller, when there is no error.
func (c *control) askAll(during func() error, questions ...question) ([]message, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.gone:
		return nil, errInitGone
	default:
	}
	for _, q := range questions {
		if err := c.link.send(q.files, q.parts...); err != nil {
			c.link.close() // what was asked already will have no reader
			return nil, fmt.Errorf("ask the init: %w", err)
		}
	}
	var failed error
	if during != nil {
		failed = during()
	}
	answers := make([]message, 0, len(questions))
	for range questions {
		answer, err := c.awaitLocked()
		if failed == nil {
			failed = err
		}
		answers = append(answers, answer)
	}
	if failed != nil {
		for _, answer := range answers {
			wire.CloseAll(answer.files)
		}
		return nil, failed
	}
	return answers, nil
}

// awaitLocked returns the next answer.
func (c *control) awaitLocked() (message, error) {
	m, err := c.link.receive()
	if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
		return message{}, errInitGone
	}
	if err != nil {
		c.link.close()
		return message{}, fmt.Errorf("ask the init: %w", err)
	}
	switch m.parts[0] {
	case wire.OK:
		return m, nil
	case wire.Failed:
		wire.CloseAll(m.files)
		return message{}, failure(m.parts)
	}
	wire.CloseAll(m.files)
	c.link.close()
	return message{}, wire.ErrMalformed
}

// close ends the connections, and with them the init, and waits for the reader.
func (c *control) close() {
	c.link.close()
	c.events.Close()
	<-c.gone
}
