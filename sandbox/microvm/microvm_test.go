package microvm

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"go.uber.org/goleak"

	"lambent/sandbox"
	"lambent/sandbox/native/nativetest"
	"lambent/sandbox/sandboxtest"
)

// Where a guest's parts come from, for tests: variables of the environment, else the places of a distribution.
const (
	kernelVariable  = "LAMBENT_GUEST_KERNEL"
	modulesVariable = "LAMBENT_GUEST_MODULES"
	agentVariable   = "LAMBENT_GUEST_AGENT"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// needHost skips a test of real machines for anyone but root, and returns options for the test. Where such machines can be had, a
// lack is a failure: the message names the packages.
func needHost(t testing.TB) Options {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("virtual machines are jailed by root")
	}
	if runtime.GOARCH != "amd64" {
		t.Skip("the driver's machines are of amd64")
	}
	options := Options{Kernel: os.Getenv(kernelVariable), Modules: os.Getenv(modulesVariable), Agent: os.Getenv(agentVariable), MemoryMiB: 1024,
		Accelerator: "tcg"}
	if options.Agent == "" {
		options.Agent = buildAgent(t)
		t.Setenv(agentVariable, options.Agent) // for victims
	}
	if missing := Check(options); len(missing) > 0 {
		t.Fatal(&MissingError{Missing: missing})
	}
	return options
}

func buildAgent(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "lambent-guest")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "lambent/cmd/lambent-guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the guest agent: %v\n%s", err, out)
	}
	return path
}

func harness(t testing.TB) sandboxtest.Harness {
	options := needHost(t)
	return sandboxtest.Harness{
		Kind:     "microvm",
		Emulated: true,
		Open: func(stateDir string) (sandbox.Driver, error) {
			mine := options
			mine.StateDir = stateDir
			return Open(mine)
		},
		Leftovers:  leftovers,
		VictimTest: "TestVictim",
	}
}

// leftovers lists what exists because of a state directory, but for images and bases, which the next driver uses.
func leftovers(stateDir string) []string {
	left := nativetest.Leftovers(stateDir)
	for _, pattern := range []string{"vm/*", "*/*.new", "*.new"} {
		paths, _ := filepath.Glob(filepath.Join(stateDir, pattern))
		left = append(left, paths...)
	}
	return left
}

func TestConformance(t *testing.T) { sandboxtest.Run(t, harness(t)) }

func TestVictim(t *testing.T) { sandboxtest.Victim(t, harness(t)) }

func BenchmarkDriver(b *testing.B) { sandboxtest.Bench(b, harness(b)) }

// TestChooseAccelerator decides by booting, and leaves nothing of that.
func TestChooseAccelerator(t *testing.T) {
	options := needHost(t)
	options.StateDir, options.Accelerator = t.TempDir(), ""
	d, err := Open(options)
	if err != nil {
		t.Fatal(err)
	}
	err = d.prepare(t.Context())
	if err != nil || d.options.Accelerator != "kvm" && d.options.Accelerator != "tcg" {
		t.Errorf("the accelerator is %q, %v", d.options.Accelerator, err)
	}
	t.Logf("the accelerator is %s", d.options.Accelerator)
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if left := leftovers(options.StateDir); len(left) > 0 {
		t.Errorf("there are left: %q", left)
	}
}
