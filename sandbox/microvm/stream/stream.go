// Package stream carries one connection at a time between a host and the agent in its guest, over a serial port that both keep.
//
// The port knows no beginning and no end, and a guest that was restored from a snapshot talks to another host process than
// before. So what goes over it are frames, each with the number of its connection. The host begins connections; the guest ends
// the one it has when the next begins. Hold brings both directions to the end of a frame, so that a snapshot that is taken
// meanwhile can be talked to from its first byte on.
package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// The kinds of frames.
const (
	frameStart   = 1 // host: a connection begins; the greeting follows
	frameStarted = 2 // guest: it has begun
	frameData    = 3
	frameEnd     = 4 // nothing more comes
	frameHold    = 5 // host: write nothing
	frameHeld    = 6 // guest: nothing is written until the next frameResume or frameStart
	frameResume  = 7
)

const (
	headerBytes = 9
	maxFrame    = 64 << 10
	// SeedBytes is how much randomness a greeting carries.
	SeedBytes     = 64
	greetingBytes = 8 + SeedBytes // at least
)

// ErrMalformed says that the other end does not speak this protocol.
var ErrMalformed = errors.New("malformed frame")

// Greeting is what a guest is told when a connection begins, which it cannot know after a snapshot.
type Greeting struct {
	Time time.Time
	Seed [SeedBytes]byte // for the guest's random numbers: those of two guests from one snapshot must not be the same
	Note []byte          // what else the host has to say, of less than 4 KiB
}

func (g Greeting) encode() []byte {
	return append(append(binary.LittleEndian.AppendUint64(nil, uint64(g.Time.UnixNano())), g.Seed[:]...), g.Note...)
}

func decodeGreeting(text []byte) (g Greeting, err error) {
	if len(text) < greetingBytes {
		return g, fmt.Errorf("greeting: %w", ErrMalformed)
	}
	g.Time = time.Unix(0, int64(binary.LittleEndian.Uint64(text)))
	copy(g.Seed[:], text[8:])
	g.Note = text[greetingBytes:]
	return g, nil
}

type header struct {
	kind   byte
	number uint32 // of the connection
	length uint32
}

// readHeader reads and checks a frame's header.
func readHeader(r io.Reader) (h header, err error) {
	var text [headerBytes]byte
	if _, err := io.ReadFull(r, text[:]); err != nil {
		return h, err
	}
	h = header{text[0], binary.LittleEndian.Uint32(text[1:]), binary.LittleEndian.Uint32(text[5:])}
	if h.kind < frameStart || h.kind > frameResume || h.length > maxFrame {
		return h, fmt.Errorf("%w: kind %d, %d bytes", ErrMalformed, h.kind, h.length)
	}
	return h, nil
}

// port is the serial port, for frames.
type port struct {
	rw io.ReadWriter

	mu sync.Mutex // of writing; also held while nothing may be written
}

func (p *port) write(kind byte, number uint32, content []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.writeLocked(kind, number, content)
}

func (p *port) writeLocked(kind byte, number uint32, content []byte) error {
	frame := make([]byte, 0, headerBytes+len(content))
	frame = append(frame, kind)
	frame = binary.LittleEndian.AppendUint32(frame, number)
	frame = binary.LittleEndian.AppendUint32(frame, uint32(len(content)))
	_, err := p.rw.Write(append(frame, content...))
	return err
}

// conn is one connection. It implements io.ReadWriteCloser.
type conn struct {
	port   *port
	number uint32
	reader *io.PipeReader // what has come
	feed   *io.PipeWriter
	once   sync.Once
}

func newConn(p *port, number uint32) *conn {
	c := &conn{port: p, number: number}
	c.reader, c.feed = io.Pipe()
	return c
}

func (c *conn) Read(p []byte) (int, error) { return c.reader.Read(p) }

func (c *conn) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		n := min(len(p), maxFrame)
		if err := c.port.write(frameData, c.number, p[:n]); err != nil {
			return written, err
		}
		written += n
		p = p[n:]
	}
	return written, nil
}

// Close says that nothing more comes.
func (c *conn) Close() error {
	var err error
	c.once.Do(func() {
		_ = c.reader.Close() // what still comes is dropped
		err = c.port.write(frameEnd, c.number, nil)
	})
	return err
}

// take reads a frame's content into the connection, or drops it when the connection is closed or another.
func take(r io.Reader, h header, c *conn) error {
	content := make([]byte, h.length)
	if _, err := io.ReadFull(r, content); err != nil {
		return err
	}
	if c != nil && c.number == h.number && len(content) > 0 {
		_, _ = c.feed.Write(content) // fails when the connection is closed
	}
	return nil
}
