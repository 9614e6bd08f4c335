package initproc

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxConnections bounds how many connections to the Runtime API are open at once; more wait to be accepted.
const maxConnections = 256

// relay carries connections to the Runtime API's address inside to its socket on the host, byte by byte.
type relay struct {
	address  [4]byte
	listener *net.TCPListener
	turns    chan struct{}

	mu     sync.Mutex
	paused bool
	open   map[net.Conn]bool
	idle   *sync.Cond // no connection is open
}

// newRelay gives the address to the loopback interface and listens there.
func newRelay(address string) (*relay, error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, failed("read the address of the Runtime API", syscall.EINVAL)
	}
	if err := addAddress(at.Addr().As4()); err != nil {
		return nil, err
	}
	r := &relay{address: at.Addr().As4(), turns: make(chan struct{}, maxConnections), open: map[net.Conn]bool{}}
	r.idle = sync.NewCond(&r.mu)
	if r.listener, err = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at)); err != nil {
		return nil, failed("listen for the Runtime API", err)
	}
	go r.accept()
	return r, nil
}

// addAddress adds an address to the loopback interface.
func addAddress(address [4]byte) error {
	loopback, err := net.InterfaceByName("lo")
	if err != nil {
		return failed("find the loopback interface", err)
	}
	var request struct {
		header    unix.NlMsghdr
		message   unix.IfAddrmsg
		attribute unix.RtAttr
		address   [4]byte
	}
	request.header = unix.NlMsghdr{Len: uint32(unsafe.Sizeof(request)), Type: unix.RTM_NEWADDR,
		Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK | unix.NLM_F_CREATE}
	request.message = unix.IfAddrmsg{Family: unix.AF_INET, Prefixlen: 32, Index: uint32(loopback.Index)}
	request.attribute = unix.RtAttr{Len: unix.SizeofRtAttr + 4, Type: unix.IFA_LOCAL}
	request.address = address
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return failed("open a netlink socket", err)
	}
	defer unix.Close(socket)
	packet := unsafe.Slice((*byte)(unsafe.Pointer(&request)), unsafe.Sizeof(request))
	if err := unix.Sendto(socket, packet, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return failed("add an address", err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(socket, answer, 0)
	if err != nil {
		return failed("add an address", err)
	}
	if n < unix.SizeofNlMsghdr+4 {
		return failed("add an address", syscall.EPROTO)
	}
	if code := *(*int32)(unsafe.Pointer(&answer[unix.SizeofNlMsghdr])); code != 0 {
		return failed("add an address", syscall.Errno(-code))
	}
	return nil
}

// accept carries each connection in goroutines of its own.
func (r *relay) accept() {
	for {
		r.turns <- struct{}{}
		inside, err := r.listener.Accept()
		if err != nil {
			<-r.turns
			continue
		}
		go func() {
			defer func() { <-r.turns }()
			r.carry(inside)
		}()
	}
}

// carry copies both ways until both are at their ends.
func (r *relay) carry(inside net.Conn) {
	defer inside.Close()
	r.mu.Lock()
	if r.paused {
		r.mu.Unlock()
		return
	}
	outside, err := net.Dial("unix", inExchange(API))
	if err != nil {
		r.mu.Unlock()
		return
	}
	r.open[inside], r.open[outside] = true, true
	r.mu.Unlock()
	var group sync.WaitGroup
	for _, way := range [][2]net.Conn{{inside, outside}, {outside, inside}} {
		group.Go(func() { pump(way[1], way[0]) })
	}
	group.Wait()
	inside.Close()
	outside.Close()
	r.mu.Lock()
	delete(r.open, inside)
	delete(r.open, outside)
	if len(r.open) == 0 {
		r.idle.Broadcast()
	}
	r.mu.Unlock()
}

// pumpBuffer is what is read at once, in bytes.
const pumpBuffer = 32 << 10

// pump copies one way, and passes the end on.
func pump(to, from net.Conn) {
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, pumpBuffer))
	if err != nil {
		to.Close()
		from.Close()
		return
	}
	if closer, ok := to.(interface{ CloseWrite() error }); ok {
		_ = closer.CloseWrite() // the other end may be gone
	}
}

// pause closes every connection, and those that come from now on.
func (r *relay) pause() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.paused = true
	for conn := range r.open {
		conn.Close()
	}
	for len(r.open) > 0 {
		r.idle.Wait()
	}
}

// resume carries connections again. A restored sandbox has the listener, and lacks the address.
func (r *relay) resume() error {
	if err := addAddress(r.address); err != nil && !errors.Is(err, syscall.EEXIST) {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.paused = false
	return nil
}

// notifyChildren has the end of children sent to a channel.
func notifyChildren(c chan<- os.Signal) { signal.Notify(c, syscall.SIGCHLD) }
