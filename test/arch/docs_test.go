package arch

import (
	"go/ast"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What the documents point at exists: files that they link to, Go files that they name, and tests that they promise.
func TestDocumentsPointAtWhatIsThere(t *testing.T) {
	top := root(t)
	tests := map[string]bool{}
	for _, s := range parse(t) {
		for _, decl := range s.file.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok {
				tests[fn.Name.Name] = true
			}
		}
	}
	link := regexp.MustCompile(`\]\(([^)#:]+)\)`)
	goFile := regexp.MustCompile("`([a-z0-9_-]+/[a-z0-9_/-]+\\.go)`")
	testName := regexp.MustCompile(`\b((?:Test|Benchmark|Fuzz)[A-Z]\w*)`)
	for _, document := range documents(t, top) {
		content, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		name, err := filepath.Rel(top, document)
		if err != nil {
			t.Fatal(err)
		}
		missing := func(path string) bool {
			_, err := os.Stat(path)
			return err != nil
		}
		for _, match := range link.FindAllSubmatch(content, -1) {
			if missing(filepath.Join(filepath.Dir(document), string(match[1]))) {
				t.Errorf("%s links to %s, which is not there", name, match[1])
			}
		}
		for _, match := range goFile.FindAllSubmatch(content, -1) {
			if missing(filepath.Join(top, string(match[1]))) {
				t.Errorf("%s names %s, which is not there", name, match[1])
			}
		}
		for _, match := range testName.FindAllSubmatch(content, -1) {
			if !tests[string(match[1])] {
				t.Errorf("%s names %s, which no package has", name, match[1])
			}
		}
	}
}

func documents(t *testing.T, top string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(top, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(filepath.Join(top, "docs"), func(path string, entry fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".md") {
			found = append(found, path)
		}
		return err
	})
	if err != nil || len(found) < 3 {
		t.Fatalf("documents %q: %v", found, err)
	}
	return found
}
