package runtimeapi

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// buildEcho builds the benchmark's function.
func buildEcho(t testing.TB) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "bootstrap")
	build := exec.Command("go", "build", "-o", program, "lambent/bench/functions/echo")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	return program
}

// start runs a function's process against a Runtime API until the test ends.
func start(t testing.TB, program, address string) {
	t.Helper()
	process := exec.Command(program)
	process.Env = []string{"AWS_LAMBDA_RUNTIME_API=" + address, "_HANDLER=bootstrap"}
	process.Stderr = os.Stderr
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		process.Process.Kill()
		process.Wait()
	})
}

func payload(size int) []byte {
	return []byte(`"` + string(bytes.Repeat([]byte("x"), size-2)) + `"`)
}

// TestGoRuntime runs a real aws-lambda-go program, which posts chunked bodies.
func TestGoRuntime(t *testing.T) {
	program := buildEcho(t)
	s, address := open(t, Options{})
	start(t, program, address)
	for _, size := range []int{2, 1024, 100_000, 6 << 20} {
		want := payload(size)
		got := <-invoke(s, Event{RequestID: "a", FunctionARN: "arn:aws:lambda:r:1:function:f", Payload: want, Deadline: time.Now().Add(30 * time.Second)})
		if got.err != nil || !bytes.Equal(got.result.Payload, want) {
			t.Fatal(size, got.err, len(got.result.Payload))
		}
	}
}

func BenchmarkLoop(b *testing.B) {
	program := buildEcho(b)
	for _, size := range []int{1 << 10, 6 << 20} {
		for _, sandboxes := range []int{1, 16} {
			b.Run(fmt.Sprintf("size=%d/sandboxes=%d/own", size, sandboxes), func(b *testing.B) {
				var all []func([]byte) []byte
				for range sandboxes {
					s, address := open(b, Options{})
					start(b, program, address)
					all = append(all, ownLoop(b, s))
				}
				measure(b, all, size)
			})
			b.Run(fmt.Sprintf("size=%d/sandboxes=%d/nethttp", size, sandboxes), func(b *testing.B) {
				var all []func([]byte) []byte
				for range sandboxes {
					loop, address := netHTTPLoop(b)
					start(b, program, address)
					all = append(all, loop)
				}
				measure(b, all, size)
			})
		}
	}
}

func measure(b *testing.B, sandboxes []func([]byte) []byte, size int) {
	event := payload(size)
	for _, invoke := range sandboxes {
		if answer := invoke(event); len(answer) != size {
			b.Fatal(len(answer))
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	var group sync.WaitGroup
	for i, invoke := range sandboxes {
		group.Go(func() {
			for range (b.N + i) / len(sandboxes) {
				invoke(event)
			}
		})
	}
	group.Wait()
}

func ownLoop(b *testing.B, s *Server) func([]byte) []byte {
	event := &Event{RequestID: "8f5c9cb5-6d35-4a0c-8c1b-1d5b1e0e6a11", FunctionARN: "arn:aws:lambda:us-east-1:000000000000:function:echo"}
	return func(payload []byte) []byte {
		event.Payload, event.Deadline = payload, time.Now().Add(10*time.Second)
		result, _, err := s.Invoke(event)
		if err != nil {
			b.Error(err)
		}
		return result.Payload
	}
}

// netHTTPLoop is the same on the standard library's server.
func netHTTPLoop(b *testing.B) (func([]byte) []byte, string) {
	events, answers := make(chan []byte), make(chan []byte)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", func(w http.ResponseWriter, r *http.Request) {
		select {
		case event := <-events:
			w.Header().Set("Lambda-Runtime-Aws-Request-Id", "a")
			w.Header().Set("Lambda-Runtime-Deadline-Ms", fmt.Sprint(time.Now().Add(10*time.Second).UnixMilli()))
			w.Write(event)
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/response", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			b.Error(err)
		}
		w.WriteHeader(http.StatusAccepted)
		answers <- body
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := &http.Server{Handler: mux}
	var done sync.WaitGroup
	done.Go(func() { server.Serve(listener) })
	b.Cleanup(func() { server.Close(); done.Wait() })
	return func(event []byte) []byte { events <- event; return <-answers }, listener.Addr().String()
}
