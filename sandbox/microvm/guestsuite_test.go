package microvm

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lambent/sandbox"
	"lambent/sandbox/microvm/agent/wire"
	"lambent/sandbox/microvm/stream"
)

// guestSuitePatience bounds the native driver's suite in a guest. Emulated, it takes one to three minutes.
const guestSuitePatience = 12 * time.Minute

// TestNativeSuiteInGuest runs the native driver's conformance suite as root of a guest that has cgroups of version 2 only, which
// few hosts of tests have. It leaves out the attempts to use something up, which take long: the driver's own suite makes them, and
// it is the native driver in a guest that holds them there.
func TestNativeSuiteInGuest(t *testing.T) {
	if testing.Short() {
		t.Skip("an emulated machine runs it for minutes")
	}
	options := needHost(t)
	options.StateDir = t.TempDir()
	d, err := Open(options)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), guestSuitePatience)
	defer cancel()
	if err := d.prepare(ctx); err != nil {
		t.Fatal(err)
	}
	programs := t.TempDir()
	buildStatic(t, filepath.Join(programs, "probe"), "build", "lambent/sandbox/sandboxtest/probe")
	buildStatic(t, filepath.Join(programs, "native.test"), "test", "-c", "lambent/sandbox/native")
	manifest := wire.Manifest{
		Program: []string{"/base/0/native.test", "-test.v", "-test.count=1", "-test.timeout=11m",
			"-test.run=^TestConformance$", "-test.skip=/^Attempts$/(^memory-|-bomb$|-flood$|^deep-)"},
		Env: []string{"LAMBENT_PROBE=/base/0/probe", "LAMBENT_EMULATED=1", "TMPDIR=/state", "PATH=/", "HOME=/state"},
	}
	if d.rootImage, err = d.images.base(ctx, manifest, []sandbox.Mount{{Source: programs, Target: "/"}}); err != nil {
		t.Fatal(err)
	}
	out := runInGuest(ctx, t, d)
	for line := range strings.Lines(out) {
		if strings.Contains(line, "--- ") || strings.Contains(line, ".go:") {
			t.Log(strings.TrimRight(line, "\n"))
		}
	}
	if !strings.HasSuffix(out, "\nexit status 0\n") || !strings.Contains(out, "--- PASS: TestConformance") || strings.Contains(out, "--- SKIP: TestConformance") {
		t.Errorf("the suite in the guest did not pass:\n%s", out[max(0, len(out)-8000):])
	}
}

// buildStatic builds a program that needs no libraries.
func buildStatic(t *testing.T, path string, args ...string) {
	t.Helper()
	last := len(args) - 1
	args = append(append(append([]string{}, args[:last]...), "-trimpath", "-ldflags", "-s -w", "-o", path), args[last])
	build := exec.Command("go", args...)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// runInGuest boots the root image's program, and returns what it wrote.
func runInGuest(ctx context.Context, t *testing.T, d *Driver) string {
	t.Helper()
	s, err := d.admit("suite", 3072)
	if err != nil {
		t.Fatal(err)
	}
	defer d.creating.Done()
	defer func() {
		if err := s.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	if err := s.boot(ctx, ""); err != nil {
		t.Fatal(err)
	}
	greeting := stream.Greeting{Time: time.Now()}
	_, _ = rand.Read(greeting.Seed[:])
	conn, err := stream.Dial(ctx, s.machine.Port(), 1, greeting)
	if err != nil {
		t.Fatalf("%v: %s", err, s.machine.Said())
	}
	s.stream = conn
	stop := context.AfterFunc(ctx, func() { _ = s.machine.End() })
	defer stop()
	var out bytes.Buffer
	if _, err := io.Copy(io.MultiWriter(&out, os.Stderr), conn); err != nil { // what it says of a hang must not be lost
		t.Logf("the connection ended: %v: %s", err, s.machine.Said())
	}
	return out.String()
}
