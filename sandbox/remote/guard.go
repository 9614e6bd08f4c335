package remote

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/hashicorp/yamux"
)

// guard ends a muxed link whose other end makes this one keep more than a bounded amount for it. Package yamux bounds what a stream
// holds, but neither how many streams there are that only one end has closed, nor the answers to pings that the other end does not
// read: each is a goroutine.
type guard struct {
	io.ReadWriteCloser
	session atomic.Pointer[yamux.Session] // nil at the very beginning

	head [yamuxHeader]byte
	have int    // bytes of head
	rest uint32 // bytes of the frame's content that are to come
}

// Of yamux's frames: a header is version, kind, flags, stream and length; the length of data is that of what follows.
const (
	yamuxHeader = 12
	yamuxKind   = 1
	yamuxLength = 8
	yamuxData   = 0
	yamuxPing   = 2
)

// Read is called by the session only, which works on what it read before it reads more.
func (g *guard) Read(p []byte) (int, error) {
	if session := g.session.Load(); session != nil && session.NumStreams() > maxOpenStreams {
		return 0, fmt.Errorf("the other end has more than %d streams open", maxOpenStreams)
	}
	n, err := g.ReadWriteCloser.Read(p)
	if err != nil {
		return n, err
	}
	return n, g.inspect(p[:n])
}

func (g *guard) inspect(read []byte) error {
	for len(read) > 0 {
		if g.rest > 0 {
			skip := min(len(read), int(g.rest))
			g.rest -= uint32(skip)
			read = read[skip:]
			continue
		}
		n := copy(g.head[g.have:], read)
		g.have += n
		read = read[n:]
		if g.have < yamuxHeader {
			return nil
		}
		g.have = 0
		switch g.head[yamuxKind] {
		case yamuxData:
			g.rest = binary.BigEndian.Uint32(g.head[yamuxLength:])
		case yamuxPing: // neither end keeps the link alive by them
			return errors.New("the other end pings")
		}
	}
	return nil
}
