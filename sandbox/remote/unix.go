package remote

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// maxFiles is how many files one message may carry.
const maxFiles = 64

// unixLink sends a message as one packet, with its files as descriptors.
type unixLink struct {
	conn    *net.UnixConn
	buffer  []byte
	control []byte
}

// Pair makes two connected links between processes of one host: this process's end, and a file for the other's, which NewUnix
// takes there.
func Pair() (Link, *os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "sandboxes")
	link, err := NewUnix(os.NewFile(uintptr(pair[0]), "sandboxes"))
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return link, theirs, nil
}

// NewUnix makes a link of a SOCK_SEQPACKET socket, which it takes over.
func NewUnix(socket *os.File) (Link, error) {
	defer socket.Close()
	conn, err := net.FileConn(socket)
	if err != nil {
		return nil, fmt.Errorf("take a socket: %w", err)
	}
	u, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("take a socket: it is %s", conn.LocalAddr().Network())
	}
	return &unixLink{conn: u, buffer: make([]byte, maxMessage+1), control: make([]byte, unix.CmsgSpace(4*maxFiles))}, nil
}

// Send implements Link.
func (l *unixLink) Send(message []byte, files []*os.File) error {
	if len(message) == 0 || len(message) > maxMessage || len(files) > maxFiles {
		return fmt.Errorf("a message of %d bytes and %d files cannot be sent", len(message), len(files))
	}
	var control []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			var err error
			if fds[i], err = descriptor(f); err != nil {
				return err
			}
		}
		control = unix.UnixRights(fds...)
	}
	_, _, err := l.conn.WriteMsgUnix(message, control, nil)
	return err
}

// descriptor returns a file's number without making the file block, as Fd does. It is valid as long as the file is open.
func descriptor(f *os.File) (int, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	number := -1
	if err := raw.Control(func(fd uintptr) { number = int(fd) }); err != nil {
		return -1, err
	}
	return number, nil
}

// Receive implements Link.
func (l *unixLink) Receive() ([]byte, []*os.File, error) {
	n, controlLen, flags, _, err := l.conn.ReadMsgUnix(l.buffer, l.control)
	if err != nil {
		return nil, nil, err
	}
	files, err := filesOf(l.control[:controlLen])
	switch {
	case err != nil:
		return nil, files, err
	case n == 0:
		return nil, files, io.EOF
	case n > maxMessage || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		return nil, files, errors.New("a message is too large")
	}
	return append([]byte(nil), l.buffer[:n]...), files, nil
}

// filesOf returns the descriptors of a message's control data, also when there is an error.
func filesOf(control []byte) ([]*os.File, error) {
	if len(control) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

// Close implements Link.
func (l *unixLink) Close() error {
	if err := l.conn.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Descriptors implements Link.
func (l *unixLink) Descriptors() bool { return true }
