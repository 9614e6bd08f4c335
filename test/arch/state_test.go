package arch

import (
	"go/ast"
	"go/token"
	"path"
	"slices"
	"strings"
	"testing"
)

// mutableVariables may change after the program has started.
func mutableVariables() []string {
	return []string{
		"cmd/lambent version", // set by the linker
	}
}

func TestPackagesHoldNoState(t *testing.T) {
	found := map[string]string{}
	variables := map[string]map[string]bool{}
	for _, s := range parse(t) {
		if s.test || isProbe(s.pkg) {
			continue
		}
		if variables[s.pkg] == nil {
			variables[s.pkg] = map[string]bool{}
		}
		for _, spec := range packageVariables(s.file) {
			for _, name := range spec.Names {
				if name.Name == "_" {
					continue // a check at compile time
				}
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

// isProbe tells whether a package is a program that tests run as a function. It may do as it likes.
func isProbe(dir string) bool { return path.Base(dir) == "probe" }

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

// assigned returns those of the package's variables that a file's functions write to. A local name that is declared in the
// same function hides the variable.
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
