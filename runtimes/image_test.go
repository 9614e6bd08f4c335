package runtimes

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lambent/sandbox"
)

func TestImageBase(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"usr/bin/sh", "usr/lib/x86_64-linux-gnu/libc.so.6", "usr/lib/python3.11/os.py", "usr/lib/jvm/java", "usr/lib/llvm-14/clang",
		"usr/lib/real-release"} {
		write(t, filepath.Join(root, name), "")
	}
	for name, target := range map[string]string{"usr/lib/os-release": "real-release", "usr/lib/libgone.so": "nowhere"} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	r := &Registry{base: []sandbox.Mount{{Source: root + "/usr/bin", Target: "/usr/bin"}, {Source: root + "/usr/lib", Target: "/usr/lib"}}}
	mounts, err := r.ImageBase()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, mount := range mounts {
		got = append(got, mount.Target+" "+strings.TrimPrefix(mount.Source, root))
	}
	want := []string{"/usr/bin /usr/bin", "/usr/lib/os-release /usr/lib/real-release", "/usr/lib/python3.11 /usr/lib/python3.11",
		"/usr/lib/x86_64-linux-gnu /usr/lib/x86_64-linux-gnu"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the base of images (-want +got):\n%s", diff)
	}
}
