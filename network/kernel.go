package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// kernel is a netlink socket in one network namespace. It sends many requests with one system call, which is what Attach
// spends its time on otherwise.
type kernel struct {
	mu   sync.Mutex
	file *os.File
	seq  uint32
}

// dialKernel opens a socket of a netlink protocol in the calling thread's namespace.
func dialKernel(protocol int) (*kernel, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	// Answers to requests that fail repeat the request otherwise. The kernel has answered when it has been sent to; the time is
	// for one that answers less than is expected.
	err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}))
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("set up a netlink socket: %w", err)
	}
	return &kernel{file: os.NewFile(uintptr(fd), "netlink")}, nil
}

// linkEvents opens a socket that hears of changes of links in the calling thread's namespace.
func linkEvents() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	const room = 4 << 20 // thousands of events
	err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK}))
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listen to a netlink socket: %w", err)
	}
	return os.NewFile(uintptr(fd), "netlink events"), nil
}

func (r *kernel) close() error { return r.file.Close() }

// do carries out the requests of a batch in their order, all of them even when some fail, and returns the error of each.
func (r *kernel) do(b *batch) ([]error, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := r.seq + 1
	for _, at := range b.starts {
		r.seq++
		binary.NativeEndian.PutUint32(b.bytes[at+8:], r.seq)
	}
	fd := int(r.file.Fd())
	if err := unix.Sendto(fd, b.bytes, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("send to the kernel: %w", err)
	}
	results := make([]error, len(b.starts))
	for answered := 0; answered < len(results); {
		var buffer [8192]byte
		n, _, err := unix.Recvfrom(fd, buffer[:], 0)
		if err != nil {
			return nil, fmt.Errorf("receive from the kernel: %w", err)
		}
		for rest := buffer[:n]; len(rest) >= unix.SizeofNlMsghdr+4; {
			kind, seq := binary.NativeEndian.Uint16(rest[4:]), binary.NativeEndian.Uint32(rest[8:])
			if kind == unix.NLMSG_ERROR && seq-first < uint32(len(results)) {
				if code := int32(binary.NativeEndian.Uint32(rest[unix.SizeofNlMsghdr:])); code != 0 {
					results[seq-first] = unix.Errno(-code)
				}
				answered++
			}
			rest = afterMessage(rest)
		}
	}
	return results, nil
}

// all carries out a batch whose requests must all succeed.
func (r *kernel) all(b *batch) error {
	results, err := r.do(b)
	if err != nil {
		return err
	}
	return errors.Join(results...)
}

// batch collects requests. Attributes go to the request that was begun last.
type batch struct {
	bytes  []byte
	starts []int
}

// request begins a request; the header is what the kind has before its attributes.
func (b *batch) request(kind, flags uint16, header []byte) {
	b.starts = append(b.starts, len(b.bytes))
	var head [unix.SizeofNlMsghdr]byte
	binary.NativeEndian.PutUint16(head[4:], kind)
	binary.NativeEndian.PutUint16(head[6:], flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b.bytes = append(append(b.bytes, head[:]...), header...)
	b.fit()
}

// bare adds a message that is not answered.
func (b *batch) bare(kind uint16, header []byte) {
	at := len(b.bytes)
	b.request(kind, 0, header)
	b.starts = b.starts[:len(b.starts)-1]
	binary.NativeEndian.PutUint16(b.bytes[at+6:], unix.NLM_F_REQUEST)
}

func (b *batch) attribute(kind uint16, data []byte) {
	b.bytes = binary.NativeEndian.AppendUint16(b.bytes, uint16(4+len(data)))
	b.bytes = binary.NativeEndian.AppendUint16(b.bytes, kind)
	b.bytes = append(b.bytes, data...)
	b.fit()
}

func (b *batch) number(kind uint16, value uint32) {
	b.attribute(kind, binary.NativeEndian.AppendUint32(nil, value))
}

func (b *batch) text(kind uint16, value string) {
	b.attribute(kind, append([]byte(value), 0))
}

// nest puts what f adds into one attribute, after a header of its own.
func (b *batch) nest(kind uint16, header []byte, f func()) {
	at := len(b.bytes)
	b.attribute(kind, header)
	f()
	binary.NativeEndian.PutUint16(b.bytes[at:], uint16(len(b.bytes)-at))
}

// fit pads to the alignment of netlink, and writes the length of the last request.
func (b *batch) fit() {
	for len(b.bytes)%unix.NLMSG_ALIGNTO != 0 {
		b.bytes = append(b.bytes, 0)
	}
	start := b.starts[len(b.starts)-1]
	binary.NativeEndian.PutUint32(b.bytes[start:], uint32(len(b.bytes)-start))
}

// afterMessage is what follows the first message; there is at least its header.
func afterMessage(messages []byte) []byte {
	length := int64(binary.NativeEndian.Uint32(messages))
	aligned := (length + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1)
	return messages[min(max(aligned, unix.SizeofNlMsghdr), int64(len(messages))):]
}
