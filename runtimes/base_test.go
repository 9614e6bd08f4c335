package runtimes

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBase(t *testing.T) {
	merged := map[string]string{"/bin": "usr/bin", "/lib": "usr/lib", "/lib64": "usr/lib64"}
	cases := []struct {
		name  string
		files []string
		links map[string]string
		want  []string // "target" or "target source", below the root
	}{
		{"merged", []string{"/usr/bin/sh", "/usr/lib/x", "/usr/lib64/ld", "/etc/ssl/certs/a", "/etc/ssl/private/key", "/etc/shadow", "/etc/ld.so.cache"}, merged,
			[]string{"/usr/bin", "/usr/lib", "/usr/lib64", "/etc /data/etc", "/etc/ld.so.cache", "/etc/ssl/certs"}},
		{"split", []string{"/usr/bin/env", "/bin/sh", "/lib/ld", "/usr/lib/x"}, nil,
			[]string{"/usr/bin", "/usr/lib", "/bin", "/lib", "/etc /data/etc"}},
		{"lib64 is lib", []string{"/usr/bin/sh", "/usr/lib/x"}, map[string]string{"/bin": "usr/bin", "/usr/lib64": "lib"},
			[]string{"/usr/bin", "/usr/lib", "/usr/lib64 /usr/lib", "/etc /data/etc"}},
		{"certificates behind a link", []string{"/usr/bin/sh", "/etc/pki/tls/certs/a"}, map[string]string{"/etc/ssl/certs": "../pki/tls/certs"},
			[]string{"/usr/bin", "/etc /data/etc", "/etc/ssl/certs /etc/pki/tls/certs", "/etc/pki/tls/certs"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			root, err := filepath.EvalSymlinks(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range c.files {
				write(t, filepath.Join(root, name), "")
			}
			for name, target := range c.links {
				if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 { // the second time finds what the first has written
				mounts, err := hostTree(root).base(filepath.Join(root, "data", "etc"), netip.Addr{})
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, mount := range mounts {
					text := mount.Target
					if source := strings.TrimPrefix(mount.Source, root); source != mount.Target {
						text += " " + source
					}
					got = append(got, text)
					if strings.HasPrefix(mount.Target, "/etc/") {
						if _, err := os.Stat(filepath.Join(root, "data", mount.Target)); err != nil {
							t.Errorf("nothing to mount %s on: %v", mount.Target, err)
						}
					}
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Error(diff)
				}
			}
			passwd, err := os.ReadFile(filepath.Join(root, "data/etc/passwd"))
			if err != nil || !strings.Contains(string(passwd), "sbx_user1051:x:993:990:") {
				t.Errorf("passwd: %q, %v", passwd, err)
			}
		})
	}
	if _, err := hostTree(t.TempDir()).base(filepath.Join(t.TempDir(), "etc"), netip.Addr{}); err == nil {
		t.Error("an empty host is no error")
	}
}

// A library that lies outside of what sandboxes show is copied beside the bootstrap.
func TestCopyLibraries(t *testing.T) {
	shell, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	p, err := readProgram(shell)
	if err != nil || len(p.needed) == 0 || p.loader == "" {
		t.Fatalf("the shell is not what this test needs: %+v, %v", p, err)
	}
	id := identity{Language: "nodejs", Version: "20.0.0"}
	for _, c := range []struct {
		name, dir string
		copied    bool
	}{{"in the system's directories", "/usr/lib", false}, {"elsewhere", "/opt/lib", true}} {
		t.Run(c.name, func(t *testing.T) {
			root, err := filepath.EvalSymlinks(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(root, "etc/ld.so.conf.d/own.conf"), "# own\n/opt/lib\n")
			write(t, filepath.Join(root, "usr/bin/x"), "")
			for _, name := range p.needed {
				write(t, filepath.Join(root, c.dir, name), "content of "+name)
			}
			lib := filepath.Join(root, "copies", "lib")
			if err := hostTree(root).copyLibraries(id, shell, lib); err != nil {
				t.Fatal(err)
			}
			for _, name := range p.needed {
				content, err := os.ReadFile(filepath.Join(lib, name))
				if c.copied != (err == nil && string(content) == "content of "+name) {
					t.Errorf("%s: %q, %v", name, content, err)
				}
			}
			if err := hostTree(root).checkLoader(p); err == nil {
				t.Error("a loader that is not there is no error")
			}
		})
	}
}
