package gvisor

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"lambent/sandbox/gvisor/initproc"
	"lambent/sandbox/native/wire"
)

// answerTimeout bounds how long an init may take for anything. It normally takes a few milliseconds; a host that is overloaded may
// need seconds.
const answerTimeout = 20 * time.Second

// answerLimit is the largest message in bytes that is taken from inside a sandbox.
const answerLimit = 4096

// exit is the end of a process, by the number that it was started with.
type exit struct{ number, code, signal int }

// control is the driver's side of an init's connection.
type control struct {
	conn    net.Conn
	onExit  func(exit)
	gone    chan struct{} // closed when the connection is at its end
	answers chan []string
	leave   atomic.Bool // the end of the connection is not that of the Sentry

	mu sync.Mutex // one question at a time
}

// newControl takes a connection and starts to read from it. onExit and onGone are called by the reader; the first must not wait.
func newControl(conn net.Conn, onExit func(exit), onGone func(*control)) *control {
	c := &control{conn: conn, onExit: onExit, gone: make(chan struct{}), answers: make(chan []string)}
	go func() {
		c.read()
		onGone(c)
		close(c.gone)
	}()
	return c
}

// read passes answers and exits on until the init is gone or says something that it never says.
func (c *control) read() {
	defer c.conn.Close()
	reader := bufio.NewReaderSize(c.conn, answerLimit)
	for {
		parts, err := initproc.ReadMessage(reader, answerLimit)
		if err != nil {
			return
		}
		if parts[0] == initproc.Exit {
			e, err := parseExit(parts)
			if err != nil {
				return
			}
			c.onExit(e)
			continue
		}
		timer := time.NewTimer(answerTimeout)
		select {
		case c.answers <- parts:
			timer.Stop()
		case <-timer.C: // nobody had asked
			return
		}
	}
}

// parseExit reads an Exit message.
func parseExit(parts []string) (e exit, err error) {
	if len(parts) != 4 {
		return e, wire.ErrMalformed
	}
	for i, into := range []*int{&e.number, &e.code, &e.signal} {
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

// ask sends a message, unless it has none, and returns the answer. After a timeout the init is not asked again.
func (c *control) ask(parts ...string) ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(parts) > 0 {
		if err := c.conn.SetWriteDeadline(time.Now().Add(answerTimeout)); err != nil {
			return nil, errInitGone
		}
		if err := initproc.WriteMessage(c.conn, parts...); errors.Is(err, wire.ErrTooLarge) {
			return nil, err
		} else if err != nil {
			return nil, fmt.Errorf("%w: %w", errInitGone, err)
		}
	}
	timer := time.NewTimer(answerTimeout)
	defer timer.Stop()
	select {
	case <-c.gone:
		return nil, errInitGone
	case <-timer.C:
		c.conn.Close()
		return nil, fmt.Errorf("the sandbox's init did not answer within %v", answerTimeout)
	case answer := <-c.answers:
		switch answer[0] {
		case initproc.OK:
			return answer, nil
		case initproc.Failed:
			return nil, failure(answer)
		}
		c.conn.Close()
		return nil, wire.ErrMalformed
	}
}

// failure makes an error of a Failed message.
func failure(parts []string) error {
	if len(parts) != 3 {
		return wire.ErrMalformed
	}
	if number, err := strconv.Atoi(parts[2]); err == nil && number > 0 && number < 4096 {
		return fmt.Errorf("%.200q: %w", parts[1], unix.Errno(number))
	}
	return fmt.Errorf("%.200q", parts[1])
}

// close ends the connection, and waits for the reader.
func (c *control) close() {
	c.conn.Close()
	<-c.gone
}
