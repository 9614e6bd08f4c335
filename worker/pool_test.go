package worker

import (
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"lambent"
	"lambent/runtimes"
	"lambent/sandbox"
)

func TestSizeClass(t *testing.T) {
	for _, c := range []struct {
		isolation   lambent.Isolation
		asked, want int
	}{
		{lambent.IsolationNative, 3000, 0}, {lambent.IsolationGVisor, 10240, 0},
		{lambent.IsolationMicroVM, 128, 512}, {lambent.IsolationMicroVM, 512, 512}, {lambent.IsolationMicroVM, 513, 1024},
		{lambent.IsolationMicroVM, 3008, 3072}, {lambent.IsolationMicroVM, 10240, 10240}, {lambent.IsolationMicroVM, 1 << 20, 10240},
	} {
		if got := sizeClass(c.isolation, c.asked); got != c.want {
			t.Errorf("%s with %d MiB: %d, want %d", c.isolation, c.asked, got, c.want)
		}
	}
}

// What is granted never exceeds wishes and memory, and no wish could get more.
func TestApportion(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		wishes := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) wish {
			return wish{rapid.IntRange(0, 40).Draw(t, "count"), float64(rapid.IntRange(1, 200).Draw(t, "size"))}
		}), 0, 8).Draw(t, "wishes")
		budget := float64(rapid.IntRange(0, 4000).Draw(t, "budget"))
		used := 0.0
		granted := apportion(wishes, budget)
		for i, w := range wishes {
			used += float64(granted[i]) * w.sizeMiB
			if granted[i] < 0 || granted[i] > w.count {
				t.Fatalf("%d of %d", granted[i], w.count)
			}
		}
		for i, w := range wishes {
			if granted[i] < w.count && used+w.sizeMiB <= budget {
				t.Fatalf("%v of %v in %v: %d could get more", granted, wishes, budget, i)
			}
		}
		if used > budget {
			t.Fatalf("%v MiB of %v are used", used, budget)
		}
	})
	if got := apportion([]wish{{10, 1}, {2, 1}, {4, 1}}, 8); !slices.Equal(got, []int{5, 1, 2}) {
		t.Errorf("%v: everybody gets a like share", got)
	}
}

func testPool(drivers map[lambent.Isolation]*fakeDriver, budget float64, failures *atomic.Int64) *pool {
	options := poolOptions{drivers: map[lambent.Isolation]sandbox.Driver{}, first: lambent.IsolationNative, prefix: "p", min: 2, max: 10, budget: budget,
		logger: quietLogger(), failed: func(lambent.Isolation, time.Time) { failures.Add(1) }, withdrawn: never}
	for isolation, driver := range drivers {
		options.drivers[isolation] = driver
	}
	return openPool(options)
}

func never(lambent.Isolation, time.Time) bool { return false }

// Machines wait frozen, and are given out thawed; what costs nothing while it waits is left alone.
func TestPoolFreezesMachines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		native, virtual := &fakeDriver{program: noProgram}, &fakeDriver{program: noProgram}
		p := testPool(map[lambent.Isolation]*fakeDriver{lambent.IsolationNative: native, lambent.IsolationMicroVM: virtual}, 1e6, new(atomic.Int64))
		for isolation, want := range map[lambent.Isolation]bool{lambent.IsolationNative: false, lambent.IsolationMicroVM: true} {
			of := class{isolation: isolation, runtime: "python3.12"}
			first, err := p.take(t.Context(), of, nil)
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			p.mu.Lock()
			for _, st := range p.classes {
				for _, box := range st.ready {
					if got := box.Sandbox.(*fakeBox).frozen.Load(); st.isolation == isolation && got != want {
						t.Errorf("%s: frozen while it waits: %v", isolation, got)
					}
				}
			}
			p.mu.Unlock()
			second, err := p.take(t.Context(), of, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, box := range []*readyBox{first, second} {
				if box.Sandbox.(*fakeBox).frozen.Load() {
					t.Errorf("%s: given out frozen", isolation)
				}
				if err := box.discard(); err != nil {
					t.Error(err)
				}
			}
		}
		if err := p.close(); err != nil {
			t.Error(err)
		}
	})
}

func noProgram(*fakeProcess) sandbox.Exit { return sandbox.Exit{} }

// Classes are learnt from what is taken, kept apart by driver and size, and forgotten when they are not used any more.
func TestPoolClasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		native, virtual := &fakeDriver{program: noProgram}, &fakeDriver{program: noProgram}
		p := testPool(map[lambent.Isolation]*fakeDriver{lambent.IsolationNative: native, lambent.IsolationMicroVM: virtual}, 1e6, new(atomic.Int64))
		python := class{isolation: lambent.IsolationNative, runtime: "python3.12"}
		small := class{isolation: lambent.IsolationMicroVM, runtime: "python3.12", memoryMiB: 512}
		large := class{isolation: lambent.IsolationMicroVM, runtime: "python3.12", memoryMiB: 1024}
		synctest.Wait()
		if native.living() != 2 || virtual.living() != 0 {
			t.Errorf("%d and %d are ready before anything is asked for", native.living(), virtual.living())
		}
		for _, c := range []struct {
			of   class
			made int // by take itself
		}{{python, 0}, {small, 1}, {large, 1}, {large, 0}} {
			before := native.made() + virtual.made()
			box, err := p.take(t.Context(), c.of, nil)
			if err != nil {
				t.Fatal(err)
			}
			if made := native.made() + virtual.made() - before; made < c.made {
				t.Errorf("%v: %d were made, want %d", c.of, made, c.made)
			}
			if got := box.Sandbox.(*fakeBox).template; got.MemoryMiB != c.of.memoryMiB || got.Class != "" && got.Class != c.of.runtime {
				t.Errorf("%v: the template is %+v", c.of, got)
			}
			box.Destroy(t.Context())
			synctest.Wait()
		}
		ready := p.ready()
		for _, of := range []class{p.first(), python, small, large} {
			if ready[of] < 2 || ready[of] > 3 {
				t.Errorf("%d of %v are ready", ready[of], of)
			}
		}
		<-time.After(classIdle + 2*poolLook)
		synctest.Wait()
		if ready := p.ready(); len(ready) != 1 || ready[p.first()] != 2 || virtual.living() != 0 {
			t.Errorf("after long quiet %v are ready", ready)
		}
		if err := p.close(); err != nil || native.living() != 0 {
			t.Error(err, native.living())
		}
	})
}

// All that is ready stays within the memory for it, and a class that comes late gets its share.
func TestPoolBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		driver := &fakeDriver{program: noProgram} // whose sandboxes say that they use 20 MiB
		p := testPool(map[lambent.Isolation]*fakeDriver{lambent.IsolationNative: driver}, 130, new(atomic.Int64))
		first := class{isolation: lambent.IsolationNative, runtime: "a"}
		second := class{isolation: lambent.IsolationNative, runtime: "b"}
		for _, of := range []class{first, second} {
			for range 20 {
				p.mu.Lock()
				p.stockLocked(of).cost = time.Second
				p.mu.Unlock()
				box, err := p.take(t.Context(), of, nil)
				if err != nil {
					t.Fatal(err)
				}
				box.Destroy(t.Context())
				synctest.Wait()
				if n := driver.living(); n > 7 { // one may be made while its size is not known
					t.Fatalf("%d sandboxes of 20 MiB in 130", n)
				}
			}
		}
		<-time.After(2 * poolLook)
		synctest.Wait()
		ready := p.ready()
		if total := ready[p.first()] + ready[first] + ready[second]; total > 6 || ready[second] == 0 {
			t.Errorf("%v are ready", ready)
		}
		if err := p.close(); err != nil {
			t.Error(err)
		}
	})
}

// A driver that makes nothing does not hold up another.
func TestPoolOfABrokenDriver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failures atomic.Int64
		broken, native := &fakeDriver{program: noProgram, failNext: errBroken}, &fakeDriver{program: noProgram}
		p := testPool(map[lambent.Isolation]*fakeDriver{lambent.IsolationNative: native, lambent.IsolationGVisor: broken}, 1e6, &failures)
		if _, err := p.take(t.Context(), class{isolation: lambent.IsolationGVisor}, nil); err == nil {
			t.Error("a broken driver made a sandbox")
		}
		<-time.After(10 * time.Second)
		synctest.Wait()
		if native.living() != 2 || failures.Load() < 5 || failures.Load() > 14 {
			t.Errorf("%d are ready, %d failures in 10 s", native.living(), failures.Load())
		}
		if err := p.close(); err != nil {
			t.Error(err)
		}
	})
}

// warmProgram is a runtime that can start before its function is known.
func warmProgram(serve func(p *fakeProcess, variables map[string]string) sandbox.Exit) func(p *fakeProcess) sandbox.Exit {
	return func(p *fakeProcess) sandbox.Exit {
		if p.command.Path != "/warm" {
			return serve(p, map[string]string{"START": "cold"})
		}
		conn, err := net.Dial("tcp", p.box.listener.Addr().String())
		if err != nil {
			return sandbox.Exit{Code: 1}
		}
		defer conn.Close()
		stop := make(chan struct{})
		defer close(stop)
		go func() {
			select {
			case <-p.ctx.Done():
				conn.Close()
			case <-stop:
			}
		}()
		text, err := io.ReadAll(conn)
		if err != nil || p.ctx.Err() != nil {
			return sandbox.Exit{Code: 1}
		}
		variables := map[string]string{"START": "warm"}
		for _, variable := range strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00") {
			name, value, _ := strings.Cut(variable, "=")
			variables[name] = value
		}
		return serve(p, variables)
	}
}

// A runtime that has started before its function is known serves the function, and is started in the ordinary way after a reset.
func TestWarmRuntime(t *testing.T) {
	launch := fakeRuntimes{}
	launch.launch.Command = sandbox.Command{Path: "/cold", Args: []string{"/cold"}, Env: []string{"A=B", "C=D=E"}}
	launch.launch.Warm = &sandbox.Command{Path: "/warm", Args: []string{"/warm"}}
	launch.launch.Class = "warmable"
	h := newHarness(t, warmProgram(func(p *fakeProcess, variables map[string]string) sandbox.Exit {
		return serve(func(p *fakeProcess, e *fakeEvent) string {
			if string(e.payload) == `"die"` {
				p.cancel()
			}
			return fmt.Sprintf("%s %s %s %t", variables["START"], variables["A"], variables["C"], variables["AWS_LAMBDA_RUNTIME_API"] != "")
		})(p)
	}), func(o *Options) { o.Runtimes = launch })
	warm := class{isolation: lambent.IsolationNative, runtime: "warmable", warm: true}
	h.start("first") // which no warm one can be ready for
	eventually(t, "warm sandboxes are ready", func() bool { return h.worker.pool.ready()[warm] >= 2 })
	h.start("second")
	for id, want := range map[lambent.SandboxID]string{"first": "cold  ", "second": "warm B D=E true"} {
		if got := string(h.invoke(id, "1").Response.Payload); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s, want %s", id, got, want)
		}
	}
	h.invoke("second", `"die"`)
	if got := string(h.invoke("second", "1").Response.Payload); !strings.HasPrefix(got, "cold") {
		t.Errorf("after a reset: %s", got)
	}
	// Those that have died while they waited are not given out.
	eventually(t, "warm sandboxes are ready again", func() bool { return h.worker.pool.ready()[warm] >= 2 })
	h.worker.pool.mu.Lock()
	for _, box := range h.worker.pool.classes[warm].ready {
		box.Sandbox.(*fakeBox).end()
		<-box.warm.ended
	}
	h.worker.pool.mu.Unlock()
	h.start("third")
	h.invoke("third", "1")
}

// A runtime that cannot start ahead costs nothing but a message: functions start in the ordinary way.
func TestWarmRuntimeThatEnds(t *testing.T) {
	launch := fakeRuntimes{}
	launch.launch.Command = sandbox.Command{Path: "/cold", Args: []string{"/cold"}}
	launch.launch.Warm = &sandbox.Command{Path: "/warm", Args: []string{"/warm"}}
	var ends atomic.Int64
	h := newHarness(t, func(p *fakeProcess) sandbox.Exit {
		if p.command.Path == "/warm" {
			ends.Add(1)
			return sandbox.Exit{Code: 1}
		}
		return serve(echo)(p)
	}, func(o *Options) { o.Runtimes = launch })
	h.start("first")
	eventually(t, "a start ahead has failed", func() bool { return ends.Load() > 0 })
	h.start("second")
	h.invoke("first", "1")
	h.invoke("second", "1")
}

// withWarm starts a program ahead for every class.
type withWarm struct {
	Runtimes
	command sandbox.Command
}

func (r withWarm) Launch(v *lambent.FunctionVersion) (runtimes.Launch, error) {
	launch, err := r.Runtimes.Launch(v)
	launch.Warm = &r.command
	return launch, err
}

// warmPython is a runtime that tells where it is and what it was told.
const warmPython = `
import http.client, json, os, socket
host, port = "169.254.100.1", 9001
before = sorted(os.listdir("/var/task")) if os.path.isdir("/var/task") else []
with socket.create_connection((host, port)) as told:
    text = b"".join(iter(lambda: told.recv(65536), b""))
os.environ.update(pair.split("=", 1) for pair in text.decode().split("\0") if pair)
os.chdir("/var/task")
open("/tmp/x", "w").close()
api = http.client.HTTPConnection(host, port)
while True:
    api.request("GET", "/2018-06-01/runtime/invocation/next")
    event = api.getresponse()
    id = event.getheader("Lambda-Runtime-Aws-Request-Id")
    event.read()
    print("in the log", flush=True)
    api.request("POST", "/2018-06-01/runtime/invocation/" + id + "/response", json.dumps(
        [before, os.listdir("."), os.environ["AWS_LAMBDA_FUNCTION_NAME"], os.environ["_HANDLER"], os.statvfs("/tmp").f_blocks > 0]))
    api.getresponse().read()
`

// The same with real sandboxes: what starts ahead sees the function's code, /tmp and variables when they are there.
func TestRealWarmRuntime(t *testing.T) { eachReal(t, realWarmRuntime) }

func TestRealWarmRuntimeInMicroVM(t *testing.T) { realWarmRuntime(t, lambent.IsolationMicroVM) }

func realWarmRuntime(t *testing.T, isolation lambent.Isolation) {
	if _, err := os.Stat("/usr/bin/python3"); err != nil {
		t.Skip("this host has no Python")
	}
	command := sandbox.Command{Path: "/usr/bin/python3", Args: []string{"python3", "-S", "-c", warmPython}, Env: []string{"LANG=C.UTF-8"}, Dir: "/"}
	h, shared := newRealHarness(t, isolation, func(o *Options) { o.Runtimes, o.PoolMax = withWarm{o.Runtimes, command}, 2 })
	h.provided(shared.programs["echo"])
	warm := class{isolation: isolation, runtime: "provided", memoryMiB: sizeClass(isolation, h.version.MemoryMiB), warm: true}
	h.start("first")
	eventuallyWithin(t, time.Minute, "warm sandboxes are ready", func() bool { return h.worker.pool.ready()[warm] >= 2 })
	began := time.Now()
	h.start("second")
	t.Log("a start with a runtime that ran took", time.Since(began))
	for range 2 {
		result := h.invoke("second", "1")
		if got, want := string(result.Response.Payload), `[[], ["bootstrap"], "f", "bootstrap", true]`; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		if !strings.Contains(string(result.Response.LogTail), "in the log") {
			t.Errorf("the log is %q", result.Response.LogTail)
		}
	}
	if got := string(h.invoke("first", "1").Response.Payload); got != "1" {
		t.Errorf("without one: %s", got)
	}
}
