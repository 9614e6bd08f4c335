package runtimeapi

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
)

// scripted is a connection that reads a text in pieces, with a timeout before each.
type scripted struct {
	net.Conn
	text  []byte
	piece int
	pause bool
}

type timeoutError struct{}

func (timeoutError) Error() string { return "timeout" }

func (s *scripted) Read(p []byte) (int, error) {
	if s.pause = !s.pause; s.pause {
		return 0, timeoutError{}
	}
	if len(s.text) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), s.piece)], s.text)
	s.text = s.text[n:]
	return n, nil
}

// readRequests reads a stream of requests as a server does, and resumes after each timeout.
func readRequests(text []byte, piece int) (heads []string, bodies []body, err error) {
	w := &wire{conn: &scripted{text: text, piece: piece}}
	retry := func(read func() error) error {
		for {
			if err := read(); !errors.Is(err, timeoutError{}) {
				return err
			}
		}
	}
	for {
		if err := retry(w.readHead); err != nil {
			return heads, bodies, err
		}
		heads = append(heads, string(w.head.method)+" "+string(w.head.path)+" "+string(w.head.errorType))
		b := body{limit: 1000}
		if err := retry(func() error { return w.readBody(&b, false) }); err != nil {
			return heads, bodies, err
		}
		bodies = append(bodies, b)
	}
}

// FuzzRequests checks that what a stream of bytes means does not depend on the pieces it arrives in, and that what is kept of
// it is bounded.
func FuzzRequests(f *testing.F) {
	for _, seed := range []string{
		next,
		next + post("invocation/a/response", "body") + next,
		post("init/error", "{}", "Lambda-Runtime-Function-Error-Type: X\r\n", "Expect: 100-continue\r\n"),
		"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0A\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nGET /a?b HTTP/1.0\r\n\r\n",
		"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\n" + string(bytes.Repeat([]byte("x"), 0xfff)) + "\r\n0\r\n\r\n",
		"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
		"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabcd",
		"\r\n\r\nGET / HTTP/1.1\nHost: x\n\n",
		"POST / HTTP/1.1\r\nContent-Length: 999999999999999\r\n\r\n",
		"GET / HTTP/1.1\r\n folded: x\r\n\r\n",
	} {
		f.Add([]byte(seed), 7)
	}
	f.Fuzz(func(t *testing.T, text []byte, piece int) {
		piece = max(1, piece%100)
		heads, bodies, err := readRequests(bytes.Clone(text), piece)
		heads2, bodies2, err2 := readRequests(bytes.Clone(text), len(text)+1)
		if len(heads) != len(heads2) || len(bodies) != len(bodies2) || (err == nil) != (err2 == nil) {
			t.Fatalf("%d heads, %d bodies, %v; in one piece: %d, %d, %v", len(heads), len(bodies), err, len(heads2), len(bodies2), err2)
		}
		for i := range heads {
			if heads[i] != heads2[i] {
				t.Fatalf("%q, in one piece %q", heads[i], heads2[i])
			}
		}
		for i := range bodies {
			if !bytes.Equal(bodies[i].data, bodies2[i].data) || bodies[i].over != bodies2[i].over {
				t.Fatalf("%q, in one piece %q", bodies[i].data, bodies2[i].data)
			}
			if len(bodies[i].data) > 1000 || cap(bodies[i].data) > 4096 {
				t.Fatalf("%d bytes are kept in %d", len(bodies[i].data), cap(bodies[i].data))
			}
		}
	})
}

func TestParseHead(t *testing.T) {
	for text, want := range map[string]int{
		"GET / HTTP/1.1\r\n\r\n":                                                        0,
		"GET / HTTP/2.0\r\n\r\n":                                                        505,
		"GET  / HTTP/1.1\r\n\r\n":                                                       400,
		"GET / HTTP/1.1\r\nA : b\r\n\r\n":                                               400,
		"GET / HTTP/1.1\r\nA: b\x00\r\n\r\n":                                            400,
		"GET / HTTP/1.1\r\n A: b\r\n\r\n":                                               400,
		"GET http://x/ HTTP/1.1\r\n\r\n":                                                400,
		"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n":                                  400,
		"GET / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n":                                400,
		"GET / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n":                             501,
		"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n":     400,
		"GET / HTTP/1.1\r\n" + string(bytes.Repeat([]byte("A: b\r\n"), 65)) + "\r\n":    431,
		"GET / HTTP/1.1\r\nA: " + string(bytes.Repeat([]byte("b"), 1<<14)) + "\r\n\r\n": 431,
	} {
		w := &wire{conn: &scripted{text: []byte(text), piece: 1 << 20, pause: true}}
		err := w.readHead()
		for errors.Is(err, timeoutError{}) {
			err = w.readHead()
		}
		got := 0
		var status *statusError
		if errors.As(err, &status) {
			got = status.status
		} else if err != nil {
			t.Errorf("%.40q: %v", text, err)
		}
		if got != want {
			t.Errorf("%.60q: %d, want %d", text, got, want)
		}
	}
}

// A sandbox that announces much and sends little costs little.
func TestAnnouncedLengthIsNotBelieved(t *testing.T) {
	w := &wire{conn: &scripted{text: []byte("POST / HTTP/1.1\r\nContent-Length: 6000000\r\n\r\n" + string(make([]byte, 10000))), piece: 5000, pause: true}}
	b := body{limit: maxBody}
	for err := w.readHead(); err != nil; err = w.readHead() {
		if !errors.Is(err, timeoutError{}) {
			t.Fatal(err)
		}
	}
	err := w.readBody(&b, false)
	for errors.Is(err, timeoutError{}) {
		err = w.readBody(&b, false)
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) || len(b.data) != 10000 || cap(b.data) > 2*trusted {
		t.Error(err, len(b.data), cap(b.data))
	}
}
