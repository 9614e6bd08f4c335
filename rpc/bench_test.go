package rpc

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/rpc/pki"
)

// echoes is a worker that answers with what it is sent.
type echoes struct{ recorder }

func (*echoes) Invoke(_ context.Context, req lambent.WorkerInvoke) (lambent.WorkerResult, error) {
	return lambent.WorkerResult{Response: lambent.InvokeResponse{Payload: req.Request.Payload}, Outcome: lambent.OutcomeIdle}, nil
}

// BenchmarkCalls measures an invoke with a payload over this package, beside what it stands on: net/http over HTTP/1.1 and HTTP/2,
// with and without TLS.
func BenchmarkCalls(b *testing.B) {
	kinds := map[string]func(*testing.B) func([]byte) error{
		"rpc": benchRPC, "http1": benchHTTP(false, false), "http1-mtls": benchHTTP(false, true), "http2-mtls": benchHTTP(true, true),
	}
	for _, kind := range []string{"http1", "http1-mtls", "http2-mtls", "rpc"} {
		call := kinds[kind](b)
		for _, c := range []struct {
			name             string
			clients, payload int
		}{{"1KiB", 1, kib}, {"1KiB-16", 16, kib}, {"6MiB", 1, 6 * mib}} {
			b.Run(c.name+"/"+kind, func(b *testing.B) {
				payload := make([]byte, c.payload)
				together(b, c.clients, c.clients*2, payload, call) // connections are made
				b.ResetTimer()
				before := processorTime(b)
				together(b, c.clients, b.N, payload, call)
				b.ReportMetric(float64((processorTime(b)-before).Microseconds())/float64(b.N), "cpu-us/op")
			})
		}
	}
}

// processorTime is what both sides have used of the processors: unlike the time that passes, it does not depend on who else is
// on the machine.
func processorTime(b *testing.B) time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func together(b *testing.B, clients, calls int, payload []byte, call func([]byte) error) {
	var group sync.WaitGroup
	for i := range clients {
		group.Go(func() {
			for n := i; n < calls; n += clients {
				if err := call(payload); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
}

func benchRPC(b *testing.B) func([]byte) error {
	r := newRealm(b)
	_, address := r.serve(Services{Worker: &echoes{}}, "w", pki.Worker)
	w := r.dial(address, pki.Worker, "f", pki.FrontEnd).Worker()
	return func(payload []byte) error {
		_, err := w.Invoke(context.Background(), lambent.WorkerInvoke{Claim: lambent.Claim{ID: 1, Manager: "m", Worker: "w", Sandbox: "s", Epoch: 2},
			Key: lambent.VersionKey{Function: "f", Version: "1", Revision: "r"}, InvokedARN: "arn:aws:lambda:test-1:123456789012:function:f",
			Request: lambent.InvokeRequest{RequestID: "r", Payload: payload}})
		return err
	}
}

func benchHTTP(http2, secure bool) func(*testing.B) func([]byte) error {
	return func(b *testing.B) func([]byte) error {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		var protocols http.Protocols
		protocols.SetHTTP1(!http2)
		protocols.SetHTTP2(http2)
		windows := &http.HTTP2Config{MaxReceiveBufferPerConnection: 16 * mib, MaxReceiveBufferPerStream: 8 * mib, MaxReadFrameSize: mib}
		server := &http.Server{Protocols: &protocols, HTTP2: windows, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body := make([]byte, r.ContentLength)
			if _, err := io.ReadFull(r.Body, body); err != nil {
				panic(http.ErrAbortHandler)
			}
			w.Write(body)
		})}
		transport := &http.Transport{Protocols: &protocols, HTTP2: windows, MaxIdleConnsPerHost: idleConnections, WriteBufferSize: bufferBytes, ReadBufferSize: bufferBytes}
		url := "http://" + listener.Addr().String()
		serve := func() error { return server.Serve(listener) }
		if secure {
			r := newRealm(b)
			server.TLSConfig = r.host("w", pki.Worker).ServerConfig(false)
			transport.TLSClientConfig = r.host("f", pki.FrontEnd).ClientConfig(pki.Expected{Role: pki.Worker})
			if http2 {
				transport.TLSClientConfig.NextProtos = []string{"h2"}
			}
			url = "https://" + listener.Addr().String()
			serve = func() error { return server.ServeTLS(listener, "", "") }
		}
		go serve() // it ends with the benchmark
		b.Cleanup(func() { server.Close(); transport.CloseIdleConnections() })
		return func(payload []byte) error {
			req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url, bytes.NewReader(payload))
			if err != nil {
				return err
			}
			resp, err := transport.RoundTrip(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			_, err = io.ReadFull(resp.Body, make([]byte, len(payload)))
			return err
		}
	}
}
