package rpc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lambent"
	"lambent/rpc/pki"
)

// recorder is every service at once. It keeps what it was asked and answers what it was told to.
type recorder struct {
	calls  atomic.Int64
	mu     sync.Mutex
	asked  []any
	answer any
	err    error
	invoke func(context.Context, lambent.WorkerInvoke) (lambent.WorkerResult, error)
	claim  func(context.Context, lambent.ClaimRequest) (lambent.Claim, error)
}

func (r *recorder) set(answer any, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer, r.err, r.asked = answer, err, nil
}

func (r *recorder) note(args ...any) (any, error) {
	r.calls.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, args...)
	return r.answer, r.err
}

// noteAs notes a call and returns the answer as a type.
func noteAs[T any](r *recorder, args ...any) (T, error) {
	answer, err := r.note(args...)
	typed, _ := answer.(T)
	return typed, err
}

func (r *recorder) Claim(ctx context.Context, req lambent.ClaimRequest) (lambent.Claim, error) {
	if r.claim != nil {
		return r.claim(ctx, req)
	}
	return noteAs[lambent.Claim](r, req)
}
func (r *recorder) Return(claim lambent.Claim, outcome lambent.Outcome) {
	_, _ = r.note(claim, outcome)
}
func (r *recorder) Report(_ context.Context, report lambent.WorkerReport) error {
	_, err := r.note(report)
	return err
}
func (r *recorder) Place(_ context.Context, req lambent.PlaceRequest) (lambent.Grant, error) {
	return noteAs[lambent.Grant](r, req)
}
func (r *recorder) Free(_ context.Context, id lambent.GrantID, n int) error {
	_, err := r.note(id, n)
	return err
}
func (r *recorder) Heartbeat(_ context.Context, status lambent.WorkerStatus) (lambent.WorkerLease, error) {
	return noteAs[lambent.WorkerLease](r, status)
}
func (r *recorder) Workers(context.Context) ([]lambent.WorkerState, error) {
	return noteAs[[]lambent.WorkerState](r)
}
func (r *recorder) Start(_ context.Context, req lambent.StartRequest) error {
	_, err := r.note(req)
	return err
}
func (r *recorder) Invoke(ctx context.Context, req lambent.WorkerInvoke) (lambent.WorkerResult, error) {
	if r.invoke != nil {
		return r.invoke(ctx, req)
	}
	return noteAs[lambent.WorkerResult](r, req)
}
func (r *recorder) Stop(_ context.Context, id lambent.SandboxID, epoch uint64) error {
	_, err := r.note(id, epoch)
	return err
}
func (r *recorder) List(context.Context) ([]lambent.SandboxStatus, error) {
	return noteAs[[]lambent.SandboxStatus](r)
}
func (r *recorder) Logs(_ context.Context, query lambent.LogQuery) ([]lambent.LogEvent, error) {
	return noteAs[[]lambent.LogEvent](r, query)
}

// fill sets every member of a value, to any depth, to something that is not zero.
func fill(v reflect.Value, random *rand.Rand) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), random)
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Now().Add(time.Duration(1 + random.Int64N(1e15))).Round(0).UTC()))
			return
		}
		for i := range v.NumField() {
			fill(v.Field(i), random)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1+random.IntN(4), 8))
		for i := range v.Len() {
			fill(v.Index(i), random)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range 1 + random.IntN(4) {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(key, random)
			fill(value, random)
			v.SetMapIndex(key, value)
		}
	case reflect.String:
		v.SetString(fmt.Sprintf("<%x&>é\n", random.Uint32()))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1 + random.Int64N(1<<53))
	case reflect.Uint64:
		v.SetUint(random.Uint64() | 1)
	case reflect.Uint8:
		v.SetUint(uint64(random.IntN(256)))
	case reflect.Float64:
		v.SetFloat(random.Float64() + 0.1)
	default:
		panic("a kind of member that the test does not know: " + v.Type().String())
	}
}

func filled[T any](random *rand.Rand) T {
	var v T
	fill(reflect.ValueOf(&v).Elem(), random)
	return v
}

// equal compares values whose times may have moved a little, with the clocks.
func equal(got, want any) bool {
	a, b := reflect.New(reflect.TypeOf(got)).Elem(), reflect.New(reflect.TypeOf(want)).Elem()
	a.Set(reflect.ValueOf(got))
	b.Set(reflect.ValueOf(want))
	return a.Type() == b.Type() && alike(a, b)
}

func alike(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.Struct:
		if at, ok := a.Interface().(time.Time); ok {
			return at.Sub(b.Interface().(time.Time)).Abs() < time.Minute
		}
		for i := range a.NumField() {
			if !alike(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	case reflect.Pointer:
		return a.IsNil() == b.IsNil() && (a.IsNil() || alike(a.Elem(), b.Elem()))
	case reflect.Slice:
		if a.Len() != b.Len() {
			return false
		}
		for i := range a.Len() {
			if !alike(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return true
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}

// Everything that an interface carries arrives as it was: a member that is added to a type and forgotten here fails.
func TestNothingIsLostOnTheWire(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	r := newRealm(t)
	rec := &recorder{}
	_, address := r.serve(Services{Manager: rec, Placement: rec, Worker: rec}, "s", pki.Control)
	as := func(role pki.Role) *Peer { return r.dial(address, pki.Control, "me", role) }
	frontEnd, managing, working, control := as(pki.FrontEnd), as(pki.Manager), as(pki.Worker), as(pki.Control)
	claims := frontEnd.Manager()
	defer claims.Close()
	reports := working.Manager()
	defer reports.Close()
	check := func(name string, want []any, answer, got any, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		rec.mu.Lock()
		defer rec.mu.Unlock()
		if len(rec.asked) != len(want) {
			t.Fatalf("%s: %d arguments arrived of %d", name, len(rec.asked), len(want))
		}
		for i := range want {
			if !equal(rec.asked[i], want[i]) {
				t.Errorf("%s was asked\n%+v, want\n%+v", name, rec.asked[i], want[i])
			}
		}
		if answer != nil && !equal(got, answer) {
			t.Errorf("%s answered\n%+v, want\n%+v", name, got, answer)
		}
	}
	for range 3 {
		claim := filled[lambent.ClaimRequest](random)
		claimed := filled[lambent.Claim](random)
		rec.set(claimed, nil)
		got, err := claims.Claim(soon(t), claim)
		check("Claim", []any{claim}, claimed, got, err)

		rec.set(nil, nil)
		claims.Return(claimed, lambent.OutcomeGone)
		check("Return", []any{claimed, lambent.OutcomeGone}, nil, nil, claims.Flush(soon(t)))

		report := filled[lambent.WorkerReport](random)
		report.Worker = "me"
		rec.set(nil, nil)
		check("Report", []any{report}, nil, nil, reports.Report(soon(t), report))

		place := filled[lambent.PlaceRequest](random)
		place.Manager = "me"
		granted := filled[lambent.Grant](random)
		rec.set(granted, nil)
		grant, err := managing.Placement().Place(soon(t), place)
		check("Place", []any{place}, granted, grant, err)

		rec.set(nil, nil)
		check("Free", []any{lambent.GrantID("g"), 7}, nil, nil, managing.Placement().Free(soon(t), "g", 7))

		status := filled[lambent.WorkerStatus](random)
		status.Worker, status.Zone = "me", "zone-me"
		lease := filled[lambent.WorkerLease](random)
		rec.set(lease, nil)
		gotLease, err := working.Placement().Heartbeat(soon(t), status)
		check("Heartbeat", []any{status}, lease, gotLease, err)

		states := filled[[]lambent.WorkerState](random)
		rec.set(states, nil)
		gotStates, err := control.Placement().Workers(soon(t))
		check("Workers", nil, states, gotStates, err)

		start := filled[lambent.StartRequest](random)
		start.Manager = "me"
		rec.set(nil, nil)
		check("Start", []any{start}, nil, nil, managing.Worker().Start(soon(t), start))

		invoke, result := filled[lambent.WorkerInvoke](random), filled[lambent.WorkerResult](random)
		rec.set(result, nil)
		gotResult, err := frontEnd.Worker().Invoke(soon(t), invoke)
		check("Invoke", []any{invoke}, result, gotResult, err)

		rec.set(nil, nil)
		check("Stop", []any{lambent.SandboxID("s"), uint64(1<<63 + 1)}, nil, nil, managing.Worker().Stop(soon(t), "s", 1<<63+1))

		list := filled[[]lambent.SandboxStatus](random)
		rec.set(list, nil)
		gotList, err := managing.Worker().List(soon(t))
		check("List", nil, list, gotList, err)

		query, events := filled[lambent.LogQuery](random), filled[[]lambent.LogEvent](random)
		rec.set(events, nil)
		gotEvents, err := control.Worker().Logs(soon(t), query)
		check("Logs", []any{query}, events, gotEvents, err)
	}
}

// Each code of the root package has a name on the wire, and arrives as it was sent.
func TestErrorsKeepTheirCodes(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var codes []string
	ast.Inspect(file, func(n ast.Node) bool {
		group, ok := n.(*ast.GenDecl)
		if !ok || group.Tok != token.CONST {
			return true
		}
		if first := group.Specs[0].(*ast.ValueSpec); fmt.Sprint(first.Type) != "Code" {
			return true
		}
		for _, spec := range group.Specs {
			codes = append(codes, spec.(*ast.ValueSpec).Names[0].Name)
		}
		return true
	})
	if names := codeNames(); !slices.Equal(names, codes) {
		t.Fatalf("the codes on the wire are %q, want %q", names, codes)
	}
	for code, name := range codeNames() {
		sent := &lambent.Error{Code: lambent.Code(code), Message: name + "! <é>", Reason: lambent.RateLimit, RetryAfter: 3 * time.Second}
		for cause, is := range map[error]error{nil: nil, io.EOF: nil, context.Canceled: context.Canceled, context.DeadlineExceeded: context.DeadlineExceeded} {
			sent.Err = cause
			got, ok := decodeError(encodeError(fmt.Errorf("wrapped: %w", sent)))
			if !ok || got.Code != sent.Code || got.Message != sent.Message || got.Reason != sent.Reason || got.RetryAfter != sent.RetryAfter || got.Err != is { //nolint:errorlint // it is bare
				t.Errorf("%+v became %+v", sent, got)
			}
		}
	}
	if got, ok := decodeError(encodeError(errors.New("/etc/secret"))); !ok || got.Code != lambent.Internal || strings.Contains(got.Error(), "secret") {
		t.Errorf("an error without a code became %+v", got)
	}
	if body := encodeError(lambent.Errorf(lambent.NotFound, "%s", strings.Repeat("\x01", 1<<20))); len(body) > maxErrorBytes {
		t.Errorf("an error of %d bytes", len(body))
	}
}

// flaky is a listener's address whose connections can be broken from the test.
type flaky struct {
	mu    sync.Mutex
	conns []net.Conn
	fail  bool
}

func (f *flaky) dial(ctx context.Context, network, address string) (net.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail {
		return nil, errors.New("no route")
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err == nil {
		f.conns = append(f.conns, conn)
	}
	return conn, err
}

func (f *flaky) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, conn := range f.conns {
		conn.Close()
	}
	f.conns = nil
}

// An invoke that may have reached the worker is lost with its connection; one that cannot have is not.
func TestLostConnections(t *testing.T) {
	r := newRealm(t)
	running, finish := make(chan struct{}, 1), make(chan struct{})
	var runs atomic.Int64
	rec := &recorder{invoke: func(ctx context.Context, _ lambent.WorkerInvoke) (lambent.WorkerResult, error) {
		runs.Add(1)
		running <- struct{}{}
		select {
		case <-finish:
		case <-ctx.Done(): // the hop carries the end of the connection
		}
		return lambent.WorkerResult{}, nil
	}}
	_, address := r.serve(Services{Worker: rec}, "w", pki.Worker)
	wire := &flaky{}
	p := r.dialWith(PeerOptions{Address: address, Expected: pki.Expected{Role: pki.Worker}, Dial: wire.dial}, "f", pki.FrontEnd)
	done := make(chan error, 1)
	go func() {
		_, err := p.Worker().Invoke(soon(t), lambent.WorkerInvoke{})
		done <- err
	}()
	<-running
	wire.cut()
	if err := <-done; lambent.CodeOf(err) != lambent.HostLost {
		t.Errorf("a connection that broke while the function ran: %v", err)
	}
	wire.fail = true
	if _, err := p.Worker().Invoke(soon(t), lambent.WorkerInvoke{}); lambent.CodeOf(err) != lambent.Unavailable {
		t.Errorf("no connection at all: %v", err)
	}
	if err := p.Worker().Stop(soon(t), "s", 1); lambent.CodeOf(err) != lambent.Unavailable {
		t.Errorf("no connection at all: %v", err)
	}
	wire.fail = false
	close(finish)
	if _, err := p.Worker().Invoke(soon(t), lambent.WorkerInvoke{}); err != nil {
		t.Error(err)
	}
	if n := runs.Load(); n != 2 {
		t.Errorf("%d runs of two requests that reached the worker", n)
	}
}

// What was decided not to have been sent is not sent afterwards either.
func TestMeterSeals(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	go io.Copy(io.Discard, b)
	m := &meter{Conn: a}
	defer m.Close()
	before := m.count()
	m.Write([]byte("x"))
	if m.seal(before) {
		t.Error("a byte was sent, and it is said that none was")
	}
	if _, err := m.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if !m.seal(m.count()) {
		t.Error("nothing was sent, and it is said that something was")
	}
	if _, err := m.Write([]byte("x")); err == nil {
		t.Error("a byte was sent after it was said that none would be")
	}
}

// The end of the caller's time, and of its patience, cross the hop.
func TestContextsCross(t *testing.T) {
	r := newRealm(t)
	deadlines, ended := make(chan time.Duration, 1), make(chan error, 1)
	begun := make(chan struct{}, 1)
	rec := &recorder{invoke: func(ctx context.Context, req lambent.WorkerInvoke) (lambent.WorkerResult, error) {
		deadline, _ := ctx.Deadline()
		deadlines <- time.Until(deadline)
		begun <- struct{}{}
		<-ctx.Done()
		ended <- ctx.Err()
		return lambent.WorkerResult{}, ctx.Err()
	}}
	_, address := r.serve(Services{Worker: rec}, "w", pki.Worker)
	p := r.dial(address, pki.Worker, "f", pki.FrontEnd)
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	go func() { <-begun; cancel() }()
	if _, err := p.Worker().Invoke(ctx, lambent.WorkerInvoke{}); !errors.Is(err, context.Canceled) || lambent.CodeOf(err) != lambent.HostLost {
		t.Errorf("cancelled: %v", err)
	}
	if left := <-deadlines; left < 50*time.Minute || left > time.Hour {
		t.Errorf("%v was left of an hour", left)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the worker's context ended with %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := p.Worker().Invoke(ctx, lambent.WorkerInvoke{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("out of time: %v", err)
	}
	<-deadlines
	<-ended
}

// A claim that its caller does not want any more is given up by the manager, and one that was given all the same comes back.
func TestAbandonedClaims(t *testing.T) {
	r := newRealm(t)
	waiting := make(chan struct{}, 1)
	given := lambent.Claim{ID: 9, Sandbox: "s"}
	for name, late := range map[string]bool{"given up": false, "given all the same": true} {
		t.Run(name, func(t *testing.T) {
			rec := &recorder{}
			rec.claim = func(ctx context.Context, _ lambent.ClaimRequest) (lambent.Claim, error) {
				waiting <- struct{}{}
				<-ctx.Done()
				if late {
					return given, nil
				}
				return lambent.Claim{}, ctx.Err()
			}
			_, address := r.serve(Services{Manager: rec}, "m", pki.Manager)
			m := r.manager(address, "f", pki.FrontEnd)
			ctx, cancel := context.WithCancel(t.Context())
			go func() { <-waiting; cancel() }()
			if claim, err := m.Claim(ctx, lambent.ClaimRequest{Version: &lambent.FunctionVersion{}}); !errors.Is(err, context.Canceled) {
				t.Errorf("claim %+v, %v", claim, err)
			}
			if err := m.Flush(soon(t)); err != nil {
				t.Fatal(err)
			}
			rec.mu.Lock()
			defer rec.mu.Unlock()
			if returned := len(rec.asked) == 2 && rec.asked[0] == given && rec.asked[1] == lambent.OutcomeIdle; returned != late {
				t.Errorf("the manager heard of %v", rec.asked)
			}
		})
	}
}

// A manager that does not answer is told again of the claims that have ended.
func TestReturnsAreRepeated(t *testing.T) {
	r := newRealm(t)
	rec := &recorder{}
	_, address := r.serve(Services{Manager: rec}, "m", pki.Manager)
	wire := &flaky{fail: true}
	m := r.dialWith(PeerOptions{Address: address, Expected: pki.Expected{Role: pki.Manager}, Dial: wire.dial}, "f", pki.FrontEnd).Manager()
	for i := range 3 * maxReturns {
		m.Return(lambent.Claim{ID: lambent.ClaimID(i)}, lambent.OutcomeIdle)
	}
	wire.mu.Lock()
	wire.fail = false
	wire.mu.Unlock()
	if err := m.Flush(soon(t)); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	for i := range 3 * maxReturns {
		if claim := rec.asked[2*i].(lambent.Claim); claim.ID != lambent.ClaimID(i) {
			t.Fatalf("return %d is of claim %d", i, claim.ID)
		}
	}
}

// A server that shuts down lets calls end that are under way, and tells others that nothing was run.
func TestShutdown(t *testing.T) {
	r := newRealm(t)
	running, finish := make(chan struct{}), make(chan struct{})
	rec := &recorder{invoke: func(context.Context, lambent.WorkerInvoke) (lambent.WorkerResult, error) {
		running <- struct{}{}
		<-finish
		return lambent.WorkerResult{Outcome: lambent.OutcomeIdle}, nil
	}}
	s, address := r.serve(Services{Worker: rec}, "w", pki.Worker)
	p := r.dial(address, pki.Worker, "f", pki.FrontEnd)
	if err := p.Ping(soon(t)); err != nil { // a connection that is kept
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		result, err := p.Worker().Invoke(soon(t), lambent.WorkerInvoke{})
		if err == nil && result.Outcome != lambent.OutcomeIdle {
			err = fmt.Errorf("the result is %+v", result)
		}
		done <- err
	}()
	<-running
	s.Drain()
	if _, err := p.Worker().Invoke(soon(t), lambent.WorkerInvoke{}); lambent.CodeOf(err) != lambent.Unavailable {
		t.Errorf("an invoke while the server drains: %v", err)
	}
	shut := make(chan error, 1)
	go func() { shut <- s.Shutdown(soon(t)) }()
	close(finish)
	if err := <-done; err != nil {
		t.Errorf("the invoke that was under way: %v", err)
	}
	if err := <-shut; err != nil {
		t.Error(err)
	}
	if _, err := p.Worker().Invoke(soon(t), lambent.WorkerInvoke{}); lambent.CodeOf(err) != lambent.Unavailable {
		t.Errorf("an invoke after that: %v", err)
	}
}

// Messages that are too large are refused on both sides.
func TestBounds(t *testing.T) {
	r := newRealm(t)
	rec := &recorder{}
	_, address := r.serve(Services{Manager: rec, Worker: rec}, "s", pki.Control)
	p := r.dial(address, pki.Control, "f", pki.FrontEnd)
	large := lambent.WorkerInvoke{Request: lambent.InvokeRequest{Payload: make([]byte, lambent.MaxRequestBytes+1)}}
	if _, err := p.Worker().Invoke(soon(t), large); lambent.CodeOf(err) != lambent.TooLarge {
		t.Errorf("a payload that is too large: %v", err)
	}
	large.Request.Payload = large.Request.Payload[:lambent.MaxRequestBytes]
	rec.set(lambent.WorkerResult{Response: lambent.InvokeResponse{Payload: make([]byte, lambent.MaxResponseBytes)}}, nil)
	if result, err := p.Worker().Invoke(soon(t), large); err != nil || len(result.Response.Payload) != lambent.MaxResponseBytes {
		t.Errorf("the largest payloads: %d bytes, %v", len(result.Response.Payload), err)
	}
	for method, size := range map[string]int{"manager.claim": mib + 1, "manager.return": mib + 1, "peer.ping": kib + 1} {
		_, err := p.send(soon(t), method, bytes.NewReader(bytes.Repeat([]byte(" "), size)))
		if lambent.CodeOf(err) != lambent.TooLarge && lambent.CodeOf(err) != lambent.Unavailable {
			t.Errorf("%s with %d bytes: %v", method, size, err)
		}
	}
	if n := rec.calls.Load(); n != 1 {
		t.Errorf("%d calls reached the services", n)
	}
}

// chunks is a catalogue whose events come from the test.
type chunks struct {
	lambent.Catalog
	events chan lambent.CatalogEvent
}

func (c chunks) Watch(ctx context.Context) (<-chan lambent.CatalogEvent, error) {
	out := make(chan lambent.CatalogEvent)
	go func() {
		defer close(out)
		for {
			select {
			case e, ok := <-c.events:
				if !ok {
					return
				}
				out <- e
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

// A watch delivers each event as it comes, over quiet times too, and ends with its context, its server and its connection.
func TestWatch(t *testing.T) {
	r := newRealm(t)
	catalogue := chunks{events: make(chan lambent.CatalogEvent)}
	s, address := r.serveWith(ServerOptions{Services: Services{Catalog: catalogue}, Heartbeat: 5 * time.Millisecond}, "c", pki.Control)
	wire := &flaky{}
	p := r.dialWith(PeerOptions{Address: address, Expected: pki.Expected{Role: pki.Control}, Dial: wire.dial}, "f", pki.FrontEnd)
	watch := func(ctx context.Context) <-chan lambent.CatalogEvent {
		events, err := p.Catalog().Watch(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return events
	}
	expect := func(events <-chan lambent.CatalogEvent, revision int64) {
		t.Helper()
		catalogue.events <- lambent.CatalogEvent{Kind: lambent.CatalogSynced, Revision: revision}
		if e := <-events; e.Revision != revision || e.Kind != lambent.CatalogSynced {
			t.Fatalf("event %+v, want revision %d", e, revision)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	events := watch(ctx)
	for i := range int64(50) {
		expect(events, i)
		if i%10 == 0 {
			<-time.After(15 * time.Millisecond) // heartbeats pass
		}
	}
	cancel()
	drop(events)
	events = watch(t.Context())
	expect(events, 1)
	wire.cut()
	drop(events)
	events = watch(t.Context())
	s.Drain()
	drop(events)
}

func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"Code":"Throttled","Message":"m","RetryAfter":5,"Ended":"canceled"}`))
	f.Add([]byte("\x00\x00\x00\x02{}payload"))
	f.Add([]byte("\n{\"Kind\":1}\n{\"Kind\":5,\"Revision\":3}\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if e, ok := decodeError(raw); ok && (e == nil || int(e.Code) >= len(codeNames())) {
			t.Errorf("%q became %+v", raw, e)
		}
		var head resultHead
		payload, err := readFrame(bytes.NewReader(raw), int64(len(raw)), lambent.MaxResponseBytes, &head, func() int { return head.Payload })
		if err == nil && (len(payload) != head.Payload || len(payload) > len(raw)) {
			t.Errorf("%q gave a payload of %d bytes", raw, len(payload))
		}
		lines := newLines(bufio.NewReader(bytes.NewReader(raw)))
		for event, ok := nextEvent(lines); ok; event, ok = nextEvent(lines) {
			if event != nil && event.Kind == lambent.CatalogVersion && event.Version == nil {
				t.Errorf("%q gave a version without one", raw)
			}
		}
	})
}

// Whatever a caller that is let in sends to any method, it is answered, and nothing panics.
func FuzzHandlers(f *testing.F) {
	all := methods()
	for i := range all {
		f.Add(uint8(i), "", []byte(`{}`))
	}
	f.Add(uint8(2), "1000", []byte(`{"Call":"c","Returns":[{"Claim":{"ID":1},"Outcome":1}],"Request":{"Version":{"MemoryMiB":1}}}`))
	f.Add(uint8(11), "-1", []byte("\x00\x00\x00\x0d{\"Payload\":1}x"))
	rec := &recorder{}
	s := &Server{options: ServerOptions{Services: Services{Manager: rec, Placement: rec, Worker: rec}, Logger: quiet()}, methods: table()}
	f.Fuzz(func(t *testing.T, which uint8, timeout string, raw []byte) {
		m := all[int(which)%len(all)]
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, pathPrefix+m.name, bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		req.Header[headerTimeout] = []string{timeout}
		if _, _, err := timeoutOf(req.Header); err != nil && lambent.CodeOf(err) != lambent.InvalidParameter {
			t.Error(err)
		}
		w := &deadlineWriter{answerWriter{header: http.Header{}}}
		m.serve(s, w, &request{req, m, pki.Peer{Identity: pki.Identity{Name: "me", Roles: pki.Roles()}}})
		if w.status == 0 {
			t.Errorf("%s with %q was not answered", m.name, raw)
		}
	})
}

// deadlineWriter takes deadlines, as a connection's does.
type deadlineWriter struct{ answerWriter }

func (*deadlineWriter) SetReadDeadline(time.Time) error  { return nil }
func (*deadlineWriter) SetWriteDeadline(time.Time) error { return nil }
