package rootless

import (
	"os"
	"testing"

	"lambent/sandbox"
	"lambent/sandbox/identity"
	"lambent/sandbox/native"
	"lambent/sandbox/native/nativetest"
	"lambent/sandbox/sandboxtest"
)

// needInside skips a test unless this process is one that Run has started, for a user who has all that Check looks for.
func needInside(t *testing.T) {
	t.Helper()
	if !identity.Restricted() || os.Geteuid() != 0 {
		t.Skip("this test is run by TestRootlessInGuest of package microvm, without root in a virtual machine")
	}
}

func harness() sandboxtest.Harness {
	return sandboxtest.Harness{
		Open: func(stateDir string) (sandbox.Driver, error) {
			locks, err := LockDirectory(os.Getenv)
			if err != nil {
				return nil, err
			}
			return native.Open(native.Options{StateDir: stateDir, TmpInMemory: true, IdentityDir: locks})
		},
		Leftovers:   nativetest.Leftovers,
		VictimTest:  "TestVictim",
		TmpInMemory: true,
		Emulated:    true,
	}
}

// TestConformance runs the drivers' suite without root.
func TestConformance(t *testing.T) {
	needInside(t)
	sandboxtest.Run(t, harness())
}

func TestVictim(t *testing.T) { sandboxtest.Victim(t, harness()) }
