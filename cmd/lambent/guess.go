package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Guess is what deploy found out about a function from its files.
type Guess struct {
	Kind    Kind
	Handler string
	Notes   []string // for the person who deploys
}

// Kind is what a function is made of. It decides the runtime and whether something has to be built.
type Kind string

// The kinds of functions that deploy knows.
const (
	KindPython    Kind = "python"
	KindNode      Kind = "nodejs"
	KindGo        Kind = "go"        // built from source into a bootstrap
	KindBootstrap Kind = "bootstrap" // an executable that speaks the Runtime API
)

// guess looks at a function's files and finds its kind and handler. It reads files at the top and the entry point that a
// package.json names, nothing else. A runtime or a handler that is given is kept, and settles where to look.
func guess(files fs.FS, runtime, handler string) (Guess, error) {
	switch {
	case isFile(files, "bootstrap"):
		return Guess{Kind: KindBootstrap, Handler: or(handler, "bootstrap")}, nil
	case isFile(files, "go.mod"):
		return Guess{Kind: KindGo, Handler: or(handler, "bootstrap")}, nil
	case isFile(files, "Cargo.toml"):
		return Guess{}, errors.New("this is a Rust project: build it for Linux first (such as with " +
			"cargo build --release --target x86_64-unknown-linux-musl), then deploy a directory that holds the program under the name bootstrap")
	case strings.HasPrefix(runtime, "provided"):
		return Guess{}, fmt.Errorf("a function of runtime %s is a program named bootstrap, and there is none here", runtime)
	case handler != "":
		return guessKind(files, runtime, handler)
	}
	var found []candidate
	for _, kind := range []Kind{KindPython, KindNode} {
		if runtime != "" && !strings.HasPrefix(runtime, string(kind)) {
			continue
		}
		candidates, err := handlersIn(files, kind)
		if err != nil {
			return Guess{}, err
		}
		found = append(found, candidates...)
	}
	best, err := likeliest(found)
	if err != nil {
		return Guess{}, err
	}
	return Guess{Kind: best.kind, Handler: best.name, Notes: dependencyNotes(files, best.kind)}, nil
}

func isFile(files fs.FS, name string) bool {
	info, err := fs.Stat(files, name)
	return err == nil && !info.IsDir()
}

// guessKind finds the kind of a function whose handler is known: from the runtime, else from the file that the handler
// names before its last dot.
func guessKind(files fs.FS, runtime, handler string) (Guess, error) {
	for _, kind := range []Kind{KindPython, KindNode} {
		if strings.HasPrefix(runtime, string(kind)) {
			return Guess{Kind: kind, Handler: handler, Notes: dependencyNotes(files, kind)}, nil
		}
	}
	module := path.Clean(strings.TrimSuffix(handler, path.Ext(handler)))
	for _, kind := range []Kind{KindPython, KindNode} {
		for _, extension := range languageOf(kind).extensions {
			if isFile(files, module+extension) || isFile(files, strings.ReplaceAll(module, ".", "/")+extension) {
				return Guess{Kind: kind, Handler: handler, Notes: dependencyNotes(files, kind)}, nil
			}
		}
	}
	return Guess{}, fmt.Errorf("no file of the handler %s is to be seen here: name the runtime with --runtime", handler)
}

// likeliest picks the handler that is meant. Two languages, or two equally usual names, are for a person to choose between.
func likeliest(found []candidate) (candidate, error) {
	if len(found) == 0 {
		return candidate{}, errors.New("no function is to be seen here: deploy looks for bootstrap, go.mod, a Python file that defines " +
			"lambda_handler or handler, or a JavaScript file that exports handler; else name both --runtime and --handler")
	}
	clear := true
	var names []string
	for _, other := range found {
		names = append(names, other.name)
		clear = clear && (other == found[0] || other.kind == found[0].kind && other.rank > found[0].rank)
	}
	if !clear {
		return candidate{}, fmt.Errorf("more than one handler is to be seen here (%s): choose one with --handler", strings.Join(names, ", "))
	}
	return found[0], nil
}

// candidate is a handler that was seen. Smaller ranks are more likely to be meant.
type candidate struct {
	kind Kind
	name string
	rank int
}

// language says how handlers look in a language's files.
type language struct {
	extensions []string
	stems      []string // usual names of the file, most usual first
	handlers   []string // usual names of the handler, most usual first
	pattern    string   // matches the definition of a handler, whose name replaces NAME
}

func languageOf(kind Kind) language {
	if kind == KindPython {
		return language{
			extensions: []string{".py"},
			stems:      []string{"lambda_function", "app", "main", "handler", "index", "function"},
			handlers:   []string{"lambda_handler", "handler"},
			pattern:    `(?m)^(async +)?def +NAME *\(|^NAME *=`,
		}
	}
	return language{
		extensions: []string{".mjs", ".js", ".cjs"},
		stems:      []string{"index", "app", "main", "handler", "function"},
		handlers:   []string{"handler", "lambdaHandler"},
		pattern: `(?m)^\s*export +(const|let|var|function|async +function)\s*\*?\s*NAME\b|\bexports\s*\.\s*NAME\s*=|` +
			`\bmodule\.exports\s*=\s*\{[^}]*\bNAME\b|^\s*export\s*\{[^}]*\bNAME\b`,
	}
}

// maxSourceBytes bounds the part of a file that is searched for a handler.
const maxSourceBytes = 4 << 20

// handlersIn returns the handlers of a kind, the likeliest first.
func handlersIn(files fs.FS, kind Kind) ([]candidate, error) {
	lang := languageOf(kind)
	names, err := sources(files, kind, lang.extensions)
	if err != nil {
		return nil, err
	}
	var found []candidate
	for _, name := range names {
		info, err := fs.Stat(files, name)
		if err != nil || info.IsDir() || info.Size() > maxSourceBytes {
			continue
		}
		source, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		stem := strings.TrimSuffix(name, path.Ext(name))
		for i, handler := range lang.handlers {
			pattern := regexp.MustCompile(strings.ReplaceAll(lang.pattern, "NAME", handler))
			if pattern.Match(source) {
				found = append(found, candidate{kind, stem + "." + handler, rankOf(lang, stem)*10 + i})
				break
			}
		}
	}
	slices.SortStableFunc(found, func(a, b candidate) int { return a.rank - b.rank })
	return found, nil
}

func rankOf(lang language, stem string) int {
	if i := slices.Index(lang.stems, stem); i >= 0 {
		return i
	}
	return len(lang.stems)
}

// sources returns the source files at the top, and for Node.js only the entry point where a package.json names one.
func sources(files fs.FS, kind Kind, extensions []string) ([]string, error) {
	if kind == KindNode {
		if entry := packageJSON(files).Main; entry != "" {
			return []string{path.Clean(entry)}, nil
		}
	}
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return nil, fmt.Errorf("list the function's files: %w", err)
	}
	var names []string
	for _, entry := range entries {
		if slices.Contains(extensions, path.Ext(entry.Name())) && !strings.HasPrefix(entry.Name(), ".") {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

type packageFile struct {
	Main         string            `json:"main"`
	Dependencies map[string]string `json:"dependencies"`
}

// packageJSON reads package.json. One that is absent or broken says nothing.
func packageJSON(files fs.FS) packageFile {
	var parsed packageFile
	if text, err := fs.ReadFile(files, "package.json"); err == nil {
		if json.Unmarshal(text, &parsed) != nil {
			return packageFile{}
		}
	}
	return parsed
}

// dependencyNotes warns of packages that the function asks for and does not bring.
func dependencyNotes(files fs.FS, kind Kind) []string {
	_, requirements := fs.Stat(files, "requirements.txt")
	_, modules := fs.Stat(files, "node_modules")
	switch {
	case kind == KindPython && requirements == nil:
		return []string{"deploy installs no packages: what requirements.txt names has to be in the directory (pip install -r requirements.txt -t DIR)"}
	case kind == KindNode && modules != nil && len(packageJSON(files).Dependencies) > 0:
		return []string{"deploy installs no packages: package.json names some, and there is no node_modules (npm install)"}
	}
	return nil
}

func or(value, otherwise string) string {
	if value != "" {
		return value
	}
	return otherwise
}

// chooseRuntime picks the runtime of a kind: the newest that the host offers. Offered are names such as "python3.11".
func chooseRuntime(kind Kind, offered []string) (string, error) {
	if kind == KindGo || kind == KindBootstrap {
		return "provided.al2023", nil
	}
	best, bestVersion := "", [2]int{}
	for _, name := range offered {
		version, ok := runtimeVersion(kind, name)
		if ok && slices.Compare(version[:], bestVersion[:]) > 0 {
			best, bestVersion = name, version
		}
	}
	if best == "" {
		return "", fmt.Errorf("this host has no %s: install it, or name the runtime with --runtime", kind)
	}
	return best, nil
}

// runtimeVersion reads the numbers of a runtime's name: python3.11 is 3, 11 and nodejs20.x is 20, 0.
func runtimeVersion(kind Kind, name string) (version [2]int, ok bool) {
	rest, ok := strings.CutPrefix(name, string(kind))
	if !ok {
		return version, false
	}
	n, _ := fmt.Sscanf(strings.TrimSuffix(rest, ".x"), "%d.%d", &version[0], &version[1])
	return version, n > 0
}
