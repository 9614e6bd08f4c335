// Package api is Lambda's REST wire: it authenticates requests, routes them, turns their JSON into calls of the control plane
// and the front end, and gives Lambda's answers and errors.
package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"lambent"
	"lambent/api/sigv4"
	"lambent/functions"
)

// Bounds of request bodies in bytes.
const (
	maxBody       = 70167211 // CreateFunction and UpdateFunctionCode, as Lambda says
	maxSmallBody  = 1 << 20
	largeBodies   = 4 // request bodies over maxSmallBody that are held at once
	nanosPerMilli = 1_000_000
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

// handler answers the API's requests.
type handler struct {
	Options
	verifier *sigv4.Verifier
	large    chan struct{} // a place for each large body
}

// New makes the API's handler.
func New(o Options) http.Handler {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	h := &handler{Options: o, large: make(chan struct{}, largeBodies)}
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
	op      *operation
	labels  map[string]string
	body    []byte
}

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{handler: h, ctx: r.Context(), w: w, r: r, id: uuid.NewString()}
	w.Header()["X-Amzn-Requestid"] = []string{c.id}
	defer func() {
		if fault := recover(); fault != nil {
			if fault == http.ErrAbortHandler {
				panic(fault)
			}
			h.Logger.Error("a request panicked", "request", c.id, "method", r.Method, "path", r.URL.Path, "panic", fault)
			c.fail(lambent.Errorf(lambent.Internal, "An internal error occurred."))
		}
	}()
	if strings.HasPrefix(r.URL.Path, codePath) && r.Method == http.MethodGet {
		c.op = &operation{name: "GetCode"}
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
	c.op, c.labels = route(c.r)
	limit := int64(maxSmallBody)
	if c.op != nil && c.op.maxBody > 0 {
		limit = c.op.maxBody
	}
	release, err := c.readBody(limit)
	if err != nil {
		return err
	}
	defer release()
	id, err := c.verifier.Verify(c.r, func() (string, error) { return bodySum(c.body), nil })
	if err != nil {
		return err
	}
	if id.BodySHA256 != "" && c.r.Header.Get("X-Amz-Content-Sha256") != "" && id.BodySHA256 != bodySum(c.body) {
		return &sigv4.Error{Type: sigv4.Invalid, Message: "The provided 'x-amz-content-sha256' header does not match what was computed."}
	}
	_, c.who, _ = c.Credentials(id.AccessKeyID)
	c.service = id.Service
	if target := c.r.Header.Get("X-Amz-Target"); target != "" {
		return c.logsOperation(target)
	}
	if c.op == nil {
		if c.r.Method == http.MethodPost && c.r.URL.Path == "/" && id.Service == "sts" {
			return c.callerIdentity()
		}
		return errUnknownOperation
	}
	if id.Service != "lambda" {
		return &sigv4.Error{Type: sigv4.Invalid, Message: "Credential should be scoped to correct service: 'lambda'. "}
	}
	return c.op.run(c)
}

func bodySum(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

// readBody reads the whole body up to a limit. Large bodies wait for one of a few places, so that memory stays bounded.
func (c *call) readBody(limit int64) (release func(), err error) {
	release = func() {}
	length := c.r.ContentLength
	tooLarge := func() error {
		c.w.Header().Set("Connection", "close")
		name := "request"
		if c.op != nil {
			name = c.op.name
		}
		return lambent.Errorf(lambent.TooLarge, "Request must be smaller than %d bytes for the %s operation", limit, name)
	}
	if length > limit {
		return release, tooLarge()
	}
	if length > maxSmallBody || length < 0 && limit > maxSmallBody {
		select {
		case c.large <- struct{}{}:
			release = func() { <-c.large }
		case <-c.ctx.Done():
			return release, lambent.Wrap(lambent.Unavailable, c.ctx.Err(), "The request ended before it was read.")
		}
	}
	if length >= 0 {
		c.body = make([]byte, length)
		_, err = io.ReadFull(c.r.Body, c.body)
	} else {
		c.body, err = io.ReadAll(io.LimitReader(c.r.Body, limit+1))
	}
	if err == nil && int64(len(c.body)) > limit {
		err = tooLarge()
	}
	if err != nil {
		release()
		release = func() {}
		if e := (*lambent.Error)(nil); errors.As(err, &e) {
			return release, err
		}
		return release, lambent.Wrap(lambent.InvalidContent, err, "Could not read the request body.")
	}
	return release, nil
}

// json answers a status and a body.
func (c *call) json(status int, body any) error {
	out, err := marshal(body)
	if err != nil {
		return err
	}
	c.write(status, "application/json", out)
	return nil
}

func (c *call) empty(status int) error {
	c.w.WriteHeader(status)
	return nil
}

func (c *call) write(status int, kind string, body []byte) {
	header := c.w.Header()
	header["Content-Type"] = []string{kind}
	header["Content-Length"] = []string{strconv.Itoa(len(body))}
	c.w.WriteHeader(status)
	if _, err := c.w.Write(body); err != nil {
		c.Logger.Debug("an answer was not sent", "request", c.id, "error", err)
	}
}
