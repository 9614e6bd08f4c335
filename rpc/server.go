package rpc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"lambent"
	"lambent/rpc/pki"
)

// Services are what a host offers to others. Those that are nil are not there: NotImplemented.
type Services struct {
	Catalog   lambent.Catalog
	Manager   lambent.Manager
	Placement lambent.Placement
	Worker    lambent.Worker
	Blobs     lambent.Blobs
	Authority *pki.Authority // lets hosts join, and renews their certificates
	// Renews says whether a host's certificate is renewed: not one that was stolen. Default: all are.
	Renews func(pki.Identity) error
}

// ServerOptions configure a Server. Credentials are required.
type ServerOptions struct {
	Services
	Credentials *pki.Credentials
	// Ready says why the host cannot serve now; nil: it can. It is asked by health checks. Default: it always can.
	Ready func() error
	// Heartbeat is how often a stream that has nothing to tell says so. Default: 3 s.
	Heartbeat time.Duration
	// Silent bounds how long a caller that is gone goes unnoticed. Default: 5 s.
	Silent time.Duration
	Logger *slog.Logger // default: nothing is logged
}

// Server answers the calls of other hosts.
type Server struct {
	options  ServerOptions
	methods  map[string]method
	http     *http.Server
	done     chan error
	draining atomic.Bool
	streams  context.Context // ends when streams are to end
	end      context.CancelFunc
	claims   claims
}

const (
	headerWithin = 10 * time.Second
	bodyWithin   = time.Minute // for a message, or a payload of the largest size
	stalledFor   = 30 * time.Second
	serverIdle   = 3 * time.Minute
)

// Serve begins to answer calls on a listener, which it takes over. The caller closes the Server.
func Serve(listener net.Listener, options ServerOptions) (*Server, error) {
	if options.Credentials == nil {
		return nil, errors.New("rpc: Credentials are required")
	}
	options.Heartbeat = cmp.Or(options.Heartbeat, 3*time.Second)
	options.Silent = cmp.Or(options.Silent, 5*time.Second)
	options.Logger = cmp.Or(options.Logger, slog.New(slog.DiscardHandler))
	s := &Server{options: options, methods: table(), done: make(chan error, 1)}
	s.streams, s.end = context.WithCancel(context.Background())
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	s.http = &http.Server{
		Handler: s, TLSConfig: options.Credentials.ServerConfig(options.Authority != nil), Protocols: &protocols,
		ReadHeaderTimeout: headerWithin, IdleTimeout: serverIdle, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: slog.NewLogLogger(options.Logger.Handler(), slog.LevelWarn),
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, callerKey{}, &caller{})
		},
	}
	go func() { s.done <- s.http.ServeTLS(watched{listener, options.Silent}, "", "") }()
	return s, nil
}

// watched is a listener whose connections notice when the other side is gone.
type watched struct {
	net.Listener
	silent time.Duration
}

// Accept implements net.Listener.
func (l watched) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			err = tcp.SetKeepAliveConfig(probing(l.silent))
		}
		if err = errors.Join(err, bound(conn, stalledFor)); err == nil {
			return conn, nil
		}
		_ = conn.Close() // it has ended already
	}
}

// Drain makes the server refuse new calls, which their callers may then make elsewhere: nothing of them was run. Streams end;
// calls that are under way go on.
func (s *Server) Drain() {
	s.draining.Store(true)
	s.end()
}

// Shutdown drains the server and waits until the calls that are under way have ended, or ctx ends: then it cuts them off.
func (s *Server) Shutdown(ctx context.Context) error {
	s.Drain()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	if served := <-s.done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	s.done <- http.ErrServerClosed // for a second call
	return err
}

// Close cuts all calls off and waits for them.
func (s *Server) Close() error {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Shutdown(ended); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// ready says why the server cannot serve now.
func (s *Server) ready() error {
	if s.draining.Load() {
		return errors.New("draining")
	}
	if s.options.Ready == nil {
		return nil
	}
	return s.options.Ready()
}

// Health answers GET /livez and GET /readyz, for load balancers and supervisors that have no certificate: the caller serves it on
// an address that only they reach. It tells nothing but the state.
func (s *Server) Health() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

// request is one call of a method.
type request struct {
	*http.Request
	method method
	peer   pki.Peer // whoever joins has none
}

type callerKey struct{}

// caller is who is at the other end of a connection, worked out once.
type caller struct {
	once sync.Once
	peer pki.Peer
	err  error
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		fault := recover()
		switch {
		case fault == http.ErrAbortHandler: //nolint:errorlint // this very value
			panic(fault)
		case fault != nil:
			s.options.Logger.Error("a handler panicked", "path", r.URL.Path, "fault", fault, "stack", string(debug.Stack()))
			refuse(w, lambent.Errorf(lambent.Internal, "Internal error."))
		}
	}()
	if s.draining.Load() {
		w.Header().Set("Connection", "close")
		w.Header().Set(headerDrains, "1")
		refuse(w, lambent.Errorf(lambent.Unavailable, "This host is being shut down. Please try again."))
		return
	}
	m, ok := s.methods[strings.TrimPrefix(r.URL.Path, pathPrefix)]
	if !ok || r.Method != http.MethodPost {
		refuse(w, lambent.Errorf(lambent.NotImplemented, "There is no method %.100q here.", r.URL.Path))
		return
	}
	peer, err := admit(m, r)
	if err != nil {
		refuse(w, err)
		return
	}
	ctx := r.Context()
	left, ok, err := timeoutOf(r.Header)
	if err != nil {
		refuse(w, err)
		return
	}
	if ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, left)
		defer cancel()
		r = r.WithContext(ctx)
	}
	m.serve(s, w, &request{r, m, peer})
}

// admit says who calls, or why they may not call the method.
func admit(m method, r *http.Request) (pki.Peer, error) {
	if m.roles == nil {
		return pki.Peer{}, nil
	}
	c, ok := r.Context().Value(callerKey{}).(*caller)
	if !ok {
		return pki.Peer{}, errors.New("rpc: a connection without its context")
	}
	c.once.Do(func() { c.peer, c.err = pki.PeerOf(r.TLS) })
	switch {
	case c.err != nil:
		return pki.Peer{}, lambent.Wrap(lambent.AccessDenied, c.err, "Hosts show a certificate of the region.")
	case time.Now().After(c.peer.Expires):
		return pki.Peer{}, lambent.Errorf(lambent.AccessDenied, "The certificate of %s has expired.", c.peer.Name)
	case !slices.ContainsFunc(m.roles, c.peer.Has):
		return pki.Peer{}, lambent.Errorf(lambent.AccessDenied, "%s may not call %s.", c.peer, m.name)
	}
	return c.peer, nil
}

// unary serves a method with a message each way.
func unary[Req, Resp any](serve func(context.Context, *Server, pki.Peer, Req) (Resp, error)) func(*Server, http.ResponseWriter, *request) {
	return func(s *Server, w http.ResponseWriter, r *request) {
		var req Req
		content, err := r.message(w)
		if err == nil {
			err = decode(content, &req)
		}
		if err != nil {
			refuse(w, err)
			return
		}
		resp, err := serve(r.Context(), s, r.peer, req)
		if err != nil {
			refuse(w, err)
			return
		}
		body, err := encode(resp, r.method.response)
		if err != nil {
			refuse(w, err)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.Write(body)
	}
}

// message reads the call's message.
func (r *request) message(w http.ResponseWriter) ([]byte, error) {
	stop, err := within(w, bodyWithin)
	if err != nil {
		return nil, err
	}
	content, err := readAll(r.Body, r.ContentLength, r.method.request)
	return content, errors.Join(err, stop())
}

// within bounds how long reading the request may take, until the function that it returns is called.
func within(w http.ResponseWriter, limit time.Duration) (stop func() error, err error) {
	control := http.NewResponseController(w)
	return func() error { return control.SetReadDeadline(time.Time{}) }, control.SetReadDeadline(time.Now().Add(limit))
}

// refuse answers with an error.
func refuse(w http.ResponseWriter, err error) {
	body := encodeError(err)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusInternalServerError)
	w.Write(body)
}

// absent is the error for a service that this host does not offer.
func absent(service string) error {
	return lambent.Errorf(lambent.NotImplemented, "This host is no %s.", service)
}

func servePing(_ context.Context, s *Server, _ pki.Peer, _ nothing) (nothing, error) {
	if err := s.ready(); err != nil {
		return nothing{}, lambent.Wrap(lambent.Unavailable, err, "This host is not ready.")
	}
	return nothing{}, nil
}
