package main

import (
	"strings"
	"testing"
	"testing/fstest"
)

// tree makes a file system of alternating names and contents.
func tree(namesAndContents ...string) fstest.MapFS {
	files := fstest.MapFS{}
	for i := 0; i < len(namesAndContents); i += 2 {
		files[namesAndContents[i]] = &fstest.MapFile{Data: []byte(namesAndContents[i+1]), Mode: 0o644}
	}
	return files
}

func TestGuess(t *testing.T) {
	const py, node = "def lambda_handler(event, context):\n  pass\n", "exports.handler = async () => 1\n"
	tests := []struct {
		name             string
		files            fstest.MapFS
		runtime, handler string
		kind             Kind
		want             string // the handler
		fails            string // part of the error
	}{
		{name: "bootstrap wins", files: tree("bootstrap", "#!", "app.py", py), kind: KindBootstrap, want: "bootstrap"},
		{name: "go module", files: tree("go.mod", "module x", "main.go", "package main"), kind: KindGo, want: "bootstrap"},
		{name: "rust", files: tree("Cargo.toml", "[package]"), fails: "Rust"},
		{name: "python", files: tree("lambda_function.py", py), kind: KindPython, want: "lambda_function.lambda_handler"},
		{name: "python, own name", files: tree("thumb.py", "async def handler (event, context): pass"), kind: KindPython, want: "thumb.handler"},
		{name: "python, assigned", files: tree("app.py", "handler = Framework()"), kind: KindPython, want: "app.handler"},
		{name: "python, helper beside the usual name", files: tree("app.py", py, "aaa.py", py), kind: KindPython, want: "app.lambda_handler"},
		{name: "python, handler in a comment or nested", files: tree("app.py", "# def handler(\nclass A:\n  def handler(self): pass\n"), fails: "no function"},
		{name: "python, two unusual names", files: tree("a.py", py, "b.py", py), fails: "more than one handler"},
		{name: "node commonjs", files: tree("index.js", node), kind: KindNode, want: "index.handler"},
		{name: "node module.exports", files: tree("index.js", "module.exports = {\n  other,\n  handler: f\n}"), kind: KindNode, want: "index.handler"},
		{name: "node esm function", files: tree("app.mjs", "export async function handler(event) {}"), kind: KindNode, want: "app.handler"},
		{name: "node esm const", files: tree("app.mjs", "export const handler = async (e) => e"), kind: KindNode, want: "app.handler"},
		{name: "node esm list", files: tree("index.mjs", "const handler = 1\nexport { handler, other }"), kind: KindNode, want: "index.handler"},
		{name: "node stream handler", files: tree("index.cjs", "exports.lambdaHandler = f"), kind: KindNode, want: "index.lambdaHandler"},
		{name: "node package.json main", files: tree("package.json", `{"main":"./src/entry.js"}`, "src/entry.js", node, "index.js", node), kind: KindNode, want: "src/entry.handler"},
		{name: "node broken package.json", files: tree("package.json", `{`, "index.js", node), kind: KindNode, want: "index.handler"},
		{name: "node main leads nowhere", files: tree("package.json", `{"main":"../x.js"}`), fails: "no function"},
		{name: "two languages", files: tree("index.js", node, "app.py", py), fails: "more than one handler"},
		{name: "two languages, runtime given", files: tree("index.js", node, "app.py", py), runtime: "nodejs20.x", kind: KindNode, want: "index.handler"},
		{name: "two languages, handler given", files: tree("index.js", node, "app.py", py), handler: "app.run", kind: KindPython, want: "app.run"},
		{name: "handler in a package", files: tree("pkg/mod.py", py), handler: "pkg.mod.run", kind: KindPython, want: "pkg.mod.run"},
		{name: "handler in a directory", files: tree("src/a.mjs", node), handler: "src/a.handler", kind: KindNode, want: "src/a.handler"},
		{name: "handler of no file", files: tree("app.py", py), handler: "nope.handler", fails: "--runtime"},
		{name: "handler of no file, runtime given", files: tree("a.txt", ""), runtime: "python3.11", handler: "nope.handler", kind: KindPython, want: "nope.handler"},
		{name: "provided without program", files: tree("app.py", py), runtime: "provided.al2023", fails: "bootstrap"},
		{name: "nothing", files: tree("README.md", "hello"), fails: "no function"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := guess(test.files, test.runtime, test.handler)
			if test.fails != "" {
				if err == nil || !strings.Contains(err.Error(), test.fails) {
					t.Fatalf("got %+v, %v; want an error with %q", got, err, test.fails)
				}
				return
			}
			if err != nil || got.Kind != test.kind || got.Handler != test.want {
				t.Fatalf("got %+v, %v; want %s %s", got, err, test.kind, test.want)
			}
		})
	}
}

func TestGuessNotesMissingPackages(t *testing.T) {
	tests := []struct {
		name  string
		files fstest.MapFS
		notes int
	}{
		{"requirements", tree("app.py", "def handler(e, c): pass", "requirements.txt", "pillow"), 1},
		{"dependencies without node_modules", tree("index.js", "exports.handler = 1", "package.json", `{"dependencies":{"a":"1"}}`), 1},
		{"dependencies with node_modules", tree("index.js", "exports.handler = 1", "package.json", `{"dependencies":{"a":"1"}}`, "node_modules/a/index.js", ""), 0},
		{"none", tree("index.js", "exports.handler = 1"), 0},
	}
	for _, test := range tests {
		got, err := guess(test.files, "", "")
		if err != nil || len(got.Notes) != test.notes {
			t.Errorf("%s: got notes %q, %v; want %d", test.name, got.Notes, err, test.notes)
		}
	}
}

func TestChooseRuntime(t *testing.T) {
	tests := []struct {
		kind    Kind
		offered []string
		want    string // "" is an error
	}{
		{KindPython, []string{"python3.9", "python3.11", "nodejs20.x", "python3.8"}, "python3.11"},
		{KindNode, []string{"python3.9", "nodejs8.x", "nodejs20.x", "nodejs18.x"}, "nodejs20.x"},
		{KindNode, []string{"python3.9"}, ""},
		{KindPython, []string{"python", "pythonx"}, ""},
		{KindGo, nil, "provided.al2023"},
		{KindBootstrap, nil, "provided.al2023"},
	}
	for _, test := range tests {
		got, err := chooseRuntime(test.kind, test.offered)
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%s of %v: got %q, %v; want %q", test.kind, test.offered, got, err, test.want)
		}
	}
}

func TestFunctionName(t *testing.T) {
	for path, want := range map[string]string{
		"/a/thumb": "thumb", "/a/my function.zip": "my-function", "x/über-fn.zip": "ber-fn", "/a/b_c-D9": "b_c-D9",
	} {
		if got := functionName(path); got != want {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
}

func FuzzGuess(f *testing.F) {
	f.Add("index.js", "exports.handler = 1", `{"main":"index.js"}`)
	f.Add("app.py", "def handler(e, c): pass", `{"main":"/../x"}`)
	f.Add("src/app.mjs", "export { a, handler }", `{`)
	f.Fuzz(func(t *testing.T, name, source, manifest string) {
		got, err := guess(tree("f/"+name, source, "package.json", manifest, "index.js", source), "", "")
		if err == nil && (got.Kind == "" || got.Handler == "") {
			t.Fatalf("a guess without an answer: %+v", got)
		}
	})
}
