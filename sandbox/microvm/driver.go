package microvm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lambent/sandbox"
	"lambent/sandbox/cgroup"
	"lambent/sandbox/identity"
	"lambent/sandbox/microvm/agent/wire"
)

// Driver makes sandboxes that are virtual machines. It implements sandbox.Snapshotter.
//
// Invariants: every machine's monitor has a user ID of its own and is in the driver's cgroups; whatever the driver makes on the host
// is there, below its state directory, or ends with the monitor, so that Recover finds it.
type Driver struct {
	options Options
	logger  *slog.Logger
	lock    *os.File
	cgroups *cgroup.Tree
	ids     *identity.Block
	images  *imageStore
	keeper  *keeper

	flights *flights // of preparing, and of bases

	// Set by preparing, and not changed afterwards.
	rootImage string
	identity  string // of all that a base depends on
	monitor   string // of what a machine's state depends on

	mu       sync.Mutex
	prepared bool
	closed   bool
	creating sync.WaitGroup // Add only under mu, and not once closed
	all      map[string]*Sandbox
}

var _ sandbox.Snapshotter = (*Driver)(nil)

// Open makes a driver. It fails with a text for the operator when the host lacks something, or when another process uses the state
// directory. Recover is to be called before the first Create.
func Open(options Options) (*Driver, error) {
	options, missing := options.complete()
	if len(missing) > 0 {
		return nil, &MissingError{Missing: missing}
	}
	d := &Driver{options: options, logger: options.Logger, flights: newFlights(), keeper: newKeeper(), all: map[string]*Sandbox{}}
	if err := d.open(); err != nil {
		return nil, errors.Join(err, d.release())
	}
	return d, nil
}

// open acquires what the driver holds, in an order that release can undo at any point.
func (d *Driver) open() (err error) {
	if d.options.StateDir, err = filepath.Abs(d.options.StateDir); err != nil {
		return err
	}
	for _, name := range []string{"images", "bases", "vm", "mount"} {
		if err := os.MkdirAll(d.path(name), 0o700); err != nil {
			return fmt.Errorf("make the state directory: %w", err)
		}
	}
	d.lock, err = identity.LockFile(d.path("lock"))
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("the sandbox directory %s is in use by another process", d.options.StateDir)
	}
	if err != nil {
		return fmt.Errorf("lock the state directory: %w", err)
	}
	agent, err := d.options.agentBinary()
	if err != nil {
		return err
	}
	// It may be running: a file of that name is replaced, not written to.
	if err := os.WriteFile(d.path("agent.new"), agent, 0o700); err != nil {
		return fmt.Errorf("store the guest agent: %w", err)
	}
	if err := os.Rename(d.path("agent.new"), d.path("agent")); err != nil {
		return fmt.Errorf("store the guest agent: %w", err)
	}
	d.images = newImageStore(d.path("images"), d.path("mount"), d.path("agent"), d.options.ImageBytes, d.keeper)
	if d.ids, err = identity.Open(d.options.IdentityDir); err != nil {
		return err
	}
	block := strconv.FormatUint(uint64(d.ids.First()), 10) + "\n"
	if err := os.WriteFile(d.path("block"), []byte(block), 0o600); err != nil {
		return fmt.Errorf("note the user IDs: %w", err)
	}
	d.cgroups, err = cgroup.OpenTree(d.options.StateDir, cgroup.Find, d.logger)
	return err
}

// path is that of something in the state directory.
func (d *Driver) path(elements ...string) string {
	return filepath.Join(append([]string{d.options.StateDir}, elements...)...)
}

// release gives back what open acquired.
func (d *Driver) release() error {
	var all []error
	d.flights.close()
	if d.images != nil {
		d.images.flights.close()
	}
	d.keeper.close()
	if d.cgroups != nil {
		ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
		defer cancel()
		all = append(all, d.cgroups.Close(ctx))
	}
	if d.ids != nil {
		all = append(all, d.ids.Close())
	}
	if d.lock != nil {
		all = append(all, d.lock.Close())
	}
	return errors.Join(all...)
}

// isPrepared tells whether what all machines share has been made.
func (d *Driver) isPrepared() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.prepared
}

// prepare makes what all machines share: the first root, the root image, and the choice of the accelerator. Packing a large Base takes
// minutes; when the context ends, it goes on for the next caller.
func (d *Driver) prepare(ctx context.Context) error {
	if d.isPrepared() {
		return nil
	}
	return d.flights.do(ctx, "prepare", func(ctx context.Context) error {
		if d.isPrepared() {
			return nil
		}
		initramfs, err := d.storeInitramfs()
		if err != nil {
			return err
		}
		if d.rootImage, err = d.images.base(ctx, wire.Manifest{}, d.options.Base); err != nil {
			return err
		}
		kernel, err := d.storeKernel()
		if err != nil {
			return err
		}
		if d.options.Accelerator == "" {
			d.options.Accelerator = d.chooseAccelerator(ctx)
		}
		program, err := os.Stat(d.options.QEMU)
		if err != nil {
			return err
		}
		d.monitor = fmt.Sprint(d.options.Accelerator, " ", d.options.QEMU, " of ", program.ModTime().UTC())
		identity := sha256.Sum256(fmt.Append(nil, initramfs, d.rootImage, kernel, d.monitor, d.options.Network != nil))
		d.identity = hex.EncodeToString(identity[:16])
		if err := d.dropBases(); err != nil {
			return err
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.prepared = true
		return nil
	})
}

// dropBases removes the bases of other kernels and roots, which nothing will begin with again.
func (d *Driver) dropBases() error {
	bases, err := filepath.Glob(d.path("bases", "*"))
	if err != nil {
		return err
	}
	for _, base := range bases {
		if !strings.HasPrefix(filepath.Base(base), d.identity+"-") {
			if err := os.RemoveAll(base); err != nil {
				return fmt.Errorf("remove a base: %w", err)
			}
		}
	}
	return nil
}

// storeKernel copies the kernel's image, which distributions have for root only while a monitor is another user, and returns its
// digest.
func (d *Driver) storeKernel() (digest string, err error) {
	image, err := os.ReadFile(d.options.Kernel)
	if err != nil {
		return "", fmt.Errorf("read the guests' kernel: %w", err)
	}
	fresh := d.path("kernel.new")
	if err := errors.Join(os.WriteFile(fresh, image, 0o600), os.Chmod(fresh, 0o444), os.Rename(fresh, d.path("kernel"))); err != nil {
		return "", fmt.Errorf("store the guests' kernel: %w", err)
	}
	sum := sha256.Sum256(image)
	return hex.EncodeToString(sum[:]), nil
}

// storeInitramfs writes the first root, and returns its digest.
func (d *Driver) storeInitramfs() (digest string, err error) {
	agent, err := d.options.agentBinary()
	if err != nil {
		return "", err
	}
	file, err := os.Create(d.path("initramfs.new"))
	if err != nil {
		return "", fmt.Errorf("store the initramfs: %w", err)
	}
	hash := sha256.New()
	if err := errors.Join(writeInitramfs(doubleWriter{file, hash}, agent, d.options.Modules), file.Close()); err != nil {
		return "", err
	}
	if err := errors.Join(os.Chmod(d.path("initramfs.new"), 0o444), os.Rename(d.path("initramfs.new"), d.path("initramfs"))); err != nil {
		return "", fmt.Errorf("store the initramfs: %w", err)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// kvmPatience is how long a guest may take to boot on hardware that can run it: a tenth of a second is usual.
const kvmPatience = 10 * time.Second

// chooseAccelerator boots a guest to see whether it can: that /dev/kvm exists does not say so.
func (d *Driver) chooseAccelerator(ctx context.Context) string {
	if device, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err != nil {
		d.logger.Warn("there is no KVM: machines are emulated, which is slow and for development and tests only", "error", err)
		return "tcg"
	} else {
		device.Close()
	}
	ctx, cancel := context.WithTimeout(ctx, kvmPatience)
	defer cancel()
	probe := &Sandbox{driver: d, id: "probe-kvm", memoryMiB: 128, processors: 1, accelerator: "kvm"}
	err := errors.Join(probe.create(ctx, ""), probe.Destroy(context.WithoutCancel(ctx)))
	if err == nil {
		return "kvm"
	}
	d.logger.Warn("KVM cannot boot a guest: machines are emulated, which is slow and for development and tests only", "error", err)
	return "tcg"
}

// Create implements sandbox.Driver. The first sandbox of a size boots; the others continue from its state.
func (d *Driver) Create(ctx context.Context, id string, template sandbox.Template) (sandbox.Sandbox, error) {
	memoryMiB := template.MemoryMiB
	if memoryMiB == 0 {
		memoryMiB = d.options.MemoryMiB
	}
	s, err := d.admit(id, memoryMiB)
	if err != nil {
		return nil, fmt.Errorf("create sandbox: %w", err)
	}
	defer d.creating.Done()
	base, err := d.base(ctx, memoryMiB)
	if err == nil {
		err = s.create(ctx, base)
	}
	if err != nil {
		return nil, fmt.Errorf("create sandbox: %w", errors.Join(err, s.Destroy(context.WithoutCancel(ctx))))
	}
	return s, nil
}

// admit notes a new sandbox. The caller calls creating.Done.
func (d *Driver) admit(id string, memoryMiB int) (*Sandbox, error) {
	if id == "" || id != filepath.Base(id) || len(id) > 128 || id[0] == '.' {
		return nil, fmt.Errorf("%q is no file name", id)
	}
	if memoryMiB < 0 || memoryMiB > 1<<20 {
		return nil, fmt.Errorf("%d MiB of memory cannot be given", memoryMiB)
	}
	s := &Sandbox{driver: d, id: id, memoryMiB: memoryMiB, processors: processorsFor(memoryMiB)}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, os.ErrClosed
	}
	if _, exists := d.all[id]; exists {
		return nil, fmt.Errorf("%s exists", id)
	}
	d.all[id] = s
	d.creating.Add(1)
	return s, nil
}

// memoryPerProcessor is Lambda's: one virtual CPU for each so many MiB.
const memoryPerProcessor = 1769

func processorsFor(memoryMiB int) int {
	return max(1, min((memoryMiB+memoryPerProcessor-1)/memoryPerProcessor, runtime.NumCPU()))
}

// base returns the directory of the snapshot that sandboxes of a size begin with, and makes it when there is none.
func (d *Driver) base(ctx context.Context, memoryMiB int) (string, error) {
	if err := d.prepare(ctx); err != nil {
		return "", err
	}
	dir := d.path("bases", fmt.Sprintf("%s-%d", d.identity, memoryMiB))
	return dir, d.flights.do(ctx, dir, func(ctx context.Context) error { return d.makeBase(ctx, dir, memoryMiB) })
}

// makeBase makes the snapshot that sandboxes of a size begin with, unless there is one.
func (d *Driver) makeBase(ctx context.Context, dir string, memoryMiB int) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	making := dir + ".new"
	if err := errors.Join(os.RemoveAll(making), os.Mkdir(making, 0o700)); err != nil {
		return fmt.Errorf("make a base: %w", err)
	}
	first := &Sandbox{driver: d, id: "base-" + filepath.Base(dir), memoryMiB: memoryMiB, processors: processorsFor(memoryMiB)}
	err := first.create(ctx, "")
	if err == nil {
		err = first.saveMachine(ctx, making)
	}
	if err := errors.Join(err, first.Destroy(context.WithoutCancel(ctx))); err != nil {
		return fmt.Errorf("make a base: %w", err)
	}
	if err := os.Rename(making, dir); err != nil {
		return fmt.Errorf("make a base: %w", err)
	}
	return nil
}

// forget drops a destroyed sandbox.
func (d *Driver) forget(s *Sandbox) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.all[s.id] == s {
		delete(d.all, s.id)
	}
}

// Recover implements sandbox.Driver.
func (d *Driver) Recover(ctx context.Context) error {
	d.mu.Lock()
	living := len(d.all)
	d.mu.Unlock()
	if living > 0 {
		return errors.New("recover: sandboxes have been created already")
	}
	if err := d.cgroups.Recover(ctx); err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	var left []string
	for _, pattern := range []string{d.path("*.new"), d.path("*", "*.new"), d.path("vm", "*")} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		left = append(left, paths...)
	}
	for _, path := range left {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("recover: %w", err)
		}
	}
	return nil
}

// Close destroys all sandboxes and releases the driver's own resources. Create fails from then on. Images and bases stay for the
// next driver.
func (d *Driver) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	d.mu.Unlock()
	d.creating.Wait()

	d.mu.Lock()
	living := make([]*Sandbox, 0, len(d.all))
	for _, s := range d.all {
		living = append(living, s)
	}
	d.mu.Unlock()
	failures := make([]error, len(living))
	var group sync.WaitGroup
	for i, s := range living {
		group.Go(func() { failures[i] = s.Destroy(context.Background()) })
	}
	group.Wait()
	return errors.Join(errors.Join(failures...), d.release())
}

// doubleWriter writes to both.
type doubleWriter struct {
	a, b interface{ Write([]byte) (int, error) }
}

func (w doubleWriter) Write(p []byte) (int, error) {
	if n, err := w.a.Write(p); err != nil {
		return n, err
	}
	return w.b.Write(p)
}
