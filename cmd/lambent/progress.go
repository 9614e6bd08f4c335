package main

import (
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/sys/unix"
)

// progress tells a person what a command is doing: with moving bars on a terminal, with one line per step elsewhere. Its
// owner calls close before it prints anything else.
type progress struct {
	out  io.Writer
	bars *mpb.Progress // nil: lines
}

func newProgress(out io.Writer) *progress {
	p := &progress{out: out}
	if isTerminal(out) {
		p.bars = mpb.New(mpb.WithOutput(out), mpb.WithWidth(32))
	}
	return p
}

// isTerminal tells whether what is written to w is seen at once by a person.
func isTerminal(w any) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

// step is one step of a command. Exactly one of its end and fail ends it.
type step struct{ bar *mpb.Bar }

// begin begins a step. Total is the amount of work in bytes, 0 where it is not known.
func (p *progress) begin(what string, total int64) step {
	if p.bars == nil {
		fmt.Fprintln(p.out, what)
		return step{}
	}
	name := mpb.PrependDecorators(decor.Name(what, decor.WCSyncSpaceR))
	if total == 0 {
		return step{p.bars.New(1, mpb.SpinnerStyle(), name, mpb.AppendDecorators(decor.OnComplete(decor.Elapsed(decor.ET_STYLE_GO), "done")))}
	}
	return step{p.bars.AddBar(total, name, mpb.AppendDecorators(decor.Percentage()))}
}

func (s step) add(n int) {
	if s.bar != nil {
		s.bar.IncrBy(n)
	}
}

func (s step) end(err error) {
	switch {
	case s.bar == nil:
	case err != nil:
		s.bar.Abort(false)
	default:
		s.bar.SetTotal(-1, true)
	}
}

// close waits until the bars are drawn.
func (p *progress) close() {
	if p.bars != nil {
		p.bars.Wait()
	}
}

// meteredTransport reports the bytes of request bodies as they are sent.
type meteredTransport struct {
	base http.RoundTripper
	sent func(n int)
}

// RoundTrip sends the request through the base transport.
func (t *meteredTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body == nil {
		return t.base.RoundTrip(req)
	}
	metered := req.Clone(req.Context())
	metered.Body = &meteredBody{req.Body, t.sent}
	return t.base.RoundTrip(metered)
}

type meteredBody struct {
	io.ReadCloser
	sent func(n int)
}

// Read reads the body and reports how much.
func (b *meteredBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.sent(n)
	return n, err
}
