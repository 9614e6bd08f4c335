package sandboxtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lambent/sandbox"
)

// lifecycle covers Create, Specialise and the Runtime API.
func lifecycle(t *testing.T, s *suite) {
	t.Run("names", func(t *testing.T) {
		for _, name := range []string{"", ".", "..", "a/b", "../a", strings.Repeat("a", 300)} {
			if _, err := s.driver.Create(t.Context(), name, sandbox.Template{}); err == nil {
				t.Errorf("the name %q was accepted", name)
			}
		}
	})
	t.Run("a name is taken while its sandbox lives", func(t *testing.T) {
		box := s.sandboxOf(t, s.driver, "twice", nil)
		if _, err := s.driver.Create(t.Context(), "twice", sandbox.Template{}); err == nil {
			t.Error("a second sandbox of the same name was made")
		}
		if err := box.Destroy(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.sandboxOf(t, s.driver, "twice", nil)
	})
	t.Run("specialise", func(t *testing.T) {
		box := s.sandbox(t, nil)
		expect(t, hold(t, box, "where"), "/var/task 169-254-100-1")
		usage, err := box.Usage()
		if err != nil {
			t.Fatal(err)
		}
		if usage.CPU <= 0 || usage.PeakMemoryBytes <= 0 || usage.PeakMemoryBytes < usage.MemoryBytes || usage.OOMKills != 0 {
			t.Errorf("usage is %+v", usage)
		}
	})
	t.Run("specialise refuses", func(t *testing.T) { specialiseRefuses(t, s) })
	t.Run("file mounts and nested targets", func(t *testing.T) {
		file := t.TempDir() + "/file"
		if err := os.WriteFile(file, []byte("content"), 0o644); err != nil {
			t.Fatal(err)
		}
		box := s.sandbox(t, func(spec *sandbox.Spec) {
			spec.Mounts = append(spec.Mounts, sandbox.Mount{Source: file, Target: "/opt/one/two/file"})
		})
		expect(t, hold(t, box, "read", "/opt/one/two/file"), "content")
	})
	t.Run("runtime API", func(t *testing.T) { runtimeAPI(t, s) })
	t.Run("many at once", func(t *testing.T) { manyAtOnce(t, s, map[bool]int{false: 50, true: 5}[s.Emulated]) })
}

func specialiseRefuses(t *testing.T, s *suite) {
	for name, change := range map[string]func(*sandbox.Spec){
		"no memory":       func(spec *sandbox.Spec) { spec.MemoryMiB = 0 },
		"no CPU":          func(spec *sandbox.Spec) { spec.VCPU = 0 },
		"no processes":    func(spec *sandbox.Spec) { spec.Processes = -1 },
		"no descriptors":  func(spec *sandbox.Spec) { spec.Descriptors = 0 },
		"no /tmp":         func(spec *sandbox.Spec) { spec.EphemeralMiB = 0 },
		"missing source":  func(spec *sandbox.Spec) { spec.Mounts = []sandbox.Mount{{Source: "/no/such", Target: "/opt"}} },
		"relative source": func(spec *sandbox.Spec) { spec.Mounts = []sandbox.Mount{{Source: "tmp", Target: "/opt"}} },
		"relative target": func(spec *sandbox.Spec) { spec.Mounts = []sandbox.Mount{{Source: "/tmp", Target: "opt"}} },
		"the root":        func(spec *sandbox.Spec) { spec.Mounts = []sandbox.Mount{{Source: "/tmp", Target: "/opt/.."}} },
	} {
		box, err := s.driver.Create(t.Context(), s.name(), sandbox.Template{})
		if err != nil {
			t.Fatal(err)
		}
		spec := s.specification()
		change(&spec)
		if err := box.Specialise(t.Context(), spec); err == nil {
			t.Errorf("%s was accepted", name)
		}
		if err := box.Destroy(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// runtimeAPI serves two sandboxes, each of which must reach its own listener and nothing else.
func runtimeAPI(t *testing.T, s *suite) {
	var boxes []sandbox.Sandbox
	for i := range 2 {
		box := s.sandbox(t, nil)
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%d %s", i, r.URL.Path)
		})}
		go server.Serve(box.RuntimeAPI())
		t.Cleanup(func() { server.Close() })
		boxes = append(boxes, box)
	}
	for i, box := range boxes {
		for range 2 {
			expect(t, hold(t, box, "get", "/next"), fmt.Sprintf("200 %d /next", i))
		}
	}
}

func manyAtOnce(t *testing.T, s *suite, n int) {
	boxes, failures := make([]sandbox.Sandbox, n), make([]error, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			boxes[i], failures[i] = s.driver.Create(t.Context(), "many-"+strconv.Itoa(i), sandbox.Template{})
			if failures[i] == nil {
				failures[i] = boxes[i].Specialise(t.Context(), s.specification())
			}
		})
	}
	group.Wait()
	if err := errors.Join(failures...); err != nil {
		t.Fatal(err)
	}
	for i, box := range boxes {
		expect(t, hold(t, box, "echo", strconv.Itoa(i)), strconv.Quote(strconv.Itoa(i)))
	}
	for i, box := range boxes {
		group.Go(func() { failures[i] = box.Destroy(context.Background()) })
	}
	group.Wait()
	if err := errors.Join(failures...); err != nil {
		t.Fatal(err)
	}
}

// processes covers Start, Output and Wait.
func processes(t *testing.T, s *suite) {
	box := s.sandbox(t, nil)
	t.Run("arguments", func(t *testing.T) {
		expect(t, hold(t, box, "echo", "", "a b", "\xff\n", "ü"), `""`, `"a b"`, `"\xff\n"`, `"ü"`)
	})
	t.Run("output keeps its order", func(t *testing.T) {
		var want []string
		for i := range 2000 {
			want = append(want, strconv.Itoa(i))
		}
		expect(t, hold(t, box, "order", "2000"), want...)
	})
	t.Run("standard streams have names", func(t *testing.T) {
		expect(t, hold(t, box, "stdout"), "/dev/stdout", "/dev/stderr", "/proc/self/fd/1")
	})
	t.Run("exit", func(t *testing.T) {
		for _, code := range []int{0, 1, 77, 255} {
			if _, exit := run(t, box, "exit", strconv.Itoa(code)); exit != (sandbox.Exit{Code: code}) {
				t.Errorf("exit %d gave %+v", code, exit)
			}
		}
		for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL, syscall.SIGINT, syscall.SIGHUP} {
			_, exit := run(t, box, "signal", strconv.Itoa(int(signal)))
			if exit.Signal != int(signal) || exit.OOMKilled {
				t.Errorf("signal %d gave %+v", signal, exit)
			}
		}
	})
	t.Run("several at once", func(t *testing.T) {
		one, two := start(t, box, "pause"), start(t, box, "exit", "5")
		if exit := await(t, two); exit.Code != 5 {
			t.Errorf("exit is %+v", exit)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if _, err := one.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting for a living process gave %v", err)
		}
		one.Output().Close()
		two.Output().Close()
	})
	t.Run("an orphan outlives its parent", func(t *testing.T) { orphans(t, s) })
	t.Run("start refuses", func(t *testing.T) { startRefuses(t, box) })
	t.Run("large environment", func(t *testing.T) {
		cmd := command("inherited")
		cmd.Env = append(cmd.Env, "LARGE="+strings.Repeat("x", 32<<10))
		cmd.Args = append(cmd.Args, cmd.Env...)
		process, err := box.Start(t.Context(), cmd)
		if err != nil {
			t.Fatal(err)
		}
		defer process.Output().Close()
		if out, _ := io.ReadAll(process.Output()); string(out) != "held\n" {
			t.Errorf("the output is %.200q", out)
		}
	})
}

func orphans(t *testing.T, s *suite) {
	box := s.sandbox(t, nil)
	process := start(t, box, "orphan")
	defer process.Output().Close()
	if exit := await(t, process); exit != (sandbox.Exit{}) {
		t.Errorf("exit is %+v", exit)
	}
	usage, err := box.Usage()
	if err != nil || usage.Processes == 0 {
		t.Errorf("usage is %+v, %v", usage, err)
	}
	ended := make(chan string, 1)
	go func() {
		out, _ := io.ReadAll(process.Output())
		ended <- string(out)
	}()
	if err := box.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case out := <-ended:
		if !strings.HasPrefix(out, "child ") {
			t.Errorf("the output is %q", out)
		}
	case <-time.After(patience):
		t.Error("the output has no end although all processes are killed")
	}
}

func startRefuses(t *testing.T, box sandbox.Sandbox) {
	for name, change := range map[string]func(*sandbox.Command){
		"a missing program":   func(c *sandbox.Command) { c.Path = "/var/task/none" },
		"a directory":         func(c *sandbox.Command) { c.Path = "/var/task" },
		"a missing directory": func(c *sandbox.Command) { c.Dir = "/none" },
		"no arguments":        func(c *sandbox.Command) { c.Args = nil },
		"a huge argument":     func(c *sandbox.Command) { c.Args = append(c.Args, strings.Repeat("x", 4<<20)) },
		"too many arguments":  func(c *sandbox.Command) { c.Args = append(c.Args, make([]string, 100_000)...) },
		"a NUL":               func(c *sandbox.Command) { c.Args = append(c.Args, "a\x00b") },
	} {
		cmd := command("echo")
		change(&cmd)
		if process, err := box.Start(t.Context(), cmd); err == nil {
			process.Output().Close()
			t.Errorf("%s was started", name)
		}
	}
	hold(t, box, "echo") // none of it did harm
}

// freezeCost is the CPU time that stopping itself may use, which the meters show late.
func (s *suite) freezeCost() time.Duration {
	if s.Emulated {
		return 5 * time.Millisecond
	}
	return time.Millisecond
}

// freeze checks that a frozen sandbox stands still, and goes on.
func freeze(t *testing.T, s *suite) {
	box := s.sandbox(t, nil)
	for range 2 { // of a sandbox without processes, and idempotent
		if err := errors.Join(box.Freeze(), box.Freeze(), box.Thaw(), box.Thaw()); err != nil {
			t.Fatal(err)
		}
	}
	process := start(t, box, "count")
	defer process.Output().Close()
	lines := make(chan string, 1<<16)
	go func() {
		scanner := bufio.NewScanner(process.Output())
		for scanner.Scan() {
			lines <- scanner.Text()
		}
		close(lines)
	}()
	<-lines
	for range 20 {
		if err := box.Freeze(); err != nil {
			t.Fatal(err)
		}
		settle(lines)
		before, err := box.Usage() // a process is not quite off its processor when it is said to stand still
		if err != nil {
			t.Fatal(err)
		}
		select {
		case line := <-lines:
			t.Fatalf("a frozen sandbox counted on to %s", line)
		case <-time.After(20 * time.Millisecond):
		}
		if after, _ := box.Usage(); after.CPU-before.CPU > s.freezeCost() {
			t.Errorf("a frozen sandbox used %v of CPU", after.CPU-before.CPU)
		}
		if err := box.Thaw(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-lines:
		case <-time.After(patience):
			t.Fatal("a thawed sandbox stands still")
		}
	}
	frozenOften(t, s)
}

// frozenOften checks that a sandbox bears being frozen again and again, also before it did anything in between.
func frozenOften(t *testing.T, s *suite) {
	box := s.sandbox(t, nil)
	for range 10 {
		for range 5 {
			if err := errors.Join(box.Freeze(), box.Thaw()); err != nil {
				t.Fatal(err)
			}
		}
		expect(t, hold(t, box, "echo", "alive"), `"alive"`)
	}
}

// settle takes what had been written before.
func settle(lines <-chan string) {
	for {
		select {
		case <-lines:
		case <-time.After(5 * time.Millisecond):
			return
		}
	}
}

// kill checks that Kill ends everything and keeps the file system.
func kill(t *testing.T, s *suite) {
	box := s.sandbox(t, nil)
	hold(t, box, "touch", "/tmp/kept")
	for _, state := range []string{"running", "frozen", "empty"} {
		t.Run(state, func(t *testing.T) {
			var process sandbox.Process
			if state != "empty" {
				process = start(t, box, "count")
				defer process.Output().Close()
			}
			if state == "frozen" {
				if err := box.Freeze(); err != nil {
					t.Fatal(err)
				}
			}
			killed(t, box)
			if process != nil {
				if exit := await(t, process); exit.Signal != int(syscall.SIGKILL) || exit.OOMKilled {
					t.Errorf("exit is %+v", exit)
				}
			}
			expect(t, hold(t, box, "read", "/tmp/kept"), "touched")
		})
	}
	t.Run("fork bomb", func(t *testing.T) {
		process := start(t, box, "forkbomb")
		process.Output().Close()
		deadline := time.Now().Add(patience)
		for usage, err := box.Usage(); usage.Processes < 100; usage, err = box.Usage() {
			if err != nil || time.Now().After(deadline) {
				t.Fatalf("the bomb does not go off: %+v, %v", usage, err)
			}
		}
		killed(t, box)
		expect(t, hold(t, box, "read", "/tmp/kept"), "touched")
	})
}

// killed kills a sandbox, after which it has no process of the function.
func killed(t *testing.T, box sandbox.Sandbox) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := box.Kill(ctx); err != nil {
		t.Fatalf("kill: %v", err)
	}
	if usage, err := box.Usage(); err != nil || usage.Processes > 0 {
		t.Errorf("after Kill usage is %+v, %v", usage, err)
	}
}

// destroy checks that Destroy works in every state, ends the other calls, and is idempotent.
func destroy(t *testing.T, s *suite) {
	for _, state := range []string{"ready-made", "specialised", "running", "frozen", "killed", "bombed", "full"} {
		t.Run(state, func(t *testing.T) { destroyIn(t, s, state) })
	}
}

func destroyIn(t *testing.T, s *suite, state string) {
	box, err := s.driver.Create(t.Context(), s.name(), sandbox.Template{})
	if err != nil {
		t.Fatal(err)
	}
	var process sandbox.Process
	if state != "ready-made" {
		spec := s.specification()
		if state == "full" {
			spec.EphemeralMiB = s.tmpMiB()
		}
		if err := box.Specialise(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
	}
	switch state {
	case "running", "frozen", "killed":
		process = start(t, box, "count")
	case "bombed":
		process = start(t, box, "forkbomb")
		time.AfterFunc(0, func() { box.Usage() })
	case "full":
		hold(t, box, "fill", "/tmp")
	}
	if state == "frozen" {
		err = box.Freeze()
	} else if state == "killed" {
		err = box.Kill(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan error, 1)
	go func() {
		_, err := box.RuntimeAPI().Accept()
		accepted <- err
	}()
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			if err := box.Destroy(context.Background()); err != nil {
				t.Errorf("destroy: %v", err)
			}
		})
	}
	group.Wait()
	if err := <-accepted; err == nil {
		t.Error("the Runtime API's listener is still open")
	}
	if process != nil {
		if exit := await(t, process); exit.Signal != int(syscall.SIGKILL) {
			t.Errorf("exit is %+v", exit)
		}
		io.Copy(io.Discard, process.Output()) // comes to its end
		process.Output().Close()
	}
	if _, err := box.Start(t.Context(), command("echo")); err == nil {
		t.Error("a process was started in a destroyed sandbox")
	}
}
