package sandboxtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"lambent/sandbox/sandboxtest/probe/hostile"
)

// ProofRunner makes attempts, by their names, as root of a machine that is thrown away, by running the probe there with the
// arguments "prove NAME..." and SANDBOX_PROBE=outside, under a kernel that has hostile.Throwaway on its command line. It
// returns what the probe wrote.
type ProofRunner func(ctx context.Context, names []string) (output []byte, err error)

// Prove checks that each attempt which needs a machine of its own to succeed does succeed in one. So an attempt that a
// sandbox holds is held by the sandbox, not by a slip of its author.
func Prove(t *testing.T, run ProofRunner) {
	proveAll(t, hostile.Guest, run)
}

// ProveInNamespaces does the same for the attempts that succeed in a user namespace, which root makes and an unprivileged
// user's rights are behind. It is to be called as root.
func ProveInNamespaces(t *testing.T) {
	probe := buildProbe(t) + "/probe"
	for _, attempt := range attemptsProven(hostile.Namespace) {
		t.Run(attempt, func(t *testing.T) {
			out, err := runInNamespaces(t.Context(), probe, attempt)
			checkFindings(t, []string{attempt}, out, err)
		})
	}
}

// BuildProbe builds the probe and returns its path, for runners of proofs.
func BuildProbe(t testing.TB) string { return buildProbe(t) + "/probe" }

func proveAll(t *testing.T, where hostile.Proof, run ProofRunner) {
	names := attemptsProven(where)
	out, err := run(t.Context(), names)
	checkFindings(t, names, out, err)
}

// attemptsProven lists the attempts that succeed in a place.
func attemptsProven(where hostile.Proof) []string {
	var names []string
	for _, attempt := range hostile.Attempts() {
		if attempt.Proof == where {
			names = append(names, attempt.Name)
		}
	}
	return names
}

// checkFindings checks that every attempt got something.
func checkFindings(t *testing.T, names []string, out []byte, runErr error) {
	t.Helper()
	found := map[string]hostile.Finding{}
	for line := range bytes.Lines(out) {
		_, text, ok := strings.Cut(string(line), hostile.ProofPrefix)
		if !ok {
			continue
		}
		var finding hostile.Finding
		if err := json.Unmarshal([]byte(strings.TrimSpace(text)), &finding); err != nil {
			t.Errorf("the probe's line %q: %v", text, err)
		}
		found[finding.Name] = finding
	}
	for _, name := range names {
		finding, ok := found[name]
		switch {
		case !ok:
			t.Errorf("%s: there is no finding", name)
		case len(finding.Breaches) == 0:
			t.Errorf("%s got nothing where nothing holds it:\n%s", name, strings.Join(finding.Answers, "\n"))
		default:
			t.Logf("%s: %s", name, strings.Join(finding.Breaches, "; "))
		}
	}
	if runErr != nil || len(found) < len(names) {
		t.Errorf("the proof ended with %v\n%s", runErr, tail(out, 4000))
	}
}

func tail(out []byte, most int) []byte { return out[max(0, len(out)-most):] }

// proofIDs are the users of the machine that those of a proof's namespace are. Nothing belongs to them.
const proofIDs = 0x6f000000

// runInNamespaces has the probe prove attempts as root of new namespaces of every kind.
func runInNamespaces(ctx context.Context, probe string, names ...string) ([]byte, error) {
	program, err := os.Open(probe)
	if err != nil {
		return nil, fmt.Errorf("open the probe: %w", err)
	}
	defer program.Close()
	mapping := []syscall.SysProcIDMap{{ContainerID: 0, HostID: proofIDs, Size: 65536}}
	// The probe is started by its descriptor: its path may lead through directories that only root may use.
	cmd := exec.CommandContext(ctx, "/proc/self/fd/3", append([]string{"prove"}, names...)...)
	cmd.ExtraFiles = []*os.File{program}
	cmd.Env = []string{"SANDBOX_PROBE=outside"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC |
			unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP,
		UidMappings: mapping, GidMappings: mapping, GidMappingsEnableSetgroups: true,
		Credential: &syscall.Credential{Uid: 0, Gid: 0},
		Setsid:     true,
		Pdeathsig:  unix.SIGKILL,
	}
	return cmd.CombinedOutput()
}
