package runtimeapi

import (
	"errors"
	"net"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The ways in which a wait ends without what it waited for.
var (
	// ErrTimeout says that the time was up.
	ErrTimeout = errors.New("runtime api: timed out")
	// ErrEnded says that the runtime's process ended first.
	ErrEnded = errors.New("runtime api: the runtime's process has ended")
	// ErrBusy says that another event is with the runtime.
	ErrBusy = errors.New("runtime api: an event is running")
)

// endGrace is how long what a dead process sent is waited for, while children of it hold its connections open.
const endGrace = 50 * time.Millisecond

// mergeLimit is the payload in bytes up to which it is copied behind the head, which costs less than writing two vectors.
const mergeLimit = 8 << 10

// peekAfter is how long a runtime may have waited in GET next before its connection is looked at.
const peekAfter = time.Second

// Event is one event for the runtime. Texts go into headers: control characters in them become spaces.
type Event struct {
	RequestID     string
	FunctionARN   string
	TraceID       string
	ClientContext string
	Identity      string
	TenantID      string
	Deadline      time.Time
	Payload       []byte // not modified, and not used after Invoke has returned
}

// Result is what the runtime made of an event.
type Result struct {
	Payload   []byte // the caller's
	Failed    bool   // the payload is an error that the function reported
	ErrorType string // as the runtime named it, with Failed
	TooLarge  bool   // the answer was larger than a response may be, and is not kept
}

// Failure is what a runtime said about its failed initialisation.
type Failure struct {
	Type string // may be empty
	Body []byte
}

// AwaitReady waits until the runtime asks for its first event after Open or Reset (nil, nil), or says that it cannot
// (its Failure), or until ErrTimeout or ErrEnded.
func (s *Server) AwaitReady(deadline time.Time) (*Failure, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.awaitLocked(isInitialised, deadline); err != nil {
		return nil, err
	}
	return s.initError, nil
}

// Invoke gives the event to the runtime and waits for its answer. The runtime may still be on its way to ask for it. With an
// error, delivered tells whether a byte of the event may have reached the runtime. One Invoke runs at a time: ErrBusy.
func (s *Server) Invoke(event *Event) (result Result, delivered bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting {
		return Result{}, false, ErrBusy
	}
	for !delivered {
		if err := s.awaitLocked(isReady, event.Deadline); err != nil {
			return Result{}, false, err
		}
		delivered = s.deliverLocked(event)
	}
	if err := s.awaitLocked(isComplete, event.Deadline); err != nil {
		return Result{}, true, err
	}
	result = s.current.result
	s.current.result = Result{}
	s.releaseMidwayLocked()
	return result, true, nil
}

// deliverLocked writes the event to the connection that waits for it, and tells whether any of it got there.
func (s *Server) deliverLocked(event *Event) bool {
	c := s.parked
	if c.gone() {
		c.conn.Close()
		s.forgetLocked(c)
		s.phase = answered
		return false
	}
	s.adoptLocked(c)
	if s.current == nil {
		s.current = &exchange{}
	}
	*s.current = exchange{id: event.RequestID}
	s.phase = invoking
	err := c.setDeadline(event.Deadline)
	s.waiting = true
	s.mu.Unlock()
	written := 0
	if err == nil {
		written, err = c.writeEvent(event)
	}
	s.mu.Lock()
	s.waiting = false
	if err == nil && !c.head.closing {
		return true
	}
	c.conn.Close()
	s.forgetLocked(c)
	if err != nil && written == 0 && !isTimeout(err) {
		s.phase = answered // it hung up: let it ask again
		return false
	}
	return true
}

// adoptLocked makes the parked connection the one that the invoker reads. The one before gets its own reader again.
func (s *Server) adoptLocked(c *conn) {
	s.releaseLocked()
	s.parked, s.lent = nil, c
}

// releaseLocked gives the lent connection its own reader again.
func (s *Server) releaseLocked() {
	c := s.lent
	s.lent = nil
	if c == nil || s.closed {
		return
	}
	s.done.Add(1)
	go func() {
		defer s.done.Done()
		c.serveAnew()
	}()
}

// releaseMidwayLocked has another goroutine read on where the invoker stopped amid a request.
func (s *Server) releaseMidwayLocked() {
	if s.lent != nil && s.lent.work.began {
		s.releaseLocked()
	}
}

// goal is what a wait is for.
type goal int

const (
	isInitialised goal = iota
	isReady
	isComplete
)

func (s *Server) reachedLocked(want goal) bool {
	switch want {
	case isInitialised:
		return s.phase == failed || s.phase == ready && !s.ended
	case isReady:
		return s.phase == ready && !s.ended
	}
	return s.current.complete
}

// awaitLocked waits until the goal is reached. It reads the lent connection itself, if there is one.
func (s *Server) awaitLocked(want goal, deadline time.Time) error {
	s.waiting = true
	defer func() { s.waiting = false }()
	limit, late := deadline, false
	var graceEnd time.Time
	for {
		switch {
		case s.reachedLocked(want):
			return nil
		case s.closed, s.ended && (late || s.quietLocked()):
			return ErrEnded
		case late:
			return ErrTimeout
		}
		if s.ended && graceEnd.IsZero() {
			graceEnd = time.Now().Add(endGrace)
			if graceEnd.Before(limit) {
				limit = graceEnd
			}
		}
		if s.lent != nil {
			s.readLentLocked(limit)
		} else {
			s.sleepLocked(limit)
		}
		// Whoever woke this goroutine did so by ending its read, so that only the clock can say whether the time is up.
		late = s.interruptedLocked() && !time.Now().Before(limit)
	}
}

// quietLocked tells whether nothing can come from a dead process any more.
func (s *Server) quietLocked() bool {
	for c := range s.conns {
		if c != s.parked {
			return false
		}
	}
	return true
}

// interruptedLocked tells whether the last read or sleep ended without progress.
func (s *Server) interruptedLocked() bool {
	interrupted := s.interrupted
	s.interrupted = false
	return interrupted
}

// readLentLocked reads a request, or a part of it, from the lent connection.
func (s *Server) readLentLocked(limit time.Time) {
	c := s.lent
	err := c.setDeadline(limit)
	s.reading = c
	s.mu.Unlock()
	if err == nil {
		err = c.advance()
	}
	if err != nil && !isTimeout(err) && !errors.Is(err, errParked) {
		c.refuse(err)
		c.server.drop(c)
	}
	s.mu.Lock()
	s.reading = nil
	if isTimeout(err) {
		c.deadline = longAgo()
		s.interrupted = true
	}
}

// sleepLocked waits for a wake-up.
func (s *Server) sleepLocked(limit time.Time) {
	s.mu.Unlock()
	timer := time.NewTimer(time.Until(limit))
	select {
	case <-s.wake:
	case <-timer.C:
	}
	timer.Stop()
	s.mu.Lock()
	s.interrupted = true
}

// setDeadline sets the deadline of reads and writes, if it is another than the last.
func (c *conn) setDeadline(deadline time.Time) error {
	if c.deadline.Equal(deadline) {
		return nil
	}
	c.deadline = deadline
	return c.conn.SetDeadline(deadline)
}

// writeEvent writes the response to the connection's GET next.
func (c *conn) writeEvent(event *Event) (int, error) {
	payload := event.Payload
	if len(payload) == 0 {
		payload = []byte("{}")
	}
	c.out = appendEventHead(c.out[:0], event, len(payload), c.head.closing)
	if len(payload) <= mergeLimit {
		c.out = append(c.out, payload...)
		return c.conn.Write(c.out)
	}
	c.vector = [2][]byte{c.out, payload}
	buffers := net.Buffers(c.vector[:])
	n, err := buffers.WriteTo(c.conn)
	c.vector = [2][]byte{}
	return int(min(n, 1<<30)), err
}

func appendEventHead(out []byte, event *Event, length int, closing bool) []byte {
	out = append(out, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nLambda-Runtime-Aws-Request-Id: "...)
	out = appendValue(out, event.RequestID)
	out = append(out, "\r\nLambda-Runtime-Deadline-Ms: "...)
	out = strconv.AppendInt(out, event.Deadline.UnixMilli(), 10)
	for _, header := range [...]struct{ name, value string }{
		{"\r\nLambda-Runtime-Invoked-Function-Arn: ", event.FunctionARN},
		{"\r\nLambda-Runtime-Trace-Id: ", event.TraceID},
		{"\r\nLambda-Runtime-Client-Context: ", event.ClientContext},
		{"\r\nLambda-Runtime-Cognito-Identity: ", event.Identity},
		{"\r\nLambda-Runtime-Aws-Tenant-Id: ", event.TenantID},
	} {
		if header.value != "" {
			out = append(out, header.name...)
			out = appendValue(out, header.value)
		}
	}
	if closing {
		out = append(out, "\r\nConnection: close"...)
	}
	out = append(out, "\r\nContent-Length: "...)
	out = strconv.AppendInt(out, int64(length), 10)
	return append(out, "\r\n\r\n"...)
}

// appendValue appends a header's value; what would end the header becomes a space.
func appendValue(out []byte, value string) []byte {
	start := len(out)
	out = append(out, value...)
	for i, b := range out[start:] {
		if b < ' ' || b == 0x7f {
			out[start+i] = ' '
		}
	}
	return out
}

// gone tells whether a parked connection was hung up. It looks only at connections that have waited for a while, and at those
// that the kernel lets it look at.
func (c *conn) gone() bool {
	if time.Since(c.parkedAt) < peekAfter {
		return false
	}
	socket, ok := c.conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		gone = n > 0 || err == nil || !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
	return gone || err != nil
}
