package runtimes

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"lambent/sandbox"
)

// errNotInterpreter: the candidate is a program, but none that functions run on: a script, or an old version.
var errNotInterpreter = errors.New("not an interpreter of a supported version")

// identity is what an interpreter says of itself. The members below Version are Python's only.
type identity struct {
	Language string // "python" or "nodejs"
	Version  string // "3.11.7"
	Prefix   string // where it is installed, without symbolic links
	Library  string // the directory of the standard library
	Platform string // the directory below Prefix of platform-dependent modules: "lib" or "lib64"
}

// name returns the name of the runtime.
func (id identity) name() string {
	if id.Language == "python" {
		return "python" + majorMinor(id.Version)
	}
	major, _, _ := strings.Cut(id.Version, ".")
	return "nodejs" + major + ".x"
}

func (id identity) language() string { return id.Language }

// selfContained reports whether the whole language lies below a directory of its own, which can be shown as it is. A
// distribution's Python is spread over /usr, and /usr/local holds more than the language.
func (id identity) selfContained(path string) bool {
	if id.Language != "python" || id.Prefix == "/usr" || id.Prefix == "/usr/local" || id.Prefix == "/" {
		return false
	}
	return path == filepath.Join(id.Prefix, "bin", "python"+majorMinor(id.Version))
}

// mounts shows the language at /var/lang.
func (id identity) mounts(path string) []sandbox.Mount {
	if id.selfContained(path) {
		return []sandbox.Mount{{Source: id.Prefix, Target: langDir}}
	}
	if id.Language == "nodejs" {
		return []sandbox.Mount{{Source: path, Target: langDir + "/bin/node"}}
	}
	name := "python" + majorMinor(id.Version)
	mounts := []sandbox.Mount{
		{Source: path, Target: langDir + "/bin/" + name},
		{Source: id.Library, Target: langDir + "/lib/" + name},
	}
	if id.Platform != "lib" && filepath.Base(filepath.Dir(id.Library)) == id.Platform {
		mounts = append(mounts, sandbox.Mount{Source: id.Library, Target: langDir + "/" + id.Platform + "/" + name})
	}
	return mounts
}

// pythonProbe prints what identity holds, and compiles the bootstrap that is in the directory of its argument. The compiled
// files are not compared with their sources at each start.
const pythonProbe = `
import glob, os, py_compile, sys
os.umask(0o022)
for file in glob.glob(sys.argv[1] + "/*.py"):
    py_compile.compile(file, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
print("%d.%d.%d" % sys.version_info[:3], os.path.realpath(sys.base_prefix), os.path.dirname(os.path.realpath(os.__file__)),
    getattr(sys, "platlibdir", "lib"), sys.implementation.name, sep="\n")
`

// probe runs a candidate to learn what it is.
func probe(ctx context.Context, path, bootstrap string) (identity, error) {
	args := []string{"--version"}
	if strings.HasPrefix(filepath.Base(path), "python") {
		args = []string{"-I", "-S", "-c", pythonProbe, bootstrap}
	}
	command := exec.CommandContext(ctx, path, args...)
	command.Dir = "/"
	command.Env = []string{"LC_ALL=C", "HOME=/nonexistent"}
	output, err := command.Output()
	if err != nil {
		return identity{}, fmt.Errorf("run %s to learn its version: %w", path, commandError(err))
	}
	return parseIdentity(string(output))
}

// commandError puts what a program wrote to its standard error behind its error.
func commandError(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	return err
}

// parseIdentity reads what a probe has printed.
func parseIdentity(output string) (identity, error) {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	if version, ok := strings.CutPrefix(lines[0], "v"); ok && len(lines) == 1 {
		major, rest, _ := strings.Cut(version, ".")
		n, err := strconv.Atoi(major)
		if err != nil || n < oldestNode || strings.Count(rest, ".") != 1 {
			return identity{}, fmt.Errorf("version %q: %w", lines[0], errNotInterpreter)
		}
		return identity{Language: "nodejs", Version: version}, nil
	}
	if len(lines) != 5 || lines[4] != "cpython" || !strings.HasPrefix(lines[0], "3.") ||
		minor(lines[0]) < oldestPython || minor(lines[0]) > newestPython {
		return identity{}, fmt.Errorf("%q: %w", lines[0], errNotInterpreter)
	}
	id := identity{Language: "python", Version: lines[0], Prefix: lines[1], Library: lines[2], Platform: lines[3]}
	if !filepath.IsAbs(id.Prefix) || !filepath.IsAbs(id.Library) {
		return identity{}, fmt.Errorf("installed at %q: %w", id.Prefix, errNotInterpreter)
	}
	return id, nil
}
