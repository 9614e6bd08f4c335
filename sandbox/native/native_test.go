package native

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"lambent/sandbox"
	"lambent/sandbox/cgroup"
	"lambent/sandbox/identity"
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
		Leftovers:  leftovers,
		VictimTest: victim,
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

// leftovers lists the processes, cgroups, mounts and loop devices that exist because of a state directory.
func leftovers(stateDir string) []string {
	var left []string
	filepath.WalkDir("/sys/fs/cgroup", func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.IsDir() || !strings.Contains(path, cgroup.Name(stateDir)) {
			return nil //nolint:nilerr // cgroups of others come and go during the walk
		}
		if filepath.Base(path) == cgroup.Name(stateDir) {
			left = append(left, sandboxtest.OwnMark+"cgroup "+path)
		} else {
			left = append(left, "cgroup "+path)
		}
		return nil
	})
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, stateDir) {
			left = append(left, "mount "+line)
		}
	}
	names, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, name := range names {
		if text, err := os.ReadFile(name); err == nil && strings.Contains(string(text), stateDir) {
			left = append(left, "loop device "+name)
		}
	}
	return append(left, inits(stateDir)...)
}

// inits lists the processes of sandboxes: those that have user IDs of a block which this process does not hold open.
func inits(stateDir string) []string {
	var left []string
	block, err := os.ReadFile(filepath.Join(stateDir, "block"))
	if err != nil {
		return nil
	}
	var first uint32
	fmt.Sscan(string(block), &first)
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, path := range processes {
		var stat unix.Stat_t
		if unix.Stat(path, &stat) == nil && stat.Uid >= first && stat.Uid < first+identity.BlockIDs && !ended(path) {
			left = append(left, "process "+path)
		}
	}
	return left
}

// ended tells whether a process is a zombie, which whoever inherited it has not reaped yet.
func ended(process string) bool {
	text, err := os.ReadFile(process + "/status")
	return err != nil || strings.Contains(string(text), "State:\tZ")
}

func BenchmarkDriver(b *testing.B) {
	needHost(b)
	sandboxtest.Bench(b, harness("", cgroup.Find))
}
