package runtimes

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"lambent/sandbox"
)

// libraryDirectories are those of a host's libraries in which anything may have been installed: compilers, databases, whole
// development kits.
func libraryDirectories() []string { return []string{"/usr/lib", "/lib"} }

// imageLibraries are the entries of such a directory that runtimes need: shared libraries, the standard libraries of the
// distribution's interpreters, and what the C library and OpenSSL read.
func imageLibraries() []string {
	return []string{"*-linux-gnu*", "lib*.so*", "ld-*.so*", "python3*", "nodejs", "node_modules", "ssl", "engines-*", "locale", "os-release"}
}

// ImageBase returns what Base does, without the parts of the host's library directories that no runtime needs: for drivers that
// cannot show the host's own files, but pack them into an image first.
func (r *Registry) ImageBase() ([]sandbox.Mount, error) {
	var all []sandbox.Mount
	for _, mount := range r.base {
		if !slices.Contains(libraryDirectories(), mount.Target) {
			all = append(all, mount)
			continue
		}
		parts, err := libraryParts(mount)
		if err != nil {
			return nil, err
		}
		all = append(all, parts...)
	}
	return all, nil
}

// libraryParts returns the mounts that stand for one of a library directory. A link is shown as what it leads to.
func libraryParts(directory sandbox.Mount) ([]sandbox.Mount, error) {
	entries, err := os.ReadDir(directory.Source)
	if err != nil {
		return nil, fmt.Errorf("list the host's libraries: %w", err)
	}
	var parts []sandbox.Mount
	for _, entry := range entries {
		needed := slices.ContainsFunc(imageLibraries(), func(pattern string) bool {
			matches, err := filepath.Match(pattern, entry.Name())
			return err == nil && matches
		})
		source, err := filepath.EvalSymlinks(filepath.Join(directory.Source, entry.Name()))
		if !needed || err != nil || strings.HasPrefix(source, "/proc/") {
			continue
		}
		parts = append(parts, sandbox.Mount{Source: source, Target: filepath.Join(directory.Target, entry.Name())})
	}
	return parts, nil
}
