package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Host is the host's end of a connection. It implements io.ReadWriteCloser, for use by many goroutines.
type Host struct {
	*conn
	closer io.Closer
	held   chan struct{}
	done   chan struct{} // closed when nothing more is read
	close  sync.Once
}

// Dial begins a connection with the given number, which no connection of the same guest had, and takes the port over. It waits
// until the guest answers, the port fails or the context ends.
func Dial(ctx context.Context, rw io.ReadWriteCloser, number uint32, greeting Greeting) (*Host, error) {
	h := &Host{conn: newConn(&port{rw: rw}, number), closer: rw, held: make(chan struct{}, 1), done: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { rw.Close() })
	err := h.port.write(frameStart, number, greeting.encode())
	if err == nil {
		err = h.awaitStart()
	}
	if !stop() {
		err = errors.Join(err, ctx.Err())
	}
	if err != nil {
		rw.Close()
		return nil, fmt.Errorf("connect to the guest: %w", err)
	}
	go h.receive()
	return h, nil
}

// awaitStart drops what is left of earlier connections.
func (h *Host) awaitStart() error {
	for {
		head, err := readHeader(h.port.rw)
		if err != nil {
			return err
		}
		if err := take(h.port.rw, head, nil); err != nil {
			return err
		}
		if head.kind == frameStarted && head.number == h.number {
			return nil
		}
	}
}

func (h *Host) receive() {
	defer close(h.done)
	for {
		head, err := readHeader(h.port.rw)
		if err == nil {
			err = h.handle(head)
		}
		if err != nil {
			h.feed.CloseWithError(err)
			return
		}
	}
}

func (h *Host) handle(head header) error {
	if err := take(h.port.rw, head, h.conn); err != nil {
		return err
	}
	switch {
	case head.number != h.number:
	case head.kind == frameEnd:
		return io.EOF
	case head.kind == frameHeld:
		select {
		case h.held <- struct{}{}:
		default: // nobody asked
		}
	}
	return nil
}

// Hold returns when neither end is in the midst of a frame, and keeps it so until Resume. When it fails nothing is held here.
func (h *Host) Hold(ctx context.Context) error {
	h.port.mu.Lock()
	if err := h.port.writeLocked(frameHold, h.number, nil); err != nil {
		h.port.mu.Unlock()
		return fmt.Errorf("hold the connection to the guest: %w", err)
	}
	select {
	case <-h.held:
		return nil
	case <-h.done:
		h.port.mu.Unlock()
		return fmt.Errorf("hold the connection to the guest: %w", io.ErrUnexpectedEOF)
	case <-ctx.Done():
		h.port.mu.Unlock()
		return fmt.Errorf("hold the connection to the guest: %w", ctx.Err())
	}
}

// Resume ends what Hold began.
func (h *Host) Resume() error {
	defer h.port.mu.Unlock()
	return h.port.writeLocked(frameResume, h.number, nil)
}

// Close ends the connection and closes the port, without waiting for the guest, and returns when nothing more is read.
func (h *Host) Close() error {
	var err error
	h.close.Do(func() {
		err = h.closer.Close()
		_ = h.reader.Close()
	})
	<-h.done
	return err
}
