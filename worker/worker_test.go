package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/runtimes"
	"lambent/sandbox"
)

func TestInvokeAndLogs(t *testing.T) {
	h := newHarness(t, func(p *fakeProcess) sandbox.Exit {
		p.print("loading\n")
		for n := 1; ; n++ {
			e := p.next()
			if e == nil {
				return sandbox.Exit{}
			}
			p.print("call %d\nno end", n)
			p.answer(e, fmt.Sprintf(`{"n":%d,"arn":%q,"stream":%q,"deadline":%t}`, n, e.header.Get("Lambda-Runtime-Invoked-Function-Arn"),
				p.env("AWS_LAMBDA_LOG_STREAM_NAME"), e.header.Get("Lambda-Runtime-Deadline-Ms") != ""))
		}
	}, nil)
	h.start("s1")
	first, second := h.invoke("s1", "{}"), h.invoke("s1", "{}")
	var answer struct {
		N        int
		ARN      string
		Stream   string
		Deadline bool
	}
	if err := json.Unmarshal(second.Response.Payload, &answer); err != nil || answer.N != 2 || answer.ARN != h.version.ARN+":live" || !answer.Deadline {
		t.Errorf("%s %v", second.Response.Payload, err)
	}
	if !regexp.MustCompile(`^\d{4}/\d\d/\d\d/\[\$LATEST\][0-9a-f]{32}$`).MatchString(answer.Stream) {
		t.Error(answer.Stream)
	}
	if first.Init <= 0 || second.Init != 0 || first.Outcome != lambent.OutcomeIdle || first.MaxMemoryMiB != 36 ||
		first.Response.ExecutedVersion != lambent.Latest || first.Response.FunctionError != "" || first.Billed < first.Duration {
		t.Errorf("%+v", first)
	}
	want := []string{`INIT_START Runtime Version: provided:al2023\.v1\tRuntime Version ARN: arn:aws:lambda:r::runtime:x`, "loading"}
	for n := 1; n <= 2; n++ {
		initial := ""
		if n == 1 {
			initial = `Init Duration: \d+\.\d\d ms\t`
		}
		want = append(want, fmt.Sprintf(`START RequestId: request-%d Version: \$LATEST`, n), fmt.Sprint("call ", n), "no end",
			fmt.Sprintf("END RequestId: request-%d", n), fmt.Sprintf(`REPORT RequestId: request-%d\tDuration: \d+\.\d\d ms\t`+
				`Billed Duration: \d+ ms\tMemory Size: 128 MB\tMax Memory Used: 36 MB\t`+initial, n))
	}
	matchLines(t, h.logs(), want)
	matchLines(t, strings.Split(strings.TrimSuffix(string(second.Response.LogTail), "\n"), "\n"), want[len(want)-5:])
	events, err := h.worker.Logs(t.Context(), lambent.LogQuery{Group: "/aws/lambda/f", Stream: answer.Stream, Limit: 1})
	if err != nil || len(events) != 1 || events[0].Account != "000000000001" {
		t.Error(events, err)
	}
}

func matchLines(t *testing.T, got, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d lines, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	for i := range want {
		if !regexp.MustCompile("^" + want[i] + "$").MatchString(got[i]) {
			t.Errorf("line %d is %q, want %q", i, got[i], want[i])
		}
	}
}

// The tail holds all that the function wrote before it answered, and the last 4 KiB of the whole at most.
func TestTailIsExact(t *testing.T) {
	h := newHarness(t, serve(func(p *fakeProcess, e *fakeEvent) string {
		p.print("%s|last words", e.payload)
		return "1"
	}), nil)
	h.start("s")
	for i := range 200 {
		text := strings.Repeat("x", i*50)
		result := h.invoke("s", text)
		tail := string(result.Response.LogTail)
		if len(tail) > lambent.MaxLogTailBytes || len(text) > 5000 && len(tail) != lambent.MaxLogTailBytes {
			t.Fatal(i, len(tail))
		}
		if !strings.Contains(tail, "|last words\nEND RequestId: ") {
			t.Fatalf("invoke %d: %q", i, tail)
		}
	}
	request := h.request("s", "x")
	request.Request.LogTail = false
	if result, err := h.worker.Invoke(t.Context(), request); err != nil || result.Response.LogTail != nil {
		t.Error(result.Response.LogTail, err)
	}
}

func TestTimeoutResetsInPlace(t *testing.T) {
	h := newHarness(t, func(p *fakeProcess) sandbox.Exit {
		return serve(func(p *fakeProcess, e *fakeEvent) string {
			p.print("working")
			if string(e.payload) == `"hang"` {
				<-p.ctx.Done()
			}
			return "1"
		})(p)
	}, nil)
	h.version.Timeout = 100 * time.Millisecond
	h.start("s")
	h.invoke("s", `"ok"`)
	began := time.Now()
	result := h.invoke("s", `"hang"`)
	if time.Since(began) > 3*time.Second || result.Outcome != lambent.OutcomeIdle || result.Response.FunctionError != "Unhandled" {
		t.Errorf("%+v", result)
	}
	payload := regexp.MustCompile(`^{"errorMessage":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z request-2 Task timed out after 0\.10 seconds"}$`)
	if !payload.Match(result.Response.Payload) {
		t.Errorf("%s", result.Response.Payload)
	}
	matchLines(t, strings.Split(strings.TrimSuffix(string(result.Response.LogTail), "\n"), "\n"), []string{
		`START RequestId: request-2 Version: \$LATEST`, "working", `[-0-9T:.]+Z request-2 Task timed out after 0\.10 seconds`, "END RequestId: request-2",
		`REPORT RequestId: request-2\tDuration: 100\.00 ms\tBilled Duration: 100 ms\tMemory Size: 128 MB\tMax Memory Used: 36 MB\tStatus: timeout`})
	if result := h.invoke("s", `"ok"`); string(result.Response.Payload) != "1" || result.Init != 0 {
		t.Errorf("%+v", result)
	}
}

func TestEndsOfTheProcess(t *testing.T) {
	for name, c := range map[string]struct {
		exit          sandbox.Exit
		kind, message string
	}{
		"status": {sandbox.Exit{Code: 127}, "Runtime.ExitError", "Runtime exited with error: exit status 127"},
		"zero":   {sandbox.Exit{}, "Runtime.ExitError", "Runtime exited without providing a reason"},
		"signal": {sandbox.Exit{Signal: 11}, "Runtime.ExitError", "Runtime exited with error: signal: segmentation fault"},
		"memory": {sandbox.Exit{Signal: 9, OOMKilled: true}, "Runtime.OutOfMemory", "Runtime exited with error: signal: killed"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, func(p *fakeProcess) sandbox.Exit {
				for {
					e := p.next()
					switch {
					case e == nil:
						return sandbox.Exit{}
					case string(e.payload) == `"end"`:
						return c.exit
					case string(e.payload) == `"after"`:
						p.answer(e, "1")
						return c.exit
					}
					p.answer(e, "1")
				}
			}, nil)
			h.start("s")
			result := h.invoke("s", `"end"`)
			want := fmt.Sprintf(`{"errorType":%q,"errorMessage":"RequestId: request-1 Error: %s"}`, c.kind, c.message)
			if string(result.Response.Payload) != want || result.Response.FunctionError != "Unhandled" || result.Outcome != lambent.OutcomeIdle {
				t.Errorf("%s, want %s", result.Response.Payload, want)
			}
			tail := string(result.Response.LogTail)
			if !strings.Contains(tail, "\nRequestId: request-1 Error: "+c.message+"\n"+c.kind+"\nEND RequestId") ||
				!strings.HasSuffix(tail, "\tStatus: error\tError Type: "+c.kind+"\n") {
				t.Error(tail)
			}
			// What it answered before it ended counts, and the next one finds a runtime that is started anew.
			for _, payload := range []string{`"after"`, `"x"`, `"after"`, `"after"`} {
				if result := h.invoke("s", payload); string(result.Response.Payload) != "1" {
					t.Errorf("%s", result.Response.Payload)
				}
			}
		})
	}
}

func TestFunctionErrorsAndSizes(t *testing.T) {
	h := newHarness(t, func(p *fakeProcess) sandbox.Exit {
		for {
			e := p.next()
			if e == nil {
				return sandbox.Exit{}
			}
			if string(e.payload) == `"large"` {
				if status := p.answer(e, strings.Repeat("x", lambent.MaxResponseBytes+1)); status != 413 {
					p.print("status %d", status)
				}
				continue
			}
			p.post("invocation/"+e.id+"/error", `{"errorMessage":"no"}`, "My.Error")
		}
	}, nil)
	h.start("s")
	result := h.invoke("s", "{}")
	if string(result.Response.Payload) != `{"errorMessage":"no"}` || result.Response.FunctionError != "Unhandled" ||
		strings.Contains(string(result.Response.LogTail), "Status") {
		t.Errorf("%s %s", result.Response.Payload, result.Response.LogTail)
	}
	result = h.invoke("s", `"large"`)
	if want := `{"errorMessage":"Response payload size exceeded maximum allowed payload size (6291556 bytes).","errorType":"Function.ResponseSizeTooLarge"}`; string(result.Response.Payload) != want {
		t.Errorf("%s", result.Response.Payload)
	}
	if result := h.invoke("s", "{}"); string(result.Response.Payload) != `{"errorMessage":"no"}` {
		t.Errorf("%s", result.Response.Payload)
	}
}

func TestInitFailureIsMetAgain(t *testing.T) {
	var boots atomic.Int64
	h := newHarness(t, func(p *fakeProcess) sandbox.Exit {
		if boots.Add(1) <= 2 {
			p.print("about to fail\n")
			p.post("init/error", `{"errorType":"Runtime.ImportModuleError"}`, "Runtime.ImportModuleError")
			return sandbox.Exit{Code: 1}
		}
		return serve(echo)(p)
	}, nil)
	h.start("s")
	result := h.invoke("s", "{}")
	if string(result.Response.Payload) != `{"errorType":"Runtime.ImportModuleError"}` || result.Response.FunctionError != "Unhandled" {
		t.Errorf("%s", result.Response.Payload)
	}
	if result := h.invoke("s", `"x"`); string(result.Response.Payload) != `"x"` || boots.Load() != 3 {
		t.Errorf("%s after %d boots", result.Response.Payload, boots.Load())
	}
	all := strings.Join(h.logs(), "\n")
	for _, want := range []string{`INIT_REPORT Init Duration: \d+\.\d\d ms\tPhase: init\tStatus: error\tError Type: Runtime\.ImportModuleError`,
		`INIT_REPORT Init Duration: \d+\.\d\d ms\tPhase: invoke\tStatus: error\tError Type: Runtime\.ImportModuleError`,
		`REPORT RequestId: request-1.*\tStatus: error\tError Type: Runtime.ImportModuleError`} {
		if !regexp.MustCompile(want).MatchString(all) {
			t.Errorf("no %s in\n%s", want, all)
		}
	}
}

func TestInitThatEndsOrHangs(t *testing.T) {
	var boots atomic.Int64
	h := newHarness(t, func(p *fakeProcess) sandbox.Exit {
		switch boots.Add(1) {
		case 1, 2:
			<-p.ctx.Done()
		case 3:
			return sandbox.Exit{Code: 3}
		}
		return serve(echo)(p)
	}, func(o *Options) { o.InitTimeout = 50 * time.Millisecond })
	h.version.Timeout = 100 * time.Millisecond
	h.start("s")
	if result := h.invoke("s", "{}"); !strings.Contains(string(result.Response.Payload), "Task timed out after 0.10 seconds") {
		t.Errorf("%s", result.Response.Payload)
	}
	if result := h.invoke("s", "{}"); string(result.Response.Payload) !=
		`{"errorType":"Runtime.ExitError","errorMessage":"RequestId: request-2 Error: Runtime exited with error: exit status 3"}` {
		t.Errorf("%s", result.Response.Payload)
	}
	if result := h.invoke("s", "1"); string(result.Response.Payload) != "1" {
		t.Errorf("%s", result.Response.Payload)
	}
	if !strings.Contains(strings.Join(h.logs(), "\n"), "\tPhase: init\tStatus: timeout") {
		t.Error(h.logs())
	}
}

func TestMissingBootstrap(t *testing.T) {
	h := newHarness(t, serve(echo), func(o *Options) {
		o.Runtimes = fakeRuntimes{runtimes.Launch{Command: sandbox.Command{Path: "/var/task/bootstrap", Args: []string{"/var/task/bootstrap"}},
			Entrypoints: []string{"/var/task/bootstrap", "/opt/bootstrap"}}}
	})
	good := h.version
	bad := *h.version
	bad.Code = h.blobs.put(t, map[string]string{"main": "x"})
	h.version = &bad
	h.start("s")
	want := `{"errorType":"Runtime.InvalidEntrypoint","errorMessage":"RequestId: request-1 Error: Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]"}`
	if result := h.invoke("s", "{}"); string(result.Response.Payload) != want {
		t.Errorf("%s", result.Response.Payload)
	}
	layered := bad
	layered.Layers = []lambent.CodeRef{h.blobs.put(t, map[string]string{"bootstrap": "x"})}
	h.version = &layered
	h.start("layered")
	if result := h.invoke("layered", "1"); string(result.Response.Payload) != "1" {
		t.Errorf("%s", result.Response.Payload)
	}
	h.version = good
	h.driver.startFail = fmt.Errorf("start: %w", unix.EACCES)
	h.start("denied")
	want = `{"errorType":"Runtime.InvalidEntrypoint","errorMessage":"RequestId: request-3 Error: fork/exec /var/task/bootstrap: permission denied"}`
	if result := h.invoke("denied", "{}"); string(result.Response.Payload) != want {
		t.Errorf("%s", result.Response.Payload)
	}
}

func TestStartErrors(t *testing.T) {
	h := newHarness(t, func(p *fakeProcess) sandbox.Exit { <-p.ctx.Done(); return sandbox.Exit{} }, func(o *Options) { o.PoolMin, o.PoolMax = 1, 1 })
	code := func(err error) lambent.Code {
		if err == nil {
			t.Error("no error")
		}
		return lambent.CodeOf(err)
	}
	wrong := *h.version
	wrong.Runtime = "cobol85"
	if got := code(h.worker.Start(t.Context(), lambent.StartRequest{Sandbox: "a", Version: &wrong})); got != lambent.InvalidRuntime {
		t.Error(got)
	}
	wrong = *h.version
	wrong.Code.SHA256 = strings.Repeat("0", 64)
	if got := code(h.worker.Start(t.Context(), lambent.StartRequest{Sandbox: "a", Version: &wrong})); got != lambent.NotFound {
		t.Error(got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if got := code(h.worker.Start(ctx, lambent.StartRequest{Sandbox: "a", Version: h.version})); got != lambent.Unavailable {
		t.Error(got)
	}
	h.driver.mu.Lock()
	h.driver.startFail = errors.New("the host is broken")
	h.driver.mu.Unlock()
	if got := code(h.tryStart("a")); got != lambent.Internal {
		t.Error(got)
	}
	if all, err := h.worker.List(t.Context()); err != nil || len(all) != 0 {
		t.Error(all, err)
	}
	if h.worker.faults.count() != 1 {
		t.Error(h.worker.faults.count())
	}
}

func TestClaims(t *testing.T) {
	entered := make(chan struct{}, 10)
	leave := make(chan struct{})
	h := newHarness(t, serve(func(_ *fakeProcess, e *fakeEvent) string {
		if string(e.payload) == `"wait"` {
			entered <- struct{}{}
			<-leave
		}
		return "1"
	}), nil)
	if err := h.worker.Start(t.Context(), lambent.StartRequest{Sandbox: "s", Version: h.version, Epoch: 5}); err != nil {
		t.Fatal(err)
	}
	if err := h.tryStart("s"); lambent.CodeOf(err) != lambent.Conflict {
		t.Error(err)
	}
	invoke := func(change func(*lambent.WorkerInvoke)) error {
		request := h.request("s", "{}")
		change(&request)
		_, err := h.worker.Invoke(t.Context(), request)
		return err
	}
	for name, c := range map[string]struct {
		want   lambent.Code
		change func(*lambent.WorkerInvoke)
	}{
		"no such sandbox":   {lambent.SandboxGone, func(r *lambent.WorkerInvoke) { r.Claim.Sandbox = "t" }},
		"old epoch":         {lambent.StaleEpoch, func(r *lambent.WorkerInvoke) { r.Claim.Epoch = 4 }},
		"other revision":    {lambent.SandboxGone, func(r *lambent.WorkerInvoke) { r.Claim.Epoch, r.Key.Revision = 9, "2" }},
		"other tenant":      {lambent.SandboxGone, func(r *lambent.WorkerInvoke) { r.Claim.Epoch, r.Request.TenantID = 9, "t" }},
		"another's version": {lambent.SandboxGone, func(r *lambent.WorkerInvoke) { r.Claim.Epoch, r.Key.Function = 9, "other" }},
	} {
		if err := invoke(c.change); err == nil || lambent.CodeOf(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	h.epoch = 10
	running := h.request("s", `"wait"`)
	done := make(chan error, 1)
	go func() {
		_, err := h.worker.Invoke(t.Context(), running)
		done <- err
	}()
	<-entered
	if err := invoke(func(*lambent.WorkerInvoke) {}); lambent.CodeOf(err) != lambent.StaleEpoch {
		t.Error(err)
	}
	if err := h.worker.Stop(t.Context(), "s", running.Claim.Epoch-1); lambent.CodeOf(err) != lambent.StaleEpoch {
		t.Error(err)
	}
	if all, err := h.worker.List(t.Context()); err != nil || len(all) != 1 || all[0].Phase != lambent.SandboxBusy || all[0].Epoch != running.Claim.Epoch {
		t.Error(all, err)
	}
	close(leave)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := h.worker.Invoke(t.Context(), running); lambent.CodeOf(err) != lambent.StaleEpoch {
		t.Error("the same claim runs twice:", err)
	}
	for range 2 {
		if err := h.worker.Stop(t.Context(), "s", 0); err != nil {
			t.Error(err)
		}
	}
	if err := invoke(func(*lambent.WorkerInvoke) {}); lambent.CodeOf(err) != lambent.SandboxGone {
		t.Error(err)
	}
}

// However claims race, the function never sees two events at once.
func TestOneInvokeAtATime(t *testing.T) {
	var inside, most, ran atomic.Int64
	h := newHarness(t, serve(func(*fakeProcess, *fakeEvent) string {
		n := inside.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		ran.Add(1)
		inside.Add(-1)
		return "1"
	}), func(o *Options) { o.FreezeAfter = time.Microsecond })
	h.start("s")
	var accepted, epoch atomic.Int64
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 50 {
				request := lambent.WorkerInvoke{Claim: lambent.Claim{Sandbox: "s", Epoch: uint64(epoch.Add(1))}, Key: h.version.Key,
					Request: lambent.InvokeRequest{RequestID: fmt.Sprint(epoch.Load())}}
				_, err := h.worker.Invoke(t.Context(), request)
				if err == nil {
					accepted.Add(1)
				} else if lambent.CodeOf(err) != lambent.StaleEpoch {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if most.Load() != 1 || ran.Load() != accepted.Load() || ran.Load() == 0 {
		t.Errorf("%d at once, %d ran, %d accepted", most.Load(), ran.Load(), accepted.Load())
	}
}

// A ready-made sandbox that has ended by itself is replaced before anybody notices.
func TestReadyMadeSandboxThatEnded(t *testing.T) {
	h := newHarness(t, serve(echo), func(o *Options) { o.PoolMin, o.PoolMax = 1, 1 })
	eventually(t, "a sandbox is ready", func() bool { return h.driver.living() == 1 })
	h.driver.mu.Lock()
	for _, box := range h.driver.boxes {
		box.mu.Lock()
		box.dead = true
		box.mu.Unlock()
	}
	h.driver.mu.Unlock()
	h.start("s")
	if got := string(h.invoke("s", "1").Response.Payload); got != "1" {
		t.Errorf("answered %q", got)
	}
}

// A sandbox that does not tell what it uses does not keep its worker from telling that it lives.
func TestHeartbeatsWaitForNoSandbox(t *testing.T) {
	finish := make(chan struct{})
	h := newHarness(t, serve(func(*fakeProcess, *fakeEvent) string { <-finish; return "1" }),
		func(o *Options) { o.HeartbeatEvery = 5 * time.Millisecond })
	h.version.Timeout = time.Minute
	h.start("s")
	box := h.worker.find("s").box.(*fakeBox)
	var asked atomic.Bool
	answer := make(chan struct{})
	box.mu.Lock()
	box.meters = func() { asked.Store(true); <-answer }
	box.mu.Unlock()
	done := make(chan struct{})
	go func() { defer close(done); h.invoke("s", "{}") }()
	eventually(t, "the sandbox is asked what it uses", asked.Load)
	beats := func() int { h.placement.mu.Lock(); defer h.placement.mu.Unlock(); return h.placement.beats }
	before := beats()
	eventually(t, "heartbeats go on", func() bool { return beats() > before+5 })
	close(answer)
	close(finish)
	<-done
}

func TestFreeze(t *testing.T) {
	h := newHarness(t, serve(func(p *fakeProcess, e *fakeEvent) string {
		if p.box.frozen.Load() {
			p.print("frozen!")
		}
		return "1"
	}), func(o *Options) { o.FreezeAfter = 200 * time.Millisecond })
	h.start("s")
	box := h.worker.find("s").box.(*fakeBox)
	for range 50 {
		h.invoke("s", "{}")
	}
	if n := box.freezes.Load(); n > 1 {
		t.Errorf("frozen %d times in a busy loop", n)
	}
	eventually(t, "the idle sandbox is frozen", box.frozen.Load)
	if result := h.invoke("s", "{}"); strings.Contains(string(result.Response.LogTail), "frozen!") {
		t.Error("the function ran frozen")
	}
	eventually(t, "it is frozen again", box.frozen.Load)
	h.driver.failThaw = true
	if _, err := h.worker.Invoke(t.Context(), h.request("s", "{}")); lambent.CodeOf(err) != lambent.SandboxGone {
		t.Error(err)
	}
	eventually(t, "the sandbox that does not thaw is destroyed", func() bool { return h.worker.find("s") == nil })
}

func TestResetThatFailsIsGone(t *testing.T) {
	h := newHarness(t, serve(func(p *fakeProcess, e *fakeEvent) string { <-p.ctx.Done(); return "" }), nil)
	h.version.Timeout = 50 * time.Millisecond
	h.start("s")
	h.driver.failKill = true
	if result := h.invoke("s", "{}"); result.Outcome != lambent.OutcomeGone || !strings.Contains(string(result.Response.Payload), "timed out") {
		t.Errorf("%+v", result)
	}
	eventually(t, "the sandbox is destroyed", func() bool { return h.worker.find("s") == nil })
}

func TestStopEndsARunningInvoke(t *testing.T) {
	entered := make(chan struct{})
	h := newHarness(t, serve(func(p *fakeProcess, e *fakeEvent) string { close(entered); <-p.ctx.Done(); return "" }), nil)
	h.version.Timeout = time.Minute
	h.start("s")
	request := h.request("s", "{}")
	done := make(chan error, 1)
	go func() {
		result, err := h.worker.Invoke(t.Context(), request)
		if result.Outcome != lambent.OutcomeGone {
			t.Errorf("%+v", result)
		}
		done <- err
	}()
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := h.worker.Stop(ctx, "s", 100); err != nil {
		t.Error(err)
	}
	if err := <-done; lambent.CodeOf(err) != lambent.HostLost {
		t.Error(err)
	}
}

func TestDrainWaitsForInvokes(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	h := newHarness(t, serve(func(_ *fakeProcess, e *fakeEvent) string { close(entered); <-leave; return "1" }), nil)
	h.start("s")
	h.start("idle")
	request := h.request("s", "{}")
	done := make(chan lambent.WorkerResult, 1)
	go func() {
		result, err := h.worker.Invoke(t.Context(), request)
		if err != nil {
			t.Error(err)
		}
		done <- result
	}()
	<-entered
	drained := make(chan error, 1)
	go func() { drained <- h.worker.Drain(t.Context()) }()
	eventually(t, "the idle sandbox is gone", func() bool { return h.worker.find("idle") == nil })
	if err := h.tryStart("new"); lambent.CodeOf(err) != lambent.Unavailable {
		t.Error(err)
	}
	close(leave)
	if result := <-done; string(result.Response.Payload) != "1" {
		t.Errorf("%+v", result)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
	if len(h.worker.all()) != 0 {
		t.Error("sandboxes are left")
	}
}

func TestLease(t *testing.T) {
	gone := make(chan lambent.WorkerReport, 10)
	h := newHarness(t, serve(echo), func(o *Options) {
		o.HeartbeatEvery = 10 * time.Millisecond
		o.Report = func(_ context.Context, manager lambent.ManagerID, report lambent.WorkerReport) error {
			if manager != "m" {
				t.Error(manager)
			}
			gone <- report
			return nil
		}
	})
	h.start("s")
	h.invoke("s", "{}")
	eventually(t, "placement knows of the sandbox", func() bool {
		h.placement.mu.Lock()
		defer h.placement.mu.Unlock()
		return h.placement.last.Sandboxes == 1 && h.placement.last.Boot != ""
	})
	h.placement.set(lambent.WorkerLease{Epoch: 2, Term: 30 * time.Millisecond}, nil)
	beats := func() int { h.placement.mu.Lock(); defer h.placement.mu.Unlock(); return h.placement.beats }
	before := beats()
	eventually(t, "the short lease is taken", func() bool { return beats() > before+1 })
	h.placement.set(lambent.WorkerLease{}, errors.New("away"))
	if report := <-gone; len(report.Gone) != 1 || report.Gone[0] != "s" || report.Worker != "w1" {
		t.Error(report)
	}
	if err := h.tryStart("t"); lambent.CodeOf(err) != lambent.Unavailable {
		t.Error(err)
	}
	if _, err := h.worker.Invoke(t.Context(), h.request("s", "{}")); lambent.CodeOf(err) != lambent.SandboxGone {
		t.Error(err)
	}
	h.placement.set(lambent.WorkerLease{Epoch: 3, Term: time.Hour}, nil)
	eventually(t, "it starts again", func() bool { return h.tryStart("u") == nil })
	h.placement.set(lambent.WorkerLease{Epoch: 3, Term: time.Hour, Drain: true}, nil)
	<-gone
	if err := h.tryStart("v"); lambent.CodeOf(err) != lambent.Unavailable {
		t.Error(err)
	}
}

func TestCallerWhoLeavesChangesNothing(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	h := newHarness(t, serve(func(_ *fakeProcess, e *fakeEvent) string {
		if string(e.payload) == `"wait"` {
			close(entered)
			<-leave
		}
		return string(e.payload)
	}), nil)
	h.start("s")
	ctx, cancel := context.WithCancel(t.Context())
	request := h.request("s", `"wait"`)
	done := make(chan lambent.WorkerResult, 1)
	go func() {
		result, err := h.worker.Invoke(ctx, request)
		if err != nil {
			t.Error(err)
		}
		done <- result
	}()
	<-entered
	cancel()
	close(leave)
	if result := <-done; result.Outcome != lambent.OutcomeIdle {
		t.Errorf("%+v", result)
	}
	if result := h.invoke("s", "2"); string(result.Response.Payload) != "2" {
		t.Errorf("%s", result.Response.Payload)
	}
}

func TestJSONLogs(t *testing.T) {
	h := newHarness(t, serve(func(p *fakeProcess, e *fakeEvent) string { p.print(`{"level":"INFO"}`); return "1" }), nil)
	h.version.Logging = lambent.Logging{Format: lambent.LogJSON, SystemLevel: "DEBUG", Group: "/shared"}
	h.version.PerTenant, h.tenant = true, "blue"
	h.start("s")
	h.invoke("s", "{}")
	types := []string{}
	for _, line := range h.logs() {
		var event struct {
			Time, Type string
			Record     map[string]any
		}
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			t.Error(line, err)
		}
		types = append(types, event.Type)
		if _, ofRequest := event.Record["requestId"]; ofRequest && event.Record["tenantId"] != "blue" {
			t.Error(line)
		}
		if event.Type == "platform.report" && (event.Record["requestId"] != "request-1" || event.Record["status"] != "success" ||
			event.Record["metrics"].(map[string]any)["memorySizeMB"] != 128.0) {
			t.Error(line)
		}
	}
	if got := strings.Join(types, " "); got != "platform.initStart platform.initReport platform.start  platform.runtimeDone platform.report" {
		t.Error(got)
	}
	events, err := h.worker.Logs(t.Context(), lambent.LogQuery{Group: "/shared"})
	if err != nil || len(events) != 6 || !strings.Contains(events[0].Stream, "/f[$LATEST]") {
		t.Error(events, err)
	}
}

// A flood of output neither grows the worker nor keeps the invoke from ending; what is missing is said.
func TestLogFlood(t *testing.T) {
	line := strings.Repeat("x", 999) + "\n"
	h := newHarness(t, serve(func(p *fakeProcess, e *fakeEvent) string {
		for range 5000 {
			p.print("%s", line)
		}
		p.print("%s", strings.Repeat("y", 600<<10))
		return "1"
	}), nil)
	h.start("s")
	result := h.invoke("s", "{}")
	if string(result.Response.Payload) != "1" || !strings.Contains(string(result.Response.LogTail), "y\nEND RequestId") {
		t.Errorf("%s", result.Response.LogTail)
	}
	kept, longest, dropped := 0, 0, 0
	for _, message := range h.logs() {
		if strings.HasPrefix(message, "LOGS_DROPPED") {
			var records int
			if _, err := fmt.Sscanf(message, "LOGS_DROPPED Records: %d", &records); err != nil {
				t.Error(message, err)
			}
			dropped += records
		}
		if strings.HasPrefix(message, "x") {
			kept++
		}
		longest = max(longest, len(message))
	}
	if kept+dropped < 5000 || longest != 256<<10 {
		t.Errorf("%d lines kept, %d dropped, the longest has %d bytes", kept, dropped, longest)
	}
}

func TestSpecAndEnvironment(t *testing.T) {
	seen := make(chan []string, 1)
	h := newHarness(t, func(p *fakeProcess) sandbox.Exit {
		seen <- append([]string{fmt.Sprint("full CPU ", p.box.vcpu.Load().(float64) >= 1)}, p.command.Env...)
		return serve(echo)(p)
	}, nil)
	h.version.Layers = []lambent.CodeRef{h.blobs.put(t, map[string]string{"lib": "x"})}
	h.start("s")
	env := strings.Join(<-seen, "\n")
	for _, want := range []string{"full CPU true", "A=B", "AWS_LAMBDA_RUNTIME_API=169.254.100.1:9001", "AWS_LAMBDA_INITIALIZATION_TYPE=on-demand",
		"AWS_ACCESS_KEY_ID=ASIA", "AWS_SECRET_ACCESS_KEY=", "AWS_SESSION_TOKEN=", "AWS_LAMBDA_LOG_STREAM_NAME="} {
		if !strings.Contains(env, want) {
			t.Errorf("no %s in\n%s", want, env)
		}
	}
	box := h.worker.find("s").box.(*fakeBox)
	if box.spec.MemoryMiB != 128 || box.spec.EphemeralMiB != 512 || box.spec.Processes != 1024 || len(box.spec.Mounts) != 2 ||
		box.spec.Mounts[0].Target != "/var/task" || box.spec.Mounts[1].Target != "/opt" {
		t.Errorf("%+v", box.spec)
	}
	if got := box.vcpu.Load().(float64); got != 128.0/1769 {
		t.Error(got)
	}
}

// A runtime that answers and never asks for the next event does not run on for ever.
func TestRuntimeThatDoesNotComeBack(t *testing.T) {
	var boots atomic.Int64
	h := newHarness(t, func(p *fakeProcess) sandbox.Exit {
		if boots.Add(1) == 1 {
			p.answer(p.next(), "1")
			<-p.ctx.Done()
			return sandbox.Exit{}
		}
		return serve(echo)(p)
	}, nil)
	h.version.Timeout = 200 * time.Millisecond
	h.start("s")
	box := h.worker.find("s").box.(*fakeBox)
	if result := h.invoke("s", "{}"); string(result.Response.Payload) != "1" {
		t.Errorf("%s", result.Response.Payload)
	}
	eventually(t, "its processes are ended", func() bool { return box.kills.Load() == 1 })
	if result := h.invoke("s", "2"); string(result.Response.Payload) != "2" || boots.Load() != 2 {
		t.Errorf("%s after %d boots", result.Response.Payload, boots.Load())
	}
}

// What a runtime that has ended leaves behind is ended as well, before the next invoke.
func TestRuntimeThatEndsIdle(t *testing.T) {
	h := newHarness(t, func(p *fakeProcess) sandbox.Exit {
		e := p.next()
		if e == nil {
			return sandbox.Exit{}
		}
		p.answer(e, "1")
		return sandbox.Exit{Code: 1}
	}, func(o *Options) { o.FreezeAfter = time.Hour })
	h.start("s")
	box := h.worker.find("s").box.(*fakeBox)
	h.invoke("s", "{}")
	eventually(t, "its processes are ended", func() bool { return box.kills.Load() == 1 })
	if result := h.invoke("s", "{}"); string(result.Response.Payload) != "1" {
		t.Errorf("%s", result.Response.Payload)
	}
}

// A caller's deadline that comes before the function's timeout is kept.
func TestDeadline(t *testing.T) {
	h := newHarness(t, serve(func(p *fakeProcess, _ *fakeEvent) string { <-p.ctx.Done(); return "" }), nil)
	h.start("s")
	request := h.request("s", "{}")
	request.Deadline = time.Now().Add(50 * time.Millisecond)
	result, err := h.worker.Invoke(t.Context(), request)
	if err != nil || result.Duration > time.Second || !strings.Contains(string(result.Response.Payload), "timed out") {
		t.Errorf("%+v %v", result, err)
	}
}
