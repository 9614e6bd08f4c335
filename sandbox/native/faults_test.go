package native

import (
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"lambent/sandbox"
	"lambent/sandbox/identity"
	"lambent/sandbox/native/nativetest"
)

// openShell opens a driver whose sandboxes have a shell that needs no more than /usr.
func openShell(t *testing.T, options Options) *Driver {
	t.Helper()
	needHost(t)
	if _, err := exec.LookPath("/bin/sh"); err != nil {
		t.Skip("this host has no /bin/sh")
	}
	options.StateDir, options.Base = t.TempDir(), []sandbox.Mount{{Source: "/usr", Target: "/usr"}}
	d, err := Open(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if left := nativetest.Leftovers(options.StateDir); len(left) > 0 {
			t.Errorf("left are %q", left)
		}
	})
	return d
}

func shellSandbox(t *testing.T, d *Driver, id string) *Sandbox {
	t.Helper()
	box, err := d.Create(t.Context(), id, sandbox.Template{})
	if err != nil {
		t.Fatal(err)
	}
	spec := sandbox.Spec{MemoryMiB: 128, VCPU: 1, Processes: 64, Descriptors: 256, EphemeralMiB: 512}
	if err := box.Specialise(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	return box.(*Sandbox)
}

func startShell(t *testing.T, box *Sandbox, script string) sandbox.Process {
	t.Helper()
	p, err := box.Start(t.Context(), sandbox.Command{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Output().Close() })
	return p
}

func shellOutput(t *testing.T, box *Sandbox, script string) string {
	t.Helper()
	out, err := io.ReadAll(startShell(t, box, script).Output())
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestInitDies ends an init, as the host's out-of-memory killer may: everything in its sandbox is known to have ended, and
// what is left is removed.
func TestInitDies(t *testing.T) {
	d := openShell(t, Options{})
	box := shellSandbox(t, d, "a")
	p := startShell(t, box, "sleep 1000")
	if err := unix.Kill(box.init.pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	exit, err := p.Wait(t.Context())
	if err != nil || exit.Signal != int(unix.SIGKILL) {
		t.Errorf("exit is %+v, %v", exit, err)
	}
	if _, err := box.Start(t.Context(), sandbox.Command{Path: "/bin/sh", Args: []string{"sh"}}); err == nil {
		t.Error("a process was started without an init")
	}
	if err := box.Kill(t.Context()); err == nil {
		t.Error("Kill worked without an init")
	}
	if err := box.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestSpawnerDies ends the spawner: living sandboxes go on and can be destroyed, and new ones can be made.
func TestSpawnerDies(t *testing.T) {
	d := openShell(t, Options{})
	old := shellSandbox(t, d, "old")
	former := d.spawner
	if err := former.process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-former.control.gone
	fresh := shellSandbox(t, d, "new")
	for _, box := range []*Sandbox{old, fresh} {
		if got := shellOutput(t, box, "echo here"); got != "here\n" {
			t.Errorf("the output is %q", got)
		}
		if err := box.Destroy(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if d.spawner == former {
		t.Error("the former spawner is still used")
	}
}

// TestTmpInMemory fills a /tmp that is in memory: it is full before the function is out of memory.
func TestTmpInMemory(t *testing.T) {
	d := openShell(t, Options{TmpInMemory: true})
	box := shellSandbox(t, d, "a")
	out := shellOutput(t, box, "dd if=/dev/zero of=/tmp/a bs=1048576 2>&1; wc -c < /tmp/a")
	if !strings.Contains(out, "No space left") || !strings.HasSuffix(out, "\n536870912\n") {
		t.Errorf("the output is %q", out)
	}
	if usage, err := box.Usage(); err != nil || usage.OOMKills > 0 {
		t.Errorf("usage is %+v, %v", usage, err)
	}
}

// TestDescriptors checks that sandboxes that come and go leave no descriptor open.
func TestDescriptors(t *testing.T) {
	d := openShell(t, Options{})
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	var before int
	for i := range 4 {
		box := shellSandbox(t, d, "a")
		shellOutput(t, box, "echo")
		if err := box.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := box.Destroy(t.Context()); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			before = count()
		}
	}
	if after := count(); after > before+4 { // the outputs are closed when the test ends, one for each round
		t.Errorf("%d descriptors were open after one sandbox, %d after four", before, after)
	}
}

// TestSandboxesDoNotShareIDs checks that processes of two sandboxes have different users on the host.
func TestSandboxesDoNotShareIDs(t *testing.T) {
	d := openShell(t, Options{})
	owners := map[uint32]bool{}
	for _, id := range []string{"a", "b"} {
		box := shellSandbox(t, d, id)
		startShell(t, box, "sleep 1000")
		processes, err := box.group.Processes()
		if err != nil || len(processes) == 0 {
			t.Fatalf("processes are %v, %v", processes, err)
		}
		var stat unix.Stat_t
		if err := unix.Stat("/proc/"+strconv.Itoa(processes[0]), &stat); err != nil {
			t.Fatal(err)
		}
		if stat.Uid < identity.First || owners[stat.Uid] {
			t.Errorf("the user on the host is %d", stat.Uid)
		}
		owners[stat.Uid] = true
	}
}

// TestStandardInputIsInside checks that a function inherits the sandbox's /dev/null, and not the host's.
func TestStandardInputIsInside(t *testing.T) {
	box := shellSandbox(t, openShell(t, Options{}), "a")
	const script = `stat -L -c %d:%i /proc/self/fd/0; stat -c %d:%i /dev/null`
	lines := strings.Fields(shellOutput(t, box, script))
	if len(lines) != 2 || lines[0] != lines[1] {
		t.Errorf("standard input and /dev/null are %q", lines)
	}
}
