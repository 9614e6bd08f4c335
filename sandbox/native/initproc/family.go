package initproc

import (
	"errors"
	"strconv"
	"sync"
	"syscall"

	"lambent/sandbox/native/wire"
)

// family is the children of a process, orphans that fell to it included. One goroutine reaps them, and tells the driver of
// those that were begun here.
type family struct {
	conn *wire.Conn

	mu      sync.Mutex
	changed *sync.Cond // something may be there to reap, or nothing is left
	begun   int        // children begun
	known   map[int]bool
	none    bool // the reaper found no child
}

func newFamily(conn *wire.Conn) *family {
	f := &family{conn: conn, known: map[int]bool{}}
	f.changed = sync.NewCond(&f.mu)
	return f
}

// begin forks a child.
func (f *family) begin(fork func() (int, error)) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	pid, err := fork()
	if err != nil {
		return 0, err
	}
	f.begun++
	f.known[pid] = true
	f.none = false
	f.changed.Broadcast()
	return pid, nil
}

// awaitNone returns when there is no child.
func (f *family) awaitNone() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for !f.none {
		f.changed.Wait()
	}
}

// reap waits for every child, until the driver is gone.
func (f *family) reap() {
	seen := 0
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.ECHILD):
			seen = f.awaitBegun(seen)
		case err == nil && (status.Exited() || status.Signaled()):
			if f.report(pid, status) != nil {
				return
			}
		}
	}
}

// awaitBegun returns when more children than seen have been begun, and how many.
func (f *family) awaitBegun(seen int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.begun == seen {
		f.none = true
		f.changed.Broadcast()
	}
	for f.begun == seen {
		f.changed.Wait()
	}
	return f.begun
}

// report tells the driver of the end of a child that was begun here.
func (f *family) report(pid int, status syscall.WaitStatus) error {
	f.mu.Lock()
	known := f.known[pid]
	delete(f.known, pid)
	f.mu.Unlock()
	if !known {
		return nil
	}
	code, signal := status.ExitStatus(), 0
	if status.Signaled() {
		code, signal = 0, int(status.Signal())
	}
	return f.conn.Send(nil, wire.Exit, strconv.Itoa(pid), strconv.Itoa(code), strconv.Itoa(signal))
}

// handler does what one message asks. The files of the answer are closed after it was sent.
type handler func(parts []string, fds []int) (answer []string, files []int, err error)

// serve reaps, and answers messages until the driver closes the socket or dies.
func serve(conn *wire.Conn, children *family, handle handler) int {
	go children.reap()
	for {
		parts, fds, err := conn.Receive()
		if err != nil || parts == nil {
			return 0
		}
		answer, files, err := handle(parts, fds)
		wire.CloseAll(fds)
		if err = reply(conn, answer, files, err); err != nil {
			return 1
		}
		wire.CloseAll(files)
	}
}

// reply answers a message.
func reply(conn *wire.Conn, answer []string, files []int, err error) error {
	if err == nil {
		return conn.Send(files, append([]string{wire.OK}, answer...)...)
	}
	errno := syscall.Errno(0)
	errors.As(err, &errno)
	return conn.Send(nil, wire.Failed, err.Error(), strconv.Itoa(int(errno)))
}
