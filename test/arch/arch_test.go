// Package arch holds the tests of the shape of the code: who may import whom, and how long a function may be. What a rule
// forbids has a name and a place in the failure, so that the fix is obvious; exceptions stand in the lists below.
package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "lambent"

// services are the packages of the data plane. Each may have packages below it; it may not know the others.
func services() []string { return []string{"frontend", "counting", "manager", "placement", "worker"} }

// pkg is a package as "go list" tells of it.
type pkg struct {
	ImportPath string
	Dir        string
	Imports    []string
	Deps       []string
	CgoFiles   []string
}

func listPackages(t *testing.T) []pkg {
	t.Helper()
	list := exec.Command("go", "list", "-e", "-json=ImportPath,Dir,Imports,Deps,CgoFiles", "./...")
	list.Dir = root(t)
	list.Stderr = os.Stderr
	output, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	var packages []pkg
	for decoder := json.NewDecoder(bytes.NewReader(output)); ; {
		var p pkg
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
	if len(packages) < 2 {
		t.Fatalf("only %d packages are seen: this test would pass for nothing", len(packages))
	}
	return packages
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// within tells whether an import path is a package of this module, or below it.
func within(importPath, name string) bool {
	return importPath == module+"/"+name || strings.HasPrefix(importPath, module+"/"+name+"/")
}

func TestImports(t *testing.T) {
	for _, p := range listPackages(t) {
		if p.ImportPath == module {
			for _, imported := range p.Imports {
				if strings.Contains(strings.Split(imported, "/")[0], ".") || imported == module || strings.HasPrefix(imported, module+"/") {
					t.Errorf("the root package imports %s: it is the vocabulary, and imports the standard library only", imported)
				}
			}
		}
		for _, dependency := range p.Deps {
			if within(dependency, "cmd") && !within(p.ImportPath, "cmd") {
				t.Errorf("%s depends on %s: nothing depends on a command", p.ImportPath, dependency)
			}
			if within(dependency, "test") && !within(p.ImportPath, "test") && !within(p.ImportPath, "bench") {
				t.Errorf("%s depends on %s: the product does not depend on its tests", p.ImportPath, dependency)
			}
			if within(p.ImportPath, "api") && within(dependency, "sandbox") {
				t.Errorf("%s depends on %s: drivers are not called from HTTP handlers", p.ImportPath, dependency)
			}
			if within(p.ImportPath, "rpc") && strings.HasPrefix(dependency, module+"/") && !within(dependency, "rpc") {
				t.Errorf("%s depends on %s: what crosses hosts is the root package's, whoever implements it", p.ImportPath, dependency)
			}
			if within(dependency, "rpc") && !within(p.ImportPath, "rpc") && !within(p.ImportPath, "cmd") && !within(p.ImportPath, "test") {
				t.Errorf("%s depends on %s: services do not know whether a call crosses hosts", p.ImportPath, dependency)
			}
			for _, own := range services() {
				for _, other := range services() {
					if own != other && within(p.ImportPath, own) && within(dependency, other) {
						t.Errorf("%s depends on %s: services meet in the root package's interfaces only", p.ImportPath, dependency)
					}
				}
			}
		}
		if len(p.CgoFiles) > 0 || slices.Contains(p.Imports, "C") {
			t.Errorf("%s uses cgo: the binary is static", p.ImportPath)
		}
	}
}
