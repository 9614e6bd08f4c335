package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"lambent/sandbox/microvm"
	"lambent/sandbox/microvm/kernel"
)

// besideOrInPath finds a program beside this executable, or in the PATH; empty when it is in neither.
func besideOrInPath(name string) string {
	if self, err := os.Executable(); err == nil {
		path := filepath.Join(filepath.Dir(self), name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return ""
	}
	return path
}

// guestKernel finds the kernel that guests boot; empty when there is none.
func guestKernel() string {
	image, _, err := kernel.Find("/", nil)
	if err != nil {
		return ""
	}
	return image
}

// watcher is a writer that notes when a text comes by.
type watcher struct {
	text  string
	found chan struct{}

	mu   sync.Mutex
	seen []byte // the end of what was written
	done bool
}

// Write implements io.Writer.
func (w *watcher) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, p...)
	if !w.done && bytes.Contains(w.seen, []byte(w.text)) {
		w.done = true
		close(w.found)
	}
	const keep = 16 << 10
	if len(w.seen) > 2*keep {
		w.seen = slices.Clone(w.seen[len(w.seen)-keep:])
	}
	return len(p), nil
}

func (w *watcher) end() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return lastWords(string(w.seen))
}

// atTheEnd is what a kernel says that has booted, with all its drivers, and looks for a root that it was not given.
const atTheEnd = "Unable to mount root fs"

// probeGuest boots a Linux kernel.
func probeGuest(accelerator string) func(*doctor, context.Context) finding {
	return func(d *doctor, ctx context.Context) finding {
		if d.QEMU == "" || d.Kernel == "" {
			return missing("not tried: %s", strings.Join(guestLacks(d.Options), " and "))
		}
		took, err := boot(ctx, d.QEMU, d.Kernel, accelerator)
		if err != nil {
			return missing("%v", err)
		}
		return ok("%s booted to the end in %v", filepath.Base(d.Kernel), took.Round(time.Millisecond))
	}
}

// guestLacks says what booting a guest lacks.
func guestLacks(o Options) []string {
	var lacks []string
	if o.QEMU == "" {
		lacks = append(lacks, "QEMU is not installed")
	}
	if o.Kernel == "" {
		lacks = append(lacks, "there is no kernel in /boot")
	}
	return lacks
}

// boot starts a guest and waits until its kernel is at the end of its start.
func boot(ctx context.Context, qemu, kernel, accelerator string) (time.Duration, error) {
	machine, console, processor := "microvm,rtc=on", "ttyS0", "max"
	if runtime.GOARCH == "arm64" {
		machine, console = "virt", "ttyAMA0"
	}
	if accelerator == "kvm" {
		processor = "host"
	}
	// Without the TSC's parameters a guest without KVM can hang while it measures its processor.
	line := "console=" + console + " panic=-1 tsc_early_khz=1000000 lpj=1000000 no_timer_check mitigations=off"
	if accelerator == "kvm" {
		line = "console=" + console + " panic=-1"
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu, "-M", machine, "-accel", accelerator, "-cpu", processor, "-m", "256", "-smp", "1",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio", "-kernel", kernel, "-append", line)
	console0 := &watcher{text: atTheEnd, found: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = console0, console0
	cmd.WaitDelay = time.Second
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-console0.found:
		took := time.Since(began)
		cancel()
		<-ended //nolint:errcheck // that it was killed is known
		return took, nil
	case err := <-ended:
		select {
		case <-console0.found:
			return time.Since(began), nil
		default:
		}
		if ctx.Err() != nil {
			err = errors.New("it did not come to the end of its start")
		}
		return 0, fmt.Errorf("the guest did not boot (%w): %q", errOr(err, "QEMU ended"), console0.end())
	}
}

func errOr(err error, text string) error {
	if err == nil {
		return errors.New(text)
	}
	return err
}

// probeMicroVM asks the driver, for what it needs besides a guest that boots.
func probeMicroVM(d *doctor, _ context.Context) finding {
	if lacks := microvm.Check(microvm.Options{QEMU: d.QEMU, Kernel: d.Kernel}); len(lacks) > 0 {
		return missing("%s", strings.Join(lacks, "; "))
	}
	return ok("it has all that it needs besides a guest that boots")
}

// probeTap asks the driver, for what a machine's network needs.
func probeTap(*doctor, context.Context) finding {
	if lacks := microvm.CheckNetwork(); len(lacks) > 0 {
		return missing("%s", strings.Join(lacks, "; "))
	}
	return ok("one was made, and what comes in by it passed on")
}

func probeRunsc(d *doctor, ctx context.Context) finding {
	if d.Runsc == "" {
		return missing("it is neither beside lambent nor in the PATH")
	}
	root := filepath.Join(d.dir, "runsc")
	args := []string{"--root", root, "--platform=systrap", "--network=none", "--ignore-cgroups"}
	if !d.root {
		args = append(args, "--rootless")
	}
	cmd := exec.CommandContext(ctx, d.Runsc, append(args, "do", "--quiet", "true")...)
	cmd.WaitDelay = time.Second
	began := time.Now()
	if _, err := output(cmd); err != nil {
		return missing("%s ran nothing: %v", d.Runsc, err)
	}
	return ok("%s ran a program under systrap in %v", d.Runsc, time.Since(began).Round(time.Millisecond))
}

func probeFirecracker(_ *doctor, ctx context.Context) finding {
	var seen []string
	for _, name := range []string{"firecracker", "jailer"} {
		path := besideOrInPath(name)
		if path == "" {
			return missing("%s is neither beside lambent nor in the PATH", name)
		}
		cmd := exec.CommandContext(ctx, path, "--version")
		cmd.WaitDelay = time.Second
		text, err := output(cmd)
		if err != nil {
			return missing("%s --version: %v", path, err)
		}
		text, _, _ = strings.Cut(text, "\n")
		seen = append(seen, text)
	}
	return ok("%s", strings.Join(seen, "; "))
}
