package rpc

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"

	"lambent"
	"lambent/rpc/pki"
)

// PeerOptions say whom a host calls.
type PeerOptions struct {
	Address     string           // host:port; required
	Credentials *pki.Credentials // the caller's; required
	Expected    pki.Expected     // who has to answer; the role is required
	// Connect bounds how long a connection may take, handshake included. Default: 2 s.
	Connect time.Duration
	// Silent bounds how long a host that is gone, rather than slow, goes unnoticed: its kernel answers no probe. Default: 5 s.
	Silent time.Duration
	// Dial makes connections. Default: a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Peer is another host, as a caller sees it. Its methods give the services that are there. It connects when it is first called,
// keeps connections for later calls, and tries anew when they fail. It is safe for use by many goroutines.
type Peer struct {
	options   PeerOptions
	url       string
	methods   map[string]method
	transport *http.Transport
	shakes    chan struct{}   // room for handshakes under way
	running   context.Context // ends with Close
	stop      context.CancelFunc

	mu    sync.Mutex // held to add a task
	tasks sync.WaitGroup
}

const (
	idleConnections = 1024             // of a peer, kept for later calls
	idleTimeout     = 90 * time.Second // less than the server's, so that it is the caller who closes
	bufferBytes     = 16 << 10
	// maxShakes bounds the handshakes with a peer at once: in a rush, calls take over connections that others are done with, rather
	// than each of them paying for one, and all of them late.
	maxShakes = 8
)

// NewPeer makes a Peer. The caller closes it.
func NewPeer(options PeerOptions) (*Peer, error) {
	if options.Address == "" || options.Credentials == nil || options.Expected.Role == "" {
		return nil, errors.New("rpc: Address, Credentials and the Role of Expected are required")
	}
	config := options.Credentials.ClientConfig(options.Expected)
	return newPeer(options, config), nil
}

func newPeer(options PeerOptions, config *tls.Config) *Peer {
	options.Connect = cmp.Or(options.Connect, 2*time.Second)
	options.Silent = cmp.Or(options.Silent, 5*time.Second)
	if options.Dial == nil {
		options.Dial = (&net.Dialer{KeepAliveConfig: probing(options.Silent)}).DialContext
	}
	p := &Peer{options: options, url: "https://" + options.Address + pathPrefix, methods: table(), shakes: make(chan struct{}, maxShakes)}
	p.running, p.stop = context.WithCancel(context.Background())
	p.transport = &http.Transport{
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return p.dial(ctx, network, address, config)
		},
		MaxIdleConnsPerHost: idleConnections, IdleConnTimeout: idleTimeout, DisableCompression: true,
		WriteBufferSize: bufferBytes, ReadBufferSize: bufferBytes, MaxResponseHeaderBytes: maxHeaderBytes,
	}
	return p
}

// probing makes the kernel find out within about a time that the other side is gone.
func probing(silent time.Duration) net.KeepAliveConfig {
	each := max(silent/4, time.Second)
	return net.KeepAliveConfig{Enable: true, Idle: each, Interval: each, Count: 3}
}

func (p *Peer) dial(ctx context.Context, network, address string, config *tls.Config) (net.Conn, error) {
	select {
	case p.shakes <- struct{}{}:
		defer func() { <-p.shakes }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, p.options.Connect)
	defer cancel()
	raw, err := p.options.Dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if err := bound(raw, p.options.Silent); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	conn := tls.Client(&meter{Conn: raw}, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // it may have been closed already
		return nil, err
	}
	return conn, nil
}

// Close ends the calls that are under way and waits for what runs in the background. Clients of the peer's services that have a
// Close of their own are closed first.
func (p *Peer) Close() error {
	p.mu.Lock()
	p.stop()
	p.mu.Unlock()
	p.tasks.Wait()
	p.transport.CloseIdleConnections()
	return nil
}

// spawn runs a task that Close waits for. False: the peer is closed.
func (p *Peer) spawn(task func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running.Err() != nil {
		return false
	}
	p.tasks.Go(task)
	return true
}

// Ping returns nil when the peer answers and is ready to serve.
func (p *Peer) Ping(ctx context.Context) error {
	_, err := call[nothing, nothing](ctx, p, "peer.ping", nothing{})
	return err
}

// nothing is an empty message.
type nothing struct{}

// call makes one call with a message each way.
func call[Req, Resp any](ctx context.Context, p *Peer, method string, req Req) (Resp, error) {
	var resp Resp
	m := p.methods[method]
	body, err := encode(req, m.request)
	if err != nil {
		return resp, err
	}
	answer, err := p.send(ctx, method, bytes.NewReader(body))
	if err != nil {
		return resp, err
	}
	content, err := readAll(answer.Body, answer.ContentLength, m.response)
	if err = answer.end(err); err != nil {
		return resp, err
	}
	return resp, decode(content, &resp)
}

// answer is the beginning of an answer. end has to be called.
type answer struct {
	*http.Response
	exchange *exchange
}

// end closes an answer, of which err says how reading it went.
func (a *answer) end(err error) error {
	a.Body.Close()
	a.exchange.cancel()
	var coded *lambent.Error
	if err == nil || errors.As(err, &coded) {
		return err
	}
	return a.exchange.failure(err)
}

// exchange is one call under way.
type exchange struct {
	method string
	ctx    context.Context // the caller's
	peer   *Peer
	cancel context.CancelFunc

	mu     sync.Mutex
	conn   *meter
	before int64 // what had been written to conn before this call
}

// body is what a call sends.
type body interface {
	io.Reader
	Len() int
}

// send sends a request and waits for the beginning of its answer. An error that came as an answer is returned as one.
func (p *Peer) send(ctx context.Context, method string, content body) (*answer, error) {
	x := &exchange{method: method, ctx: ctx, peer: p}
	if err := cmp.Or(ctx.Err(), p.running.Err()); err != nil {
		return nil, x.failure(err)
	}
	inner, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(p.running, cancel)
	x.cancel = func() { stop(); cancel() }
	inner = httptrace.WithClientTrace(inner, &httptrace.ClientTrace{GotConn: x.gotConn})
	req, err := http.NewRequestWithContext(inner, http.MethodPost, p.url+method, content)
	if err != nil {
		x.cancel()
		return nil, err
	}
	req.ContentLength = int64(content.Len())
	setTimeout(ctx, req.Header)
	response, err := p.transport.RoundTrip(req) //nolint:bodyclose // the answer closes it
	if err != nil {
		x.cancel()
		return nil, x.failure(err)
	}
	a := &answer{response, x}
	if response.StatusCode == http.StatusOK {
		return a, nil
	}
	return nil, a.refusal()
}

// refusal reads an error that came as an answer.
func (a *answer) refusal() error {
	drains := a.Header.Get(headerDrains) != ""
	content, err := readAll(a.Body, a.ContentLength, maxErrorBytes)
	if err = a.end(err); err != nil {
		return err
	}
	if drains {
		a.exchange.peer.transport.CloseIdleConnections() // before the server does: a call might be on its way to one
	}
	refused, ok := decodeError(content)
	if !ok {
		return a.exchange.failure(fmt.Errorf("status %s without an error", a.Status))
	}
	return refused
}

func (x *exchange) gotConn(info httptrace.GotConnInfo) {
	secure, ok := info.Conn.(*tls.Conn)
	if !ok {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.conn, _ = secure.NetConn().(*meter)
	x.before = x.conn.count()
}

// unsent tells that no byte of the request has been sent, nor will be.
func (x *exchange) unsent() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.conn == nil || x.conn.seal(x.before)
}

// failure is the error for a call that got no answer.
func (x *exchange) failure(err error) error {
	switch ended := x.ctx.Err(); {
	case ended != nil:
		err = ended
	case x.peer.running.Err() != nil:
		err = net.ErrClosed
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		err = errors.New(err.Error()) // the end of a context that is not the caller's
	}
	code, message := lambent.Unavailable, "A part of the region cannot be reached now. Please try again."
	if x.method == methodInvoke && !x.unsent() {
		code, message = lambent.HostLost, "The worker was lost after the request had been sent to it."
	}
	return lambent.Wrap(code, fmt.Errorf("rpc: %s at %s: %w", x.method, x.peer.options.Address, err), "%s", message)
}

// meter counts what is written to a connection, so that it is known whether a call may have reached the other side.
type meter struct {
	net.Conn

	mu     sync.Mutex
	sent   int64
	sealed bool
}

// Write implements net.Conn. What is about to be written counts as written.
func (m *meter) Write(p []byte) (int, error) {
	m.mu.Lock()
	if m.sealed {
		m.mu.Unlock()
		return 0, net.ErrClosed
	}
	m.sent += int64(len(p))
	m.mu.Unlock()
	return m.Conn.Write(p)
}

func (m *meter) count() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sent
}

// seal lets nothing more through if nothing went through since count returned before. It tells whether that is so.
func (m *meter) seal(before int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sealed = m.sealed || m.sent == before
	return m.sent == before
}
