// Package guest boots throw-away virtual machines for tests: QEMU without hardware support, a distribution's kernel, and one
// static program as the first process of a root in memory.
package guest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"lambent/sandbox/microvm/kernel"
)

// Options say what to boot. The zero value looks for what a distribution installs.
type Options struct {
	// QEMU is the emulator. By default it is looked for as qemu-system-x86_64.
	QEMU string
	// Kernel is the kernel's image. By default it is the newest in /boot, those for clouds first.
	Kernel string
	// Modules is the directory of the kernel's modules. By default it is lib/modules/VERSION beside the kernel's directory.
	Modules string
	// Load names modules to load, which those that they need come before. What the kernel has built in, or not at all, is
	// left out.
	Load []string
	// MemoryMiB is the machine's memory. By default it has 1,536.
	MemoryMiB int
	// Parameters are added to the kernel's command line.
	Parameters []string
}

// ErrMissing is the error when the emulator or the kernel is not installed.
var ErrMissing = errors.New("QEMU or a guest's kernel is missing: install qemu-system-x86 and " + kernel.Packages)

// complete fills in the defaults.
func (o Options) complete() (Options, error) {
	if runtime.GOARCH != "amd64" {
		return o, fmt.Errorf("%w (and it has to be an amd64 machine)", ErrMissing)
	}
	if o.QEMU == "" {
		o.QEMU = "qemu-system-x86_64"
	}
	if _, err := exec.LookPath(o.QEMU); err != nil {
		return o, fmt.Errorf("%w: %w", ErrMissing, err)
	}
	if o.Kernel == "" {
		image, _, err := kernel.Find("/", nil)
		if err != nil {
			return o, fmt.Errorf("%w: %w", ErrMissing, err)
		}
		o.Kernel = image
	}
	if _, err := os.Stat(o.Kernel); err != nil {
		return o, fmt.Errorf("%w: %w", ErrMissing, err)
	}
	if o.Modules == "" {
		o.Modules = kernel.ModulesOf(o.Kernel)
	}
	if o.MemoryMiB == 0 {
		o.MemoryMiB = 1536
	}
	return o, nil
}

// Run boots a machine whose first process is a program of the host, which is also there as /probe, and returns what it wrote
// to its console until the machine is off.
func Run(ctx context.Context, program string, o Options) ([]byte, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	image, err := os.CreateTemp("", "lambent-guest-")
	if err != nil {
		return nil, fmt.Errorf("make a guest's root: %w", err)
	}
	defer os.Remove(image.Name())
	defer image.Close()
	if err := writeRoot(image, program, o); err != nil {
		return nil, fmt.Errorf("make a guest's root: %w", err)
	}
	// Without the first two a guest whose time the host does not keep well can hang while it measures its processor.
	line := append([]string{"console=ttyS0", "quiet", "loglevel=0", "panic=-1", "reboot=t", "tsc_early_khz=1000000", "lpj=1000000",
		"no_timer_check", "rdinit=/init", "mitigations=off"}, o.Parameters...)
	cmd := exec.CommandContext(ctx, o.QEMU, "-M", "microvm,rtc=on", "-accel", "tcg", "-cpu", "max", "-m", fmt.Sprint(o.MemoryMiB), "-smp", "1",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio", "-kernel", o.Kernel, "-initrd", image.Name(),
		"-append", strings.Join(line, " "))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return out.Bytes(), fmt.Errorf("run a guest: %w", err)
	}
	return out.Bytes(), nil
}

// writeRoot writes the archive that the kernel unpacks into its first root.
func writeRoot(w io.Writer, program string, o Options) error {
	buffered := bufio.NewWriter(w)
	archive := &archive{w: buffered}
	content, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	for _, directory := range []string{"dev", "proc", "sys", "tmp", "home", "modules"} {
		archive.add(directory, directoryMode, nil)
	}
	archive.add("init", fileMode|0o755, content)
	archive.add("probe", fileMode|0o755, content)
	modules, err := resolve(o)
	if err != nil {
		return err
	}
	var order strings.Builder
	for _, module := range modules {
		content, err := os.ReadFile(filepath.Join(o.Modules, module))
		if err != nil {
			return err
		}
		name := "modules/" + filepath.Base(module)
		archive.add(name, fileMode|0o644, content)
		fmt.Fprintf(&order, "/%s\n", name)
	}
	archive.add("modules/order", fileMode|0o644, []byte(order.String()))
	archive.add("TRAILER!!!", 0, nil)
	if archive.err != nil {
		return archive.err
	}
	return buffered.Flush()
}

// resolve returns the files of the modules to load, each after those that it needs. They are read from the tree, since
// modules.dep is made when the package is installed.
func resolve(o Options) ([]string, error) {
	if len(o.Load) == 0 || o.Modules == "" {
		return nil, nil
	}
	files := map[string]string{}
	err := filepath.WalkDir(o.Modules, func(path string, entry os.DirEntry, err error) error {
		if name, _, ok := strings.Cut(filepath.Base(path), ".ko"); err == nil && ok && !entry.IsDir() {
			relative, _ := filepath.Rel(o.Modules, path)
			files[strings.ReplaceAll(name, "-", "_")] = relative
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var ordered []string
	for _, name := range o.Load {
		if file, ok := files[name]; ok && !slices.Contains(ordered, file) {
			ordered = append(ordered, file)
		}
	}
	return ordered, nil
}

// archive writes the format that the kernel reads (cpio, "newc"). It keeps the first error.
type archive struct {
	w    io.Writer
	next int
	err  error
}

const (
	directoryMode = 0o040755
	fileMode      = 0o100000
)

func (a *archive) add(name string, mode int, content []byte) {
	if a.err != nil {
		return
	}
	a.next++
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", a.next, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0,
		len(name)+1, 0)
	for _, part := range []string{header + name + "\x00", string(content)} {
		padding := strings.Repeat("\x00", -len(part)&3)
		if _, err := io.WriteString(a.w, part+padding); err != nil {
			a.err = err
			return
		}
	}
}
