package worker

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lambent"
	"lambent/runtimes"
	"lambent/sandbox"
	"lambent/sandbox/gvisor"
	"lambent/sandbox/native"
)

func TestMain(m *testing.M) {
	native.MaybeInit()
	gvisor.MaybeInit()
	goleak.VerifyTestMain(testMain{m})
}

type testMain struct{ m *testing.M }

func (m testMain) Run() int { return runTests(m.m) }

// fakeDriver runs functions as goroutines that speak the Runtime API over loopback.
type fakeDriver struct {
	program func(p *fakeProcess) sandbox.Exit

	mu        sync.Mutex
	boxes     map[string]*fakeBox
	created   int
	failNext  error
	failKill  bool
	failThaw  bool
	startFail error
}

func (d *fakeDriver) Create(_ context.Context, id string, template sandbox.Template) (sandbox.Sandbox, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.failNext; err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	if d.boxes == nil {
		d.boxes = map[string]*fakeBox{}
	}
	d.created++
	b := &fakeBox{driver: d, id: id, listener: listener, template: template}
	d.boxes[id] = b
	return b, nil
}

func (d *fakeDriver) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failNext = err
}

func (d *fakeDriver) Recover(context.Context) error { return nil }
func (d *fakeDriver) Close() error                  { return nil }

func (d *fakeDriver) living() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.boxes)
}

func (d *fakeDriver) made() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.created
}

type fakeBox struct {
	driver   *fakeDriver
	id       string
	listener net.Listener
	template sandbox.Template
	frozen   atomic.Bool
	freezes  atomic.Int64
	kills    atomic.Int64
	vcpu     atomic.Value
	peak     atomic.Int64
	meters   func() // is waited for by who reads them; nil: they are there

	mu        sync.Mutex
	spec      *sandbox.Spec
	dead      bool // it has ended by itself
	processes []*fakeProcess
}

func (b *fakeBox) Specialise(_ context.Context, spec sandbox.Spec) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dead {
		return errors.New("the sandbox has ended")
	}
	if b.spec != nil {
		return errors.New("specialised twice")
	}
	b.spec = &spec
	return nil
}

func (b *fakeBox) RuntimeAPI() net.Listener   { return b.listener }
func (b *fakeBox) SetVCPU(vcpu float64) error { b.vcpu.Store(vcpu); return nil }

func (b *fakeBox) Start(_ context.Context, cmd sandbox.Command) (sandbox.Process, error) {
	if b.driver.startFail != nil {
		return nil, b.driver.startFail
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	transport := &http.Transport{}
	p := &fakeProcess{box: b, ctx: ctx, cancel: cancel, out: w, output: r, done: make(chan struct{}), command: cmd,
		url: "http://" + b.listener.Addr().String() + "/2018-06-01/runtime/", transport: transport, client: &http.Client{Transport: transport}}
	b.mu.Lock()
	b.processes = append(b.processes, p)
	b.mu.Unlock()
	go func() {
		defer close(p.done)
		p.exit = b.driver.program(p)
		if ctx.Err() != nil {
			p.exit = sandbox.Exit{Signal: 9}
		}
		cancel()
		transport.CloseIdleConnections()
		w.Close()
	}()
	return p, nil
}

func (b *fakeBox) Freeze() error { b.frozen.Store(true); b.freezes.Add(1); return nil }
func (b *fakeBox) Thaw() error {
	if b.driver.failThaw {
		return errors.New("cannot thaw")
	}
	b.frozen.Store(false)
	return nil
}

func (b *fakeBox) end() {
	b.mu.Lock()
	processes := b.processes
	b.processes = nil
	b.mu.Unlock()
	for _, p := range processes {
		p.cancel()
		<-p.done
	}
}

func (b *fakeBox) Kill(context.Context) error {
	b.kills.Add(1)
	if b.driver.failKill {
		return errors.New("cannot kill")
	}
	b.frozen.Store(false)
	b.end()
	return nil
}

func (b *fakeBox) Usage() (sandbox.Usage, error) {
	b.mu.Lock()
	meters := b.meters
	b.mu.Unlock()
	if meters != nil {
		meters()
	}
	return sandbox.Usage{MemoryBytes: 20 << 20, PeakMemoryBytes: max(36<<20, b.peak.Load()), CPU: time.Second}, nil
}

func (b *fakeBox) Destroy(context.Context) error {
	b.end()
	b.listener.Close()
	b.driver.mu.Lock()
	defer b.driver.mu.Unlock()
	delete(b.driver.boxes, b.id)
	return nil
}

// fakeProcess is what a program sees.
type fakeProcess struct {
	box       *fakeBox
	ctx       context.Context
	cancel    context.CancelFunc
	out       *os.File
	output    *os.File
	done      chan struct{}
	exit      sandbox.Exit
	command   sandbox.Command
	url       string
	transport *http.Transport
	client    *http.Client
}

func (p *fakeProcess) Output() *os.File { return p.output }
func (p *fakeProcess) Wait(ctx context.Context) (sandbox.Exit, error) {
	select {
	case <-p.done:
		return p.exit, nil
	case <-ctx.Done():
		return sandbox.Exit{}, ctx.Err()
	}
}

func (p *fakeProcess) print(format string, args ...any) { fmt.Fprintf(p.out, format, args...) }

func (p *fakeProcess) env(name string) string {
	for _, v := range p.command.Env {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return ""
}

type fakeEvent struct {
	id      string
	header  http.Header
	payload []byte
}

// next waits for an event; nil when the process is killed.
func (p *fakeProcess) next() *fakeEvent {
	request, err := http.NewRequestWithContext(p.ctx, "GET", p.url+"invocation/next", nil)
	if err != nil {
		panic(err)
	}
	response, err := p.client.Do(request)
	if err != nil {
		return nil
	}
	defer response.Body.Close()
	payload, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != 200 {
		return nil
	}
	return &fakeEvent{response.Header.Get("Lambda-Runtime-Aws-Request-Id"), response.Header, payload}
}

func (p *fakeProcess) post(path, body, errorType string) int {
	request, err := http.NewRequestWithContext(p.ctx, "POST", p.url+path, strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	if errorType != "" {
		request.Header.Set("Lambda-Runtime-Function-Error-Type", errorType)
	}
	response, err := p.client.Do(request)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	io.Copy(io.Discard, response.Body)
	return response.StatusCode
}

func (p *fakeProcess) answer(e *fakeEvent, body string) int {
	return p.post("invocation/"+e.id+"/response", body, "")
}

// serve answers each event with what handle returns.
func serve(handle func(p *fakeProcess, e *fakeEvent) string) func(p *fakeProcess) sandbox.Exit {
	return func(p *fakeProcess) sandbox.Exit {
		for {
			e := p.next()
			if e == nil {
				return sandbox.Exit{}
			}
			p.answer(e, handle(p, e))
		}
	}
}

func echo(_ *fakeProcess, e *fakeEvent) string { return string(e.payload) }

type fakeRuntimes struct{ launch runtimes.Launch }

func (r fakeRuntimes) Launch(v *lambent.FunctionVersion) (runtimes.Launch, error) {
	if v.Runtime == "cobol85" {
		return runtimes.Launch{}, lambent.Errorf(lambent.InvalidRuntime, "no such runtime")
	}
	launch := r.launch
	if launch.Command.Path == "" {
		launch.Command = sandbox.Command{Path: "/var/task/bootstrap", Args: []string{"/var/task/bootstrap"}, Env: []string{"A=B"}}
	}
	launch.Version, launch.VersionARN = "provided:al2023.v1", "arn:aws:lambda:r::runtime:x"
	return launch, nil
}

// fakePlacement grants leases.
type fakePlacement struct {
	mu    sync.Mutex
	lease lambent.WorkerLease
	err   error
	last  lambent.WorkerStatus
	beats int
}

func (p *fakePlacement) Heartbeat(_ context.Context, status lambent.WorkerStatus) (lambent.WorkerLease, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = status
	p.beats++
	return p.lease, p.err
}

func (p *fakePlacement) set(lease lambent.WorkerLease, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lease, p.err = lease, err
}

// memoryBlobs holds archives.
type memoryBlobs map[string][]byte

func (b memoryBlobs) Open(_ context.Context, digest string) (io.ReadCloser, error) {
	content, ok := b[digest]
	if !ok {
		return nil, lambent.Errorf(lambent.NotFound, "no such content")
	}
	return io.NopCloser(bytes.NewReader(content)), nil
}

func (b memoryBlobs) put(t testing.TB, files map[string]string) lambent.CodeRef {
	t.Helper()
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for name, content := range files {
		h := &zip.FileHeader{Name: name, Method: zip.Deflate}
		h.SetMode(0o755)
		f, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(f, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(out.Bytes())
	digest := hex.EncodeToString(sum[:])
	b[digest] = out.Bytes()
	return lambent.CodeRef{SHA256: digest, Size: int64(out.Len())}
}

// harness is a worker over fakes, with one function.
type harness struct {
	t         testing.TB
	worker    *Worker
	driver    *fakeDriver
	placement *fakePlacement
	blobs     memoryBlobs
	version   *lambent.FunctionVersion
	tenant    string
	epoch     uint64
	requests  int
	options   Options
}

func newHarness(t testing.TB, program func(*fakeProcess) sandbox.Exit, change func(*Options)) *harness {
	t.Helper()
	h := &harness{t: t, driver: &fakeDriver{program: program}, blobs: memoryBlobs{},
		placement: &fakePlacement{lease: lambent.WorkerLease{Epoch: 1, Term: time.Hour}}}
	h.options = Options{ID: "w1", Zone: "a", MemoryMiB: 1 << 20, Drivers: map[lambent.Isolation]sandbox.Driver{lambent.IsolationNative: h.driver}, Runtimes: fakeRuntimes{}, Blobs: h.blobs,
		Placement: h.placement, Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&h.options)
	}
	h.version = &lambent.FunctionVersion{FunctionName: lambent.FunctionName{Account: "000000000001", Name: "f"},
		Key: lambent.VersionKey{Function: "id", Version: lambent.Latest, Revision: "1"}, ARN: "arn:aws:lambda:r:000000000001:function:f",
		Isolation: lambent.IsolationNative, Runtime: "provided.al2023", MemoryMiB: 128, EphemeralMiB: 512, Timeout: 5 * time.Second, Code: h.blobs.put(t, map[string]string{"bootstrap": "#!"})}
	var err error
	if h.worker, err = Open(h.options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.worker.Close(); err != nil {
			t.Error(err)
		}
		if n := h.driver.living(); n > 0 {
			t.Errorf("%d sandboxes are left", n)
		}
	})
	return h
}

func (h *harness) start(id lambent.SandboxID) {
	h.t.Helper()
	if err := h.tryStart(id); err != nil {
		h.t.Fatal(err)
	}
}

func (h *harness) tryStart(id lambent.SandboxID) error {
	return h.worker.Start(h.t.Context(), lambent.StartRequest{Sandbox: id, Manager: "m", Grant: "g", Version: h.version, Tenant: h.tenant})
}

func (h *harness) request(id lambent.SandboxID, payload string) lambent.WorkerInvoke {
	h.epoch++
	h.requests++
	return lambent.WorkerInvoke{Claim: lambent.Claim{Sandbox: id, Epoch: h.epoch}, Key: h.version.Key, InvokedARN: h.version.ARN + ":live",
		Request: lambent.InvokeRequest{RequestID: fmt.Sprintf("request-%d", h.requests), LogTail: true, TenantID: h.tenant, Payload: []byte(payload)}}
}

func (h *harness) invoke(id lambent.SandboxID, payload string) lambent.WorkerResult {
	h.t.Helper()
	result, err := h.worker.Invoke(h.t.Context(), h.request(id, payload))
	if err != nil {
		h.t.Fatal(err)
	}
	return result
}

// logs returns all log lines of the function.
func (h *harness) logs() []string {
	h.t.Helper()
	events, err := h.worker.Logs(h.t.Context(), lambent.LogQuery{Account: h.version.Account})
	if err != nil {
		h.t.Fatal(err)
	}
	var lines []string
	for _, e := range events {
		lines = append(lines, e.Message)
	}
	return lines
}

// eventually waits until a condition that other goroutines bring about holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	eventuallyWithin(t, 10*time.Second, what, holds)
}

func eventuallyWithin(t testing.TB, patience time.Duration, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

var errBroken = errors.New("the host is broken")

func quietLogger() *slog.Logger { return slog.New(slog.DiscardHandler) }

// ready returns how many sandboxes are ready by class.
func (p *pool) ready() map[class]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	counts := make(map[class]int)
	for of, st := range p.classes {
		counts[of] = len(st.ready)
	}
	return counts
}
