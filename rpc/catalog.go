package rpc

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"time"

	"lambent"
	"lambent/rpc/pki"
)

const (
	maxEventBytes = mib // of one catalogue event
	// silentStream is how many of the server's heartbeats may be missing before a stream is given up.
	silentStream = 15 * time.Second
)

// CatalogClient is the catalogue of the control plane on another host.
type CatalogClient struct{ peer *Peer }

var _ lambent.Catalog = (*CatalogClient)(nil)

// Catalog returns the peer's catalogue.
func (p *Peer) Catalog() *CatalogClient { return &CatalogClient{p} }

// Revision implements lambent.Catalog.
func (c *CatalogClient) Revision(ctx context.Context) (int64, error) {
	return call[nothing, int64](ctx, c.peer, "catalog.revision", nothing{})
}

func serveRevision(ctx context.Context, s *Server, _ pki.Peer, _ nothing) (int64, error) {
	if s.options.Catalog == nil {
		return 0, absent("control plane")
	}
	return s.options.Catalog.Revision(ctx)
}

// Watch implements lambent.Catalog. The channel is also closed when the connection is lost: watch again.
func (c *CatalogClient) Watch(ctx context.Context) (<-chan lambent.CatalogEvent, error) {
	lines, stop := context.WithCancel(ctx)
	answer, err := c.peer.send(lines, "catalog.watch", bytes.NewReader([]byte("{}")))
	if err != nil {
		stop()
		return nil, err
	}
	out := make(chan lambent.CatalogEvent, 64)
	follow := func() {
		defer close(out)
		defer func() { _ = answer.end(nil) }() // how the stream ended is for the next watch to find out
		defer stop()
		c.follow(ctx, newLines(answer.Body), out, stop)
	}
	if !c.peer.spawn(follow) {
		stop()
		return nil, answer.end(net.ErrClosed)
	}
	return out, nil
}

// follow passes on what a watch tells, until it ends. stop ends it when the server is silent.
func (c *CatalogClient) follow(ctx context.Context, lines *bufio.Scanner, out chan<- lambent.CatalogEvent, stop func()) {
	silent := time.AfterFunc(silentStream, stop)
	defer silent.Stop()
	for {
		event, ok := nextEvent(lines)
		if !ok {
			return
		}
		silent.Stop() // a receiver that takes its time is no sign that the server is gone
		if event != nil {
			select {
			case out <- *event:
			case <-ctx.Done():
				return
			case <-c.peer.running.Done():
				return
			}
		}
		silent.Reset(silentStream)
	}
}

func newLines(r io.Reader) *bufio.Scanner {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4*kib), maxEventBytes)
	return lines
}

// nextEvent reads a line of a watch: an event, or nil for one that says only that the server lives. ok is false at the end, and
// when what comes is no event.
func nextEvent(lines *bufio.Scanner) (event *lambent.CatalogEvent, ok bool) {
	if !lines.Scan() {
		return nil, false
	}
	line := lines.Bytes()
	if len(line) == 0 {
		return nil, true
	}
	event = &lambent.CatalogEvent{}
	if err := json.Unmarshal(line, event); err != nil || !whole(event) {
		return nil, false
	}
	return event, true
}

// whole tells whether an event has what its kind promises: receivers rely on it.
func whole(e *lambent.CatalogEvent) bool {
	switch e.Kind {
	case lambent.CatalogVersion:
		return e.Version != nil
	case lambent.CatalogAlias:
		return e.Alias != nil
	case lambent.CatalogSettings:
		return e.Settings != nil
	}
	return true
}

func serveWatch(s *Server, w http.ResponseWriter, r *request) {
	if s.options.Catalog == nil {
		refuse(w, absent("control plane"))
		return
	}
	if _, err := r.message(w); err != nil {
		refuse(w, err)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.streams, cancel)()
	events, err := s.options.Catalog.Watch(ctx)
	if err != nil {
		refuse(w, err)
		return
	}
	stream := &stream{control: http.NewResponseController(w), writer: w}
	w.WriteHeader(http.StatusOK)
	err = stream.flush()
	for err == nil {
		var more bool
		more, err = s.nextLine(stream, events)
		if !more {
			break
		}
	}
	cancel()
	drop(events)
	if err != nil && r.Context().Err() == nil {
		s.options.Logger.Warn("a watch of the catalogue ended", "caller", r.peer.Name, "error", err)
	}
}

// drop takes what is left until the catalogue closes the channel.
func drop(events <-chan lambent.CatalogEvent) {
	for {
		if _, ok := <-events; !ok {
			return
		}
	}
}

// nextLine sends the next event, or a sign of life when there is none for a while. What is at hand goes out together.
func (s *Server) nextLine(out *stream, events <-chan lambent.CatalogEvent) (more bool, err error) {
	select {
	case event, ok := <-events:
		return ok, out.event(event, ok)
	default:
	}
	if err := out.flush(); err != nil {
		return false, err
	}
	timer := time.NewTimer(s.options.Heartbeat)
	defer timer.Stop()
	select {
	case event, ok := <-events:
		return ok, out.event(event, ok)
	case <-timer.C:
		return true, out.line(nil)
	}
}

// stream is an answer of lines.
type stream struct {
	control *http.ResponseController
	writer  http.ResponseWriter
}

func (s *stream) event(event lambent.CatalogEvent, ok bool) error {
	if !ok {
		return nil
	}
	text, err := encode(event, maxEventBytes-1)
	if err != nil {
		return err
	}
	return s.line(text)
}

// line writes a line. A caller who takes nothing for long is gone.
func (s *stream) line(text []byte) error {
	if err := s.control.SetWriteDeadline(time.Now().Add(stalledFor)); err != nil {
		return err
	}
	_, err := s.writer.Write(append(text, '\n'))
	return err
}

func (s *stream) flush() error {
	if err := s.control.SetWriteDeadline(time.Now().Add(stalledFor)); err != nil {
		return err
	}
	return s.control.Flush()
}
