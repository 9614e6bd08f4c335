package runtimeapi

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"lambent"
)

// Options configure a server. All have defaults.
type Options struct {
	// MaxConnections is how many connections the sandbox may hold. Beyond, the one that was idle for longest is closed.
	// Default: 64.
	MaxConnections int
	// OnReady is called, with no lock held, when the runtime asks for its next event and nobody waits for that. It returns
	// quickly. Default: nothing.
	OnReady func()
	// Logger receives what a sandbox did wrong, at debug level. Default: slog.Default().
	Logger *slog.Logger
}

// phase is where the runtime is in its loop.
type phase int

const (
	starting phase = iota // has not asked for an event yet
	failed                // has said that its initialisation failed
	ready                 // waits for an event on the connection parked
	invoking              // has an event
	answered              // has answered, and not asked for the next event yet
)

func (p phase) String() string {
	return [...]string{"Initializing", "InitError", "Ready", "Running", "ResponseSent"}[p]
}

// Server is the Runtime API of one sandbox.
//
// Invariants: one goroutine at a time reads a connection: its own (serve), or the one that invokes, which then is the reader
// of lent; parked has an unanswered GET next and no reader; lent and parked are never both set; at most one connection is
// receiving a body for the current event, so that a sandbox holds at most one response in this process's memory.
type Server struct {
	listener net.Listener
	options  Options
	done     sync.WaitGroup

	mu          sync.Mutex
	closed      bool
	conns       map[*conn]struct{}
	phase       phase
	ended       bool  // the runtime's process is gone
	parked      *conn // waits in GET next
	lent        *conn // read by whoever invokes, or by nobody in between
	reading     *conn // lent, while an invoker is in a read of it
	receiving   *conn // sends the answer to current
	waiting     bool  // an invoker or AwaitReady waits
	wake        chan struct{}
	current     *exchange
	initError   *Failure
	interrupted bool // the waiting goroutine was woken
	served      int  // requests seen since Reset, so that conns can be ordered by age
}

// exchange is the event that the runtime works on.
type exchange struct {
	id       string
	complete bool
	result   Result
}

// conn is one connection from the sandbox.
type conn struct {
	wire
	server  *Server
	lastUse int  // Server.served at its last request; guarded by Server.mu
	busy    bool // a request of it is in work; guarded by Server.mu
	work
	deadline time.Time // the last that was set; guarded by Server.mu
	parkedAt time.Time
	out      []byte
	vector   [2][]byte
}

// Open serves the Runtime API on the listener, which stays the caller's.
func Open(listener net.Listener, options Options) *Server {
	if options.MaxConnections == 0 {
		options.MaxConnections = 64
	}
	if options.OnReady == nil {
		options.OnReady = func() {}
	}
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	s := &Server{listener: listener, options: options, conns: map[*conn]struct{}{}, wake: make(chan struct{}, 1)}
	s.done.Go(s.accept)
	return s
}

// Close closes the listener and all connections, ends who waits, and returns when all goroutines of the server have ended.
func (s *Server) Close() error {
	err := s.listener.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	s.mu.Lock()
	s.closed, s.ended = true, true
	s.dropConnsLocked()
	s.wakeLocked()
	s.mu.Unlock()
	s.done.Wait()
	return err
}

// Reset forgets the former process with its connections, and expects a new one's first GET next. No invoke is running.
func (s *Server) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropConnsLocked()
	s.phase, s.ended, s.initError, s.current = starting, s.closed, nil, nil
	s.parked, s.lent, s.reading, s.receiving = nil, nil, nil, nil
}

// Interrupt says that the runtime's process has ended. AwaitReady and Invoke return once what it sent before has been read.
func (s *Server) Interrupt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.wakeLocked()
}

// Ready tells whether the runtime waits for its next event. If not, it makes sure that OnReady will be called when it does.
func (s *Server) Ready() bool {
	s.mu.Lock()
	if s.phase == ready || s.waiting || s.closed {
		defer s.mu.Unlock()
		return s.phase == ready
	}
	s.releaseLocked()
	s.mu.Unlock()
	return false
}

// dropConnsLocked closes every connection.
func (s *Server) dropConnsLocked() {
	for c := range s.conns {
		c.conn.Close()
	}
	clear(s.conns)
}

// wakeLocked has whoever waits look at the state again.
func (s *Server) wakeLocked() {
	if c := s.reading; c != nil {
		c.deadline = longAgo()
		if c.conn.SetReadDeadline(c.deadline) != nil {
			return // it is closed, which ends the read as well
		}
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// accept takes connections until the listener is closed.
func (s *Server) accept() {
	for {
		nc, err := s.listener.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				s.options.Logger.Debug("the Runtime API's listener ended", "error", err)
			}
			return
		}
		c := &conn{wire: wire{conn: nc}, server: s}
		s.mu.Lock()
		if s.closed || !s.admitLocked() {
			s.mu.Unlock()
			nc.Close()
			continue
		}
		s.conns[c] = struct{}{}
		s.served++
		c.lastUse = s.served
		s.done.Add(1)
		s.mu.Unlock()
		go func() {
			defer s.done.Done()
			c.serve()
		}()
	}
}

// admitLocked makes room for one more connection.
func (s *Server) admitLocked() bool {
	if len(s.conns) < s.options.MaxConnections {
		return true
	}
	var oldest *conn
	for c := range s.conns {
		if !c.busy && c != s.parked && c != s.lent && (oldest == nil || c.lastUse < oldest.lastUse) {
			oldest = c
		}
	}
	if oldest == nil {
		return false
	}
	oldest.conn.Close()
	delete(s.conns, oldest)
	return true
}

// drop closes a connection and forgets it.
func (s *Server) drop(c *conn) {
	c.conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetLocked(c)
}

func (s *Server) forgetLocked(c *conn) {
	delete(s.conns, c)
	if s.parked == c {
		s.phase = answered
	}
	for _, role := range []**conn{&s.parked, &s.lent, &s.reading, &s.receiving} {
		if *role == c {
			*role = nil
		}
	}
	if s.ended {
		s.wakeLocked()
	}
}

// serve reads a connection's requests until it is closed, fails, or waits in GET next and so is parked.
func (c *conn) serve() {
	for {
		err := c.advance()
		if errors.Is(err, errParked) {
			return
		}
		if err != nil {
			c.refuse(err)
			c.server.drop(c)
			return
		}
	}
}

// serveAnew serves a connection that was lent.
func (c *conn) serveAnew() {
	c.server.mu.Lock()
	err := c.setDeadline(time.Time{})
	c.server.mu.Unlock()
	if err != nil {
		c.server.drop(c)
		return
	}
	c.serve()
}

// refuse tells the client why its connection is closed, if it has done something wrong.
func (c *conn) refuse(err error) {
	var status *statusError
	if !errors.As(err, &status) {
		return
	}
	c.server.options.Logger.Debug("a sandbox sent a malformed request", "error", err)
	c.head.closing = true
	c.reply(status.status, apiError("InvalidRequest", status.message)) //nolint:errcheck // it is closed next
}

// reply writes a response with a JSON body.
func (c *conn) reply(status int, text string) error {
	c.out = appendReply(c.out[:0], status, text, c.head.closing)
	_, err := c.conn.Write(c.out)
	return err
}

func appendReply(out []byte, status int, text string, closing bool) []byte {
	out = append(out, "HTTP/1.1 "...)
	out = strconv.AppendInt(out, int64(status), 10)
	out = append(out, ' ')
	out = append(out, reason(status)...)
	out = append(out, "\r\nContent-Type: application/json\r\nContent-Length: "...)
	out = strconv.AppendInt(out, int64(len(text)), 10)
	if closing {
		out = append(out, "\r\nConnection: close"...)
	}
	out = append(out, "\r\n\r\n"...)
	return append(out, text...)
}

func reason(status int) string {
	switch status {
	case 202:
		return "Accepted"
	case 400:
		return "Bad Request"
	case 403:
		return "Forbidden"
	case 404:
		return "Not Found"
	case 405:
		return "Method Not Allowed"
	case 413:
		return "Request Entity Too Large"
	case 431:
		return "Request Header Fields Too Large"
	case 501:
		return "Not Implemented"
	case 505:
		return "HTTP Version Not Supported"
	}
	return "Error"
}

// longAgo is a deadline that ends a read at once, and that no one sets for any other purpose.
func longAgo() time.Time { return time.Unix(1, 0) }

// isTimeout tells whether a read ended because of its deadline, and may be resumed.
func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// maxBody is the largest answer that is kept.
const maxBody = lambent.MaxResponseBytes
