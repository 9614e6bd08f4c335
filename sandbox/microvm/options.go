package microvm

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"lambent/sandbox"
	"lambent/sandbox/microvm/guestbin"
	"lambent/sandbox/microvm/kernel"
)

// Options configure a driver. StateDir is required.
type Options struct {
	// StateDir is a directory of the driver's own, made when it does not exist. One living driver uses it at a time.
	StateDir string
	// Base are the parts of the host that every sandbox sees, as for the native driver. They are packed into a read-only image once;
	// an image is made anew when anything in them has changed.
	Base []sandbox.Mount
	// Kernel is the guest's kernel, an uncompressed or self-extracting image. Default: the newest in /boot that has the modules that
	// guests need, those for clouds first.
	Kernel string
	// Modules is the directory of that kernel's modules. Default: lib/modules/VERSION beside the kernel's directory.
	Modules string
	// Agent is the program lambent-guest. Default: the one inside this executable.
	Agent string
	// QEMU is the emulator. Default: qemu-system-x86_64.
	QEMU string
	// Accelerator is kvm or tcg. Default: kvm if it can boot a guest, which is tried once, else tcg.
	Accelerator string
	// MemoryMiB is the memory of sandboxes whose template does not say. Default: 10,240, for Lambda's largest function. The host
	// gives a guest memory as the guest uses it.
	MemoryMiB int
	// ImageBytes is how large all images of code together may become before those that nobody uses are removed, the least recently
	// used first. Default: 8 GiB.
	ImageBytes int64
	// Network connects every sandbox to the outside. Its attachments have the methods of those of package network. Default: none, so
	// that a sandbox reaches the Runtime API and itself only.
	Network sandbox.Network
	// Rate bounds what each sandbox does to each of its disks. Default: 256 MiB and 8,192 operations per second, each way.
	Rate Rate
	// IdentityDir is shared by all drivers of the host, which agree there on user IDs. Default: /run/lambent/ids.
	IdentityDir string
	// Logger receives what no caller is there to be told. Default: slog.Default().
	Logger *slog.Logger
}

// Rate bounds what a sandbox does to each of its disks, each way. 0: no limit.
type Rate struct {
	BytesPerSecond      int64
	OperationsPerSecond int64
}

// MissingError says what a host lacks to run sandboxes of this driver.
type MissingError struct {
	// Missing has one sentence for each thing, for the operator.
	Missing []string
}

// Error joins the sentences.
func (e *MissingError) Error() string {
	text := "this host cannot run microVM sandboxes"
	for i, sentence := range e.Missing {
		text += map[bool]string{true: ": ", false: "; "}[i == 0] + sentence
	}
	return text
}

// Check returns what this process and host lack to run sandboxes, one sentence for each, and nothing when all is there.
func Check(o Options) []string {
	_, missing := o.complete()
	return missing
}

// complete fills in the defaults, and says what is missing.
func (o Options) complete() (_ Options, missing []string) {
	if o.MemoryMiB == 0 {
		o.MemoryMiB = 10240
	}
	if o.ImageBytes == 0 {
		o.ImageBytes = 8 << 30
	}
	if o.Rate == (Rate{}) {
		o.Rate = Rate{BytesPerSecond: 256 << 20, OperationsPerSecond: 8192}
	}
	if o.IdentityDir == "" {
		o.IdentityDir = "/run/lambent/ids"
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	need := func(err error) {
		if err != nil {
			missing = append(missing, err.Error())
		}
	}
	if os.Geteuid() != 0 {
		missing = append(missing, "it needs to run as root")
	}
	if runtime.GOARCH != "amd64" {
		missing = append(missing, "QEMU's machine type microvm is of amd64 only")
	}
	if o.QEMU == "" {
		o.QEMU = "qemu-system-x86_64"
	}
	var err error
	o.QEMU, err = findProgram(o.QEMU, "qemu-system-x86")
	need(err)
	_, err = findProgram("mkfs.erofs", "erofs-utils")
	need(err)
	need(o.completeKernel())
	if o.Network != nil {
		missing = append(missing, CheckNetwork()...)
	}
	if o.Agent == "" && guestbin.Binary() == nil {
		missing = append(missing, "this executable carries no guest agent: build it with `make build`")
	}
	return o, missing
}

// completeKernel finds the kernel, or checks the one that was named.
func (o *Options) completeKernel() (err error) {
	if o.Kernel == "" {
		o.Kernel, o.Modules, err = kernel.Find("/", guestModules())
		return err
	}
	if o.Modules == "" {
		o.Modules = kernel.ModulesOf(o.Kernel)
	}
	if _, err := os.Stat(o.Kernel); err != nil {
		return err
	}
	lacking, err := kernel.Lacking(o.Modules, guestModules())
	if err == nil && len(lacking) > 0 {
		err = fmt.Errorf("the kernel %s has no %s in %s: install %s", o.Kernel, strings.Join(lacking, ", "), o.Modules, kernel.Packages)
	}
	return err
}

// findProgram returns a program's path, without links, since it is shown at that path inside.
func findProgram(name, pkg string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return name, fmt.Errorf("there is no %s: install %s", name, pkg)
	}
	return path, nil
}

// agentBinary returns the guest agent.
func (o Options) agentBinary() ([]byte, error) {
	if o.Agent == "" {
		return guestbin.Binary(), nil
	}
	content, err := os.ReadFile(o.Agent)
	if err == nil && len(content) == 0 {
		err = errors.New("it is empty")
	}
	if err != nil {
		return nil, fmt.Errorf("read the guest agent: %w", err)
	}
	return content, nil
}
