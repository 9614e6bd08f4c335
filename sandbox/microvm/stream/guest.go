package stream

import (
	"errors"
	"io"
)

// Guest is the guest's end of the port. Each host's connection comes out of Accept.
type Guest struct {
	port     port
	accepted chan accepted
	failed   error // valid when accepted is closed
}

type accepted struct {
	conn     *conn
	greeting Greeting
}

// NewGuest takes connections on a port, which it never closes.
func NewGuest(rw io.ReadWriter) *Guest {
	g := &Guest{port: port{rw: rw}, accepted: make(chan accepted)}
	go g.receive()
	return g
}

// Accept returns the next connection. The one before ends when it comes.
func (g *Guest) Accept() (io.ReadWriteCloser, Greeting, error) {
	a, ok := <-g.accepted
	if !ok {
		return nil, Greeting{}, g.failed
	}
	return a.conn, a.greeting, nil
}

func (g *Guest) receive() {
	defer close(g.accepted)
	var current *conn
	holding := false
	for {
		head, err := readHeader(g.port.rw)
		if err == nil && holding && (head.kind == frameResume || head.kind == frameStart) {
			g.port.mu.Unlock()
			holding = false
		}
		if err == nil {
			switch head.kind {
			case frameStart:
				current, err = g.start(head, current)
			case frameHold:
				g.port.mu.Lock()
				holding = true
				err = g.port.writeLocked(frameHeld, head.number, nil)
			case frameEnd:
				if current != nil && head.number == current.number {
					current.feed.CloseWithError(io.EOF)
				}
			default:
				err = take(g.port.rw, head, current)
			}
		}
		if err != nil {
			g.failed = errors.Join(errors.New("the port to the host failed"), err)
			if current != nil {
				current.feed.CloseWithError(g.failed)
			}
			return
		}
	}
}

// start ends the connection there is and begins the next.
func (g *Guest) start(head header, former *conn) (*conn, error) {
	content := make([]byte, head.length)
	if _, err := io.ReadFull(g.port.rw, content); err != nil {
		return nil, err
	}
	greeting, err := decodeGreeting(content)
	if err != nil {
		return nil, err
	}
	if former != nil {
		former.feed.CloseWithError(io.EOF)
	}
	next := newConn(&g.port, head.number)
	if err := g.port.write(frameStarted, head.number, nil); err != nil {
		return nil, err
	}
	g.accepted <- accepted{next, greeting}
	return next, nil
}
