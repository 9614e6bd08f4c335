package gvisor

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"lambent/sandbox"
	"lambent/sandbox/native/nativetest"
	"lambent/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	MaybeInit()
	goleak.VerifyTestMain(m)
}

// runsc is the program that tests use: that of the checkout, as `make runsc` builds it, else "", the one in the PATH.
func runsc() string {
	path, err := filepath.Abs("../../bin/runsc")
	if err != nil {
		return ""
	}
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// needHost skips a test of real sandboxes for anyone but root, and fails it on a host that lacks something else.
func needHost(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("real sandboxes need root")
	}
	if missing := Check(runsc()); len(missing) > 0 {
		t.Fatal(&MissingError{Missing: missing})
	}
}

func harness(victim string) sandboxtest.Harness {
	return sandboxtest.Harness{
		Kind: "gvisor",
		Open: func(stateDir string) (sandbox.Driver, error) {
			return Open(Options{StateDir: stateDir, Runsc: runsc()})
		},
		Leftovers:  nativetest.Leftovers,
		VictimTest: victim,
	}
}

func TestConformance(t *testing.T) {
	needHost(t)
	sandboxtest.Run(t, harness("TestVictim"))
}

func TestVictim(t *testing.T) { sandboxtest.Victim(t, harness("")) }

func BenchmarkDriver(b *testing.B) {
	needHost(b)
	sandboxtest.Bench(b, harness(""))
}
