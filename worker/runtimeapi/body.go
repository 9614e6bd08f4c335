package runtimeapi

import (
	"bytes"
	"errors"
	"io"
)

// trusted is how much of a body has to arrive before the room for all that its Content-Length announces is made.
const trusted = 256 << 10

// body is a request body as far as it has been read.
type body struct {
	data   []byte
	limit  int64 // data is never longer
	over   bool  // the body is longer than limit: what is beyond was thrown away
	lost   int64 // bytes that were thrown away
	failed bool  // the stream failed: its trailers said so
	// An error that a stream met after it had begun to answer.
	errorType, errorBody string
}

// readBody reads the body of the request in c.head to its end. It may be called again after a timeout, with the same body.
// When stop is set it returns as soon as the body is over its limit.
func (c *wire) readBody(b *body, stop bool) error {
	for {
		if b.over && stop {
			return nil
		}
		done, err := c.step(b)
		if done || err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
}

// step reads a part of the body, and tells whether it was the last.
func (c *wire) step(b *body) (done bool, err error) {
	if c.head.length >= 0 {
		if c.left == 0 {
			return true, nil
		}
		return false, c.readPart(b)
	}
	switch c.chunk {
	case chunkData:
		if c.left == 0 {
			c.chunk = chunkEnd
			return false, nil
		}
		return false, c.readPart(b)
	case chunkEnd:
		line, err := c.readLine(maxChunkLine)
		if err != nil {
			return false, err
		}
		if len(line) > 0 {
			return false, malformed("a chunk is longer than its size")
		}
		c.chunk = chunkSize
		return false, nil
	case chunkSize:
		return false, c.readChunkSize()
	}
	line, err := c.readLine(maxTrailers)
	if err != nil || len(line) == 0 {
		return err == nil, err
	}
	return false, b.takeTrailer(line)
}

func (c *wire) readChunkSize() error {
	line, err := c.readLine(maxChunkLine)
	if err != nil {
		return err
	}
	size, _, _ := bytes.Cut(line, []byte(";"))
	if c.left, err = parseHex(bytes.TrimRight(size, " \t")); err != nil {
		return malformed("malformed chunk size")
	}
	c.chunk = chunkData
	if c.left == 0 {
		c.chunk = chunkTrailer
	}
	return nil
}

// readLine reads a line of at most limit bytes, and returns it without its CRLF.
func (c *wire) readLine(limit int) ([]byte, error) {
	for {
		pending := c.buf[c.r:c.w]
		if end := bytes.IndexByte(pending, '\n'); end >= 0 {
			if end == 0 || pending[end-1] != '\r' || end > limit {
				return nil, malformed("malformed line in a chunked body")
			}
			c.r += end + 1
			return pending[:end-1], nil
		}
		if len(pending) > limit {
			return nil, malformed("a line of a chunked body is too long")
		}
		if err := c.fill(max(maxHead, 2*limit)); err != nil {
			return nil, err
		}
	}
}

// readPart reads what there is of the body or chunk: from the buffer, else from the connection.
func (c *wire) readPart(b *body) error {
	if c.r == c.w && !b.over && c.left >= firstBuffer {
		return c.readDirect(b)
	}
	if c.r == c.w {
		if err := c.fill(maxHead); err != nil {
			return err
		}
	}
	n := int(min(int64(c.w-c.r), c.left))
	b.append(c.buf[c.r:c.r+n], c.left)
	c.r += n
	c.left -= int64(n)
	if b.lost > maxDiscard {
		return &statusError{status: 413, message: "the body is far too large"}
	}
	return nil
}

// readDirect reads into the body's own room.
func (c *wire) readDirect(b *body) error {
	if int64(len(b.data)) >= b.limit {
		b.over = true
		return nil
	}
	if cap(b.data) == len(b.data) {
		b.grow(c.left)
	}
	room := b.data[len(b.data):min(int64(cap(b.data)), b.limit)]
	n, err := c.conn.Read(room[:min(int64(len(room)), c.left)])
	b.data = b.data[:len(b.data)+n]
	c.left -= int64(n)
	if n > 0 {
		return nil
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// append keeps data as far as the limit allows; expected is how much is announced, data included.
func (b *body) append(data []byte, expected int64) {
	if room := b.limit - int64(len(b.data)); int64(len(data)) > room {
		b.lost += int64(len(data)) - max(0, room)
		data, b.over = data[:max(0, room)], true
	}
	if len(b.data)+len(data) > cap(b.data) {
		b.grow(expected)
	}
	b.data = append(b.data, data...)
}

// grow makes room for more: for all that is expected, if it is little or if enough came to believe it.
func (b *body) grow(expected int64) {
	want := int64(len(b.data)) + expected
	if want > trusted && len(b.data) < trusted {
		want = trusted
	}
	want = min(b.limit, max(want, 2*int64(len(b.data))))
	grown := make([]byte, len(b.data), max(want, int64(len(b.data))))
	copy(grown, b.data)
	b.data = grown
}

// takeTrailer notes the headers behind a stream that say that it failed.
func (b *body) takeTrailer(line []byte) error {
	name, value, err := splitHeader(line)
	if err != nil {
		return err
	}
	switch {
	case equalFold(name, "lambda-runtime-function-error-type"):
		b.errorType, b.failed = string(value), true
	case equalFold(name, "lambda-runtime-function-error-body"):
		b.errorBody = string(value)
	}
	return nil
}
