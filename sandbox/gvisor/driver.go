package gvisor

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"lambent/sandbox"
	"lambent/sandbox/cgroup"
	"lambent/sandbox/gvisor/initbin"
	"lambent/sandbox/identity"
)

// Options configure a driver. StateDir is required.
type Options struct {
	// StateDir is a directory of the driver's own, made when it does not exist. One living driver uses it at a time.
	StateDir string
	// Base are the parts of the host that every sandbox sees: interpreters, libraries, /etc.
	Base []sandbox.Mount
	// Runsc is the path of gVisor's program. Default: "runsc" beside this executable, else in the PATH.
	Runsc string
	// Platform is how the Sentry catches system calls: systrap, kvm or ptrace. Default: systrap.
	Platform string
	// Network connects every sandbox to the outside. Default: none, so that a sandbox reaches the Runtime API and itself only.
	Network sandbox.Network
	// IO bounds what each sandbox does to each disk: the one of its /tmp, and those that its code and the Base are on. Default:
	// 256 MiB and 8,192 operations per second, each way.
	IO cgroup.IOLimits
	// IdentityDir is shared by all drivers of the host, which agree there on user IDs. Default: /run/lambent/ids.
	IdentityDir string
	// Logger receives what no caller is there to be told. Default: slog.Default().
	Logger *slog.Logger
}

// Driver makes sandboxes that are gVisor's. It implements sandbox.Driver and sandbox.Snapshotter.
//
// Invariants: every sandbox has IDs of its own; what the driver makes on the host is processes and cgroups, which Recover finds by the
// state directory, and mounts in a namespace that ends with the processes; a sandbox that is not in all holds nothing.
type Driver struct {
	options  Options
	logger   *slog.Logger
	lock     *os.File
	launcher *os.File // the init, as the host runs it
	disks    []cgroup.Disk
	cgroups  *cgroup.Tree
	ids      *identity.Block
	space    *namespace
	home     *home

	mu       sync.Mutex
	closed   bool
	made     uint64         // sandboxes that were ever begun
	creating sync.WaitGroup // Add only under mu, and not once closed
	all      map[string]*Sandbox
}

var _ sandbox.Snapshotter = (*Driver)(nil)

// Open makes a driver. It fails with a text for the operator when the host lacks something (see Check), or when another process
// uses the state directory. Recover is to be called before the first Create.
func Open(options Options) (*Driver, error) {
	if missing := Check(options.Runsc); len(missing) > 0 {
		return nil, &MissingError{Missing: missing}
	}
	if options.IdentityDir == "" {
		options.IdentityDir = "/run/lambent/ids"
	}
	if options.Platform == "" {
		options.Platform = "systrap"
	}
	if err := checkPlatform(options.Platform); err != nil {
		return nil, err
	}
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	if options.IO == (cgroup.IOLimits{}) {
		options.IO = cgroup.IOLimits{ReadBytes: 256 << 20, WriteBytes: 256 << 20, ReadOperations: 8192, WriteOperations: 8192}
	}
	d := &Driver{options: options, logger: options.Logger, all: map[string]*Sandbox{}}
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
	if d.options.Runsc, err = FindRunsc(d.options.Runsc); err != nil {
		return err
	}
	if err := os.MkdirAll(d.options.StateDir, 0o700); err != nil {
		return fmt.Errorf("make the state directory: %w", err)
	}
	d.lock, err = identity.LockFile(filepath.Join(d.options.StateDir, "lock"))
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("the sandbox directory %s is in use by another process", d.options.StateDir)
	}
	if err != nil {
		return fmt.Errorf("lock the state directory: %w", err)
	}
	d.disks = disksOf(d.options)
	program, err := initProgram(initbin.Binary())
	if err != nil {
		return err
	}
	if d.launcher, err = sealed(program); err != nil {
		return err
	}
	if d.ids, err = identity.Open(d.options.IdentityDir); err != nil {
		return err
	}
	if err := d.noteBlock(); err != nil {
		return err
	}
	if d.space, err = openNamespace(); err != nil {
		return err
	}
	if d.home, err = openHome(d.space, program, d.options.Base); err != nil {
		return err
	}
	d.cgroups, err = cgroup.OpenTree(d.options.StateDir, cgroup.Find, d.logger)
	return err
}

// initProgram returns the init's executable: the embedded one, or that of this process, which must call MaybeInit, and be able to run
// in a root that has no libraries.
func initProgram(embedded []byte) ([]byte, error) {
	if embedded != nil {
		return embedded, nil
	}
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("read the init: %w", err)
	}
	image, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return nil, fmt.Errorf("read the init: %w", err)
	}
	for _, segment := range image.Progs {
		if segment.Type == elf.PT_INTERP {
			return nil, errors.New("this executable carries no init for gVisor sandboxes and is not static, so that it cannot be one " +
				"itself: build it with `make build`, or with CGO_ENABLED=0")
		}
	}
	return program, nil
}

// sealed puts a program into memory, where nothing can change it.
func sealed(program []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("lambent-gvisor-launcher", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3 every memfd could be executed
		fd, err = unix.MemfdCreate("lambent-gvisor-launcher", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("store the launcher: %w", err)
	}
	file := os.NewFile(uintptr(fd), "launcher")
	_, err = file.Write(program)
	if err == nil {
		const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
		_, err = unix.FcntlInt(file.Fd(), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("store the launcher: %w", err)
	}
	return file, nil
}

// disksOf lists the disks that all sandboxes read from.
func disksOf(options Options) []cgroup.Disk {
	paths := []string{options.StateDir}
	for _, mount := range options.Base {
		paths = append(paths, mount.Source)
	}
	var disks []cgroup.Disk
	for _, path := range paths {
		if disk, ok := cgroup.DiskOf(path); ok && !slices.Contains(disks, disk) {
			disks = append(disks, disk)
		}
	}
	return disks
}

// noteBlock writes the first user ID of the driver's block to the state directory, for people who wonder whose a process is.
func (d *Driver) noteBlock() error {
	text := strconv.FormatUint(uint64(d.ids.First()), 10) + "\n"
	if err := os.WriteFile(filepath.Join(d.options.StateDir, "block"), []byte(text), 0o600); err != nil {
		return fmt.Errorf("note the user IDs: %w", err)
	}
	return nil
}

// release gives back what open acquired.
func (d *Driver) release() error {
	var all []error
	if d.home != nil {
		all = append(all, d.home.close())
	}
	if d.space != nil {
		d.space.close()
	}
	if d.cgroups != nil {
		ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
		defer cancel()
		all = append(all, d.cgroups.Close(ctx))
	}
	if d.ids != nil {
		all = append(all, d.ids.Close())
	}
	for _, file := range []*os.File{d.launcher, d.lock} {
		if file != nil {
			all = append(all, file.Close())
		}
	}
	return errors.Join(all...)
}

// Create makes a ready-made sandbox. The id is unique among the driver's living sandboxes, and a file name.
func (d *Driver) Create(ctx context.Context, id string, _ sandbox.Template) (sandbox.Sandbox, error) {
	s, err := d.begin(ctx, id, func(s *Sandbox) error { return s.create(ctx) })
	if err != nil {
		return nil, fmt.Errorf("create sandbox: %w", err)
	}
	return s, nil
}

// begin registers a sandbox and makes it. One that cannot be made is destroyed.
func (d *Driver) begin(ctx context.Context, id string, build func(*Sandbox) error) (*Sandbox, error) {
	if id == "" || id != filepath.Base(id) || len(id) > 128 || id[0] == '.' {
		return nil, fmt.Errorf("%q is no file name", id)
	}
	d.mu.Lock()
	_, exists := d.all[id]
	closed := d.closed
	var s *Sandbox
	if !exists && !closed {
		d.made++
		s = &Sandbox{driver: d, id: id, name: "b" + strconv.FormatUint(d.made, 10), processes: map[int]*process{}}
		d.all[id] = s
		d.creating.Add(1)
		defer d.creating.Done()
	}
	d.mu.Unlock()
	switch {
	case closed:
		return nil, os.ErrClosed
	case exists:
		return nil, fmt.Errorf("%s exists", id)
	}
	if err := build(s); err != nil {
		return nil, errors.Join(err, s.Destroy(context.WithoutCancel(ctx)))
	}
	return s, nil
}

// forget drops a destroyed sandbox.
func (d *Driver) forget(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.all, id)
}

// Recover implements sandbox.Driver. All that outlives a killed driver is processes and cgroups: mounts are in namespaces that
// end with their processes.
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
	return nil
}

// Close destroys all sandboxes and releases the driver's own resources. Create fails from then on.
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
	turns := make(chan struct{}, 2*runtime.GOMAXPROCS(0))
	for i, s := range living {
		turns <- struct{}{}
		group.Go(func() {
			defer func() { <-turns }()
			failures[i] = s.Destroy(context.Background())
		})
	}
	group.Wait()
	return errors.Join(errors.Join(failures...), d.release())
}
