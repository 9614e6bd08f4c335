package microvm

import (
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"lambent/sandbox/microvm/agent"
)

// guestModules are what the agent needs of the kernel. What a kernel has built in is not among its modules' files.
var guestModules = []string{"virtio_mmio", "virtio_blk", "virtio_console", "vmw_vsock_virtio_transport", "virtio_net", "erofs", "overlay", "loop",
	"ext4"}

// findKernel returns the newest kernel of a distribution's cloud package in a boot directory, and its modules.
func findKernel(boot string) (kernel, modules string, err error) {
	names, err := filepath.Glob(filepath.Join(boot, "vmlinuz-*-cloud-"+runtime.GOARCH))
	if err != nil || len(names) == 0 {
		return "", "", fmt.Errorf("there is no %s/vmlinuz-*-cloud-%s: install linux-image-cloud-%[2]s, or name a kernel", boot, runtime.GOARCH)
	}
	slices.SortFunc(names, func(a, b string) int { return compareVersions(filepath.Base(a), filepath.Base(b)) })
	kernel = names[len(names)-1]
	version := strings.TrimPrefix(filepath.Base(kernel), "vmlinuz-")
	return kernel, filepath.Join(filepath.Dir(boot), "lib/modules", version), nil
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

// writeInitramfs writes the archive that the kernel unpacks into its first root: the agent, and the modules that it loads.
func writeInitramfs(w io.Writer, agentBinary []byte, modules string) error {
	buffered := bufio.NewWriter(w)
	archive := &archive{w: buffered}
	for _, directory := range []string{"dev", "proc", "sys", "modules"} {
		archive.add(directory, directoryMode|0o755, nil)
	}
	archive.addDevice("dev/console", 0o600, 5, 1)
	archive.add("init", fileMode|0o755, agentBinary)
	files, err := moduleOrder(modules, guestModules)
	if err != nil {
		return err
	}
	var order strings.Builder
	for _, path := range files {
		content, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read a module: %w", err)
		}
		archive.add("modules/"+filepath.Base(path), fileMode|0o600, content)
		fmt.Fprintf(&order, "/modules/%s\n", filepath.Base(path))
	}
	archive.add(strings.TrimPrefix(agent.ModulesOrder, "/"), fileMode|0o600, []byte(order.String()))
	archive.add("TRAILER!!!", 0, nil)
	if archive.err != nil {
		return fmt.Errorf("write the initramfs: %w", archive.err)
	}
	return buffered.Flush()
}

// moduleOrder returns the files of modules, each after those that it needs. Names that no file has are left out.
func moduleOrder(directory string, wanted []string) ([]string, error) {
	paths := map[string]string{}
	err := filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name, _, ok := strings.Cut(entry.Name(), ".ko"); ok && !entry.IsDir() {
			paths[moduleName(name)] = path
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel may have no modules
		return nil, fmt.Errorf("look for modules: %w", err)
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

func moduleName(name string) string { return strings.ReplaceAll(name, "-", "_") }

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
	name := func(path string) string {
		base, _, _ := strings.Cut(filepath.Base(path), ".ko")
		return moduleName(base)
	}
	for line := range strings.Lines(text) {
		module, others, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		list := []string{}
		for _, other := range strings.Fields(others) {
			list = append(list, name(other))
		}
		slices.Reverse(list) // modprobe loads them from the last on
		needs[name(module)] = list
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

// archive writes the format that the kernel reads: cpio, "newc". It keeps the first error.
type archive struct {
	w    io.Writer
	next int
	err  error
}

const (
	directoryMode = 0o040000
	fileMode      = 0o100000
	deviceMode    = 0o020000
)

func (a *archive) add(name string, mode int, content []byte) { a.entry(name, mode, 0, 0, content) }

func (a *archive) addDevice(name string, mode, major, minor int) {
	a.entry(name, deviceMode|mode, major, minor, nil)
}

func (a *archive) entry(name string, mode, major, minor int, content []byte) {
	a.next++
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.next, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name)+1, 0)
	a.padded([]byte(header + name + "\x00"))
	a.padded(content)
}

// padded writes up to a multiple of four bytes.
func (a *archive) padded(content []byte) {
	for _, part := range [][]byte{content, make([]byte, -len(content)&3)} {
		if a.err == nil && len(part) > 0 {
			_, a.err = a.w.Write(part)
		}
	}
}
