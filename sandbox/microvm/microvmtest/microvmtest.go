// Package microvmtest is what tests of microVM sandboxes share.
package microvmtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"lambent/sandbox/native/nativetest"
)

// agentVariable names an agent that was built before.
const agentVariable = "LAMBENT_GUEST_AGENT"

// Agent skips a test of real machines for anyone but root, and builds the guest agent for it. What else is needed is there where
// tests run, and its lack a failure, which the driver names the packages with.
func Agent(t testing.TB) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("virtual machines are jailed by root")
	}
	if runtime.GOARCH != "amd64" {
		t.Skip("the driver's machines are of amd64")
	}
	if path := os.Getenv(agentVariable); path != "" {
		return path
	}
	path := filepath.Join(t.TempDir(), "lambent-guest")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "lambent/cmd/lambent-guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the guest agent: %v\n%s", err, out)
	}
	t.Setenv(agentVariable, path) // for processes that the test starts
	return path
}

// Leftovers lists what exists because of a state directory, but for images and bases, which the next driver uses.
func Leftovers(stateDir string) []string {
	left := nativetest.Leftovers(stateDir)
	for _, pattern := range []string{"vm/*", "*/*.new", "*.new"} {
		paths, _ := filepath.Glob(filepath.Join(stateDir, pattern))
		left = append(left, paths...)
	}
	return left
}
