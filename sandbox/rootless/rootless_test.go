package rootless

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"lambent/sandbox/identity"
)

func TestRangesOfAUser(t *testing.T) {
	u := user{name: "ann", uid: 1000, gid: 1000}
	for text, want := range map[string][]idRange{
		"":                                       nil,
		"bob:100000:65536\nann:165536:65536\n":   {{165536, 65536}},
		"1000:5:7":                               {{5, 7}},
		"ann:1:2\n1000:3:4\n":                    {{1, 2}, {3, 4}},
		"# ann:1:2\nann:1\nann:1:2:3\nann:x:2\n": nil,
		"ann:1:-2\nann:0:5\nann:1:0\nann:1:99999999999\n": nil,
		"  ann:1:2 \n": {{1, 2}},
	} {
		if got := parseRanges(text, u); !slices.Equal(got, want) {
			t.Errorf("%q gives %v instead of %v", text, got, want)
		}
	}
}

func TestMapArguments(t *testing.T) {
	const service = identity.ServiceID
	for _, c := range []struct {
		ranges []idRange
		want   string
	}{
		{[]idRange{{100000, 65536}}, fmt.Sprintf("7 0 1000 1 %d 100000 65536", service)},
		{[]idRange{{100000, 1000}, {300000, 500}}, fmt.Sprintf("7 0 1000 1 %d 100000 1000 %d 300000 500", service, service+1000)},
		{[]idRange{{1, lastID}, {3, 4}}, fmt.Sprintf("7 0 1000 1 %d 1 %d", service, lastID-service)},
	} {
		if got := strings.Join(mapArguments(7, 1000, c.ranges), " "); got != c.want {
			t.Errorf("the arguments for %v are %q instead of %q", c.ranges, got, c.want)
		}
	}
}

func TestLockDirectory(t *testing.T) {
	for environment, want := range map[[2]string]string{
		{"/run/user/1000", "/home/ann"}: "/run/user/1000/lambent/ids",
		{"", "/home/ann"}:               "/home/ann/.local/state/lambent/ids",
		{"relative", ""}:                "",
	} {
		got, err := LockDirectory(func(name string) string { return environment[slices.Index([]string{"XDG_RUNTIME_DIR", "HOME"}, name)] })
		if got != want || (err == nil) != (want != "") {
			t.Errorf("with %q it is %q, %v", environment, got, err)
		}
	}
}

// TestNewIDPrograms has the distribution's newuidmap and newgidmap give IDs to a process of an unprivileged user of this host, who
// has them in a mount namespace only, and looks from inside at what that user has become.
func TestNewIDPrograms(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("giving a user subordinate IDs needs root")
	}
	for _, needed := range []string{"/etc/subuid", "/etc/subgid"} {
		if _, err := os.Stat(needed); err != nil {
			t.Skip(err)
		}
	}
	if _, err := exec.LookPath("newuidmap"); err != nil {
		t.Skip("newuidmap is not installed (Debian: apt-get install uidmap)")
	}
	out, err := asRole(t, roleHost, "^TestInside$")
	if err != nil || !strings.Contains(out, "--- PASS: TestInside") {
		t.Errorf("%v\n%s", err, out)
	}
}

// asRole runs a test of this program in another role.
func asRole(t *testing.T, role, test string) (string, error) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "lambent-rootless-") //nolint:usetesting // another user is to reach it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "rootless.test") // this one is where only root may go
	content, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, content, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "-test.run="+test, "-test.v", "-test.timeout=1m")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), roleVariable+"="+role, "TMPDIR="+dir)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestInside checks what the root of a user namespace has, and that it has no more. It is run by other tests.
func TestInside(t *testing.T) {
	if !identity.Restricted() {
		t.Skip("this test is run by TestNewIDPrograms, in a user namespace")
	}
	if os.Geteuid() != 0 || os.Getegid() != 0 {
		t.Errorf("it is user %d, group %d", os.Geteuid(), os.Getegid())
	}
	block, err := identity.OpenMapped(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer block.Close()
	if block.First() != identity.First || block.IDs() < 4000 {
		t.Errorf("the block has %d IDs from %d on", block.IDs(), block.First())
	}
	if _, err := identity.Open(t.TempDir()); err == nil {
		t.Error("it has a block with all IDs")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, id := range []int{identity.ServiceID, identity.First, identity.First + block.IDs() - 1} {
		if err := os.Lchown(file, id, id); err != nil {
			t.Errorf("a file cannot be given to %d: %v", id, err)
		}
	}
	if err := os.Lchown(file, 1, 1); err == nil {
		t.Error("a file was given to a user that is not this one's")
	}
	if text, err := os.ReadFile("/etc/shadow"); err == nil {
		t.Errorf("it read %d bytes of /etc/shadow", len(text))
	}
	point := t.TempDir()
	if err := unix.Mount("tmpfs", point, "tmpfs", 0, "size=1m"); err != nil {
		t.Errorf("a tmpfs cannot be mounted: %v", err)
	} else if err := unix.Unmount(point, 0); err != nil {
		t.Error(err)
	}
	if err := unix.Sethostname([]byte("changed")); err == nil {
		t.Error("it changed the host's name")
	}
	if own := os.Getenv(stageVariable); own != "" {
		t.Errorf("%s is %q: what this process starts would take itself for one that Run has started", stageVariable, own)
	}
	if _, err := os.Stat("/proc/self/fd/" + strconv.Itoa(lifeline)); err != nil {
		t.Errorf("the lifeline: %v", err)
	}
}

// TestContinueByHand checks that nobody becomes anything by setting the variable.
func TestContinueByHand(t *testing.T) {
	t.Setenv(stageVariable, stageInside)
	if inside, err := Continue(); inside != (identity.Restricted() && os.Geteuid() == 0) || err != nil {
		t.Errorf("inside is %v, %v", inside, err)
	}
}

// TestCheckSaysWhatToDo looks at the sentences on this host, whatever it has.
func TestCheckSaysWhatToDo(t *testing.T) {
	err := &MissingError{Missing: Check()}
	for _, sentence := range err.Missing {
		if !strings.Contains(sentence, "usermod --add-sub") && !strings.Contains(sentence, "apt-get install") && !strings.Contains(sentence, "sysctl") &&
			!strings.Contains(sentence, "systemd") {
			t.Errorf("nobody knows what to do about %q", sentence)
		}
		if !strings.Contains(err.Error(), "\n  - "+sentence) {
			t.Errorf("%q is not in the error", sentence)
		}
	}
}
