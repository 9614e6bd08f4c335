package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"pgregory.net/rapid"
)

// upstream is a resolver on loopback. It answers over UDP what fits into 512 bytes, and truncates the rest.
type upstream struct {
	at    netip.AddrPort
	asked atomic.Int64
	// lie, if set, makes what is sent over UDP from the true answer.
	lie func(answer []byte) [][]byte
}

// addressesOf is how many addresses a name has: what comes before its first dot.
func addressesOf(name string) int {
	var count int
	if _, err := fmt.Sscanf(name, "n%d.", &count); err != nil {
		return 1
	}
	return count
}

func (u *upstream) answer(message []byte) []byte {
	u.asked.Add(1)
	var request dnsmessage.Message
	if request.Unpack(message) != nil {
		return nil
	}
	reply := dnsmessage.Message{Header: dnsmessage.Header{ID: request.ID, Response: true, RecursionAvailable: true}, Questions: request.Questions}
	for i := range addressesOf(request.Questions[0].Name.String()) {
		reply.Answers = append(reply.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: request.Questions[0].Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET, TTL: 60},
			Body:   &dnsmessage.AResource{A: [4]byte{93, 184, byte(i >> 8), byte(i)}},
		})
	}
	packed, _ := reply.Pack()
	return packed
}

func newUpstream(t testing.TB, lie func(answer []byte) [][]byte) *upstream {
	u := &upstream{lie: lie}
	listener := must(net.Listen("tcp4", "127.0.0.1:0"))(t)
	u.at = netip.MustParseAddrPort(listener.Addr().String())
	packets := must(net.ListenPacket("udp4", u.at.String()))(t)
	var group sync.WaitGroup
	group.Go(func() {
		buffer := make([]byte, 4096)
		for {
			n, from, err := packets.ReadFrom(buffer)
			if err != nil {
				return
			}
			answer := u.answer(buffer[:n])
			if len(answer) > 512 {
				var whole dnsmessage.Message
				_ = whole.Unpack(answer)
				whole.Truncated, whole.Answers = true, nil
				answer, _ = whole.Pack()
			}
			answers := [][]byte{answer}
			if u.lie != nil {
				answers = u.lie(answer)
			}
			for _, one := range answers {
				_, _ = packets.WriteTo(one, from)
			}
		}
	})
	group.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if message, err := readStream(conn, maxQueryBytes); err == nil {
				_ = writeStream(conn, u.answer(message))
			}
			conn.Close()
		}
	})
	t.Cleanup(func() { listener.Close(); packets.Close(); group.Wait() })
	return u
}

// serve serves a name server until the test ends.
func serve(t testing.TB, udp net.PacketConn, tcp net.Listener, opts DNSOptions) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	opts.Log = slog.New(slog.DiscardHandler)
	go func() { done <- ServeDNS(ctx, udp, tcp, opts) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// serveLoopback serves one on loopback.
func serveLoopback(t testing.TB, opts DNSOptions) string {
	udp := must(net.ListenPacket("udp4", "127.0.0.1:0"))(t)
	serve(t, udp, must(net.Listen("tcp4", udp.LocalAddr().String()))(t), opts)
	return udp.LocalAddr().String()
}

// resolverAt asks a name server, from sockets that dial makes.
func resolverAt(at string, dial func(protocol, address string) (net.Conn, error)) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(_ context.Context, protocol, _ string) (net.Conn, error) {
		return dial(protocol[:3]+"4", at)
	}}
}

func plainDial(protocol, address string) (net.Conn, error) {
	return net.DialTimeout(protocol, address, time.Second)
}

func TestNamesAreResolvedInSandboxes(t *testing.T) {
	w := newWorld(t)
	n := w.open(Options{})
	inside, attached := w.sandboxOf(n, "a")
	files := func() (net.PacketConn, net.Listener) {
		udp, tcp, err := n.DNS()
		if err != nil {
			t.Fatal(err)
		}
		packets, listener, err := Sockets(udp, tcp)
		if err != nil {
			t.Fatal(err)
		}
		return packets, listener
	}
	up := newUpstream(t, nil)
	udp, tcp := files()
	serve(t, udp, tcp, DNSOptions{Resolvers: []netip.AddrPort{up.at}})
	dial := func(protocol, address string) (net.Conn, error) {
		return w.dial(inside, protocol, address, time.Second)
	}
	names := resolverAt(attached.Resolver().String()+":53", dial)
	for _, count := range []int{1, 20, 400, 3000} { // from 20 on the answers come by TCP
		found, err := names.LookupIP(t.Context(), "ip4", fmt.Sprintf("n%d.example.", count))
		if err != nil || len(found) != count {
			t.Errorf("a name with %d addresses: found %d, %v", count, len(found), err)
		}
	}
}

// TestQueriesOfOneSandboxDoNotKeepOutAnother floods the name server.
func TestQueriesOfOneSandboxDoNotKeepOutAnother(t *testing.T) {
	w := newWorld(t)
	n := w.open(Options{})
	inside, _ := w.sandboxOf(n, "a")
	neighbour, _ := w.sandboxOf(n, "b")
	udp, tcp, err := n.DNS()
	if err != nil {
		t.Fatal(err)
	}
	packets, listener, err := Sockets(udp, tcp)
	if err != nil {
		t.Fatal(err)
	}
	up := newUpstream(t, nil)
	serve(t, packets, listener, DNSOptions{Resolvers: []netip.AddrPort{up.at}, Total: 16})
	at := n.Resolver().String() + ":53"
	message := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("a."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	packed := must(message.Pack())(t)
	var stop atomic.Bool
	var sent atomic.Int64
	var group sync.WaitGroup
	conn := must(w.dial(inside, "udp4", at, time.Second))(t)
	defer conn.Close()
	group.Go(func() {
		for !stop.Load() {
			_, _ = conn.Write(packed)
			sent.Add(1)
		}
	})
	group.Go(func() {
		for !stop.Load() {
			if one, err := w.dial(inside, "tcp4", at, 50*time.Millisecond); err == nil {
				defer one.Close()
			}
		}
	})
	names := resolverAt(at, func(protocol, address string) (net.Conn, error) {
		return w.dial(neighbour, protocol, address, time.Second)
	})
	for i := range 100 {
		began := time.Now()
		if _, err := names.LookupIP(t.Context(), "ip4", fmt.Sprintf("n%d.example.", 1+i%35)); err != nil || time.Since(began) > time.Second {
			t.Errorf("a neighbour's query took %v: %v", time.Since(began), err)
		}
	}
	stop.Store(true)
	group.Wait()
	if most := sent.Load(); most < 2000 || up.asked.Load() > most/2 {
		t.Errorf("of %d queries, %d were forwarded: no flood, or not held back", most, up.asked.Load())
	}
}

func TestForwarderAsksTheNextResolver(t *testing.T) {
	up := newUpstream(t, nil)
	closed := must(net.ListenPacket("udp4", "127.0.0.1:0"))(t)
	nobody := netip.MustParseAddrPort(closed.LocalAddr().String())
	closed.Close()
	silent := must(net.ListenPacket("udp4", "127.0.0.1:0"))(t)
	defer silent.Close()
	at := serveLoopback(t, DNSOptions{
		Resolvers: []netip.AddrPort{nobody, netip.MustParseAddrPort(silent.LocalAddr().String()), up.at}, Timeout: 100 * time.Millisecond,
	})
	for _, name := range []string{"n2.example.", "n100.example."} {
		if _, err := resolverAt(at, plainDial).LookupIP(t.Context(), "ip4", name); err != nil {
			t.Error(err)
		}
	}
	none := serveLoopback(t, DNSOptions{Resolvers: []netip.AddrPort{nobody}})
	_, err := resolverAt(none, plainDial).LookupIP(t.Context(), "ip4", "n1.example.")
	var failure *net.DNSError
	if !errors.As(err, &failure) || !strings.Contains(failure.Err, "server misbehaving") {
		t.Errorf("with no resolver: %v, want a server failure", err)
	}
}

// TestForwarderIgnoresForgedAnswers has a resolver's socket send others' answers before its own.
func TestForwarderIgnoresForgedAnswers(t *testing.T) {
	up := newUpstream(t, func(answer []byte) [][]byte {
		change := func(at int, by byte) []byte {
			forged := append([]byte(nil), answer...)
			forged[at] ^= by
			forged[len(forged)-1] = 66 // another address
			return forged
		}
		return [][]byte{nil, {1}, change(0, 1), change(2, 0x80), change(14, 1), change(len("n1.example")+dnsHeaderBytes+3, 1), answer}
	})
	at := serveLoopback(t, DNSOptions{Resolvers: []netip.AddrPort{up.at}})
	found, err := resolverAt(at, plainDial).LookupIP(t.Context(), "ip4", "n1.example.")
	if err != nil || len(found) != 1 || found[0].String() != "93.184.0.0" {
		t.Errorf("found %v, %v", found, err)
	}
}

func TestForwarderFollowsResolvConf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	known := resolvers{path: path}
	now := time.Now()
	show := func(after time.Duration) string { return fmt.Sprint(known.current(now.Add(after))) }
	write := func(text string, age time.Duration) {
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chtimes(path, now, now.Add(-age))); err != nil {
			t.Fatal(err)
		}
	}
	if got := show(0); got != "[127.0.0.1:53]" {
		t.Error("without a file:", got)
	}
	write("# comment\nsearch example\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\nnameserver x\nnameserver\noptions edns0\n", time.Hour)
	if got := show(0); got != "[127.0.0.53:53 [fe80::1%eth0]:53]" {
		t.Error("with a file:", got)
	}
	write("nameserver 192.0.2.1\n", time.Minute)
	if got := show(100 * time.Millisecond); got != "[127.0.0.53:53 [fe80::1%eth0]:53]" {
		t.Error("it was looked at again at once:", got)
	}
	if got := show(2 * time.Second); got != "[192.0.2.1:53]" {
		t.Error("changed:", got)
	}
	write("", time.Second)
	if got := show(4 * time.Second); got != "[192.0.2.1:53]" {
		t.Error("in the midst of being written:", got)
	}
}

// TestForwarderBoundsWhatIsOutstanding asks a resolver that says nothing.
func TestForwarderBoundsWhatIsOutstanding(t *testing.T) {
	silent := must(net.ListenPacket("udp4", "127.0.0.1:0"))(t)
	defer silent.Close()
	at := serveLoopback(t, DNSOptions{Resolvers: []netip.AddrPort{netip.MustParseAddrPort(silent.LocalAddr().String())}, PerSandbox: 5, Timeout: time.Hour})
	conn := must(net.Dial("udp4", at))(t)
	defer conn.Close()
	message := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("a."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	packed := must(message.Pack())(t)
	for range 50 {
		if _, err := conn.Write(packed); err != nil {
			t.Fatal(err)
		}
	}
	received := 0
	for buffer := make([]byte, 100); ; received++ {
		_ = silent.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if _, _, err := silent.ReadFrom(buffer); err != nil {
			break
		}
	}
	if received != 5 {
		t.Errorf("the resolver was asked %d times at once, want 5", received)
	}
	var connections []net.Conn
	open := 0
	for range 10 {
		one := must(net.Dial("tcp4", at))(t)
		defer one.Close()
		connections = append(connections, one)
	}
	for _, one := range connections {
		_ = one.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := one.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			open++
		}
	}
	if open != 5 {
		t.Errorf("%d connections are open, want 5", open)
	}
}

func TestGateIsFair(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		each, total := rapid.IntRange(1, 8).Draw(t, "each"), rapid.IntRange(1, 20).Draw(t, "total")
		g := newGate(each, total)
		inside := make(map[netip.Addr]int)
		sum := 0
		for range rapid.IntRange(0, 100).Draw(t, "steps") {
			client := fromNumber(rapid.Uint32Range(0, 5).Draw(t, "client"))
			if rapid.Bool().Draw(t, "leaves") && inside[client] > 0 {
				g.leave(client)
				inside[client]--
				sum--
				continue
			}
			want := inside[client] < each && (inside[client] < always || sum < total)
			if got := g.enter(client); got != want {
				t.Fatalf("client with %d of %d, %d of %d in all: entered is %v", inside[client], each, sum, total, got)
			}
			if want {
				inside[client]++
				sum++
			}
		}
		for client, count := range inside {
			for range count {
				g.leave(client)
			}
		}
		if g.inside != 0 || len(g.of) != 0 {
			t.Fatal("something is left in the gate")
		}
	})
}

func FuzzQuery(f *testing.F) {
	message := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("example."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	packed := must(message.Pack())(f)
	f.Add(packed)
	f.Add(packed[:dnsHeaderBytes])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, message []byte) {
		asked, ok := parseQuery(message)
		if !ok {
			return
		}
		failure := asked.failure()
		if failure == nil {
			t.Fatal("no failure for a question that was parsed")
		}
		if !asked.answers(failure, asked.id) {
			t.Fatal("the failure does not answer the query")
		}
		if asked.answers(message, asked.id) {
			t.Fatal("a query was taken for an answer")
		}
	})
}

func FuzzAnswer(f *testing.F) {
	question := dnsmessage.Question{Name: dnsmessage.MustNewName("example."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
	asked := query{id: 7, question: question}
	f.Add(asked.failure())
	f.Add(asked.failure()[:dnsHeaderBytes])
	f.Fuzz(func(t *testing.T, message []byte) {
		if asked.answers(message, 7) && (len(message) < dnsHeaderBytes || binary.BigEndian.Uint16(message) != 7 || message[2]&0x80 == 0) {
			t.Fatal("taken for an answer")
		}
	})
}

func FuzzResolvConf(f *testing.F) {
	f.Add("nameserver 127.0.0.53\n")
	f.Fuzz(func(t *testing.T, text string) {
		found := parseResolvConf(text)
		if len(found) > maxResolvers {
			t.Fatal("too many")
		}
		for _, one := range found {
			if !one.IsValid() {
				t.Fatal("not valid")
			}
		}
	})
}
