package runtimeapi

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, options Options) (*Server, string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := Open(listener, options)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, listener.Addr().String()
}

func soon() time.Time { return time.Now().Add(5 * time.Second) }

// client is a raw HTTP client on one connection.
type client struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
}

func dial(t testing.TB, address string) *client {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &client{t: t, conn: conn, r: bufio.NewReader(conn)}
}

func (c *client) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, text); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) receive() (*http.Response, string) {
	c.t.Helper()
	if err := c.conn.SetReadDeadline(soon()); err != nil {
		c.t.Fatal(err)
	}
	response, err := http.ReadResponse(c.r, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return response, string(body)
}

const next = "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n"

func post(path, body string, headers ...string) string {
	return fmt.Sprintf("POST /2018-06-01/runtime/%s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n%s",
		path, strings.Join(headers, ""), len(body), body)
}

type invoked struct {
	result    Result
	delivered bool
	err       error
}

func invoke(s *Server, event Event) <-chan invoked {
	if event.Deadline.IsZero() {
		event.Deadline = soon()
	}
	done := make(chan invoked, 1)
	go func() {
		result, delivered, err := s.Invoke(&event)
		done <- invoked{result, delivered, err}
	}()
	return done
}

func TestLoopOnOneConnection(t *testing.T) {
	s, address := open(t, Options{})
	c := dial(t, address)
	c.send(next)
	if failure, err := s.AwaitReady(soon()); failure != nil || err != nil {
		t.Fatal(failure, err)
	}
	for i := range 20 {
		id := fmt.Sprint("request-", i)
		deadline := soon()
		done := invoke(s, Event{RequestID: id, FunctionARN: "arn", TraceID: "Root=1", ClientContext: "{\r\n\"a\":1}", Deadline: deadline,
			TenantID: "blue", Payload: []byte(`{"n":1}`)})
		response, body := c.receive()
		if body != `{"n":1}` || response.StatusCode != 200 {
			t.Fatal(response.Status, body)
		}
		for name, want := range map[string]string{
			"Lambda-Runtime-Aws-Request-Id":       id,
			"Lambda-Runtime-Deadline-Ms":          fmt.Sprint(deadline.UnixMilli()),
			"Lambda-Runtime-Invoked-Function-Arn": "arn",
			"Lambda-Runtime-Trace-Id":             "Root=1",
			"Lambda-Runtime-Client-Context":       `{  "a":1}`,
			"Lambda-Runtime-Aws-Tenant-Id":        "blue",
			"Lambda-Runtime-Cognito-Identity":     "",
			"Content-Type":                        "application/json",
		} {
			if got := response.Header.Get(name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		c.send(post("invocation/"+id+"/response", "answer"))
		if got := <-done; got.err != nil || string(got.result.Payload) != "answer" || got.result.Failed {
			t.Fatal(got)
		}
		if response, body := c.receive(); response.StatusCode != 202 || body != "{\"status\":\"OK\"}\n" {
			t.Fatal(response.Status, body)
		}
		if i%3 == 0 { // a pause: the server takes the connection's reading over
			if s.Ready() {
				t.Fatal("ready before it asked")
			}
		}
		c.send(next)
	}
}

func TestOtherConnectionForEachRequest(t *testing.T) {
	s, address := open(t, Options{})
	for i := range 5 {
		c := dial(t, address)
		c.send(strings.Replace(next, "Host", "Connection: close\r\nHost", 1))
		done := invoke(s, Event{RequestID: "a", Payload: []byte("1")})
		if response, _ := c.receive(); !response.Close {
			t.Fatal("the connection is kept")
		}
		c2 := dial(t, address)
		c2.send(post("invocation/a/response", fmt.Sprint(i), "Connection: close\r\n"))
		if got := <-done; string(got.result.Payload) != fmt.Sprint(i) {
			t.Fatal(got)
		}
		c2.receive()
	}
}

// An idle connection that is kept open must not keep the server from seeing the answer on another one.
func TestAnswerOnOtherConnectionWhileFirstStaysOpen(t *testing.T) {
	s, address := open(t, Options{})
	a, b := dial(t, address), dial(t, address)
	for i := range 5 {
		a.send(next)
		done := invoke(s, Event{RequestID: "a"})
		if _, body := a.receive(); body != "{}" {
			t.Fatal(body)
		}
		b.send(post("invocation/a/response", fmt.Sprint(i)))
		if got := <-done; string(got.result.Payload) != fmt.Sprint(i) {
			t.Fatal(got)
		}
		b.receive()
		a, b = b, a
	}
}

func TestRefusals(t *testing.T) {
	s, address := open(t, Options{})
	c, other := dial(t, address), dial(t, address)
	ask := func(c *client, request string, status int, want string) {
		t.Helper()
		c.send(request)
		if response, body := c.receive(); response.StatusCode != status || !strings.Contains(body, want) {
			t.Errorf("%.60q: %s %q, want %d %q", request, response.Status, body, status, want)
		}
	}
	ask(other, post("invocation/a/response", "x"), 400, "InvalidRequestID")
	ask(other, "GET /elsewhere HTTP/1.1\r\n\r\n", 404, "NotFound")
	ask(other, "PUT /2018-06-01/runtime/init/error HTTP/1.1\r\n\r\n", 405, "MethodNotAllowed")
	ask(other, "POST /2020-01-01/extension/register HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", 404, "Extensions")
	ask(other, "PUT /2022-07-01/telemetry HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", 404, "Telemetry")
	c.send(next)
	if _, err := s.AwaitReady(soon()); err != nil {
		t.Fatal(err)
	}
	ask(other, next, 403, "InvalidStateTransition")
	ask(other, post("init/error", "{}"), 403, "InvalidStateTransition")
	done := invoke(s, Event{RequestID: "a"})
	c.receive()
	ask(other, next, 403, "InvalidStateTransition")
	ask(other, post("invocation/b/response", "x"), 400, "InvalidRequestID")
	ask(other, post("invocation/a/response", "x", "Lambda-Runtime-Function-Response-Mode: sometimes\r\n"), 400, "ResponseMode")
	ask(c, post("invocation/b/error", "x"), 400, "InvalidRequestID")
	ask(c, post("invocation/a/response", "y"), 202, "OK")
	if got := <-done; string(got.result.Payload) != "y" {
		t.Error(got)
	}
	ask(other, post("invocation/a/response", "x"), 403, "InvalidStateTransition")
}

func TestErrors(t *testing.T) {
	s, address := open(t, Options{})
	c := dial(t, address)
	c.send(next)
	done := invoke(s, Event{RequestID: "a"})
	c.receive()
	c.send(post("invocation/a/error", `{"errorMessage":"no"}`, "Lambda-Runtime-Function-Error-Type: Its.Own\r\n"))
	got := <-done
	if !got.result.Failed || got.result.ErrorType != "Its.Own" || string(got.result.Payload) != `{"errorMessage":"no"}` {
		t.Error(got)
	}
	c.receive()
	c.send(next)
	done = invoke(s, Event{RequestID: "b"})
	c.receive()
	c.send("POST /2018-06-01/runtime/invocation/b/response HTTP/1.1\r\nLambda-Runtime-Function-Response-Mode: streaming\r\n" +
		"Transfer-Encoding: chunked\r\nTrailer: Lambda-Runtime-Function-Error-Type, Lambda-Runtime-Function-Error-Body\r\n\r\n" +
		"5;x=y\r\nhello\r\n0\r\nLambda-Runtime-Function-Error-Type: Stream.Broke\r\nLambda-Runtime-Function-Error-Body: e30=\r\n\r\n")
	got = <-done
	if !got.result.Failed || got.result.ErrorType != "Stream.Broke" || string(got.result.Payload) != "{}" {
		t.Error(got)
	}
}

func TestInitError(t *testing.T) {
	s, address := open(t, Options{})
	c := dial(t, address)
	c.send(post("init/error", `{"x":1}`, "Lambda-Runtime-Function-Error-Type: Runtime.ImportModuleError\r\n"))
	failure, err := s.AwaitReady(soon())
	if err != nil || failure == nil || failure.Type != "Runtime.ImportModuleError" || string(failure.Body) != `{"x":1}` {
		t.Fatal(failure, err)
	}
	c.receive()
	s.Reset()
	c = dial(t, address)
	c.send(next)
	if failure, err := s.AwaitReady(soon()); failure != nil || err != nil {
		t.Fatal(failure, err)
	}
}

func TestTimeoutsAndEnds(t *testing.T) {
	s, address := open(t, Options{})
	if _, err := s.AwaitReady(time.Now().Add(10 * time.Millisecond)); !errors.Is(err, ErrTimeout) {
		t.Error(err)
	}
	c := dial(t, address)
	c.send(next)
	done := invoke(s, Event{RequestID: "a", Deadline: time.Now().Add(30 * time.Millisecond)})
	c.receive()
	if got := <-done; !got.delivered || !errors.Is(got.err, ErrTimeout) {
		t.Error(got)
	}
	s.Reset()
	c = dial(t, address)
	c.send(next)
	done = invoke(s, Event{RequestID: "b"})
	c.receive()
	// What it sent before it ended counts.
	c.send(post("invocation/b/response", "last words"))
	c.conn.Close()
	s.Interrupt()
	if got := <-done; got.err != nil || string(got.result.Payload) != "last words" {
		t.Error(got)
	}
	if got := <-invoke(s, Event{RequestID: "c"}); got.delivered || !errors.Is(got.err, ErrEnded) {
		t.Error(got)
	}
	s.Reset()
	c = dial(t, address)
	c.send(next)
	done = invoke(s, Event{RequestID: "d"})
	c.receive()
	began := time.Now()
	s.Interrupt() // a child keeps the connection open
	if got := <-done; !got.delivered || !errors.Is(got.err, ErrEnded) || time.Since(began) > time.Second {
		t.Error(got, time.Since(began))
	}
}

func TestSizes(t *testing.T) {
	s, address := open(t, Options{})
	c := dial(t, address)
	for _, size := range []int{0, 1, mergeLimit, mergeLimit + 1, trusted, trusted + 1, 6 << 20, maxBody, maxBody + 1, 7 << 20} {
		for _, chunked := range []bool{false, true} {
			big := bytes.Repeat([]byte("x"), size)
			c.send(next)
			done := invoke(s, Event{RequestID: "a", Payload: append([]byte("y"), big[:min(size, 6<<20)]...)})
			if _, body := c.receive(); len(body) != 1+min(size, 6<<20) {
				t.Fatal(size, len(body))
			}
			request, err := http.NewRequest("POST", "http://x/2018-06-01/runtime/invocation/a/response", bytes.NewReader(big))
			if err != nil {
				t.Fatal(err)
			}
			if chunked {
				request.ContentLength = -1
			}
			sent := make(chan error, 1)
			go func() { sent <- request.Write(c.conn) }()
			got := <-done
			tooLarge := size > maxBody
			if got.err != nil || got.result.TooLarge != tooLarge || !tooLarge && len(got.result.Payload) != size {
				t.Fatal(size, chunked, got.err, got.result.TooLarge, len(got.result.Payload))
			}
			if err := <-sent; err != nil {
				t.Fatal(size, err)
			}
			want := 202
			if tooLarge {
				want = 413
			}
			if response, _ := c.receive(); response.StatusCode != want {
				t.Fatal(size, response.Status)
			}
		}
	}
}

func TestExpectContinue(t *testing.T) {
	s, address := open(t, Options{})
	c := dial(t, address)
	c.send(next)
	done := invoke(s, Event{RequestID: "a"})
	c.receive()
	c.send("POST /2018-06-01/runtime/invocation/a/response HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
	if line, err := c.r.ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") {
		t.Fatal(line, err)
	}
	if _, err := c.r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	c.send("ok")
	if got := <-done; string(got.result.Payload) != "ok" {
		t.Fatal(got)
	}
	c.receive()
}

func TestOnReady(t *testing.T) {
	called := make(chan struct{}, 10)
	s, address := open(t, Options{OnReady: func() { called <- struct{}{} }})
	c := dial(t, address)
	c.send(next)
	<-called
	if !s.Ready() {
		t.Error("not ready")
	}
	done := invoke(s, Event{RequestID: "a"})
	c.receive()
	c.send(post("invocation/a/response", "x"))
	<-done
	c.receive()
	if s.Ready() {
		t.Error("ready")
	}
	c.send(next)
	<-called
	if !s.Ready() {
		t.Error("not ready")
	}
}

func TestTooManyConnections(t *testing.T) {
	s, address := open(t, Options{MaxConnections: 4})
	c := dial(t, address)
	c.send(next)
	if _, err := s.AwaitReady(soon()); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		flood := dial(t, address)
		flood.send("GET /x HTTP/1.1\r\n\r\n")
		flood.receive()
	}
	s.mu.Lock()
	n := len(s.conns)
	s.mu.Unlock()
	if n > 4 {
		t.Errorf("%d connections", n)
	}
	done := invoke(s, Event{RequestID: "a"})
	c.receive()
	c.send(post("invocation/a/response", "x"))
	if got := <-done; got.err != nil {
		t.Error(got)
	}
}

// A runtime that hung up while it waited, and asks again, gets the next event.
func TestHangUpWhileWaiting(t *testing.T) {
	s, address := open(t, Options{})
	c := dial(t, address)
	c.send(next)
	if _, err := s.AwaitReady(soon()); err != nil {
		t.Fatal(err)
	}
	c.conn.Close()
	s.mu.Lock()
	s.parked.parkedAt = time.Now().Add(-time.Hour)
	s.mu.Unlock()
	done := invoke(s, Event{RequestID: "a"})
	c = dial(t, address)
	c.send(next)
	c.receive()
	c.send(post("invocation/a/response", "x"))
	if got := <-done; got.err != nil {
		t.Error(got)
	}
}

func TestCloseEndsAll(t *testing.T) {
	s, address := open(t, Options{})
	c := dial(t, address)
	c.send(next)
	done := invoke(s, Event{RequestID: "a"})
	c.receive()
	half := dial(t, address)
	half.send("POST /2018-06-01/runtime/init/error HTT")
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if got := <-done; !errors.Is(got.err, ErrEnded) {
		t.Error(got)
	}
}

func TestConcurrentMisuse(t *testing.T) {
	s, address := open(t, Options{})
	var group sync.WaitGroup
	stop := make(chan struct{})
	for i := range 4 {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				conn, err := net.Dial("tcp", address)
				if err != nil {
					t.Error(err)
					return
				}
				texts := []string{post("invocation/a/response", "evil"), next, "GARBAGE\r\n\r\n", post("init/error", "{}")}
				io.WriteString(conn, texts[i])
				conn.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
				io.Copy(io.Discard, conn)
				conn.Close()
			}
		})
	}
	for range 50 {
		s.Reset()
		_, err := s.AwaitReady(time.Now().Add(20 * time.Millisecond))
		if err != nil && !errors.Is(err, ErrTimeout) {
			t.Error(err)
		}
		event := &Event{RequestID: "a", Deadline: time.Now().Add(10 * time.Millisecond)}
		if _, _, err := s.Invoke(event); err != nil && !errors.Is(err, ErrTimeout) {
			t.Error(err)
		}
	}
	close(stop)
	group.Wait()
}
