package native

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"lambent/sandbox"
	"lambent/sandbox/cgroup"
	"lambent/sandbox/native/nativetest"
	"lambent/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	MaybeInit()
	goleak.VerifyTestMain(m)
}

// needHost skips a test of real sandboxes for anyone but root, and fails it for root on a host that lacks something.
func needHost(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("real sandboxes need root")
	}
	if missing := Check(); len(missing) > 0 {
		t.Fatal(&MissingError{Missing: missing})
	}
}

func harness(victim string, find func() (cgroup.Hierarchy, []string, error)) sandboxtest.Harness {
	return sandboxtest.Harness{
		Open:       func(stateDir string) (sandbox.Driver, error) { return openWith(Options{StateDir: stateDir}, find) },
		Leftovers:  nativetest.Leftovers,
		VictimTest: victim,
		Emulated:   os.Getenv("LAMBENT_EMULATED") != "", // in a guest of the microvm driver's tests
	}
}

func TestConformance(t *testing.T) {
	needHost(t)
	sandboxtest.Run(t, harness("TestVictim", cgroup.Find))
}

func TestVictim(t *testing.T) { sandboxtest.Victim(t, harness("", cgroup.Find)) }

// TestConformanceV1 runs the suite as on a host that has no unified tree.
func TestConformanceV1(t *testing.T) {
	needHost(t)
	if _, missing, _ := cgroup.FindV1(); len(missing) > 0 {
		t.Skipf("this host has no v1 controllers for %v", missing)
	}
	sandboxtest.Run(t, harness("TestVictimV1", cgroup.FindV1))
}

func TestVictimV1(t *testing.T) { sandboxtest.Victim(t, harness("", cgroup.FindV1)) }

func BenchmarkDriver(b *testing.B) {
	needHost(b)
	sandboxtest.Bench(b, harness("", cgroup.Find))
}
