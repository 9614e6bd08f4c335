package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Lines that a function may have, from its name to its last brace. Test functions may hold a table.
const (
	maxLines     = 70
	maxTestLines = 150
)

// longFunctions may be longer: each is one table or one switch that would be harder to read in parts.
func longFunctions() []string { return nil }

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
