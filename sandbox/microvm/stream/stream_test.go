package stream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConnectionsOneAfterAnother(t *testing.T) {
	hostEnd, guestEnd := net.Pipe()
	guest := NewGuest(guestEnd)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, greeting, err := guest.Accept()
			if err != nil {
				return
			}
			go func() {
				c.Write(greeting.Seed[:4])
				io.Copy(c, c)
			}()
		}
	}()
	greeting := Greeting{Time: time.Now()}
	copy(greeting.Seed[:], "abcd")
	first, err := Dial(t.Context(), hostEnd, 1, greeting)
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, first, "abcd", "hello")
	if err := first.Hold(t.Context()); err != nil {
		t.Fatal(err)
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := first.Write([]byte("later"))
		wrote <- err
	}()
	select {
	case <-wrote:
		t.Error("a write went through while the connection was held")
	case <-time.After(20 * time.Millisecond):
	}
	if err := first.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	expect(t, first, "later")
	guestEnd.Close()
	<-done
	first.Close()
}

// TestNextConnectionAfterSnapshot begins a connection while the former is held, as after a restore.
func TestNextConnectionAfterSnapshot(t *testing.T) {
	hostEnd, guestEnd := net.Pipe()
	defer guestEnd.Close()
	guest := NewGuest(guestEnd)
	conns := make(chan io.ReadWriteCloser, 2)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, _, err := guest.Accept()
			if err != nil {
				return
			}
			conns <- c
		}
	}()
	p := &port{rw: hostEnd}
	go func() {
		p.write(frameStart, 1, Greeting{}.encode())
		p.write(frameHold, 1, nil)
	}()
	for _, kind := range []byte{frameStarted, frameHeld} {
		head, err := readHeader(hostEnd)
		if err != nil || head.kind != kind {
			t.Fatalf("%+v %v", head, err)
		}
	}
	next, err := Dial(t.Context(), hostEnd, 2, Greeting{})
	if err != nil {
		t.Fatal(err)
	}
	former, current := <-conns, <-conns
	if _, err := former.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the former connection: %v", err)
	}
	go func() {
		former.Write([]byte("stale"))
		current.Write([]byte("fresh"))
	}()
	expect(t, next, "fresh")
	next.Close()
	<-done
}

func TestDialGivesUp(t *testing.T) {
	hostEnd, guestEnd := net.Pipe()
	defer guestEnd.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, hostEnd, 1, Greeting{}); err == nil {
		t.Error("it connected to nobody")
	}
}

func exchange(t *testing.T, c io.ReadWriter, first, word string) {
	t.Helper()
	expect(t, c, first)
	if _, err := io.WriteString(c, word); err != nil {
		t.Fatal(err)
	}
	expect(t, c, word)
}

func expect(t *testing.T, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v instead of %q", got, err, want)
	}
}

// FuzzHost feeds the host what a guest may send.
func FuzzHost(f *testing.F) {
	f.Add([]byte{frameStarted, 1, 0, 0, 0, 0, 0, 0, 0, frameData, 1, 0, 0, 0, 2, 0, 0, 0, 'h', 'i'})
	f.Add([]byte{frameData, 255, 255, 255, 255, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, text []byte) {
		h := &Host{conn: newConn(&port{rw: readWriter{bytes.NewReader(text)}}, 1), held: make(chan struct{}, 1), done: make(chan struct{})}
		go io.Copy(io.Discard, h.reader)
		h.receive()
	})
}

type readWriter struct{ io.Reader }

func (readWriter) Write(p []byte) (int, error) { return len(p), nil }
