package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// DNSOptions configure ServeDNS.
type DNSOptions struct {
	// Resolvers are asked in their order. Default: those of ResolvConf, which is read again when it has changed.
	Resolvers []netip.AddrPort
	// ResolvConf is a file in the format of resolv.conf(5). Default /etc/resolv.conf.
	ResolvConf string
	// Timeout is how long one resolver may take. Default 2 s.
	Timeout time.Duration
	// PerSandbox is how many queries, and how many TCP connections, a sandbox may have outstanding; more are dropped.
	// Default 64.
	PerSandbox int
	// Total is how many may be outstanding in all. Each sandbox may have four in any case. Each takes a socket and up to 64 KiB.
	// Default 1,024.
	Total int
	// Log is required.
	Log *slog.Logger
}

func (o DNSOptions) withDefaults() DNSOptions {
	if o.ResolvConf == "" {
		o.ResolvConf = "/etc/resolv.conf"
	}
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Second
	}
	if o.PerSandbox == 0 {
		o.PerSandbox = 64
	}
	if o.Total == 0 {
		o.Total = 1024
	}
	return o
}

const (
	// tcpIdle is how long a sandbox's connection to the name server may say nothing.
	tcpIdle = 10 * time.Second
	// tcpQueries is how many queries one connection may carry.
	tcpQueries = 256
)

// Sockets makes the files of Network.DNS into what ServeDNS takes, and closes them.
func Sockets(udp, tcp *os.File) (net.PacketConn, net.Listener, error) {
	defer udp.Close()
	defer tcp.Close()
	packets, err := net.FilePacketConn(udp)
	if err != nil {
		return nil, nil, fmt.Errorf("take over the name server's socket: %w", err)
	}
	listener, err := net.FileListener(tcp)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("take over the name server's socket: %w", err), packets.Close())
	}
	return packets, listener, nil
}

// ServeDNS forwards the queries of sandboxes to resolvers, with the sockets of Network.DNS, until the context is done. It needs no
// rights; it asks from the network namespace of its process, where a resolver may well be at a loopback address. It closes
// the sockets and returns when all its goroutines have ended, with nil if the context was done.
func ServeDNS(ctx context.Context, udp net.PacketConn, tcp net.Listener, opts DNSOptions) error {
	opts = opts.withDefaults()
	f := &forwarder{
		opts: opts, resolvers: resolvers{path: opts.ResolvConf, fixed: opts.Resolvers},
		queries: newGate(opts.PerSandbox, opts.Total), connections: newGate(opts.PerSandbox, opts.Total),
		buffers: sync.Pool{New: func() any { return new([maxAnswerBytes]byte) }},
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { udp.Close(); tcp.Close() })
	defer stop()
	var loops, work sync.WaitGroup
	var udpErr, tcpErr error
	loops.Go(func() { defer cancel(); udpErr = f.serveUDP(ctx, udp, &work) })
	loops.Go(func() { defer cancel(); tcpErr = f.serveTCP(ctx, tcp, &work) })
	loops.Wait()
	work.Wait()
	return errors.Join(udpErr, tcpErr)
}

// forwarder relays queries. An answer is matched by the socket that the query was sent by, which serves it alone, its ID, which
// is random, and its question.
type forwarder struct {
	opts        DNSOptions
	resolvers   resolvers
	queries     *gate
	connections *gate
	buffers     sync.Pool // of *[maxAnswerBytes]byte
}

func (f *forwarder) serveUDP(ctx context.Context, socket net.PacketConn, work *sync.WaitGroup) error {
	var buffer [maxQueryBytes + 1]byte
	for {
		n, from, err := socket.ReadFrom(buffer[:])
		if err != nil {
			if goOn, err := f.pause(ctx, err); !goOn {
				return err
			}
			continue
		}
		asked, ok := parseQuery(buffer[:n])
		client := clientOf(from)
		if n > maxQueryBytes || !ok || !f.queries.enter(client) {
			continue
		}
		message := append([]byte(nil), buffer[:n]...)
		work.Go(func() {
			defer f.queries.leave(client)
			f.answer(ctx, asked, message, "udp", func(answer []byte) error {
				_, err := socket.WriteTo(answer, from)
				return err
			})
		})
	}
}

// pause waits a little after an error of a socket that may pass, such as too many open files. It says whether to go on, and
// otherwise returns the error, or nil if the context is done.
func (f *forwarder) pause(ctx context.Context, failed error) (bool, error) {
	select {
	case <-ctx.Done():
		return false, nil
	default:
	}
	if errors.Is(failed, net.ErrClosed) {
		return false, fmt.Errorf("serve names to sandboxes: %w", failed)
	}
	f.opts.Log.WarnContext(ctx, "the name server cannot serve for a moment", "error", failed)
	select {
	case <-time.After(100 * time.Millisecond):
		return true, nil
	case <-ctx.Done():
		return false, nil
	}
}

func (f *forwarder) serveTCP(ctx context.Context, listener net.Listener, work *sync.WaitGroup) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			if goOn, err := f.pause(ctx, err); !goOn {
				return err
			}
			continue
		}
		client := clientOf(conn.RemoteAddr())
		if !f.connections.enter(client) {
			conn.Close()
			continue
		}
		work.Go(func() {
			defer f.connections.leave(client)
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer stop()
			for range tcpQueries {
				if !f.serveStream(ctx, conn, client) {
					return
				}
			}
		})
	}
}

// serveStream answers one query of a connection. It reports whether there may be another.
func (f *forwarder) serveStream(ctx context.Context, conn net.Conn, client netip.Addr) bool {
	if err := conn.SetDeadline(time.Now().Add(tcpIdle)); err != nil {
		return false
	}
	message, err := readStream(conn, maxQueryBytes)
	if err != nil {
		return false
	}
	asked, ok := parseQuery(message)
	if !ok || !f.queries.enter(client) {
		return false
	}
	defer f.queries.leave(client)
	written := false
	f.answer(ctx, asked, message, "tcp", func(answer []byte) error {
		// Resolvers may have used up the time that the sandbox has.
		err := errors.Join(conn.SetDeadline(time.Now().Add(tcpIdle)), writeStream(conn, answer))
		written = err == nil
		return err
	})
	return written
}

// answer asks the resolvers in turn, and replies with what the first to answer says, or that none does. A sandbox that cannot
// be told has gone.
func (f *forwarder) answer(ctx context.Context, asked query, message []byte, protocol string, reply func([]byte) error) {
	buffer := f.buffers.Get().(*[maxAnswerBytes]byte)
	defer f.buffers.Put(buffer)
	for _, resolver := range f.resolvers.current(time.Now()) {
		answer, err := f.exchange(ctx, resolver, protocol, asked, message, buffer[:])
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			f.opts.Log.DebugContext(ctx, "a resolver did not answer", "resolver", resolver, "protocol", protocol, "error", err)
			continue
		}
		setID(answer, asked.id)
		_ = reply(answer)
		return
	}
	_ = reply(asked.failure())
}

// exchange asks one resolver, by a socket of its own.
func (f *forwarder) exchange(ctx context.Context, resolver netip.AddrPort, protocol string, asked query, message, buffer []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, f.opts.Timeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, protocol, resolver.String())
	if err != nil {
		return nil, fmt.Errorf("reach resolver %s: %w", resolver, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	id := uint16(rand.Uint32()) // seeded from the kernel, and not predictable
	setID(message, id)
	if protocol == "tcp" {
		if err := writeStream(conn, message); err != nil {
			return nil, fmt.Errorf("ask resolver %s: %w", resolver, err)
		}
		answer, err := readStream(conn, maxAnswerBytes)
		if err != nil {
			return nil, fmt.Errorf("read the answer of resolver %s: %w", resolver, err)
		}
		if !asked.answers(answer, id) {
			return nil, fmt.Errorf("resolver %s answered something else", resolver)
		}
		return answer, nil
	}
	if _, err := conn.Write(message); err != nil {
		return nil, fmt.Errorf("ask resolver %s: %w", resolver, err)
	}
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return nil, fmt.Errorf("read the answer of resolver %s: %w", resolver, err)
		}
		if asked.answers(buffer[:n], id) {
			return buffer[:n], nil
		}
	}
}

// readStream reads a message from a TCP connection: two bytes of length come first.
func readStream(from io.Reader, most int) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(from, length[:]); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint16(length[:]))
	if size < dnsHeaderBytes || size > most {
		return nil, fmt.Errorf("a message of %d bytes", size)
	}
	message := make([]byte, size)
	_, err := io.ReadFull(from, message)
	return message, err
}

func writeStream(to io.Writer, message []byte) error {
	_, err := to.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...))
	return err
}

// clientOf is the sandbox that an address is of. The router sees to it that it is its own.
func clientOf(address net.Addr) netip.Addr {
	parsed, err := netip.ParseAddrPort(address.String())
	if err != nil {
		return netip.Addr{}
	}
	return parsed.Addr().Unmap()
}

// always is how many queries of a sandbox are taken whatever the others do: one for each family of addresses, and the same
// again by TCP before the first are quite over.
const always = 4

// gate bounds what is outstanding, for each client and in all. A client that has little outstanding is always let in, so that
// others cannot keep it out.
type gate struct {
	each, total int

	mu     sync.Mutex
	inside int
	of     map[netip.Addr]int
}

func newGate(each, total int) *gate {
	return &gate{each: each, total: total, of: make(map[netip.Addr]int)}
}

func (g *gate) enter(client netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if has := g.of[client]; has >= g.each || has >= always && g.inside >= g.total {
		return false
	}
	g.of[client]++
	g.inside++
	return true
}

func (g *gate) leave(client netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.of[client]--; g.of[client] == 0 {
		delete(g.of, client)
	}
}
