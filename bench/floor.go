package bench

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// ServeEcho is the first floor: net/http answering each request with its body on a loopback port, until ctx ends. It prints
// its address to out. The benchmark runs it in a process of its own, as a region is.
func ServeEcho(ctx context.Context, out io.Writer) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if _, err := w.Write(body); err != nil {
			return // the client is gone
		}
	}), ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	fmt.Fprintln(out, listener.Addr())
	if err := server.Serve(listener); err != http.ErrServerClosed {
		return err
	}
	return nil
}

// bareLoop is the second floor: one process of the function, without any sandbox, and a Runtime API on plain net/http that
// hands it events. It runs one invoke at a time.
type bareLoop struct {
	server  *http.Server
	process *exec.Cmd
	events  chan []byte
	answers chan []byte
	busy    sync.Mutex
}

// openBareLoop starts the program as a function's process.
func openBareLoop(ctx context.Context, program string) (*bareLoop, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &bareLoop{events: make(chan []byte), answers: make(chan []byte)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", b.next)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/response", b.response)
	b.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = b.server.Serve(listener) }() // it ends by being closed
	b.process = exec.CommandContext(ctx, program)
	b.process.Env = []string{"AWS_LAMBDA_RUNTIME_API=" + listener.Addr().String(), "_HANDLER=bootstrap", "PATH=" + os.Getenv("PATH")}
	b.process.Stderr = os.Stderr
	if err := b.process.Start(); err != nil {
		b.server.Close()
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	return b, nil
}

func (b *bareLoop) next(w http.ResponseWriter, r *http.Request) {
	select {
	case event := <-b.events:
		h := w.Header()
		h.Set("Lambda-Runtime-Aws-Request-Id", "8f5c9cb5-6d35-4a0c-8c1b-1d5b1e0e6a11")
		h.Set("Lambda-Runtime-Deadline-Ms", fmt.Sprint(time.Now().Add(3*time.Second).UnixMilli()))
		h.Set("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:us-east-1:000000000000:function:echo")
		h.Set("Content-Type", "application/json")
		if _, err := w.Write(event); err != nil {
			return // the process is gone
		}
	case <-r.Context().Done():
	}
}

func (b *bareLoop) response(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusAccepted)
	b.answers <- body
}

func (b *bareLoop) invoke(ctx context.Context, event []byte) ([]byte, error) {
	b.busy.Lock()
	defer b.busy.Unlock()
	select {
	case b.events <- event:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case answer := <-b.answers:
		return answer, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (b *bareLoop) close() {
	// The process is ended by force and the server by closing it: neither's error says anything new.
	_ = b.process.Process.Kill()
	_ = b.process.Wait()
	_ = b.server.Close()
}

// bareCalls gives each client a loop of its own.
func bareCalls(ctx context.Context, program string, event []byte) func() (call, func(), error) {
	return func() (call, func(), error) {
		loop, err := openBareLoop(ctx, program)
		if err != nil {
			return nil, nil, err
		}
		do := func(ctx context.Context) error {
			answer, err := loop.invoke(ctx, event)
			if err == nil && strings.TrimSpace(string(answer)) != string(event) {
				err = fmt.Errorf("answered %.80q", answer)
			}
			return err
		}
		return do, loop.close, nil
	}
}
