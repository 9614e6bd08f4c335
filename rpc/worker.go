package rpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net/http"
	"strconv"
	"time"

	"lambent"
	"lambent/rpc/pki"
)

// WorkerClient is a worker on another host.
type WorkerClient struct{ peer *Peer }

var _ lambent.Worker = (*WorkerClient)(nil)

// Worker returns the peer's worker.
func (p *Peer) Worker() *WorkerClient { return &WorkerClient{p} }

// Start implements lambent.Worker. The end of ctx ends the start on the worker.
func (c *WorkerClient) Start(ctx context.Context, req lambent.StartRequest) error {
	_, err := call[lambent.StartRequest, nothing](ctx, c.peer, "worker.start", req)
	return err
}

func serveStart(ctx context.Context, s *Server, caller pki.Peer, req lambent.StartRequest) (nothing, error) {
	if s.options.Worker == nil {
		return nothing{}, absent("worker")
	}
	if err := isItself(caller, string(req.Manager)); err != nil {
		return nothing{}, err
	}
	if req.Version == nil {
		return nothing{}, lambent.Errorf(lambent.InvalidParameter, "A sandbox is of a version.")
	}
	return nothing{}, s.options.Worker.Start(ctx, req)
}

type stopRequest struct {
	Sandbox lambent.SandboxID
	Epoch   uint64
}

// Stop implements lambent.Worker.
func (c *WorkerClient) Stop(ctx context.Context, id lambent.SandboxID, epoch uint64) error {
	_, err := call[stopRequest, nothing](ctx, c.peer, "worker.stop", stopRequest{id, epoch})
	return err
}

func serveStop(ctx context.Context, s *Server, _ pki.Peer, req stopRequest) (nothing, error) {
	if s.options.Worker == nil {
		return nothing{}, absent("worker")
	}
	return nothing{}, s.options.Worker.Stop(ctx, req.Sandbox, req.Epoch)
}

// sandboxStatus is a lambent.SandboxStatus whose times are told as how long ago they were.
type sandboxStatus struct {
	Status        lambent.SandboxStatus
	Started, Used remaining
}

// List implements lambent.Worker.
func (c *WorkerClient) List(ctx context.Context) ([]lambent.SandboxStatus, error) {
	all, err := call[nothing, []sandboxStatus](ctx, c.peer, "worker.list", nothing{})
	if err != nil || len(all) == 0 {
		return nil, err
	}
	now := time.Now()
	sandboxes := make([]lambent.SandboxStatus, len(all))
	for i, sb := range all {
		sandboxes[i] = sb.Status
		sandboxes[i].Started, sandboxes[i].LastUsed = sb.Started.from(now), sb.Used.from(now)
	}
	return sandboxes, nil
}

func serveList(ctx context.Context, s *Server, _ pki.Peer, _ nothing) ([]sandboxStatus, error) {
	if s.options.Worker == nil {
		return nil, absent("worker")
	}
	sandboxes, err := s.options.Worker.List(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]sandboxStatus, len(sandboxes))
	for i, status := range sandboxes {
		all[i] = sandboxStatus{status, remainingUntil(status.Started), remainingUntil(status.LastUsed)}
		all[i].Status.Started, all[i].Status.LastUsed = time.Time{}, time.Time{}
	}
	return all, nil
}

// Logs implements lambent.Worker. TooLarge: ask for fewer events.
func (c *WorkerClient) Logs(ctx context.Context, query lambent.LogQuery) ([]lambent.LogEvent, error) {
	return call[lambent.LogQuery, []lambent.LogEvent](ctx, c.peer, "worker.logs", query)
}

func serveLogs(ctx context.Context, s *Server, _ pki.Peer, query lambent.LogQuery) ([]lambent.LogEvent, error) {
	if s.options.Worker == nil {
		return nil, absent("worker")
	}
	return s.options.Worker.Logs(ctx, query)
}

// An invoke is a head in JSON, with its length before it, and the payload behind it as it is. So is its answer.
const (
	lengthBytes  = 4
	maxHeadBytes = 64 * kib
)

// invokeHead is a lambent.WorkerInvoke without its payload, and with what is left until its deadline.
type invokeHead struct {
	Invoke  lambent.WorkerInvoke
	Left    remaining
	Payload int
}

// resultHead is a lambent.WorkerResult without the function's answer.
type resultHead struct {
	Result  lambent.WorkerResult
	Payload int
}

// Invoke implements lambent.Worker. HostLost: a byte of the request may have reached the worker, and no answer came. Unavailable:
// none has, so nothing was run. The end of ctx ends the waiting, not the function.
func (c *WorkerClient) Invoke(ctx context.Context, req lambent.WorkerInvoke) (lambent.WorkerResult, error) {
	payload := req.Request.Payload
	if len(payload) > lambent.MaxRequestBytes {
		return lambent.WorkerResult{}, tooLarge(lambent.MaxRequestBytes)
	}
	head := invokeHead{Invoke: req, Left: remainingUntil(req.Deadline), Payload: len(payload)}
	head.Invoke.Request.Payload, head.Invoke.Deadline = nil, time.Time{}
	first, err := frame(head)
	if err != nil {
		return lambent.WorkerResult{}, err
	}
	answer, err := c.peer.send(ctx, methodInvoke, &framed{first: first, rest: payload})
	if err != nil {
		return lambent.WorkerResult{}, err
	}
	var result resultHead
	payload, err = readFrame(answer.Body, answer.ContentLength, lambent.MaxResponseBytes, &result, func() int { return result.Payload })
	if err != nil {
		return lambent.WorkerResult{}, answer.end(unread{err})
	}
	result.Result.Response.Payload = payload
	return result.Result, answer.end(nil)
}

// unread is an answer that could not be read, whatever code the reason has: the function has run.
type unread struct{ reason error }

func (u unread) Error() string { return u.reason.Error() }

func serveInvoke(s *Server, w http.ResponseWriter, r *request) {
	if s.options.Worker == nil {
		refuse(w, absent("worker"))
		return
	}
	stop, err := within(w, bodyWithin)
	if err != nil {
		refuse(w, err)
		return
	}
	var head invokeHead
	payload, err := readFrame(r.Body, r.ContentLength, lambent.MaxRequestBytes, &head, func() int { return head.Payload })
	if err == nil {
		err = stop()
	}
	if err != nil {
		refuse(w, err)
		return
	}
	invoke := head.Invoke
	invoke.Request.Payload, invoke.Deadline = payload, head.Left.from(time.Now())
	result, err := s.options.Worker.Invoke(r.Context(), invoke)
	if err != nil {
		refuse(w, err)
		return
	}
	payload, result.Response.Payload = result.Response.Payload, nil
	first, err := frame(resultHead{result, len(payload)})
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(first)+len(payload)))
	w.Header().Set("Content-Type", "application/octet-stream")
	out := &patient{http.NewResponseController(w), w}
	if _, err = out.Write(first); err == nil && len(payload) > 0 {
		_, err = out.Write(payload)
	}
	if err != nil {
		panic(http.ErrAbortHandler) // the caller is gone
	}
}

// frame encodes a head, with its length before it.
func frame(head any) ([]byte, error) {
	text, err := encode(head, maxHeadBytes)
	if err != nil {
		return nil, err
	}
	return append(binary.BigEndian.AppendUint32(make([]byte, 0, lengthBytes+len(text)), uint32(len(text))), text...), nil
}

// readFrame reads a head, and the payload behind it, of a message whose size was announced. payload tells how long the head says
// that it is.
func readFrame(r io.Reader, size, limit int64, head any, payload func() int) ([]byte, error) {
	if size < lengthBytes {
		return nil, lambent.Errorf(lambent.InvalidParameter, "A message between hosts has no head.")
	}
	var length [lengthBytes]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n := int64(binary.BigEndian.Uint32(length[:]))
	rest := size - lengthBytes - n
	if n > maxHeadBytes || rest > limit {
		return nil, tooLarge(limit)
	}
	if rest < 0 {
		return nil, lambent.Errorf(lambent.InvalidParameter, "A message between hosts is shorter than its head.")
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return nil, err
	}
	if err := decode(text, head); err != nil {
		return nil, err
	}
	if int64(payload()) != rest {
		return nil, lambent.Errorf(lambent.InvalidParameter, "A message between hosts has %d bytes of payload and speaks of %d.", rest, payload())
	}
	if rest == 0 {
		return nil, nil
	}
	content := make([]byte, rest)
	_, err := io.ReadFull(r, content)
	return content, err
}

// framed is a head and the payload behind it, neither of them copied.
type framed struct{ first, rest []byte }

// Len returns what is left to read.
func (f *framed) Len() int { return len(f.first) + len(f.rest) }

// Read implements io.Reader.
func (f *framed) Read(p []byte) (int, error) {
	if f.Len() == 0 {
		return 0, io.EOF
	}
	n := copy(p, f.first)
	f.first = f.first[n:]
	more := copy(p[n:], f.rest)
	f.rest = f.rest[more:]
	return n + more, nil
}

var _ body = (*bytes.Reader)(nil)
