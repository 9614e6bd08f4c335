package runtimeapi

import (
	"encoding/base64"
	"errors"
	"io"
	"net"
	"time"
)

// maxDiscard bounds how much of a body that nobody wants is read so that the client sees the answer.
const maxDiscard = 32 << 20

// work is the request that a connection is busy with.
type work struct {
	kind    endpoint
	refusal *refusal // nil: the request is fine so far
	body    body
	began   bool // the head has been read, and the request admitted
	told    bool // the event was completed as too large; the rest is thrown away
}

// errParked says that the request was a GET next, and that the connection now waits for an event.
var errParked = errors.New("waits for an event")

// errWrite says that an answer could not be written. It is no timeout, even if that is why: the connection is of no use.
var errWrite = errors.New("cannot write to the runtime")

// advance reads the connection's next request and answers it. After a timeout it is called again and goes on. It returns
// early when an answer is too large, and then goes on throwing it away when it is called again.
func (c *conn) advance() error {
	if !c.work.began {
		if err := c.readHead(); err != nil {
			return err
		}
		if err := c.begin(); err != nil {
			return err
		}
		if c.head.expect && c.head.hasBody() && c.r == c.w {
			if _, err := io.WriteString(c.conn, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
				return errWrite
			}
		}
	}
	if c.head.hasBody() {
		wanted := c.work.refusal == nil && c.work.kind != getNext
		if err := c.readBody(&c.work.body, wanted && !c.work.told); err != nil {
			return err
		}
		if c.work.body.over && wanted && !c.work.told {
			c.tellTooLarge()
			return nil
		}
	}
	return c.finish()
}

// begin admits a request whose head has been read. A connection that was closed meanwhile has no say any more.
func (c *conn) begin() error {
	s := c.server
	kind, id, no := route(c.head.method, c.head.path)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.conns[c]; !known {
		return net.ErrClosed
	}
	s.served++
	c.lastUse, c.busy = s.served, true
	if no == nil {
		no = s.admitRequestLocked(kind, id)
	}
	if no == nil && len(c.head.responseMode) > 0 && !equalFold(c.head.responseMode, "streaming") {
		no = refusalMode
	}
	c.work = work{kind: kind, refusal: no, began: true}
	if no == nil && kind != getNext {
		s.receiving = c
		c.work.body.limit = maxBody
		c.work.body.errorType = string(c.head.errorType)
	}
	return nil
}

// admitRequestLocked says why a request does not fit the state, nil if it does.
func (s *Server) admitRequestLocked(kind endpoint, id []byte) *refusal {
	switch kind {
	case postResponse, postError:
		if s.current == nil || s.current.id != string(id) {
			return refusalID
		}
		if s.phase != invoking || s.receiving != nil {
			return refusalState(s.phase, "InvocationResponse")
		}
	case postInitError:
		if s.phase != starting || s.receiving != nil {
			return refusalState(s.phase, "InitError")
		}
	}
	return nil
}

// tellTooLarge completes the event before all of its answer has been read.
func (c *conn) tellTooLarge() {
	c.work.told = true
	c.work.refusal = refusalTooMuch
	kind := c.work.kind
	c.work.body.data = nil
	s := c.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.receiving != c { // Reset came in between
		return
	}
	s.receiving = nil
	if kind == postInitError {
		s.phase, s.initError = failed, &Failure{Type: "Runtime.Unknown"}
	} else {
		s.completeLocked(Result{TooLarge: true})
	}
	s.wakeIfOthersLocked(c)
}

// completeLocked ends the event.
func (s *Server) completeLocked(result Result) {
	s.current.result, s.current.complete = result, true
	s.phase = answered
}

// wakeIfOthersLocked wakes the waiting goroutine, unless it is the one that reads c.
func (s *Server) wakeIfOthersLocked(c *conn) {
	if s.waiting && s.reading != c {
		s.wakeLocked()
	}
}

// finish applies a request that has been read to its end, and answers it.
func (c *conn) finish() error {
	c.work.began = false
	if c.work.refusal == nil && c.work.kind == getNext {
		notify, no := c.server.park(c)
		if no == nil {
			if notify {
				c.server.options.OnReady()
			}
			return errParked
		}
		c.work.refusal = no
	}
	if c.work.refusal == nil {
		c.work.refusal = c.server.take(c)
	}
	status, text := 202, "{\"status\":\"OK\"}\n"
	if no := c.work.refusal; no != nil {
		status, text = no.status, no.text
	}
	c.work = work{}
	closing := c.head.closing
	if err := c.reply(status, text); err != nil {
		return errWrite
	}
	c.server.idle(c)
	if closing {
		return io.EOF
	}
	return nil
}

// idle notes that a connection's request is answered.
func (s *Server) idle(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.busy = false
}

// take applies an answer or an error that was read as a whole.
func (s *Server) take(c *conn) *refusal {
	b := &c.work.body
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.receiving != c { // Reset came in between
		return refusalID
	}
	s.receiving = nil
	switch {
	case c.work.kind == postInitError:
		s.phase, s.initError = failed, &Failure{Type: b.errorType, Body: b.data}
	case c.work.kind == postError:
		s.completeLocked(Result{Payload: b.data, Failed: true, ErrorType: b.errorType})
	case c.head.length < 0 && b.failed:
		s.completeLocked(Result{Payload: b.errorPayload(), Failed: true, ErrorType: b.errorType})
	default:
		s.completeLocked(Result{Payload: b.data})
	}
	s.wakeIfOthersLocked(c)
	return nil
}

// errorPayload decodes the error that a failed stream carried behind it.
func (b *body) errorPayload() []byte {
	if payload, err := base64.StdEncoding.DecodeString(b.errorBody); err == nil && len(payload) > 0 {
		return payload
	}
	return []byte(`{"errorMessage":"the stream of the response failed","errorType":"Runtime.StreamError"}`)
}

// park makes c the connection that waits for an event. notify: OnReady is to be called.
func (s *Server) park(c *conn) (notify bool, no *refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.conns[c]; !known {
		return false, refusalState(s.phase, "Ready")
	}
	switch s.phase {
	case ready:
		if !s.parked.gone() {
			return false, refusalState(s.phase, "Ready")
		}
		s.parked.conn.Close()
		s.forgetLocked(s.parked)
	case failed, invoking:
		return false, refusalState(s.phase, "Ready")
	}
	if s.lent == c {
		s.lent = nil
	}
	s.phase, s.parked = ready, c
	c.parkedAt = time.Now()
	s.wakeIfOthersLocked(c)
	return !s.waiting, nil
}
