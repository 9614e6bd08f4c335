package remote

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"
)

// A muxed link runs over one stream of bytes. Messages have a stream of their own, and every file that is sent has one too, which
// begins with the file's number: the output of a process one, a listening socket one for each connection that it accepts. Files go
// from the end that serves to the end that dials only.

// streamPatience bounds how long the other end may take for the first bytes of a stream, and the message that announces it.
const streamPatience = 10 * time.Second

// What the end that dials grants the other one. A stream that is open, or that the other end has not closed, may hold 256 KiB here.
const (
	// maxStreams bounds the streams that are served at the same time. What is opened beyond is closed at once.
	maxStreams = 256
	// maxOpenStreams bounds those and the ones that the other end has not closed. More end the link.
	maxOpenStreams = 2 * maxStreams
	// maxPipes bounds the outputs that were announced and have not begun to come. More end the link.
	maxPipes = 2 * maxFiles
)

// maxConnections bounds the connections that the end that serves passes on at the same time, of each socket. The next ones wait to be
// accepted. It leaves the other end streams for outputs.
const maxConnections = maxStreams / 2

// The kinds of files.
const (
	filePipe   = 'p'
	fileListen = 'l'
)

// muxLink is one end of a muxed link.
type muxLink struct {
	session *yamux.Session
	control net.Conn
	dir     *os.File // where sockets are made; the end that dials
	work    sync.WaitGroup
	serving atomic.Int32 // streams of the other end

	mu     sync.Mutex
	sent   uint64                 // the last file
	news   chan struct{}          // closed and replaced when a file was announced
	pipes  map[uint64]*os.File    // the write ends of outputs that have not begun to come
	listen map[uint64]string      // the sockets to pass connections on to
	open   map[io.Closer]struct{} // what ends with the link
	closed bool
}

// DialMux makes the end of a link that receives files. It makes sockets in dir, which nobody else may enter, and takes conn over.
func DialMux(conn io.ReadWriteCloser, dir string) (Link, error) {
	directory, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open the directory of sockets: %w", err)
	}
	g := &guard{ReadWriteCloser: conn}
	l, err := newMux(g, yamux.Client)
	if err != nil {
		return nil, errors.Join(err, directory.Close())
	}
	g.session.Store(l.session)
	l.dir, l.pipes, l.listen, l.news = directory, map[uint64]*os.File{}, map[uint64]string{}, make(chan struct{})
	if l.control, err = l.session.Open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open the control stream: %w", err), l.session.Close(), directory.Close())
	}
	l.work.Go(l.acceptFiles)
	return l, nil
}

// ServeMux makes the end of a link that sends files, and takes conn over. It waits for the other end.
func ServeMux(conn io.ReadWriteCloser) (Link, error) {
	l, err := newMux(conn, yamux.Server)
	if err != nil {
		return nil, err
	}
	if l.control, err = l.session.Accept(); err != nil {
		return nil, errors.Join(fmt.Errorf("accept the control stream: %w", err), l.session.Close())
	}
	return l, nil
}

func newMux(conn io.ReadWriteCloser, side func(io.ReadWriteCloser, *yamux.Config) (*yamux.Session, error)) (*muxLink, error) {
	config := yamux.DefaultConfig()
	config.LogOutput, config.EnableKeepAlive = io.Discard, false // a guest may be paused for long
	config.ConnectionWriteTimeout, config.StreamCloseTimeout, config.StreamOpenTimeout = time.Minute, time.Minute, 0
	session, err := side(conn, config)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("multiplex a connection: %w", err), conn.Close())
	}
	return &muxLink{session: session, open: map[io.Closer]struct{}{}}, nil
}

// hold has something closed with the link, and says whether the link is open.
func (l *muxLink) hold(c io.Closer) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.open[c] = struct{}{}
	}
	return !l.closed
}

func (l *muxLink) release(c io.Closer) {
	l.mu.Lock()
	delete(l.open, c)
	l.mu.Unlock()
	c.Close()
}

// Send implements Link. A message is its length, the number and kinds of its files, and its text.
func (l *muxLink) Send(message []byte, files []*os.File) error {
	if len(message) > maxMessage || len(files) > maxFiles {
		return fmt.Errorf("a message of %d bytes and %d files cannot be sent", len(message), len(files))
	}
	frame := binary.LittleEndian.AppendUint32(nil, uint32(len(message)))
	frame = append(frame, byte(len(files)))
	senders := make([]func(uint64), len(files))
	for i, f := range files {
		kind, sender, err := l.sender(f)
		if err != nil {
			return err
		}
		frame, senders[i] = append(frame, kind), sender
	}
	frame = append(frame, message...)
	l.mu.Lock()
	first := l.sent + 1
	l.sent += uint64(len(files))
	for i := range files { // the numbers are sent in their order
		frame = binary.LittleEndian.AppendUint64(frame, first+uint64(i))
	}
	_, err := l.control.Write(frame)
	l.mu.Unlock()
	if err != nil {
		return err
	}
	for i, sender := range senders {
		l.work.Go(func() { sender(first + uint64(i)) })
	}
	return nil
}

// sender returns what passes a file on, from a copy of it.
func (l *muxLink) sender(f *os.File) (kind byte, sender func(uint64), err error) {
	number, err := descriptor(f)
	if err != nil {
		return 0, nil, err
	}
	listening, err := unix.GetsockoptInt(number, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err == nil && listening == 1 {
		listener, err := net.FileListener(f)
		if err != nil {
			return 0, nil, fmt.Errorf("pass a listener on: %w", err)
		}
		return fileListen, func(number uint64) { l.passConnections(listener, number) }, nil
	}
	fd, err := unix.FcntlInt(uintptr(number), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return 0, nil, fmt.Errorf("pass a file on: %w", err)
	}
	pipe := os.NewFile(uintptr(fd), f.Name())
	return filePipe, func(number uint64) { l.passPipe(pipe, number) }, nil
}

// stream opens a stream for a file.
func (l *muxLink) stream(number uint64) (net.Conn, error) {
	stream, err := l.session.Open()
	if err != nil {
		return nil, err
	}
	if _, err := stream.Write(binary.LittleEndian.AppendUint64(nil, number)); err != nil {
		stream.Close()
		return nil, err
	}
	return stream, nil
}

// passPipe sends what is read from a pipe.
func (l *muxLink) passPipe(pipe *os.File, number uint64) {
	if !l.hold(pipe) {
		pipe.Close()
		return
	}
	defer l.release(pipe)
	stream, err := l.stream(number)
	if err != nil {
		return // the link has ended
	}
	defer stream.Close()
	_, _ = io.Copy(stream, pipe) // the end of either is the end of both
}

// passConnections accepts connections, each into a stream of its own.
func (l *muxLink) passConnections(listener net.Listener, number uint64) {
	if !l.hold(listener) {
		listener.Close()
		return
	}
	defer l.release(listener)
	turns := make(chan struct{}, maxConnections)
	for {
		select {
		case turns <- struct{}{}:
		case <-l.session.CloseChan():
			return
		}
		conn, err := listener.Accept()
		if err != nil {
			return // the sandbox or the link has ended
		}
		l.work.Go(func() {
			defer func() { <-turns }()
			stream, err := l.stream(number)
			if err != nil {
				conn.Close()
				return
			}
			l.splice(conn, stream)
		})
	}
}

// splice copies both ways until both ends have ended.
func (l *muxLink) splice(conn, stream net.Conn) {
	defer stream.Close()
	if !l.hold(conn) {
		conn.Close()
		return
	}
	defer l.release(conn)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(conn, stream) // the other direction sees why it ended
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}()
	_, _ = io.Copy(stream, conn)
	stream.Close()
	<-done
}

// Receive implements Link.
func (l *muxLink) Receive() ([]byte, []*os.File, error) {
	var head [5]byte
	if _, err := io.ReadFull(l.control, head[:]); err != nil {
		return nil, nil, err
	}
	size, count := binary.LittleEndian.Uint32(head[:4]), int(head[4])
	if size > maxMessage || count > maxFiles {
		return nil, nil, fmt.Errorf("a message of %d bytes and %d files is too large", size, count)
	}
	rest := make([]byte, count+int(size)+8*count)
	if _, err := io.ReadFull(l.control, rest); err != nil {
		return nil, nil, err
	}
	kinds, message, numbers := rest[:count], rest[count:count+int(size)], rest[count+int(size):]
	files := make([]*os.File, 0, count)
	for i, kind := range kinds {
		file, err := l.file(kind, binary.LittleEndian.Uint64(numbers[8*i:]))
		if err != nil {
			return nil, files, err
		}
		files = append(files, file)
	}
	return message, files, nil
}

// file makes the file of this end for one of the other's.
func (l *muxLink) file(kind byte, number uint64) (*os.File, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pipes == nil || l.closed {
		return nil, errors.New("this end takes no files")
	}
	if l.pipes[number] != nil || l.listen[number] != "" {
		return nil, fmt.Errorf("file %d came twice", number)
	}
	switch kind {
	case filePipe:
		if len(l.pipes) >= maxPipes {
			return nil, errors.New("the other end announces outputs that do not come")
		}
		reader, writer, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		l.pipes[number] = writer
		l.announceLocked()
		return reader, nil
	case fileListen:
		// A socket's path must be short, whatever that of the directory is.
		path := fmt.Sprintf("/proc/self/fd/%d/%d.sock", l.dir.Fd(), number)
		_ = os.Remove(path) // of an earlier link
		listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			return nil, err
		}
		listener.SetUnlinkOnClose(false)
		defer listener.Close()
		l.listen[number] = path
		l.announceLocked()
		return listener.File()
	}
	return nil, fmt.Errorf("a file of kind %q", kind)
}

// acceptFiles takes the streams of files.
func (l *muxLink) acceptFiles() {
	for {
		stream, err := l.session.Accept()
		if err != nil {
			return
		}
		if l.serving.Add(1) > maxStreams {
			l.serving.Add(-1)
			stream.Close()
			continue
		}
		l.work.Go(func() {
			defer l.serving.Add(-1)
			l.acceptFile(stream)
		})
	}
}

// announceLocked wakes the streams that came before their file's message.
func (l *muxLink) announceLocked() {
	close(l.news)
	l.news = make(chan struct{})
}

// await returns where a file's stream goes, and takes a pipe out: it has one stream.
func (l *muxLink) await(number uint64) (pipe *os.File, path string) {
	timer := time.NewTimer(streamPatience)
	defer timer.Stop()
	for {
		l.mu.Lock()
		pipe, path = l.pipes[number], l.listen[number]
		delete(l.pipes, number)
		news, closed := l.news, l.closed
		l.mu.Unlock()
		if pipe != nil || path != "" || closed {
			return pipe, path
		}
		select {
		case <-news:
		case <-timer.C:
			return nil, ""
		case <-l.session.CloseChan():
			return nil, ""
		}
	}
}

func (l *muxLink) acceptFile(stream net.Conn) {
	defer stream.Close()
	var head [8]byte
	_ = stream.SetReadDeadline(time.Now().Add(streamPatience)) // fails on a link that has ended only
	if _, err := io.ReadFull(stream, head[:]); err != nil {
		return
	}
	_ = stream.SetReadDeadline(time.Time{})
	number := binary.LittleEndian.Uint64(head[:])
	pipe, path := l.await(number)
	switch {
	case pipe != nil:
		if !l.hold(pipe) {
			pipe.Close()
			return
		}
		defer l.release(pipe)
		_, _ = io.Copy(pipe, stream) // a reader that is gone is not interested
	case path != "":
		conn, err := net.Dial("unix", path)
		if err != nil {
			return // the sandbox is being destroyed
		}
		l.splice(conn, stream)
	}
}

// Close implements Link. It waits until nothing is passed on any more.
func (l *muxLink) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	for c := range l.open {
		c.Close()
	}
	for _, pipe := range l.pipes {
		pipe.Close()
	}
	for _, path := range l.listen {
		_ = os.Remove(path)
	}
	l.mu.Unlock()
	err := l.session.Close()
	l.work.Wait()
	if l.dir != nil {
		err = errors.Join(err, l.dir.Close())
	}
	return err
}

// Descriptors implements Link.
func (l *muxLink) Descriptors() bool { return false }
