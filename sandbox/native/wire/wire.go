// Package wire is the framing between the native driver and the init process of a sandbox: one packet of a SOCK_SEQPACKET
// socket is one message, which is a list of byte strings. It needs no reflection and no allocation to speak of, so that
// the init stays small.
package wire

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// MaxMessage is the largest packet in bytes, and MaxParts the largest number of strings in it.
const (
	MaxMessage = 128 << 10
	MaxParts   = 4096
)

// MaxFiles is the largest number of file descriptors that travel with one message.
const MaxFiles = 64

// Error is a constant error of this package.
type Error string

// Error returns the text.
func (e Error) Error() string { return string(e) }

// The errors of this package.
const (
	ErrMalformed = Error("wire: malformed message")
	ErrTooLarge  = Error("wire: message is too large")
)

// Encode makes a packet of parts: for each its length in four little-endian bytes, then its bytes.
func Encode(parts ...string) ([]byte, error) {
	size := 0
	for _, part := range parts {
		size += 4 + len(part)
	}
	if size > MaxMessage || len(parts) > MaxParts {
		return nil, ErrTooLarge
	}
	packet := make([]byte, 0, size)
	for _, part := range parts {
		packet = binary.LittleEndian.AppendUint32(packet, uint32(len(part)))
		packet = append(packet, part...)
	}
	return packet, nil
}

// Decode takes a packet apart. It never reads beyond the packet and fails on anything that Encode does not write.
func Decode(packet []byte) ([]string, error) {
	if len(packet) > MaxMessage {
		return nil, ErrTooLarge
	}
	var parts []string
	for len(packet) > 0 {
		if len(packet) < 4 || len(parts) == MaxParts {
			return nil, ErrMalformed
		}
		size := binary.LittleEndian.Uint32(packet)
		packet = packet[4:]
		if uint64(size) > uint64(len(packet)) {
			return nil, ErrMalformed
		}
		parts = append(parts, string(packet[:size]))
		packet = packet[size:]
	}
	if len(parts) == 0 {
		return nil, ErrMalformed
	}
	return parts, nil
}

// Conn is a blocking end of the socket, for processes that have nothing else to do than to wait on it. Send may be called
// by many goroutines, Receive by one.
type Conn struct {
	fd     int
	buffer []byte
}

// NewConn makes a Conn of a SOCK_SEQPACKET socket that blocks.
func NewConn(fd int) *Conn { return &Conn{fd: fd} }

// FD returns the socket.
func (c *Conn) FD() int { return c.fd }

// Send writes one message, with copies of the given descriptors.
func (c *Conn) Send(fds []int, parts ...string) error {
	packet, err := Encode(parts...)
	if err != nil {
		return err
	}
	var control []byte
	if len(fds) > 0 {
		control = unix.UnixRights(fds...)
	}
	for {
		err = unix.Sendmsg(c.fd, packet, control, nil, unix.MSG_NOSIGNAL)
		if err != unix.EINTR { //nolint:errorlint // a system call gives its number unwrapped, and the init stays small
			return err
		}
	}
}

// Receive reads one message. The descriptors belong to the caller and are closed on exec. At the other end's close it
// returns no parts and no error.
func (c *Conn) Receive() (parts []string, fds []int, err error) {
	if c.buffer == nil {
		c.buffer = make([]byte, MaxMessage)
	}
	control := make([]byte, unix.CmsgSpace(4*MaxFiles))
	var n, controlLen, flags int
	for {
		n, controlLen, flags, _, err = unix.Recvmsg(c.fd, c.buffer, control, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR { //nolint:errorlint // a system call gives its number unwrapped, and the init stays small
			break
		}
	}
	if err != nil || n == 0 {
		return nil, nil, err
	}
	fds, err = Files(control[:controlLen])
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = ErrTooLarge
	}
	if err == nil {
		parts, err = Decode(c.buffer[:n])
	}
	if err != nil {
		CloseAll(fds)
		return nil, nil, err
	}
	return parts, fds, nil
}

// Files returns the descriptors of a message's control data. What it returns is to be closed also when there is an error.
func Files(control []byte) ([]int, error) {
	if len(control) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, err
	}
	var fds []int
	for i := range messages {
		if messages[i].Header.Level != unix.SOL_SOCKET || messages[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		more, err := unix.ParseUnixRights(&messages[i])
		fds = append(fds, more...)
		if err != nil {
			return fds, err
		}
	}
	return fds, nil
}

// CloseAll closes descriptors.
func CloseAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
