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

// answerLimit is the largest message in bytes that is taken from inside a sandbox.
const answerLimit = 4096

// socketPair makes a pair of packet sockets: the driver's end, and a file for the child.
func socketPair(name string) (*net.UnixConn, *os.File, error) {
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

// sendMessage writes one message, within answerTimeout.
func sendMessage(conn *net.UnixConn, files []int, parts ...string) error {
	packet, err := wire.Encode(parts...)
	if err != nil {
		return err
	}
	var control []byte
	if len(files) > 0 {
		control = unix.UnixRights(files...)
	}
	if err := conn.SetWriteDeadline(time.Now().Add(answerTimeout)); err != nil {
		return err
	}
	_, _, err = conn.WriteMsgUnix(packet, control, nil)
	return err
}

// receiveMessage reads one message into buffer; io.EOF when the peer is gone. The caller closes its files.
func receiveMessage(conn *net.UnixConn, buffer, control []byte) (message, error) {
	n, controlLen, flags, _, err := conn.ReadMsgUnix(buffer, control)
	if err != nil {
		return message{}, err
	}
	files, err := wire.Files(control[:controlLen])
	m := message{files: files}
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = wire.ErrTooLarge
	}
	if err == nil {
		m.parts, err = wire.Decode(buffer[:n])
	}
	if err != nil {
		wire.CloseAll(files)
		return message{}, err
	}
	return m, nil
}

// controlSpace is the room for a message's descriptors.
func controlSpace() []byte { return make([]byte, unix.CmsgSpace(4*4)) }

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

// control is the driver's side of an init's socket.
type control struct {
	conn    *net.UnixConn
	onExit  func(exit)
	gone    chan struct{} // closed when the socket is at its end
	answers chan message

	mu sync.Mutex // one question at a time
}

// newControl takes the connection and starts to read from it. onExit is called by the reader and must not wait.
func newControl(conn *net.UnixConn, onExit func(exit)) *control {
	c := &control{conn: conn, onExit: onExit, gone: make(chan struct{}), answers: make(chan message)}
	go c.read()
	return c
}

// read passes answers and exits on until the init is gone or says something that it never says.
func (c *control) read() {
	defer close(c.gone)
	defer c.conn.Close()
	buffer, space := make([]byte, answerLimit), controlSpace()
	for {
		m, err := receiveMessage(c.conn, buffer, space)
		if err != nil {
			return
		}
		if m.parts[0] == wire.Exit {
			wire.CloseAll(m.files)
			e, err := parseExit(m.parts)
			if err != nil {
				return
			}
			c.onExit(e)
			continue
		}
		timer := time.NewTimer(answerTimeout)
		select {
		case c.answers <- m:
			timer.Stop()
		case <-timer.C: // nobody had asked
			wire.CloseAll(m.files)
			return
		}
	}
}

// parseExit reads an Exit message.
func parseExit(parts []string) (e exit, err error) {
	if len(parts) != 4 {
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

// errInitGone is the end of an init while it was asked something.
var errInitGone = errors.New("the sandbox's init has ended")

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
		if err := sendMessage(c.conn, q.files, q.parts...); err != nil {
			c.conn.Close() // what was asked already will have no reader
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
	timer := time.NewTimer(answerTimeout)
	defer timer.Stop()
	select {
	case <-c.gone:
		return message{}, errInitGone
	case <-timer.C:
		c.conn.Close()
		return message{}, fmt.Errorf("the sandbox's init did not answer within %v", answerTimeout)
	case m := <-c.answers:
		switch m.parts[0] {
		case wire.OK:
			return m, nil
		case wire.Failed:
			wire.CloseAll(m.files)
			return message{}, failure(m.parts)
		}
		wire.CloseAll(m.files)
		c.conn.Close()
		return message{}, wire.ErrMalformed
	}
}

// close ends the connection, and with it the init, and waits for the reader.
func (c *control) close() {
	c.conn.Close()
	<-c.gone
}
