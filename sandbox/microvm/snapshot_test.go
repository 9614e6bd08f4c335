package microvm

import (
	"bufio"
	"context"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"lambent/sandbox"
	"lambent/sandbox/microvm/microvmtest"
	"lambent/sandbox/sandboxtest"
)

// TestSnapshot saves a sandbox in the midst of its process's run, and restores it twice beside the first.
func TestSnapshot(t *testing.T) {
	options := needHost(t)
	options.StateDir = t.TempDir()
	d, err := Open(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if left := microvmtest.Leftovers(options.StateDir); len(left) > 0 {
			t.Errorf("there are left: %s", strings.Join(left, ", "))
		}
	})
	box, err := d.Create(t.Context(), "first", sandbox.Template{})
	if err != nil {
		t.Fatal(err)
	}
	spec := sandbox.Spec{MemoryMiB: 256, VCPU: 1, Processes: 64, Descriptors: 256, EphemeralMiB: 600,
		Mounts: []sandbox.Mount{{Source: filepath.Dir(sandboxtest.BuildProbe(t)), Target: "/var/task"}}}
	if err := box.Specialise(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	process, err := box.Start(t.Context(), probe("count"))
	if err != nil {
		t.Fatal(err)
	}
	defer process.Output().Close()
	expectLine(t, process)
	dir := t.TempDir()
	if err := d.Snapshot(t.Context(), box, dir); err != nil {
		t.Fatal(err)
	}
	expectLine(t, process)
	for _, id := range []string{"second", "third"} {
		restored, processes, err := d.Restore(t.Context(), id, dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(processes) != 1 {
			t.Fatalf("%d processes were restored", len(processes))
		}
		expectLine(t, processes[0])
		processes[0].Output().Close()
		if err := restored.Kill(t.Context()); err != nil {
			t.Error(err)
		}
		if exit, err := processes[0].Wait(t.Context()); err != nil || exit.Signal != 9 {
			t.Errorf("the restored process ended with %+v, %v", exit, err)
		}
		checkRuntimeAPI(t, restored)
	}
	expectLine(t, process)
}

func probe(args ...string) sandbox.Command {
	return sandbox.Command{Path: "/var/task/probe", Args: append([]string{"probe"}, args...), Dir: "/var/task",
		Env: []string{"SANDBOX_PROBE=inside", "AWS_LAMBDA_RUNTIME_API=" + sandbox.RuntimeAPIAddress}}
}

// expectLine waits until a process says something.
func expectLine(t *testing.T, process sandbox.Process) {
	t.Helper()
	if _, err := process.Output().Read(make([]byte, 1)); err != nil {
		t.Fatalf("the process says nothing: %v", err)
	}
}

// checkRuntimeAPI has a process in the sandbox ask its Runtime API.
func checkRuntimeAPI(t *testing.T, box sandbox.Sandbox) {
	t.Helper()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("answer")) })}
	go server.Serve(box.RuntimeAPI())
	defer server.Close()
	process, err := box.Start(context.Background(), probe("get", "/next"))
	if err != nil {
		t.Fatal(err)
	}
	defer process.Output().Close()
	line, err := bufio.NewReader(process.Output()).ReadString('\n')
	if err != nil || line != "200 answer\n" {
		t.Errorf("the Runtime API said %q, %v", line, err)
	}
}
