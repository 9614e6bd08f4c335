package runtimes

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"lambent/sandbox"
)

// staticProgram is the smallest file that is a program without libraries: the header of an ELF file.
func staticProgram() string {
	header := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: 64, Phentsize: 56, Shentsize: 64}
	copy(header.Ident[:], elf.ELFMAG)
	header.Ident[elf.EI_CLASS], header.Ident[elf.EI_DATA] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB)
	header.Ident[elf.EI_VERSION] = byte(elf.EV_CURRENT)
	var text bytes.Buffer
	binary.Write(&text, binary.LittleEndian, header)
	return text.String()
}

// fakeHost is a tree with interpreters that nobody runs.
type fakeHost struct {
	finder
	root   string
	log    *bytes.Buffer
	mu     sync.Mutex
	probed []string // guarded by mu
}

// newFakeHost makes a tree whose programs say that they are what answers has for their path below the root. A path that
// answers does not have fails.
func newFakeHost(t *testing.T, files map[string]string, answers map[string]identity) *fakeHost {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		write(t, filepath.Join(root, name), content)
	}
	h := &fakeHost{root: root, log: &bytes.Buffer{}}
	h.finder = finder{host: hostTree(root), dir: filepath.Join(root, "data"), logger: slog.New(slog.NewTextHandler(h.log, nil)),
		probe: func(_ context.Context, path, bootstrap string) (identity, error) {
			if _, err := os.Stat(filepath.Join(bootstrap, "bootstrap.py")); err != nil {
				t.Errorf("probed without a bootstrap: %v", err)
			}
			name := strings.TrimPrefix(path, root)
			h.mu.Lock()
			h.probed = append(h.probed, name)
			h.mu.Unlock()
			id, ok := answers[name]
			if !ok {
				return identity{}, errors.New("boom")
			}
			id.Prefix, id.Library = filepath.Join(root, id.Prefix), filepath.Join(root, id.Library)
			return id, nil
		}}
	return h
}

// look finds interpreters and returns their paths below the root by runtime, and what was run for it.
func (h *fakeHost) look(t *testing.T) (found map[string]string, probed []string) {
	t.Helper()
	h.probed = nil
	environment := map[string]string{"NVM_DIR": h.root + "/nvm"}
	interpreters, err := h.find(places(h.root+"/usr/bin:relative:"+h.root+"/missing", h.root+"/user", func(name string) string { return environment[name] }))
	if err != nil {
		t.Fatal(err)
	}
	found = map[string]string{}
	for name, one := range interpreters {
		if strings.HasPrefix(one.Path, h.root) { // the places of distributions are looked at too
			found[name] = strings.TrimPrefix(one.Path, h.root)
		}
	}
	probed = slices.DeleteFunc(h.probed, func(name string) bool {
		return !slices.Contains(slices.Collect(maps.Values(found)), name) && !strings.HasPrefix(name, "/user") && !strings.HasPrefix(name, "/nvm")
	})
	slices.Sort(probed)
	return found, probed
}

func TestFind(t *testing.T) {
	program := staticProgram()
	python := func(version, prefix string) identity {
		return identity{Language: "python", Version: version, Prefix: prefix, Library: prefix + "/lib/python" + majorMinor(version), Platform: "lib"}
	}
	h := newFakeHost(t, map[string]string{
		"usr/bin/python3.8":                                      "#!/bin/sh\nexit 1\n", // a shim
		"user/.pyenv/versions/3.28.2/bin/python3.28":             program,
		"user/.pyenv/versions/3.28.10/bin/python3.28":            program,
		"user/.pyenv/versions/broken/bin/python3":                program,
		"user/.pyenv/versions/3.28.2/lib/python3.28/os.py":       "",
		"user/.pyenv/versions/3.28.10/lib/python3.28/os.py":      "",
		"nvm/versions/node/v96.1.0/bin/node":                     program,
		"nvm/versions/node/v96.0.9/bin/node":                     program,
		"user/.local/share/fnm/node-versions/v98/installation/x": "",
	}, map[string]identity{
		"/user/.pyenv/versions/3.28.2/bin/python3.28":  python("3.28.2", "/user/.pyenv/versions/3.28.2"),
		"/user/.pyenv/versions/3.28.10/bin/python3.28": python("3.28.10", "/user/.pyenv/versions/3.28.10"),
		"/nvm/versions/node/v96.1.0/bin/node":          {Language: "nodejs", Version: "96.1.0"},
		"/nvm/versions/node/v96.0.9/bin/node":          {Language: "nodejs", Version: "96.0.9"},
	})
	for _, version := range []string{"3.28.2", "3.28.10"} { // as pyenv has it
		if err := os.Symlink("python3.28", h.root+"/user/.pyenv/versions/"+version+"/bin/python3"); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]string{"python3.28": "/user/.pyenv/versions/3.28.10/bin/python3.28", "nodejs96.x": "/nvm/versions/node/v96.1.0/bin/node"}
	all := []string{"/nvm/versions/node/v96.0.9/bin/node", "/nvm/versions/node/v96.1.0/bin/node",
		"/user/.pyenv/versions/3.28.10/bin/python3.28", "/user/.pyenv/versions/3.28.2/bin/python3.28", "/user/.pyenv/versions/broken/bin/python3"}
	check := func(step string, wantProbed []string) {
		t.Helper()
		found, probed := h.look(t)
		if diff := cmp.Diff(want, found); diff != "" {
			t.Errorf("%s: found:\n%s", step, diff)
		}
		if diff := cmp.Diff(wantProbed, probed); diff != "" {
			t.Errorf("%s: probed:\n%s", step, diff)
		}
	}
	check("first", all)
	if log := h.log.String(); !strings.Contains(log, "broken/bin/python3") || strings.Contains(log, "python3.8") {
		t.Errorf("the log should name what is broken, and no shim: %s", log)
	}
	check("again", nil)
	newest := h.root + "/user/.pyenv/versions/3.28.10/bin/python3.28"
	if err := os.Chtimes(newest, time.Time{}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	check("after an interpreter was replaced", []string{"/user/.pyenv/versions/3.28.10/bin/python3.28"})
	node := h.bootstrapOf(t, "nodejs96.x")
	if err := os.RemoveAll(node); err != nil {
		t.Fatal(err)
	}
	check("after a bootstrap was removed", []string{"/nvm/versions/node/v96.1.0/bin/node"})
	if err := os.Remove(newest); err != nil {
		t.Fatal(err)
	}
	want["python3.28"] = "/user/.pyenv/versions/3.28.2/bin/python3.28"
	check("after an interpreter was removed", nil)
	write(t, h.findingsFile(), "{")
	slices.Sort(all)
	check("after the findings were damaged", slices.DeleteFunc(all, func(name string) bool { return strings.HasSuffix(name, "3.28.10/bin/python3.28") }))
	left, err := filepath.Glob(h.dir + "/python3.28-*")
	if err != nil || len(left) != 1 {
		t.Errorf("directories of python3.28: %v %v", left, err)
	}
}

func (h *fakeHost) bootstrapOf(t *testing.T, name string) string {
	t.Helper()
	for _, one := range h.read() {
		if one.Interpreter != nil && one.Interpreter.Name == name && strings.HasPrefix(one.Interpreter.Path, h.root) {
			if best([]finding{one})[name].Version == "96.1.0" {
				return one.Interpreter.Bootstrap
			}
		}
	}
	t.Fatalf("nothing is known of %s", name)
	return ""
}

func TestIdentityMounts(t *testing.T) {
	cases := []struct {
		name string
		id   identity
		path string
		want []sandbox.Mount
	}{
		{"a directory of its own", identity{Language: "python", Version: "3.11.7", Prefix: "/opt/py", Library: "/opt/py/lib/python3.11", Platform: "lib"},
			"/opt/py/bin/python3.11", []sandbox.Mount{{Source: "/opt/py", Target: "/var/lang"}}},
		{"Debian", identity{Language: "python", Version: "3.11.2", Prefix: "/usr", Library: "/usr/lib/python3.11", Platform: "lib"},
			"/usr/bin/python3.11", []sandbox.Mount{{Source: "/usr/bin/python3.11", Target: "/var/lang/bin/python3.11"},
				{Source: "/usr/lib/python3.11", Target: "/var/lang/lib/python3.11"}}},
		{"Fedora", identity{Language: "python", Version: "3.12.1", Prefix: "/usr", Library: "/usr/lib64/python3.12", Platform: "lib64"},
			"/usr/bin/python3.12", []sandbox.Mount{{Source: "/usr/bin/python3.12", Target: "/var/lang/bin/python3.12"},
				{Source: "/usr/lib64/python3.12", Target: "/var/lang/lib/python3.12"}, {Source: "/usr/lib64/python3.12", Target: "/var/lang/lib64/python3.12"}}},
		{"built from source", identity{Language: "python", Version: "3.13.0", Prefix: "/usr/local", Library: "/usr/local/lib/python3.13", Platform: "lib"},
			"/usr/local/bin/python3.13", []sandbox.Mount{{Source: "/usr/local/bin/python3.13", Target: "/var/lang/bin/python3.13"},
				{Source: "/usr/local/lib/python3.13", Target: "/var/lang/lib/python3.13"}}},
		{"a program elsewhere", identity{Language: "python", Version: "3.13.0", Prefix: "/opt/a", Library: "/opt/a/lib/python3.13", Platform: "lib"},
			"/opt/b/python3.13", []sandbox.Mount{{Source: "/opt/b/python3.13", Target: "/var/lang/bin/python3.13"},
				{Source: "/opt/a/lib/python3.13", Target: "/var/lang/lib/python3.13"}}},
		{"Node.js", identity{Language: "nodejs", Version: "20.1.2"}, "/usr/bin/node", []sandbox.Mount{{Source: "/usr/bin/node", Target: "/var/lang/bin/node"}}},
	}
	for _, c := range cases {
		if diff := cmp.Diff(c.want, c.id.mounts(c.path)); diff != "" {
			t.Errorf("%s:\n%s", c.name, diff)
		}
	}
}

func TestParseIdentity(t *testing.T) {
	cases := []struct{ output, name, version string }{
		{"v20.20.2\n", "nodejs20.x", "20.20.2"},
		{"v16.0.0", "nodejs16.x", "16.0.0"},
		{"v14.21.3\n", "", ""},
		{"v20\n", "", ""},
		{"vnext.1.2\n", "", ""},
		{"3.11.7\n/opt/py\n/opt/py/lib/python3.11\nlib\ncpython\n", "python3.11", "3.11.7"},
		{"3.99.0\n/opt/py\n/opt/py/lib/python3.99\nlib\ncpython\n", "", ""},
		{"3.7.16\n/opt/py\n/opt/py/lib/python3.7\nlib\ncpython\n", "", ""},
		{"3.10.14\n/opt/py\n/opt/py/lib\nlib\npypy\n", "", ""},
		{"3.11.7\npy\n/opt/py/lib/python3.11\nlib\ncpython\n", "", ""},
		{"Python 3.11.7\n", "", ""},
		{"", "", ""},
	}
	for _, c := range cases {
		id, err := parseIdentity(c.output)
		if c.name == "" {
			if !errors.Is(err, errNotInterpreter) {
				t.Errorf("%q: %+v, %v", c.output, id, err)
			}
			continue
		}
		if err != nil || id.name() != c.name || id.Version != c.version {
			t.Errorf("%q: %+v, %v", c.output, id, err)
		}
	}
}

func FuzzParseIdentity(f *testing.F) {
	for _, seed := range []string{"v20.20.2\n", "3.11.7\n/opt/py\n/opt/py/lib/python3.11\nlib\ncpython\n", "", "v\n", "3.\n\n\n\ncpython"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, output string) {
		id, err := parseIdentity(output)
		if err != nil {
			return
		}
		if id.name() == "" || id.Version == "" || (id.Language == "python") != filepath.IsAbs(id.Prefix) {
			t.Errorf("%q is taken for %+v", output, id)
		}
	})
}

func TestCompareVersions(t *testing.T) {
	version := rapid.Custom(func(t *rapid.T) []int { return rapid.SliceOfN(rapid.IntRange(0, 30), 3, 3).Draw(t, "parts") })
	rapid.Check(t, func(t *rapid.T) {
		a, b := version.Draw(t, "a"), version.Draw(t, "b")
		text := func(parts []int) string { return fmt.Sprintf("%d.%d.%d", parts[0], parts[1], parts[2]) }
		if got, want := compareVersions(text(a), text(b)), slices.Compare(a, b); got != want {
			t.Errorf("%v with %v: %d, not %d", a, b, got, want)
		}
	})
}
