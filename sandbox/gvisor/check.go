package gvisor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"lambent/sandbox/cgroup"
	"lambent/sandbox/ephemeral"
	"lambent/sandbox/gvisor/initproc"
	"lambent/sandbox/identity"
)

// MaybeInit becomes a part of a sandbox when this process was started as one, and returns otherwise. Every program that opens a
// driver without the embedded init calls it before anything else.
func MaybeInit() {
	if status, known := initproc.Main(); known {
		os.Exit(status)
	}
}

// MissingError says what a host lacks to run sandboxes of this driver.
type MissingError struct {
	// Missing has one sentence for each thing, for the operator.
	Missing []string
}

// Error joins the sentences.
func (e *MissingError) Error() string {
	return "this host cannot run gvisor sandboxes: " + strings.Join(e.Missing, "; ")
}

// Check returns what this process and host lack to run sandboxes with a runsc at a path ("" for the one that FindRunsc finds), one
// sentence for each, and nothing when all is there.
func Check(runsc string) []string {
	var missing []string
	if os.Geteuid() != 0 {
		missing = append(missing, "it needs to run as root")
	}
	if _, err := FindRunsc(runsc); err != nil {
		missing = append(missing, err.Error())
	}
	if _, err := os.Stat("/proc/self/ns/user"); err != nil {
		missing = append(missing, "the kernel has no user namespaces (CONFIG_USER_NS)")
	}
	if ids := identity.Missing(); ids != "" {
		missing = append(missing, ids)
	}
	_, controllers, err := cgroup.Find()
	if err != nil {
		missing = append(missing, "the cgroups cannot be read: "+err.Error())
	}
	if len(controllers) > 0 {
		missing = append(missing, (&cgroup.MissingError{Controllers: controllers}).Error())
	}
	return append(missing, ephemeral.Check()...)
}

// FindRunsc returns the absolute path of gVisor's program: the one that is named, else that beside this executable, else that in
// the PATH.
func FindRunsc(named string) (string, error) {
	candidates := []string{named}
	if named == "" {
		candidates = nil
		if executable, err := os.Executable(); err == nil {
			candidates = append(candidates, filepath.Join(filepath.Dir(executable), "runsc"))
		}
		if found, err := exec.LookPath("runsc"); err == nil {
			candidates = append(candidates, found)
		}
	}
	for _, candidate := range candidates {
		if info, err := os.Stat(candidate); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return filepath.Abs(candidate)
		}
	}
	if named != "" {
		return "", fmt.Errorf("there is no program %s", named)
	}
	return "", errors.New("gVisor's runsc is neither beside lambent nor in the PATH: build it with `make runsc`")
}

// platforms are the ways in which the Sentry can catch system calls.
func platforms() []string { return []string{"systrap", "kvm", "ptrace"} }

// checkPlatform refuses names that runsc does not know.
func checkPlatform(name string) error {
	if !slices.Contains(platforms(), name) {
		return fmt.Errorf("gVisor has no platform %q: use one of %s", name, strings.Join(platforms(), ", "))
	}
	return nil
}
