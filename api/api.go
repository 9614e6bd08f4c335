// Package api is Lambda's REST wire: it authenticates requests, routes them, turns their JSON into calls of the control plane
// and the front end, and gives Lambda's answers and errors.
package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"lambent"
	"lambent/api/internal/wire"
	"lambent/api/sigv4"
	"lambent/functions"
)

// Options are what the API needs. All but Logger are required.
type Options struct {
	Region    string
	Functions *functions.Service
	FrontEnd  lambent.FrontEnd
	// Logs reads the functions' logs.
	Logs func(context.Context, lambent.LogQuery) ([]lambent.LogEvent, error)
	// Credentials returns the secret and the principal of an access key ID.
	Credentials func(accessKeyID string) (secret string, who lambent.Principal, ok bool)
	Logger      *slog.Logger
}

// answerPatience is how long a client may take to read an answer, which is at most as large as a function's code.
const answerPatience = 5 * time.Minute

// handler answers the API's requests.
type handler struct {
	Options
	verifier *sigv4.Verifier
	router   *wire.Router
	work     map[string]work
	patience time.Duration // for a client to read an answer
	bodies   bodies
}

// New makes the API's handler.
func New(o Options) http.Handler {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	h := &handler{Options: o, router: wire.NewRouter(), work: workOf(), patience: answerPatience, bodies: newBodies()}
	h.verifier = &sigv4.Verifier{Region: o.Region, Secret: func(id string) (string, bool) {
		secret, _, ok := o.Credentials(id)
		return secret, ok
	}}
	return h
}

// call is one request on its way through a handler.
type call struct {
	*handler
	ctx     context.Context
	w       http.ResponseWriter
	r       *http.Request
	id      string // request ID
	who     lambent.Principal
	service string
	op      *wire.Op // nil: no such route
	work    work     // of op
	labels  wire.Labels
	body    []byte
	release func() // gives up the place of a large body; nil: none is held
}

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{handler: h, ctx: r.Context(), w: w, r: r, id: uuid.NewString()}
	w.Header()["X-Amzn-Requestid"] = []string{c.id}
	defer func() {
		if fault := recover(); fault != nil {
			if fault == http.ErrAbortHandler { //nolint:errorlint // net/http panics with this very value
				panic(fault)
			}
			h.Logger.Error("a request panicked", "request", c.id, "method", r.Method, "path", r.URL.Path, "panic", fault)
			c.fail(lambent.Errorf(lambent.Internal, "An internal error occurred."))
		}
	}()
	if strings.HasPrefix(r.URL.Path, codePath) && r.Method == http.MethodGet {
		c.finish(c.serveCode())
		return
	}
	c.finish(c.serve())
}

func (c *call) finish(err error) {
	if err != nil {
		c.fail(err)
	}
}

// serve authenticates and routes. A caller without a valid signature learns nothing, not even which routes exist.
func (c *call) serve() error {
	if c.op, c.labels = c.router.Route(c.r.Method, c.r.URL.EscapedPath(), c.r.URL.RawQuery); c.op != nil {
		var built bool
		if c.work, built = c.handler.work[c.op.Name]; !built {
			c.work = work{run: notBuilt}
		}
	}
	defer c.giveBack()
	if err := c.authenticate(); err != nil {
		return err
	}
	switch {
	case c.op == nil && c.r.URL.Path == "/" && c.r.Method == http.MethodPost && c.service == "sts":
		return c.callerIdentity()
	case c.op == nil && c.r.URL.Path == "/" && c.r.Method == http.MethodPost && c.service == "logs":
		return c.logsOperation(c.r.Header.Get("X-Amz-Target"))
	case c.op == nil:
		return errUnknownOperation
	case c.service != "lambda":
		return &sigv4.Error{Type: sigv4.Invalid, Message: "Credential should be scoped to correct service: 'lambda'. "}
	}
	return c.work.run(c)
}

// authenticate verifies the signature and reads the body: after the signature when that covers a digest of the body, else in
// the midst of it.
func (c *call) authenticate() error {
	read := false
	id, err := c.verifier.Verify(c.r, func() (string, error) {
		read = true
		err := c.readBody()
		return bodySum(c.body), err
	})
	if err != nil {
		return err
	}
	if !read {
		if err := c.readBody(); err != nil {
			return err
		}
		if id.BodySHA256 != bodySum(c.body) {
			return &sigv4.Error{Type: sigv4.Invalid, Message: "The provided 'x-amz-content-sha256' header does not match what was computed."}
		}
	}
	if len(c.body) <= lambent.MaxRequestBytes {
		c.giveBack() // a function may run for long, and the limits of concurrency bound what is held meanwhile
	}
	_, c.who, _ = c.Credentials(id.AccessKeyID)
	c.service = id.Service
	return nil
}

func bodySum(body []byte) string {
	sum := sha256.Sum256(body)
	var text [2 * sha256.Size]byte
	hex.Encode(text[:], sum[:])
	return string(text[:])
}

// json answers with the operation's status and a body.
func (c *call) json(body any) error {
	out, err := marshal(body)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if c.op != nil {
		status = c.op.Success
	}
	c.write(status, "application/json", out)
	return nil
}

// done answers with the operation's status and no body, or passes an error on.
func (c *call) done(err error) error {
	if err == nil {
		c.begin(c.op.Success)
	}
	return err
}

func (c *call) write(status int, kind string, body []byte) {
	header := c.w.Header()
	header["Content-Type"] = []string{kind}
	header["Content-Length"] = []string{strconv.Itoa(len(body))}
	c.begin(status)
	if _, err := c.w.Write(body); err != nil {
		c.Logger.Debug("an answer was not sent", "request", c.id, "error", err)
	}
}

// begin sends the head of an answer. From then on the client may not keep it waiting for ever.
func (c *call) begin(status int) {
	if err := http.NewResponseController(c.w).SetWriteDeadline(time.Now().Add(c.patience)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		c.Logger.Debug("an answer has no deadline", "request", c.id, "error", err)
	}
	c.w.WriteHeader(status)
}
