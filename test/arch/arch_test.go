// Package arch holds the tests of the shape of the code: who may import whom, and how long a function may be. What a rule
// forbids has a name and a place in the failure, so that the fix is obvious; exceptions stand in the lists below.
package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "lambent"

// services are the packages of the data plane. Each may have packages below it; it may not know the others.
func services() []string { return []string{"frontend", "counting", "manager", "placement", "worker"} }

// Lines that a function may have, from its name to its last brace. Test functions may hold a table.
const (
	maxLines     = 70
	maxTestLines = 150
)

// longFunctions may be longer: each is one table or one switch that would be harder to read in parts.
func longFunctions() []string { return nil }

// mutableVariables may change after the program has started.
func mutableVariables() []string {
	return []string{
		"cmd/lambent version", // set by the linker
	}
}

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

// source is a parsed Go file of this module.
type source struct {
	pkg  string // directory, relative to the root
	name string
	test bool
	file *ast.File
	fset *token.FileSet
}

func parse(t *testing.T) []source {
	t.Helper()
	var sources []source
	top := root(t)
	for _, p := range listPackages(t) {
		names, err := filepath.Glob(filepath.Join(p.Dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		dir, err := filepath.Rel(top, p.Dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			sources = append(sources, source{filepath.ToSlash(dir), filepath.Base(name), strings.HasSuffix(name, "_test.go"), file, fset})
		}
	}
	return sources
}

func TestEveryPackageHasAComment(t *testing.T) {
	documented := map[string]bool{}
	for _, s := range parse(t) {
		documented[s.pkg] = documented[s.pkg] || s.file.Doc != nil
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%s has no package comment", dir)
		}
	}
}

func TestFunctionsFitOnAScreen(t *testing.T) {
	allowed := longFunctions()
	for _, s := range parse(t) {
		limit := maxLines
		if s.test {
			limit = maxTestLines
		}
		if ast.IsGenerated(s.file) {
			continue
		}
		for _, decl := range s.file.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			name := s.pkg + " " + fn.Name.Name
			lines := s.fset.Position(fn.End()).Line - s.fset.Position(fn.Pos()).Line + 1
			if i := slices.Index(allowed, name); i >= 0 {
				allowed = slices.Delete(allowed, i, i+1)
				continue
			}
			if lines > limit {
				t.Errorf("%s/%s: %s has %d lines, more than %d", s.pkg, s.name, fn.Name.Name, lines, limit)
			}
		}
	}
	if len(allowed) > 0 {
		t.Errorf("these exceptions are not needed any more: %q", allowed)
	}
}

func TestNoFunctionRunsBeforeMain(t *testing.T) {
	for _, s := range parse(t) {
		for _, decl := range s.file.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" && !s.test {
				t.Errorf("%s/%s has an init function: main wires", s.pkg, s.name)
			}
		}
	}
}

func TestPackagesHoldNoState(t *testing.T) {
	found := map[string]string{}
	variables := map[string]map[string]bool{}
	for _, s := range parse(t) {
		if s.test {
			continue
		}
		if variables[s.pkg] == nil {
			variables[s.pkg] = map[string]bool{}
		}
		for _, spec := range packageVariables(s.file) {
			for _, name := range spec.Names {
				variables[s.pkg][name.Name] = true
				if why := stateful(spec); why != "" {
					found[s.pkg+" "+name.Name] = s.name + ": " + why
				}
			}
		}
	}
	for _, s := range parse(t) {
		if s.test {
			continue
		}
		for name := range assigned(s.file, variables[s.pkg]) {
			found[s.pkg+" "+name] = s.name + ": it is written to"
		}
	}
	for name, why := range found {
		if !slices.Contains(mutableVariables(), name) {
			t.Errorf("%s is package state (%s): keep it in what Open returns", name, why)
		}
	}
}

func packageVariables(file *ast.File) []*ast.ValueSpec {
	var specs []*ast.ValueSpec
	for _, decl := range file.Decls {
		if group, ok := decl.(*ast.GenDecl); ok && group.Tok == token.VAR {
			for _, spec := range group.Specs {
				specs = append(specs, spec.(*ast.ValueSpec))
			}
		}
	}
	return specs
}

// stateful says why a variable's declaration alone shows that it is meant to change, "" if it does not.
func stateful(spec *ast.ValueSpec) string {
	why := ""
	inspect := func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			return false
		case *ast.ChanType:
			why = "a channel"
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && (x.Name == "atomic" || x.Name == "sync" && !strings.HasPrefix(n.Sel.Name, "Once")) {
				why = "a type of package " + x.Name
			}
		}
		return true
	}
	if spec.Type != nil {
		ast.Inspect(spec.Type, inspect)
	}
	for _, value := range spec.Values {
		ast.Inspect(value, inspect)
	}
	return why
}

// assigned returns those of the package's variables that a file's functions write to or take the address of. A local name
// that is declared in the same function hides the variable.
func assigned(file *ast.File, variables map[string]bool) map[string]bool {
	written := map[string]bool{}
	for _, decl := range file.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || fn.Body == nil {
			continue
		}
		local := localNames(fn)
		note := func(e ast.Expr) {
			if name := base(e); variables[name] && !local[name] {
				written[name] = true
			}
		}
		ast.Inspect(fn.Body, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.AssignStmt:
				if n.Tok != token.DEFINE {
					for _, left := range n.Lhs {
						note(left)
					}
				}
			case *ast.IncDecStmt:
				note(n.X)
			case *ast.UnaryExpr:
				if n.Op == token.AND {
					note(n.X)
				}
			}
			return true
		})
	}
	return written
}

func localNames(fn *ast.FuncDecl) map[string]bool {
	local := map[string]bool{}
	ast.Inspect(fn, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.Field:
			for _, name := range n.Names {
				local[name.Name] = true
			}
		case *ast.AssignStmt:
			if n.Tok == token.DEFINE {
				for _, left := range n.Lhs {
					local[base(left)] = true
				}
			}
		case *ast.RangeStmt:
			if n.Tok == token.DEFINE {
				local[base(n.Key)], local[base(n.Value)] = true, true
			}
		case *ast.ValueSpec:
			for _, name := range n.Names {
				local[name.Name] = true
			}
		}
		return true
	})
	return local
}

// base returns the name at the root of an expression such as a.b[c], "" if there is none.
func base(e ast.Expr) string {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			return x.Name
		case *ast.SelectorExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		default:
			return ""
		}
	}
}

// The tree names no package registry and no place of one machine: those are for whoever builds to choose. The names are
// written in two parts, so that this file does not hold them.
func TestTheTreeNamesNoRegistryAndNoMachine(t *testing.T) {
	forbidden := regexp.MustCompile(strings.Join([]string{
		`proxy\.golang\.` + `org`, `sum\.golang\.` + `org`, `registry\.npmjs\.` + `org`, `pypi\.` + `org`, `pythonhosted\.` + `org`,
		`deb\.debian\.` + `org`, `archive\.ubuntu\.` + `com`, `docker\.` + `io/`, `crates\.` + `io`, `gcr\.` + `io`,
		`/work/` + `(main|shared)`, `/fa` + `rm/`, `/home/` + `[a-z]`,
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
