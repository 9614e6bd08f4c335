package main

import (
	"archive/zip"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// unzip returns the entries of an archive as "mode name: content" lines.
func unzip(t *testing.T, archive []byte) []string {
	t.Helper()
	r, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, entry := range r.File {
		file, err := entry.Open()
		if err != nil {
			t.Fatal(err)
		}
		var content bytes.Buffer
		if _, err := content.ReadFrom(file); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, entry.Mode().String()+" "+entry.Name+": "+content.String())
	}
	return lines
}

func TestBundleKeepsWhatMattersAndNothingElse(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]fs.FileMode{
		"bootstrap": 0o700, "b/lib.py": 0o600, "a.txt": 0o664, ".env": 0o644,
		".git/config": 0o644, "b/__pycache__/x.pyc": 0o644, "b/x.pyc": 0o644,
		"node_modules/a/index.js": 0o644, "node_modules/.cache/x": 0o644, ".venv/bin/python": 0o755,
	} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("lib.py", filepath.Join(dir, "b", "link.py")); err != nil {
		t.Fatal(err)
	}
	first, err := bundle(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"-rw-r--r-- .env: .env", "-rw-r--r-- a.txt: a.txt", "-rw-r--r-- b/lib.py: b/lib.py", "Lrwxrwxrwx b/link.py: lib.py",
		"-rwxr-xr-x bootstrap: bootstrap", "-rw-r--r-- node_modules/a/index.js: node_modules/a/index.js",
	}
	if got := unzip(t, first); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	// Neither times nor the permissions that do not count may show.
	if err := os.Chtimes(filepath.Join(dir, "a.txt"), time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "bootstrap"), 0o755); err != nil {
		t.Fatal(err)
	}
	second, err := bundle(os.DirFS(dir))
	if err != nil || !bytes.Equal(first, second) {
		t.Errorf("the same files gave other bytes (%v)", err)
	}
}

func TestBundleRefuses(t *testing.T) {
	link := func(target string) fstest.MapFS {
		return fstest.MapFS{"d/l": {Data: []byte(target), Mode: fs.ModeSymlink | 0o777}}
	}
	tests := []struct {
		name  string
		files fs.FS
		fails string
	}{
		{"an empty directory", fstest.MapFS{}, "no files"},
		{"a directory of caches", tree("__pycache__/a.pyc", "x"), "no files"},
		{"a link out", link("../../etc/passwd"), "leads out"},
		{"an absolute link", link("/etc/passwd"), "leads out"},
		{"a pipe", fstest.MapFS{"p": {Mode: fs.ModeNamedPipe}}, "neither a file"},
		{"too much", fstest.MapFS{"a": {Data: make([]byte, maxUnpackedBytes+1)}}, "larger than"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if _, err := bundle(test.files); err == nil || !strings.Contains(err.Error(), test.fails) {
				t.Errorf("got %v, want an error with %q", err, test.fails)
			}
		})
	}
	if _, err := bundle(link("../x")); err != nil {
		t.Errorf("a link within the directory: %v", err)
	}
}
