package runtimeapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
)

// Bounds of what one connection may send. Nothing that a runtime sends comes near them.
const (
	firstBuffer  = 4 << 10
	maxHead      = 16 << 10 // request line and headers
	maxHeaders   = 64
	maxChunkLine = 256      // a chunk's size with its extensions
	maxTrailers  = 64 << 10 // a failed stream's error travels in one
)

// statusError is a request that is answered with a status, after which the connection is closed.
type statusError struct {
	status  int
	message string
}

func (e *statusError) Error() string { return fmt.Sprintf("%d: %s", e.status, e.message) }

func malformed(message string) error { return &statusError{status: 400, message: message} }

// request is the head of an HTTP request. Its slices are valid until the connection's buffer is read into again.
type request struct {
	method, path []byte
	length       int64 // of the body; -1: chunked
	expect       bool  // the client waits for 100 Continue
	closing      bool  // the client wants the connection closed
	errorType    []byte
	responseMode []byte
}

// hasBody tells whether anything follows the head.
func (r *request) hasBody() bool { return r.length != 0 }

// wire reads requests from a connection. One goroutine at a time uses it. A read that ends with a timeout loses nothing and
// is resumed by calling the same method again.
type wire struct {
	conn net.Conn
	buf  []byte
	r, w int // buf[r:w] was read from conn and not used yet

	head  request
	chunk chunkState
	left  int64 // bytes of the body, or of the chunk, that have not been read
}

// chunkState is where in a chunked body the reader is.
type chunkState int

const (
	chunkSize chunkState = iota // before a size line
	chunkData
	chunkEnd // before the CRLF behind a chunk
	chunkTrailer
)

// fill reads once more into the buffer, which holds at most limit bytes.
func (c *wire) fill(limit int) error {
	if c.r == c.w {
		c.r, c.w = 0, 0
	}
	if c.w == len(c.buf) {
		if err := c.makeRoom(limit); err != nil {
			return err
		}
	}
	n, err := c.conn.Read(c.buf[c.w:])
	c.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

func (c *wire) makeRoom(limit int) error {
	if c.r > 0 {
		c.w = copy(c.buf, c.buf[c.r:c.w])
		c.r = 0
		return nil
	}
	if len(c.buf) >= limit {
		return &statusError{status: 431, message: "the request's head is too large"}
	}
	grown := make([]byte, min(limit, max(firstBuffer, 2*len(c.buf))))
	copy(grown, c.buf[:c.w])
	c.buf = grown
	return nil
}

// readHead reads a request's head into c.head. io.EOF means that the client closed the connection between requests.
func (c *wire) readHead() error {
	scanned := 0
	for {
		for c.r < c.w && scanned == 0 && (c.buf[c.r] == '\r' || c.buf[c.r] == '\n') {
			c.r++ // an empty line before a request is to be ignored
		}
		pending := c.buf[c.r:c.w]
		if end := bytes.Index(pending[max(0, scanned-3):], []byte("\r\n\r\n")); end >= 0 {
			end += max(0, scanned-3)
			c.r += end + 4
			return c.parseHead(pending[:end+2])
		}
		scanned = len(pending)
		if err := c.fill(maxHead); err != nil {
			if errors.Is(err, io.EOF) && scanned > 0 {
				return io.ErrUnexpectedEOF
			}
			return err
		}
	}
}

// parseHead parses lines that each end in CRLF.
func (c *wire) parseHead(head []byte) error {
	line, rest, _ := bytes.Cut(head, []byte("\r\n"))
	if err := parseRequestLine(line, &c.head); err != nil {
		return err
	}
	chunked, sized := false, false
	for n := 0; len(rest) > 0; n++ {
		if n == maxHeaders {
			return &statusError{status: 431, message: "too many headers"}
		}
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		name, value, err := splitHeader(line)
		if err != nil {
			return err
		}
		if err := c.head.take(name, value, &chunked, &sized); err != nil {
			return err
		}
	}
	if chunked {
		if sized {
			return malformed("both Content-Length and Transfer-Encoding")
		}
		c.head.length = -1
		c.chunk = chunkSize
		c.left = 0
		return nil
	}
	c.left = c.head.length
	return nil
}

// parseRequestLine parses "METHOD /path HTTP/1.1" and resets the request.
func parseRequestLine(line []byte, r *request) error {
	method, rest, ok := bytes.Cut(line, []byte(" "))
	path, version, ok2 := bytes.Cut(rest, []byte(" "))
	if !ok || !ok2 || len(method) == 0 || len(path) == 0 || path[0] != '/' {
		return malformed("malformed request line")
	}
	for _, b := range line {
		if b < ' ' || b == 0x7f {
			return malformed("control character in the request line")
		}
	}
	path, _, _ = bytes.Cut(path, []byte("?"))
	*r = request{method: method, path: path}
	switch string(version) {
	case "HTTP/1.1":
	case "HTTP/1.0":
		r.closing = true
	default:
		return &statusError{status: 505, message: "only HTTP/1.1 is spoken here"}
	}
	return nil
}

// splitHeader parses "Name: value".
func splitHeader(line []byte) (name, value []byte, err error) {
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 {
		return nil, nil, malformed("malformed header")
	}
	name, value = line[:colon], bytes.Trim(line[colon+1:], " \t")
	for _, b := range name {
		if b <= ' ' || b >= 0x7f {
			return nil, nil, malformed("malformed header name")
		}
	}
	for _, b := range value {
		if b < ' ' && b != '\t' || b == 0x7f {
			return nil, nil, malformed("control character in a header")
		}
	}
	return name, value, nil
}

// take notes a header that matters to the server.
func (r *request) take(name, value []byte, chunked, sized *bool) error {
	switch {
	case equalFold(name, "content-length"):
		n, err := parseDecimal(value)
		if err != nil || *sized && n != r.length {
			return malformed("malformed Content-Length")
		}
		*sized, r.length = true, n
	case equalFold(name, "transfer-encoding"):
		if *chunked || !equalFold(value, "chunked") {
			return &statusError{status: 501, message: "unknown Transfer-Encoding"}
		}
		*chunked = true
	case equalFold(name, "connection"):
		r.closing = r.closing || equalFold(value, "close")
	case equalFold(name, "expect"):
		r.expect = equalFold(value, "100-continue")
	case equalFold(name, "lambda-runtime-function-error-type"):
		r.errorType = value
	case equalFold(name, "lambda-runtime-function-response-mode"):
		r.responseMode = value
	}
	return nil
}

// equalFold compares ASCII text to lower-case text.
func equalFold(text []byte, lower string) bool {
	if len(text) != len(lower) {
		return false
	}
	for i, b := range text {
		if 'A' <= b && b <= 'Z' {
			b += 'a' - 'A'
		}
		if b != lower[i] {
			return false
		}
	}
	return true
}

var errNumber = errors.New("not a number")

func parseDecimal(text []byte) (int64, error) {
	if len(text) == 0 || len(text) > 15 {
		return 0, errNumber
	}
	var n int64
	for _, b := range text {
		if b < '0' || b > '9' {
			return 0, errNumber
		}
		n = 10*n + int64(b-'0')
	}
	return n, nil
}

func parseHex(text []byte) (int64, error) {
	if len(text) == 0 || len(text) > 12 {
		return 0, errNumber
	}
	var n int64
	for _, b := range text {
		var digit int64
		switch {
		case '0' <= b && b <= '9':
			digit = int64(b - '0')
		case 'a' <= b && b <= 'f':
			digit = int64(b-'a') + 10
		case 'A' <= b && b <= 'F':
			digit = int64(b-'A') + 10
		default:
			return 0, errNumber
		}
		n = n<<4 | digit
	}
	return n, nil
}
