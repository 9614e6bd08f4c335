package microvm

import (
	"context"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lambent/sandbox"
	"lambent/sandbox/microvm/agent/wire"
)

// attemptsVariable turns on the longest part of TestRootlessInGuest.
const attemptsVariable = "LAMBENT_ROOTLESS_ATTEMPTS"

// TestRootlessInGuest is a user without rights, who has subordinate IDs and a delegated cgroup of version 2, which few hosts of tests
// have: the native driver's conformance suite, and a whole region.
func TestRootlessInGuest(t *testing.T) {
	if testing.Short() {
		t.Skip("an emulated machine runs it for minutes")
	}
	programs := rootlessPrograms(t)
	for _, part := range []struct{ name, role, tests, passes string }{
		{"region", "tests", "^TestRegion$", "TestRegion"},
		{"suite", "guest", "^TestConformance$/^(Lifecycle|Processes|Freeze|Kill|Destroy|Limits|Isolation|Neighbours|Recover)$", "TestConformance"},
		{"attempts", "guest", "^TestConformance$/^Attempts$", "TestConformance"},
	} {
		t.Run(part.name, func(t *testing.T) {
			if part.name == "attempts" && os.Getenv(attemptsVariable) == "" {
				t.Skipf("set %s=1 to make all hostile attempts without root as well: five minutes", attemptsVariable)
			}
			out := runWithoutRoot(t, programs, part.role, part.tests)
			if !strings.HasSuffix(out, "\nexit status 0\n") || !strings.Contains(out, "--- PASS: "+part.passes) || strings.Contains(out, "--- SKIP: "+part.passes) {
				t.Errorf("it did not pass in the guest:\n%s", out[max(0, len(out)-8000):])
			}
		})
	}
}

// runWithoutRoot runs tests of package rootless for a user of a guest, and returns what they wrote.
func runWithoutRoot(t *testing.T, programs, role, tests string) string {
	t.Helper()
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
	manifest := wire.Manifest{
		Program: []string{"/base/0/rootless.test", "-test.v", "-test.count=1", "-test.timeout=11m", "-test.run=" + tests},
		Env:     []string{"LAMBENT_ROOTLESS_TEST=" + role, "LAMBENT_ROOTLESS_PROGRAMS=/base/0", "LAMBENT_PROBE=/base/0/probe"},
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
	return out
}

// rootlessPrograms makes a directory of what the guest needs: tests, the probe, and below root the host's programs that hand out
// subordinate IDs, with their libraries.
func rootlessPrograms(t *testing.T) string {
	t.Helper()
	programs := t.TempDir()
	if err := os.Chmod(programs, 0o755); err != nil {
		t.Fatal(err)
	}
	buildStatic(t, filepath.Join(programs, "probe"), "build", "lambent/sandbox/sandboxtest/probe")
	buildStatic(t, filepath.Join(programs, "rootless.test"), "test", "-c", "lambent/sandbox/rootless")
	buildStatic(t, filepath.Join(programs, "lambent"), "build", "lambent/cmd/lambent")
	buildStatic(t, filepath.Join(programs, "bootstrap"), "build", "lambent/bench/functions/echo")
	for _, name := range []string{"newuidmap", "newgidmap"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Skipf("%s is not installed (Debian: apt-get install uidmap)", name)
		}
		for _, file := range append(libraries(t, path), path) {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			target := filepath.Join(programs, "root", file)
			if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(target, content, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	return programs
}

// libraries returns the paths of the loader and of the libraries of a program.
func libraries(t *testing.T, program string) []string {
	t.Helper()
	var paths []string
	seen := map[string]bool{}
	for queue := []string{program}; len(queue) > 0; queue = queue[1:] {
		image, err := elf.Open(queue[0])
		if err != nil {
			t.Fatal(err)
		}
		names, err := image.ImportedLibraries()
		if err != nil {
			t.Fatal(err)
		}
		if section := image.Section(".interp"); section != nil {
			loader, err := section.Data()
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, strings.TrimRight(string(loader), "\x00"))
		}
		image.Close()
		for _, name := range names {
			path := findLibrary(t, name)
			if !seen[path] {
				seen[path] = true
				paths, queue = append(paths, path), append(queue, path)
			}
		}
	}
	return paths
}

func findLibrary(t *testing.T, name string) string {
	t.Helper()
	if filepath.IsAbs(name) {
		return name
	}
	for _, pattern := range []string{"/lib/*-linux-gnu", "/usr/lib/*-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"} {
		if found, _ := filepath.Glob(filepath.Join(pattern, name)); len(found) > 0 {
			return found[0]
		}
	}
	t.Fatalf("there is no library %s", name)
	return ""
}
