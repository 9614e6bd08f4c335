package arch

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The tree names no package registry and no place of one machine: those are for whoever builds to choose. The names are
// written in two parts, so that this file does not hold them.
func TestTheTreeNamesNoRegistryAndNoMachine(t *testing.T) {
	forbidden := regexp.MustCompile(strings.Join([]string{
		`proxy\.golang\.` + `org`, `sum\.golang\.` + `org`, `registry\.npmjs\.` + `org`, `pypi\.` + `org`, `pythonhosted\.` + `org`,
		`deb\.debian\.` + `org`, `archive\.ubuntu\.` + `com`, `docker\.` + `io/`, `crates\.` + `io`, `gcr\.` + `io`,
		`/work/` + `(main|shared)`, `/fa` + `rm/`,
	}, "|"))
	top := root(t)
	seen := 0
	err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if name == ".git" || name == "bin" || entry.Name() == "node_modules" || entry.Name() == "initbin" {
				return fs.SkipDir
			}
			return nil
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		seen++
		for i, line := range bytes.Split(content, []byte("\n")) {
			if match := forbidden.Find(line); match != nil && !bytes.ContainsRune(content, 0) {
				t.Errorf("%s:%d names %s", name, i+1, match)
			}
		}
		return nil
	})
	if err != nil || seen < 10 {
		t.Errorf("%d files were read: %v", seen, err)
	}
}
