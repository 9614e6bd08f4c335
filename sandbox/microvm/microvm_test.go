package microvm

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"lambent/sandbox"
	"lambent/sandbox/microvm/microvmtest"
	"lambent/sandbox/sandboxtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// needHost returns options for a test of real machines. LAMBENT_GUEST_KERNEL names a kernel, when that is not installed where the
// system's own are.
func needHost(t testing.TB) Options {
	t.Helper()
	options := Options{Agent: microvmtest.Agent(t), Kernel: os.Getenv("LAMBENT_GUEST_KERNEL"), MemoryMiB: 1024, Accelerator: "tcg"}
	if missing := Check(options); len(missing) > 0 {
		t.Fatal(&MissingError{Missing: missing})
	}
	return options
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
		Leftovers:  microvmtest.Leftovers,
		VictimTest: "TestVictim",
	}
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
	if left := microvmtest.Leftovers(options.StateDir); len(left) > 0 {
		t.Errorf("there are left: %q", left)
	}
}
