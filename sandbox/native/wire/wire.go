// Package wire is the framing between the native driver and the init process of a sandbox: one packet of a SOCK_SEQPACKET
// socket is one message, which is a list of byte strings. It needs no reflection and no allocation to speak of, so that
// the init stays small.
package wire

import (
	"encoding/binary"
	"runtime"
	"syscall"
	"unsafe"

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
	fd      int
	call    func(number, fd, message, flags uintptr) (result, second uintptr, errno syscall.Errno)
	buffer  []byte
	control [controlBytes]byte
	message unix.Msghdr
	vector  unix.Iovec
}

const controlBytes = 4*MaxFiles + unix.SizeofCmsghdr

// NewConn makes a Conn of a SOCK_SEQPACKET socket that blocks.
func NewConn(fd int) *Conn { return &Conn{fd: fd, call: syscall.Syscall} }

// NewLonelyConn is NewConn for a process that was forked and has one thread: Go's scheduler is not told that it waits.
func NewLonelyConn(fd int) *Conn { return &Conn{fd: fd, call: syscall.RawSyscall} }

// FD returns the socket.
func (c *Conn) FD() int { return c.fd }

// outgoing is a message on its way. It is one object, so that its parts are where the kernel was told that they are.
type outgoing struct {
	message unix.Msghdr
	vector  unix.Iovec
	packet  []byte
	control []byte
}

// Send writes one message, with copies of the given descriptors.
func (c *Conn) Send(fds []int, parts ...string) error {
	packet, err := Encode(parts...)
	if err != nil {
		return err
	}
	out := &outgoing{packet: packet}
	out.vector.Base = unsafe.SliceData(packet)
	out.vector.SetLen(len(packet))
	out.message.Iov = &out.vector
	out.message.SetIovlen(1)
	if len(fds) > 0 {
		out.control = unix.UnixRights(fds...)
		out.message.Control = unsafe.SliceData(out.control)
		out.message.SetControllen(len(out.control))
	}
	_, err = c.transfer(unix.SYS_SENDMSG, &out.message, unix.MSG_NOSIGNAL)
	return err
}

// transfer makes a system call with a message, again if a signal interrupts it.
func (c *Conn) transfer(number uintptr, message *unix.Msghdr, flags uintptr) (int, error) {
	for {
		n, _, errno := c.call(number, uintptr(c.fd), uintptr(unsafe.Pointer(message)), flags)
		switch errno {
		case 0:
			runtime.KeepAlive(message)
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// Receive reads one message. The descriptors belong to the caller and are closed on exec. At the other end's close it
// returns no parts and no error.
func (c *Conn) Receive() (parts []string, fds []int, err error) {
	if c.buffer == nil {
		c.buffer = make([]byte, MaxMessage)
	}
	c.vector.Base = unsafe.SliceData(c.buffer)
	c.vector.SetLen(len(c.buffer))
	c.message = unix.Msghdr{Iov: &c.vector, Control: &c.control[0]}
	c.message.SetIovlen(1)
	c.message.SetControllen(len(c.control))
	n, err := c.transfer(unix.SYS_RECVMSG, &c.message, unix.MSG_CMSG_CLOEXEC)
	if err != nil || n == 0 {
		return nil, nil, err
	}
	fds, err = Files(c.control[:c.message.Controllen])
	if err == nil && c.message.Flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = ErrTooLarge
	}
	if err == nil {
		parts, err = Decode(c.buffer[:n])
	}
	if err != nil {
		for _, fd := range fds {
			_, _, _ = c.call(unix.SYS_CLOSE, uintptr(fd), 0, 0)
		}
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
