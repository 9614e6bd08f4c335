package runtimes

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// program is what the dynamic loader needs to know of a program or library.
type program struct {
	path   string
	loader string   // of programs: the dynamic loader; empty for static ones
	needed []string // names of libraries
	search []string // directories that the file itself names
}

// readProgram reads an ELF file's dynamic section. It runs nothing.
func readProgram(path string) (program, error) {
	file, err := elf.Open(path)
	if err != nil {
		var format *elf.FormatError
		if errors.As(err, &format) || errors.Is(err, io.EOF) {
			return program{}, errNotInterpreter // a script: a version manager's shim
		}
		return program{}, fmt.Errorf("read the program: %w", err)
	}
	defer file.Close()
	p := program{path: path}
	for _, part := range file.Progs {
		if part.Type == elf.PT_INTERP {
			name, err := io.ReadAll(io.LimitReader(part.Open(), 4096))
			if err != nil {
				return program{}, fmt.Errorf("read the program's loader: %w", err)
			}
			p.loader = string(bytes.TrimRight(name, "\x00"))
		}
	}
	if p.needed, err = file.ImportedLibraries(); err != nil {
		return program{}, fmt.Errorf("read the program's libraries: %w", err)
	}
	for _, tag := range []elf.DynTag{elf.DT_RPATH, elf.DT_RUNPATH} {
		paths, err := file.DynString(tag)
		if err != nil {
			continue // a static program has none
		}
		for _, list := range paths {
			for _, dir := range filepath.SplitList(list) {
				origin := strings.NewReplacer("$ORIGIN", filepath.Dir(path), "${ORIGIN}", filepath.Dir(path))
				p.search = append(p.search, origin.Replace(dir))
			}
		}
	}
	return p, nil
}

// checkLoader makes sure that a program's dynamic loader is part of what every sandbox shows.
func (h hostTree) checkLoader(p program) error {
	if p.loader == "" {
		return nil
	}
	loader, err := filepath.EvalSymlinks(h.path(p.loader))
	if err != nil {
		return fmt.Errorf("find the program's loader: %w", err)
	}
	if !h.shown(loader) {
		return fmt.Errorf("the program's loader %s is outside of the directories that sandboxes show", p.loader)
	}
	return nil
}

// copyLibraries copies to directory the libraries that an interpreter and its modules need and that no sandbox would show:
// those that lie neither in the system's directories nor beside the interpreter.
func (h hostTree) copyLibraries(id identity, path, directory string) error {
	files := []string{path}
	if id.Language == "python" {
		modules, _ := filepath.Glob(filepath.Join(id.Library, "lib-dynload", "*.so"))
		files = append(files, modules...)
	}
	own := ""
	if id.selfContained(path) {
		own = filepath.Join(id.Prefix, "lib")
	}
	dirs := append([]string{own}, h.libraryDirectories()...)
	seen := map[string]bool{}
	for len(files) > 0 {
		p, err := readProgram(files[0])
		files = files[1:]
		if err != nil {
			continue // not a library after all; the loader will say so if it is wanted
		}
		for _, name := range p.needed {
			if seen[name] {
				continue
			}
			seen[name] = true
			found := locate(name, append(p.search, dirs...))
			if found == "" || h.shown(found) {
				continue
			}
			files = append(files, found)
			if filepath.Dir(found) == own {
				continue
			}
			if err := copyFile(found, filepath.Join(directory, name)); err != nil {
				return fmt.Errorf("copy library %s: %w", found, err)
			}
		}
	}
	return nil
}

// locate returns the real path of the first file of the name in the directories, empty where there is none.
func locate(name string, dirs []string) string {
	for _, dir := range dirs {
		if !filepath.IsAbs(dir) {
			continue
		}
		if path, err := filepath.EvalSymlinks(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	return ""
}

// libraryDirectories lists where this host's loader looks for libraries.
func (h hostTree) libraryDirectories() []string {
	var dirs []string
	for _, triplet := range []string{"/x86_64-linux-gnu", "/aarch64-linux-gnu", ""} {
		dirs = append(dirs, "/lib"+triplet, "/usr/lib"+triplet)
	}
	dirs = append(dirs, "/lib64", "/usr/lib64")
	files, _ := filepath.Glob(h.path("/etc/ld.so.conf.d/*.conf"))
	for _, name := range append(files, h.path("/etc/ld.so.conf")) {
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimSpace(line); filepath.IsAbs(line) {
				dirs = append(dirs, line)
			}
		}
	}
	for i, dir := range dirs {
		dirs[i] = h.path(dir)
	}
	return dirs
}

// copyFile copies a library to where every user can read it.
func copyFile(source, target string) error {
	content, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	if err := writeFile(target, content); err != nil {
		return err
	}
	return os.Chmod(filepath.Dir(target), 0o755) // whatever the umask
}
