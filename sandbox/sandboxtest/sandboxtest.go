// Package sandboxtest is the conformance suite that every sandbox driver passes. A driver's tests call Run, and Victim from
// a test of the name that Harness.VictimTest says.
//
// What the suite runs in sandboxes is package probe, a small static program that it builds. Hostile attempts are made
// there, and only there.
package sandboxtest

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lambent/sandbox"
)

// Harness is what the suite needs to know of a driver.
type Harness struct {
	// Kind is the driver's name in hostile.Granted and in the documentation: native, gvisor or microvm. Native is the default.
	Kind string
	// Open makes a driver with a state directory. Base is to be visible inside beside what the driver shows by itself.
	Open func(stateDir string) (sandbox.Driver, error)
	// Leftovers lists what is on the host of drivers with a state directory: processes, cgroups, mounts, interfaces, devices.
	// It is empty when there is nothing.
	Leftovers func(stateDir string) []string
	// VictimTest is the name of the test that calls Victim.
	VictimTest string
	// HostAddresses are "network", "address" pairs that the host serves beside those that the suite opens.
	HostAddresses []string
	// TmpInMemory says that /tmp is part of the function's memory, whose limit is then the sum of both sizes.
	TmpInMemory bool
	// Emulated says that sandboxes are machines without hardware support, of which few fit beside each other.
	Emulated bool
}

// Run runs the whole suite.
func Run(t *testing.T, h Harness) { RunBut(t, h) }

// RunBut runs the suite without the parts of these names, for a driver that passes them already when it is used another way.
func RunBut(t *testing.T, h Harness, without ...string) {
	s := newSuite(t, h)
	for _, part := range []struct {
		name string
		run  func(*testing.T, *suite)
	}{
		{"Lifecycle", lifecycle},
		{"Processes", processes},
		{"Freeze", freeze},
		{"Kill", kill},
		{"Destroy", destroy},
		{"Limits", limits},
		{"Isolation", isolation},
		{"Attempts", hostileAttempts},
		{"Neighbours", neighbours},
		{"Recover", recovery},
	} {
		if !slices.Contains(without, part.name) {
			t.Run(part.name, func(t *testing.T) { part.run(t, s) })
		}
	}
}

// suite is what the tests share: the probe, and one driver for those that need none of their own.
type suite struct {
	Harness
	code     string // the directory on the host that holds the probe
	stateDir string
	driver   sandbox.Driver
	next     int
}

// newSuite builds the probe and opens a driver. When the test ends it closes the driver, and nothing may be left.
func newSuite(t testing.TB, h Harness) *suite {
	t.Helper()
	if h.Kind == "" {
		h.Kind = "native"
	}
	s := &suite{Harness: h, code: buildProbe(t), stateDir: t.TempDir()}
	s.driver = s.open(t, s.stateDir)
	t.Cleanup(func() { s.closeClean(t, s.driver, s.stateDir) })
	return s
}

// open opens a driver and recovers.
func (s *suite) open(t testing.TB, stateDir string) sandbox.Driver {
	t.Helper()
	driver, err := s.Open(stateDir)
	if err != nil {
		t.Fatalf("open the driver: %v", err)
	}
	if err := driver.Recover(t.Context()); err != nil {
		t.Fatalf("recover: %v", err)
	}
	return driver
}

// closeClean closes a driver and checks that nothing is left of it.
func (s *suite) closeClean(t testing.TB, driver sandbox.Driver, stateDir string) {
	t.Helper()
	if err := driver.Close(); err != nil {
		t.Errorf("close the driver: %v", err)
	}
	if left := s.Leftovers(stateDir); len(left) > 0 {
		t.Errorf("after Close there are left: %s", strings.Join(left, ", "))
	}
}

// probeVariable names a probe that was built before.
const probeVariable = "LAMBENT_PROBE"

// buildProbe builds the probe, with set-user-ID and set-group-ID copies of it, into a directory that everyone may read.
func buildProbe(t testing.TB) string {
	t.Helper()
	directory := t.TempDir()
	if err := os.Chmod(directory, 0o755); err != nil {
		t.Fatal(err)
	}
	probe := filepath.Join(directory, "probe")
	binary, err := os.ReadFile(os.Getenv(probeVariable)) // where there is no compiler
	if err == nil {
		err = os.WriteFile(probe, binary, 0o755)
	} else {
		build := exec.Command("go", "build", "-o", probe, "lambent/sandbox/sandboxtest/probe")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build the probe: %v\n%s", err, out)
		}
		binary, err = os.ReadFile(probe)
	}
	if err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"setuid": os.ModeSetuid, "setgid": os.ModeSetgid} {
		path := filepath.Join(directory, name)
		if err := os.WriteFile(path, binary, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o755|mode); err != nil {
			t.Fatal(err)
		}
	}
	return directory
}

// specification is that of an ordinary function.
func (s *suite) specification() sandbox.Spec {
	return sandbox.Spec{
		MemoryMiB: 256, VCPU: 1, Processes: 256, Descriptors: 1024, EphemeralMiB: 512, Hostname: "169-254-100-1",
		Mounts: []sandbox.Mount{{Source: s.code, Target: "/var/task"}},
	}
}

// tmpMiB is the size of a /tmp that is to be filled.
func (s *suite) tmpMiB() int {
	if s.Emulated {
		return 64
	}
	return 256
}

// floodMiB is a memory limit that is to be reached.
func (s *suite) floodMiB() int {
	if s.Emulated {
		return 64
	}
	return 128
}

// name returns a name for a new sandbox.
func (s *suite) name() string {
	s.next++
	return fmt.Sprintf("test-%d", s.next)
}

// sandbox makes a specialised sandbox that is destroyed when the test ends.
func (s *suite) sandbox(t testing.TB, change func(*sandbox.Spec)) sandbox.Sandbox {
	t.Helper()
	return s.sandboxOf(t, s.driver, s.name(), change)
}

func (s *suite) sandboxOf(t testing.TB, driver sandbox.Driver, name string, change func(*sandbox.Spec)) sandbox.Sandbox {
	t.Helper()
	box, err := driver.Create(t.Context(), name, sandbox.Template{})
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	t.Cleanup(func() {
		if err := box.Destroy(context.Background()); err != nil {
			t.Errorf("destroy: %v", err)
		}
	})
	spec := s.specification()
	if change != nil {
		change(&spec)
	}
	if err := box.Specialise(t.Context(), spec); err != nil {
		t.Fatalf("specialise: %v", err)
	}
	return box
}

// environment is that of probes: the mark that lets them run, and the address of the Runtime API.
func environment() []string {
	return []string{"SANDBOX_PROBE=inside", "AWS_LAMBDA_RUNTIME_API=" + sandbox.RuntimeAPIAddress}
}

// command runs the probe.
func command(args ...string) sandbox.Command {
	return sandbox.Command{Path: "/var/task/probe", Args: append([]string{"probe"}, args...), Env: environment(), Dir: "/var/task"}
}

// start starts a probe.
func start(t testing.TB, box sandbox.Sandbox, args ...string) sandbox.Process {
	t.Helper()
	process, err := box.Start(t.Context(), command(args...))
	if err != nil {
		t.Fatalf("start %q: %v", args, err)
	}
	return process
}

// patience bounds whatever a test waits for.
const patience = 60 * time.Second

// await returns how a process ended.
func await(t testing.TB, process sandbox.Process) sandbox.Exit {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	exit, err := process.Wait(ctx)
	if err != nil {
		t.Fatalf("wait: %v", err)
	}
	return exit
}

// run runs a probe to its end, and returns what it wrote.
func run(t testing.TB, box sandbox.Sandbox, args ...string) (string, sandbox.Exit) {
	t.Helper()
	process := start(t, box, args...)
	defer process.Output().Close()
	out, err := io.ReadAll(io.LimitReader(process.Output(), 1<<20))
	if err != nil {
		t.Fatalf("read the output of %q: %v", args, err)
	}
	return string(out), await(t, process)
}

// hold runs an attempt that must get nothing, and returns the lines before its verdict.
func hold(t testing.TB, box sandbox.Sandbox, args ...string) []string {
	t.Helper()
	out, exit := run(t, box, args...)
	lines := strings.Split(strings.TrimRight(out, "\n"), "\n")
	if exit != (sandbox.Exit{}) || lines[len(lines)-1] != "held" {
		t.Errorf("%q: exit %+v\n%s", args, exit, out)
	}
	return lines[:max(0, len(lines)-1)]
}

// value returns the number that a probe printed after a word.
func value(t testing.TB, lines []string, word string) int {
	t.Helper()
	for _, line := range lines {
		var n int
		if _, err := fmt.Sscanf(line, word+" %d", &n); err == nil {
			return n
		}
	}
	t.Fatalf("no %q in %q", word, lines)
	return 0
}

// expect checks the lines that a probe printed.
func expect(t testing.TB, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("the output is %q instead of %q", got, want)
	}
}
