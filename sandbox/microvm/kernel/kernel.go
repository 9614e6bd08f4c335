// Package kernel finds what virtual machines boot: the image of a kernel that a distribution installed, and its modules.
package kernel

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Packages are those of distributions that have a kernel which guests can boot.
const Packages = "linux-image-cloud-amd64 on Debian, linux-image-virtual on Ubuntu"

// Find returns the image of a kernel below a root, "/" for that of this host, and the directory of its modules: the newest that
// has all the modules that are needed, as files or built in. Those for clouds come before all others, since they are small.
func Find(root string, needed []string) (image, modules string, err error) {
	images, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil {
		return "", "", fmt.Errorf("look for a kernel: %w", err)
	}
	slices.SortFunc(images, func(a, b string) int { return compareImages(filepath.Base(b), filepath.Base(a)) })
	var lacks []string
	for _, image := range images {
		modules := ModulesOf(image)
		lacking, err := Lacking(modules, needed)
		if err != nil {
			return "", "", err
		}
		if len(lacking) == 0 {
			return image, modules, nil
		}
		lacks = append(lacks, fmt.Sprintf("; %s has no %s", image, strings.Join(lacking, ", ")))
	}
	return "", "", fmt.Errorf("there is no kernel for guests in %s: install %s%s", filepath.Join(root, "boot"), Packages, strings.Join(lacks, ""))
}

// ModulesOf returns the directory of the modules of an image, which lies below the same root.
func ModulesOf(image string) string {
	return filepath.Join(filepath.Dir(filepath.Dir(image)), "lib", "modules", strings.TrimPrefix(filepath.Base(image), "vmlinuz-"))
}

// Lacking returns those modules that are neither files in a directory nor built into its kernel.
func Lacking(directory string, wanted []string) ([]string, error) {
	files, err := moduleFiles(directory)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(directory, "modules.builtin"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read what is built in: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		files[nameOf(strings.TrimSpace(line))] = "built in"
	}
	return slices.DeleteFunc(slices.Clone(wanted), func(name string) bool { return files[name] != "" }), nil
}

// compareImages orders images by how much they are wanted.
func compareImages(a, b string) int {
	isCloud := func(name string) bool { return strings.Contains(name, "-cloud-") }
	switch {
	case isCloud(a) && !isCloud(b):
		return 1
	case isCloud(b) && !isCloud(a):
		return -1
	}
	return compareVersions(a, b)
}

// compareVersions orders names whose numbers count as numbers: 6.1.9 before 6.1.10.
func compareVersions(a, b string) int {
	split := func(s string) []string {
		return strings.FieldsFunc(s, func(r rune) bool { return r == '.' || r == '-' })
	}
	return slices.CompareFunc(split(a), split(b), func(x, y string) int {
		if len(x) != len(y) && strings.Trim(x+y, "0123456789") == "" {
			return len(x) - len(y)
		}
		return strings.Compare(x, y)
	})
}

// Order returns the files of modules, each after those that it needs. Names that no file has are left out.
func Order(directory string, wanted []string) ([]string, error) {
	paths, err := moduleFiles(directory)
	if err != nil {
		return nil, err
	}
	needs, err := listedNeeds(directory)
	if err != nil {
		return nil, err
	}
	var ordered []string
	seen := map[string]bool{}
	var visit func(name string) error
	visit = func(name string) error {
		path, ok := paths[name]
		if !ok || seen[name] {
			return nil
		}
		seen[name] = true
		before, listed := needs[name]
		if !listed {
			if before, err = ownNeeds(path); err != nil {
				return err
			}
		}
		for _, other := range before {
			if err := visit(other); err != nil {
				return err
			}
		}
		ordered = append(ordered, path)
		return nil
	}
	for _, name := range wanted {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return ordered, nil
}

// moduleFiles lists the modules in a directory by their names.
func moduleFiles(directory string) (map[string]string, error) {
	paths := map[string]string{}
	err := filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if strings.Contains(entry.Name(), ".ko") && !entry.IsDir() {
			paths[nameOf(path)] = path
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel may have no modules
		return nil, fmt.Errorf("look for modules: %w", err)
	}
	return paths, nil
}

func moduleName(name string) string { return strings.ReplaceAll(name, "-", "_") }

// nameOf returns the name of the module in a file.
func nameOf(path string) string {
	base, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return moduleName(base)
}

// listedNeeds reads modules.dep, which is there when the kernel's package was installed rather than unpacked.
func listedNeeds(directory string) (map[string][]string, error) {
	text, err := os.ReadFile(filepath.Join(directory, "modules.dep"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what modules need: %w", err)
	}
	return parseNeeds(string(text)), nil
}

// parseNeeds reads lines "kernel/fs/a.ko: kernel/lib/b.ko kernel/lib/c.ko".
func parseNeeds(text string) map[string][]string {
	needs := map[string][]string{}
	for line := range strings.Lines(text) {
		module, others, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		list := []string{}
		for _, other := range strings.Fields(others) {
			list = append(list, nameOf(other))
		}
		slices.Reverse(list) // modprobe loads them from the last on
		needs[nameOf(module)] = list
	}
	return needs
}

// ownNeeds reads what a module says of itself.
func ownNeeds(path string) ([]string, error) {
	image, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read what module %s needs (run depmod when modules are compressed): %w", path, err)
	}
	defer image.Close()
	section := image.Section(".modinfo")
	if section == nil {
		return nil, nil
	}
	content, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("read what module %s needs: %w", path, err)
	}
	for _, item := range bytes.Split(content, []byte{0}) {
		if list, ok := bytes.CutPrefix(item, []byte("depends=")); ok && len(list) > 0 {
			return strings.Split(moduleName(string(list)), ","), nil
		}
	}
	return nil, nil
}
