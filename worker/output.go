package worker

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/worker/logstore"
)

// readSize is how much of a function's output is read at once, in bytes.
const readSize = 16 << 10

// output turns what a sandbox's processes write into log events, and keeps the tail of the running invoke. Text is read from
// the pipe by a goroutine of its own; the end of an invoke reads what is in the pipe at that moment itself, so that all that
// was written before the answer comes before the END line.
//
// Memory is bounded: a reader that the log store cannot follow stops reading, so that the function waits in its writes; what
// an invoke has to read at its end regardless is dropped, and counted.
type output struct {
	stream  *logstore.Stream
	json    bool
	buffers *sync.Pool // of *[readSize]byte
	readers sync.WaitGroup

	mu           sync.Mutex
	partial      []byte // a line without its end
	tail         []byte
	recording    bool
	dropped      int
	droppedBytes int
	raw          syscall.RawConn  // of the process's pipe; nil: none
	empty        func(fd uintptr) // emptyLocked, kept so that calling it costs no allocation
}

func newOutput(stream *logstore.Stream, json bool, buffers *sync.Pool) *output {
	o := &output{stream: stream, json: json, buffers: buffers}
	o.empty = o.emptyLocked
	return o
}

// attach takes a process's output, and reads it to its end in the background. ended is called after that.
func (o *output) attach(file *os.File, stop <-chan struct{}, ended func()) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return fmt.Errorf("read output: %w", err)
	}
	o.mu.Lock()
	o.raw = raw
	o.mu.Unlock()
	o.readers.Go(func() {
		defer ended()
		defer file.Close()
		for o.awaitRoom(stop) && o.read(raw) == nil {
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		o.endLineLocked(time.Now())
		if o.raw == raw {
			o.raw = nil
		}
	})
	return nil
}

// awaitRoom waits until the log store takes more.
func (o *output) awaitRoom(stop <-chan struct{}) bool {
	for o.stream.Full() {
		select {
		case <-o.stream.Room():
		case <-stop:
			return true // the rest is read and dropped
		}
	}
	return true
}

// read waits for output, and takes it. io.EOF: every writer is gone.
func (o *output) read(raw syscall.RawConn) error {
	var result error
	err := raw.Read(func(fd uintptr) bool {
		n, err := o.take(int(fd), readSize)
		if errors.Is(err, unix.EAGAIN) {
			return false
		}
		if err == nil && n == 0 {
			err = io.EOF
		}
		result = err
		return true
	})
	return errors.Join(err, result)
}

// take reads at most limit bytes without waiting.
func (o *output) take(fd, limit int) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.takeLocked(fd, limit)
}

func (o *output) takeLocked(fd, limit int) (int, error) {
	buffer := o.buffers.Get().(*[readSize]byte)
	defer o.buffers.Put(buffer)
	for {
		n, err := unix.Read(fd, buffer[:min(limit, readSize)])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n > 0 {
			o.acceptLocked(buffer[:n], time.Now())
		}
		return max(n, 0), err
	}
}

// drainLocked takes what is in the pipe now. Its cost is one system call when there is nothing.
func (o *output) drainLocked() {
	if o.raw == nil {
		return
	}
	// An error means that the pipe was closed just now, by the reader at its end.
	o.raw.Control(o.empty) //nolint:errcheck // see above
}

// emptyLocked reads as much as is in the pipe when it begins.
func (o *output) emptyLocked(fd uintptr) {
	left, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ)
	for err == nil && left > 0 {
		var n int
		if n, err = o.takeLocked(int(fd), left); n == 0 {
			return
		}
		left -= n
	}
}

// acceptLocked splits text into lines.
func (o *output) acceptLocked(text []byte, now time.Time) {
	for len(text) > 0 {
		end := bytes.IndexByte(text, '\n')
		line := text
		if end >= 0 {
			line = text[:end]
		}
		if room := logstore.MaxMessage - len(o.partial); len(line) > room {
			o.partial = append(o.partial, line[:room]...)
			text = text[room:]
			o.endLineLocked(now)
			continue
		}
		if end < 0 {
			o.partial = append(o.partial, line...)
			return
		}
		text = text[end+1:]
		if len(o.partial) == 0 {
			o.emitLocked(line, now)
			continue
		}
		o.partial = append(o.partial, line...)
		o.endLineLocked(now)
		if len(o.partial) == 0 && len(text) == 0 {
			return
		}
	}
}

// endLineLocked makes an event of a line that has no end yet.
func (o *output) endLineLocked(now time.Time) {
	if len(o.partial) == 0 {
		return
	}
	o.emitLocked(o.partial, now)
	o.partial = o.partial[:0]
	if cap(o.partial) > readSize {
		o.partial = nil
	}
}

// emitLocked makes an event of a line.
func (o *output) emitLocked(line []byte, now time.Time) {
	if o.recording {
		o.record(line)
	}
	if o.dropped > 0 && o.stream.Append(now, o.marker(now)) {
		o.dropped, o.droppedBytes = 0, 0
	}
	if !o.stream.Append(now, line) {
		o.dropped++
		o.droppedBytes += len(line)
	}
}

// marker tells readers of the log of lines that are missing.
func (o *output) marker(now time.Time) []byte {
	if o.json {
		return droppedJSON(now, o.dropped, o.droppedBytes)
	}
	return fmt.Appendf(nil, "LOGS_DROPPED Records: %d\tBytes: %d\tReason: they came faster than they could be stored", o.dropped, o.droppedBytes)
}

// record adds a line to the tail.
func (o *output) record(line []byte) {
	if len(line) >= lambent.MaxLogTailBytes {
		line = line[len(line)-lambent.MaxLogTailBytes+1:]
	}
	if o.tail == nil {
		o.tail = make([]byte, 0, 2*lambent.MaxLogTailBytes)
	}
	if len(o.tail)+len(line)+1 > cap(o.tail) {
		o.tail = append(o.tail[:0], o.tail[len(o.tail)-lambent.MaxLogTailBytes:]...)
	}
	o.tail = append(append(o.tail, line...), '\n')
}

// begin starts an invoke's tail. What was written before belongs to no invoke.
func (o *output) begin(tail bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.drainLocked()
	o.endLineLocked(time.Now())
	o.recording, o.tail = tail, o.tail[:0]
}

// system adds an event of the platform, behind all that was written before.
func (o *output) system(now time.Time, events ...[]byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.drainLocked()
	o.systemLocked(now, events...)
}

// follow adds an event of the platform just after begin, when the function cannot have written anything yet.
func (o *output) follow(now time.Time, event []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.systemLocked(now, event)
}

func (o *output) systemLocked(now time.Time, events ...[]byte) {
	o.endLineLocked(now)
	for _, e := range events {
		if len(e) > 0 {
			o.emitLocked(e, now)
		}
	}
}

// end returns the tail, nil if it was not wanted.
func (o *output) end() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.recording {
		return nil
	}
	o.recording = false
	tail := bytes.Clone(o.tail[max(0, len(o.tail)-lambent.MaxLogTailBytes):])
	o.tail = nil
	return tail
}
