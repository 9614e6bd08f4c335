package runtimes

import (
	"cmp"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The versions of the languages that the bootstraps run on. Python's uses parts of CPython that are not promised to stay as
// they are (_json), so a new version is added here when it has been looked at.
const (
	oldestPython = 8  // 3.8
	newestPython = 14 // 3.14
	oldestNode   = 16
)

// places lists where interpreters may be, as patterns of filepath.Match: the directories of the search path, those of
// distributions, and those of version managers.
func places(path, home string, getenv func(string) string) []string {
	var patterns []string
	for _, dir := range append(filepath.SplitList(path), "/usr/bin", "/usr/local/bin") {
		if !filepath.IsAbs(dir) {
			continue // would depend on the directory that lambent is started in
		}
		for _, name := range executables() {
			patterns = append(patterns, filepath.Join(dir, name))
		}
	}
	at := func(variable, standard, pattern string) {
		if dir := cmp.Or(getenv(variable), standard); filepath.IsAbs(dir) {
			patterns = append(patterns, filepath.Join(dir, pattern))
		}
	}
	inHome := func(dir string) string {
		if home == "" {
			return ""
		}
		return filepath.Join(home, dir)
	}
	const python, node = "bin/python3", "bin/node"
	at("PYENV_ROOT", inHome(".pyenv"), "versions/*/"+python)
	at("", "/opt/pyenv", "versions/*/"+python)
	at("UV_PYTHON_INSTALL_DIR", inHome(".local/share/uv/python"), "*/"+python)
	at("ASDF_DATA_DIR", inHome(".asdf"), "installs/python/*/"+python)
	at("ASDF_DATA_DIR", inHome(".asdf"), "installs/nodejs/*/"+node)
	at("MISE_DATA_DIR", inHome(".local/share/mise"), "installs/python/*/"+python)
	at("MISE_DATA_DIR", inHome(".local/share/mise"), "installs/node/*/"+node)
	at("NVM_DIR", inHome(".nvm"), "versions/node/*/"+node)
	at("N_PREFIX", "/usr/local", "n/versions/node/*/"+node)
	at("FNM_DIR", inHome(".local/share/fnm"), "node-versions/*/installation/"+node)
	at("VOLTA_HOME", inHome(".volta"), "tools/image/node/*/"+node)
	return patterns
}

// executables are the names of interpreters in a directory of the search path.
func executables() []string {
	names := []string{"python3", "node", "nodejs"}
	for minor := oldestPython; minor <= newestPython; minor++ {
		names = append(names, "python3."+strconv.Itoa(minor))
	}
	return names
}

// candidate is a file that may be an interpreter.
type candidate struct {
	Path  string // without symbolic links
	Size  int64
	MTime int64 // nanoseconds since 1970
}

// candidates returns the programs that match the patterns, each once, in the order of the patterns.
func candidates(patterns []string) []candidate {
	var found []candidate
	seen := map[string]bool{}
	for _, pattern := range patterns {
		names := []string{pattern}
		if strings.ContainsAny(pattern, "*?[") {
			names, _ = filepath.Glob(pattern) // the only error is that of a bad pattern
		}
		for _, name := range names {
			path, err := filepath.EvalSymlinks(name)
			if err != nil || seen[path] {
				continue
			}
			seen[path] = true
			info, err := os.Stat(path)
			if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
				continue
			}
			found = append(found, candidate{Path: path, Size: info.Size(), MTime: info.ModTime().UnixNano()})
		}
	}
	return found
}
