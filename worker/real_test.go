package worker

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lambent"
	"lambent/runtimes"
	"lambent/sandbox"
	"lambent/sandbox/gvisor"
	"lambent/sandbox/microvm"
	"lambent/sandbox/microvm/microvmtest"
	"lambent/sandbox/native"
)

// host is what the tests with real sandboxes share: it is made once.
type host struct {
	registry *runtimes.Registry
	programs map[string]string // content of executables, by name
}

var (
	hostOnce  sync.Once
	theHost   host
	errHost   error
	hostFiles string
)

func needHost(t testing.TB) host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("real sandboxes need root")
	}
	if missing := native.Check(); len(missing) > 0 {
		t.Fatal(&native.MissingError{Missing: missing})
	}
	hostOnce.Do(func() { theHost, errHost = openHost() })
	if errHost != nil {
		t.Fatal(errHost)
	}
	return theHost
}

func openHost() (host, error) {
	registry, err := runtimes.Open(runtimes.Options{Dir: filepath.Join(hostFiles, "runtimes")})
	if err != nil {
		return host{}, err
	}
	h := host{registry: registry, programs: map[string]string{}}
	for name, pkg := range map[string]string{"echo": "lambent/bench/functions/echo", "probe": "lambent/worker/probe"} {
		path := filepath.Join(hostFiles, name)
		build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if output, err := build.CombinedOutput(); err != nil {
			return host{}, fmt.Errorf("%w: %s", err, output)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return host{}, err
		}
		h.programs[name] = string(content)
	}
	return h, nil
}

// runTests runs the package's tests with a directory for what they share.
func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "lambent-worker-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	hostFiles = dir
	return m.Run()
}

// realIsolations are those whose drivers are used here.
func realIsolations() []lambent.Isolation {
	return []lambent.Isolation{lambent.IsolationNative, lambent.IsolationGVisor}
}

// eachReal runs a test or benchmark under each of them.
func eachReal[T interface {
	Run(name string, f func(T)) bool
}](t T, test func(T, lambent.Isolation)) {
	for _, isolation := range realIsolations() {
		t.Run(string(isolation), func(t T) { test(t, isolation) })
	}
}

// openReal opens a driver, which is closed when the test ends.
func openReal(t testing.TB, isolation lambent.Isolation, shared host, logger *slog.Logger) (driver sandbox.Driver) {
	t.Helper()
	var err error
	stateDir := filepath.Join(t.TempDir(), string(isolation))
	switch isolation {
	case lambent.IsolationNative:
		driver, err = native.Open(native.Options{StateDir: stateDir, Base: shared.registry.Base(), Logger: logger})
	case lambent.IsolationGVisor:
		runsc, lookErr := filepath.Abs("../bin/runsc")
		if _, err := os.Stat(runsc); lookErr != nil || err != nil {
			runsc = "" // then the one in the PATH
		}
		driver, err = gvisor.Open(gvisor.Options{StateDir: stateDir, Base: shared.registry.Base(), Runsc: runsc, Logger: logger})
	case lambent.IsolationMicroVM:
		var base []sandbox.Mount
		if base, err = shared.registry.ImageBase(); err == nil {
			driver, err = microvm.Open(microvm.Options{StateDir: stateDir, Base: base, Agent: microvmtest.Agent(t), Accelerator: "tcg", Logger: logger})
		}
	default:
		t.Fatalf("no tests here use the driver of %s", isolation)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := driver.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := driver.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	return driver
}

// newRealHarness is a worker over the driver of an isolation.
func newRealHarness(t testing.TB, isolation lambent.Isolation, change func(*Options)) (*harness, host) {
	t.Helper()
	shared := needHost(t)
	logger := slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	driver := openReal(t, isolation, shared, logger)
	h := &harness{t: t, blobs: memoryBlobs{}, placement: &fakePlacement{lease: lambent.WorkerLease{Epoch: 1, Term: time.Hour}}}
	h.options = Options{ID: "w1", Zone: "a", MemoryMiB: 1 << 20, Drivers: map[lambent.Isolation]sandbox.Driver{isolation: driver}, Isolation: isolation,
		Runtimes: shared.registry, Blobs: h.blobs, Placement: h.placement, Dir: t.TempDir(), Logger: logger}
	if change != nil {
		change(&h.options)
	}
	var err error
	if h.worker, err = Open(h.options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.worker.Close(); err != nil {
			t.Error(err)
		}
	})
	return h, shared
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", bytes.TrimSpace(p))
	return len(p), nil
}

// function makes the harness's function.
func (h *harness) function(runtime, handler string, files map[string]string) {
	h.t.Helper()
	h.version = &lambent.FunctionVersion{FunctionName: lambent.FunctionName{Account: "000000000001", Name: "f"},
		Key: lambent.VersionKey{Function: lambent.FunctionID(runtime + handler), Version: lambent.Latest, Revision: "1"}, ARN: "arn:aws:lambda:r:000000000001:function:f",
		Isolation: h.options.Isolation, Runtime: runtime, Handler: handler, MemoryMiB: 512, EphemeralMiB: 512, Timeout: 20 * time.Second, Code: h.blobs.put(h.t, files)}
}

func (h *harness) provided(program string) {
	h.function("provided.al2023", "bootstrap", map[string]string{"bootstrap": program})
}

// newest returns this host's newest runtime of a language.
func newest(t testing.TB, registry *runtimes.Registry, language string) string {
	t.Helper()
	name := ""
	for _, available := range registry.Available() {
		if strings.HasPrefix(available.Name, language) {
			name = available.Name
		}
	}
	if name == "" {
		t.Skipf("this host has no %s", language)
	}
	return name
}

func TestRealEcho(t *testing.T) { eachReal(t, realEcho) }

func realEcho(t *testing.T, isolation lambent.Isolation) {
	h, shared := newRealHarness(t, isolation, nil)
	h.provided(shared.programs["echo"])
	h.start("s")
	for _, size := range []int{2, 1000, 100_000, 6 << 20} {
		want := `"` + strings.Repeat("x", size-2) + `"`
		result := h.invoke("s", want)
		if string(result.Response.Payload) != want || result.MaxMemoryMiB <= 0 || result.MaxMemoryMiB > 512 {
			t.Errorf("%d bytes: %d, %d MiB", size, len(result.Response.Payload), result.MaxMemoryMiB)
		}
	}
}

func TestRealLanguages(t *testing.T) { eachReal(t, realLanguages) }

// TestRealLanguagesInMicroVM has emulated machines, for which the times that Lambda allows must be enough nevertheless.
func TestRealLanguagesInMicroVM(t *testing.T) { realLanguages(t, lambent.IsolationMicroVM) }

func realLanguages(t *testing.T, isolation lambent.Isolation) {
	h, shared := newRealHarness(t, isolation, nil)
	for language, file := range map[string]string{
		"python": "import os\nn = 0\ndef handler(event, context):\n    global n\n    n += 1\n    print('call', n, event)\n" +
			"    open('/tmp/count', 'a').write('x')\n    return {'n': n, 'tmp': os.path.getsize('/tmp/count'), 'id': context.aws_request_id}\n",
		"nodejs": "const fs = require('fs'); let n = 0\nexports.handler = async (event, context) => {\n  n++; console.log('call', n, event)\n" +
			"  fs.appendFileSync('/tmp/count', 'x')\n  return {n, tmp: fs.statSync('/tmp/count').size, id: context.awsRequestId}\n}\n",
	} {
		t.Run(language, func(t *testing.T) {
			extension := map[string]string{"python": ".py", "nodejs": ".js"}[language]
			h.t = t
			h.function(newest(t, shared.registry, language), "index.handler", map[string]string{"index" + extension: file})
			id := lambent.SandboxID(language)
			h.start(id)
			for n := 1; n <= 3; n++ {
				result := h.invoke(id, `{"a":1}`)
				if n == 1 {
					t.Logf("%s initialised in %v", language, result.Init)
				}
				payload := strings.ReplaceAll(string(result.Response.Payload), " ", "")
				want := fmt.Sprintf(`{"n":%d,"tmp":%d,"id":"request-%d"}`, n, n, h.requests)
				if payload != want || !strings.Contains(string(result.Response.LogTail), fmt.Sprint("call ", n)) {
					t.Errorf("%s, want %s\n%s", payload, want, result.Response.LogTail)
				}
			}
			bad := *h.version
			bad.Handler = "index.nothing"
			h.version = &bad
			h.start(id + "-bad")
			result := h.invoke(id+"-bad", "{}")
			if result.Response.FunctionError != "Unhandled" || !strings.Contains(string(result.Response.Payload), "Runtime.HandlerNotFound") {
				t.Errorf("%s\n%s", result.Response.Payload, result.Response.LogTail)
			}
		})
	}
}

// TestRealFailures drives the probe through all ways of failing in one sandbox. /tmp survives all of them, memory none.
func TestRealFailures(t *testing.T) { eachReal(t, realFailures) }

func realFailures(t *testing.T, isolation lambent.Isolation) {
	h, shared := newRealHarness(t, isolation, nil)
	h.provided(shared.programs["probe"])
	h.version.MemoryMiB, h.version.Timeout = 128, time.Minute // a loaded host is slow
	h.start("s")
	marks := 0
	for _, c := range []struct{ command, payload, report string }{
		{"mark", `{"runs":1,"marks":1}`, "MB\t"},
		{"mark", `{"runs":2,"marks":2}`, "MB\t"},
		{"exit 7", `{"errorType":"Runtime.ExitError","errorMessage":"RequestId: ID Error: Runtime exited with error: exit status 7"}`, "Status: error\tError Type: Runtime.ExitError"},
		{"mark", `{"runs":1,"marks":3}`, "MB\t"},
		{"exit 0", `{"errorType":"Runtime.ExitError","errorMessage":"RequestId: ID Error: Runtime exited without providing a reason"}`, "Status: error\tError Type: Runtime.ExitError"},
		{"abort", `{"errorType":"Runtime.ExitError","errorMessage":"RequestId: ID Error: Runtime exited with error: signal: killed"}`, "Status: error\tError Type: Runtime.ExitError"},
		{"allocate", `{"errorType":"Runtime.OutOfMemory","errorMessage":"RequestId: ID Error: Runtime exited with error: signal: killed"}`, "Status: error\tError Type: Runtime.OutOfMemory"},
		{"mark", `{"runs":1,"marks":4}`, "MB\t"},
		{"sleep", "Task timed out after 60.00 seconds", "Status: timeout"},
		{"fork", "Task timed out after 60.00 seconds", "Status: timeout"},
		{"mark", `{"runs":1,"marks":5}`, "MB\t"},
		{"flood", `"done"`, "MB\t"},
	} {
		request := h.request("s", `"`+c.command+`"`)
		if strings.HasPrefix(c.report, "Status: timeout") {
			request.Deadline = time.Now().Add(3 * time.Second)
		}
		result, err := h.worker.Invoke(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprint("request-", h.requests)
		got := strings.ReplaceAll(string(result.Response.Payload), id, "ID")
		if !strings.Contains(got, c.payload) || result.Outcome != lambent.OutcomeIdle {
			t.Errorf("%s: %s, want %s\n%s", c.command, got, c.payload, result.Response.LogTail)
		}
		if !strings.Contains(string(result.Response.LogTail), c.report) || !strings.Contains(string(result.Response.LogTail), "END RequestId: "+id) {
			t.Errorf("%s: %s", c.command, result.Response.LogTail)
		}
		marks++
	}
	// Nothing of the function is left running.
	usage, err := h.worker.find("s").box.Usage()
	if err != nil || usage.Processes > 20 {
		t.Error(usage, err)
	}
}

func TestRealEntrypoints(t *testing.T) { eachReal(t, realEntrypoints) }

func realEntrypoints(t *testing.T, isolation lambent.Isolation) {
	h, _ := newRealHarness(t, isolation, nil)
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"missing":        {map[string]string{"main": "x"}, `Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]`},
		"no executable":  {map[string]string{"bootstrap": "garbage"}, "fork/exec /var/task/bootstrap: exec format error"},
		"no interpreter": {map[string]string{"bootstrap": "#!/does/not/exist\n"}, "fork/exec /var/task/bootstrap: no such file or directory"},
	} {
		h.function("provided.al2023", "x", c.files)
		id := lambent.SandboxID(strings.ReplaceAll(name, " ", "-"))
		h.start(id)
		result := h.invoke(id, "{}")
		want := fmt.Sprintf(`{"errorType":"Runtime.InvalidEntrypoint","errorMessage":"RequestId: request-%d Error: %s"}`, h.requests, c.want)
		if string(result.Response.Payload) != want {
			t.Errorf("%s: %s, want %s", name, result.Response.Payload, want)
		}
	}
	h.function("provided.al2023", "x", map[string]string{"bootstrap": "#!/bin/sh\necho starting\nexit 3\n"})
	h.start("script")
	result := h.invoke("script", "{}")
	if !strings.Contains(string(result.Response.Payload), "exit status 3") || !strings.Contains(string(result.Response.LogTail), "starting") {
		t.Errorf("%s\n%s", result.Response.Payload, result.Response.LogTail)
	}
}

// A runtime in shell opens a connection for each request.
func TestRealShellRuntime(t *testing.T) { eachReal(t, realShellRuntime) }

func realShellRuntime(t *testing.T, isolation lambent.Isolation) {
	h, _ := newRealHarness(t, isolation, nil)
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("this host has no curl")
	}
	h.function("provided.al2023", "x", map[string]string{"bootstrap": `#!/bin/sh
api="http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime/invocation"
while :; do
  event=$(curl -sS -D /tmp/head "$api/next") || exit 1
  id=$(grep -i lambda-runtime-aws-request-id /tmp/head | tr -d '[:space:]' | cut -d: -f2)
  curl -sS -o /dev/null "$api/$id/response" -d "[$event]"
done
`})
	h.start("s")
	for range 3 {
		if result := h.invoke("s", "1"); string(result.Response.Payload) != "[1]" {
			t.Errorf("%s\n%s", result.Response.Payload, result.Response.LogTail)
		}
	}
}

func TestRealFreezeStopsEverything(t *testing.T) { eachReal(t, realFreezeStopsEverything) }

func realFreezeStopsEverything(t *testing.T, isolation lambent.Isolation) {
	h, shared := newRealHarness(t, isolation, nil)
	h.provided(shared.programs["probe"])
	h.version.MemoryMiB = 1769
	h.start("s")
	h.invoke("s", `"spin"`) // leaves a thread that counts CPU time
	e := h.worker.find("s")
	frozen := func() bool { e.mu.Lock(); defer e.mu.Unlock(); return e.frozen }
	eventually(t, "the sandbox is frozen", frozen)
	before, err := e.box.Usage()
	if err != nil {
		t.Fatal(err)
	}
	timer := time.NewTimer(100 * time.Millisecond)
	<-timer.C
	after, err := e.box.Usage()
	if err != nil || after.CPU-before.CPU > time.Millisecond {
		t.Error(after.CPU-before.CPU, err)
	}
	if result := h.invoke("s", `"mark"`); !strings.Contains(string(result.Response.Payload), `"runs":2`) {
		t.Errorf("%s", result.Response.Payload)
	}
}

func TestRealManySandboxes(t *testing.T) { eachReal(t, realManySandboxes) }

func realManySandboxes(t *testing.T, isolation lambent.Isolation) {
	h, shared := newRealHarness(t, isolation, nil)
	h.provided(shared.programs["echo"])
	var group sync.WaitGroup
	var mu sync.Mutex
	var times []time.Duration
	for i := range 8 {
		group.Go(func() {
			id := lambent.SandboxID(fmt.Sprint("s", i))
			began := time.Now()
			if err := h.tryStart(id); err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			times = append(times, time.Since(began))
			mu.Unlock()
			for n := range 20 {
				request := lambent.WorkerInvoke{Claim: lambent.Claim{Sandbox: id, Epoch: uint64(n + 1)}, Key: h.version.Key,
					Request: lambent.InvokeRequest{RequestID: fmt.Sprint(i, "-", n), Payload: fmt.Appendf(nil, `"%d-%d"`, i, n)}}
				result, err := h.worker.Invoke(t.Context(), request)
				if err != nil || string(result.Response.Payload) != fmt.Sprintf(`"%d-%d"`, i, n) {
					t.Error(err, string(result.Response.Payload))
				}
			}
			if i%2 == 0 {
				if err := h.worker.Stop(t.Context(), id, 1000); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	slices.Sort(times)
	t.Log("starts took", times)
}

func BenchmarkRealInvoke(b *testing.B) { eachReal(b, benchmarkInvoke) }

func benchmarkInvoke(b *testing.B, isolation lambent.Isolation) {
	h, shared := newRealHarness(b, isolation, nil)
	h.provided(shared.programs["echo"])
	h.version.MemoryMiB = 1769
	event := []byte(`"` + strings.Repeat("x", 1022) + `"`)
	for _, clients := range []int{1, 16} {
		b.Run(fmt.Sprint("clients=", clients), func(b *testing.B) {
			var ids []lambent.SandboxID
			for i := range clients {
				ids = append(ids, lambent.SandboxID(fmt.Sprint("s", clients, "-", i, "-", h.requests)))
				h.requests++
				h.start(ids[i])
			}
			invoke := func(id lambent.SandboxID, epoch int) {
				request := lambent.WorkerInvoke{Claim: lambent.Claim{Sandbox: id, Epoch: uint64(epoch)}, Key: h.version.Key,
					Request: lambent.InvokeRequest{RequestID: "8f5c9cb5-6d35-4a0c-8c1b-1d5b1e0e6a11", Payload: event}}
				if _, err := h.worker.Invoke(b.Context(), request); err != nil {
					b.Error(err)
				}
			}
			for _, id := range ids {
				invoke(id, 1)
			}
			b.ReportAllocs()
			b.ResetTimer()
			var group sync.WaitGroup
			for i, id := range ids {
				group.Go(func() {
					for n := range (b.N + i) / clients {
						invoke(id, n+2)
					}
				})
			}
			group.Wait()
			b.StopTimer()
			for _, id := range ids {
				if err := h.worker.Stop(b.Context(), id, 1<<40); err != nil {
					b.Error(err)
				}
			}
		})
	}
}

func BenchmarkRealColdStart(b *testing.B) { eachReal(b, benchmarkColdStart) }

func benchmarkColdStart(b *testing.B, isolation lambent.Isolation) {
	h, shared := newRealHarness(b, isolation, func(o *Options) { o.PoolMin = 4 })
	h.provided(shared.programs["echo"])
	h.version.MemoryMiB = 1769
	n := 0
	for b.Loop() {
		n++
		id := lambent.SandboxID(fmt.Sprint("s", n))
		h.start(id)
		h.invoke(id, "1")
		b.StopTimer()
		if err := h.worker.Stop(b.Context(), id, 1<<40); err != nil {
			b.Error(err)
		}
		eventually(b, "the pool is full", func() bool {
			ready := 0
			for _, n := range h.worker.pool.ready() {
				ready += n
			}
			return ready >= 2
		})
		b.StartTimer()
	}
}
