package native

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParseKernelVersion(t *testing.T) {
	for release, want := range map[string][2]int{
		"6.18.44-fc-v669": {6, 18}, "5.14.0": {5, 14}, "6.1-rc3": {6, 1}, "": {}, "x.y": {}, "6": {}, "5.x": {},
	} {
		if got := parseKernelVersion(release); got != want {
			t.Errorf("%q is read as %v instead of %v", release, got, want)
		}
	}
}

// TestProcMasks checks that what is not known to be harmless is hidden.
func TestProcMasks(t *testing.T) {
	proc := t.TempDir()
	for _, name := range []string{"1", "self", "meminfo", "sys", "kcore", "a-later-kernel's"} {
		if err := os.Mkdir(filepath.Join(proc, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	got, err := procMasks(proc)
	slices.Sort(got)
	want := []string{"hide a-later-kernel's", "hide kcore", "lock sys"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("masks are %q, %v instead of %q", got, err, want)
	}
}

// TestCheckNames checks that what is missing is named in words that help.
func TestCheckNames(t *testing.T) {
	err := &MissingError{Missing: []string{"a", "b"}}
	if got := err.Error(); !strings.Contains(got, "a; b") {
		t.Errorf("the text is %q", got)
	}
}

func TestOpenRefuses(t *testing.T) {
	needHost(t)
	if _, err := Open(Options{StateDir: filepath.Join(t.TempDir(), "x"), IdentityDir: "/proc/none"}); err == nil {
		t.Error("a driver without IDs was opened")
	}
	if binary, err := initExecutable([]byte("not really a program")); err != nil {
		t.Error(err)
	} else {
		if _, err := binary.WriteAt([]byte("x"), 0); err == nil {
			t.Error("the init can be changed")
		}
		binary.Close()
	}
}
