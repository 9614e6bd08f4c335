package native

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/elastic/go-seccomp-bpf/arch"

	"lambent/sandbox"
	"lambent/sandbox/cgroup"
	"lambent/sandbox/ephemeral"
	"lambent/sandbox/identity"
	"lambent/sandbox/native/initbin"
)

// Options configure a driver. StateDir is required.
type Options struct {
	// StateDir is a directory of the driver's own, made when it does not exist. One living driver uses it at a time.
	StateDir string
	// Base are the parts of the host that every sandbox sees: interpreters, libraries, /etc.
	Base []sandbox.Mount
	// TmpInMemory keeps /tmp in memory, for hosts without loop devices. The function's memory limit then grows by the size of
	// /tmp, because the kernel counts both as one. Default: on disk, in an unnamed file in StateDir.
	TmpInMemory bool
	// Network connects every sandbox to the outside. Default: none, so that a sandbox reaches the Runtime API and itself only.
	Network sandbox.Network
	// IO bounds what each sandbox does to each disk: the one of its /tmp, and those that its code and the Base are on. Default:
	// DefaultIO.
	IO cgroup.IOLimits
	// IdentityDir is shared by all drivers of the host, which agree there on user IDs. Default: /run/lambent/ids.
	IdentityDir string
	// Logger receives what no caller is there to be told. Default: slog.Default().
	Logger *slog.Logger
}

// DefaultIO is 256 MiB and 8,192 operations per second, each way.
func DefaultIO() cgroup.IOLimits {
	return cgroup.IOLimits{ReadBytes: 256 << 20, WriteBytes: 256 << 20, ReadOperations: 8192, WriteOperations: 8192}
}

// Driver makes sandboxes out of namespaces and cgroups. It implements sandbox.Driver.
//
// Invariants: every sandbox has IDs of its own; whatever the driver makes on the host is below its cgroups and its state
// directory, so that Recover finds it; a sandbox that is not in all holds nothing.
type Driver struct {
	options    Options
	logger     *slog.Logger
	lock       *os.File
	executable *os.File // the init
	filter     string   // the system call filter
	masks      []string
	disks      disks // of the Base and the state directory
	cgroups    *cgroup.Tree
	ids        *identity.Block
	mounts     *mounts
	stock      *ephemeral.Stock // of the /tmp of ready-made sandboxes

	spawnMu sync.Mutex
	spawner *spawner

	findCgroups func() (cgroup.Hierarchy, []string, error)

	mu       sync.Mutex
	closed   bool
	creating sync.WaitGroup // Add only under mu, and not once closed
	all      map[string]*Sandbox
}

// Open makes a driver. It fails with a text for the operator when the host lacks something (see Check), or when another
// process uses the state directory. Recover is to be called before the first Create.
func Open(options Options) (*Driver, error) {
	missing := Check()
	switch {
	case options.TmpInMemory:
	case identity.Restricted():
		missing = append(missing, "loop devices need root of the host: keep /tmp in memory")
	default:
		missing = append(missing, ephemeral.Check()...)
	}
	if len(missing) > 0 {
		return nil, &MissingError{Missing: missing}
	}
	return openWith(options, cgroup.Find)
}

// openWith opens a driver on the cgroups that find returns.
func openWith(options Options, find func() (cgroup.Hierarchy, []string, error)) (*Driver, error) {
	if options.IdentityDir == "" {
		options.IdentityDir = "/run/lambent/ids"
	}
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	if options.IO == (cgroup.IOLimits{}) {
		options.IO = DefaultIO()
	}
	d := &Driver{options: options, logger: options.Logger, findCgroups: find, all: map[string]*Sandbox{}}
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
	if err := os.MkdirAll(d.rootDirectory(), 0o700); err != nil {
		return fmt.Errorf("make the state directory: %w", err)
	}
	d.lock, err = identity.LockFile(filepath.Join(d.options.StateDir, "lock"))
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("the sandbox directory %s is in use by another process", d.options.StateDir)
	}
	if err != nil {
		return fmt.Errorf("lock the state directory: %w", err)
	}
	info, err := arch.GetInfo("")
	if err != nil {
		return fmt.Errorf("system call filter: %w", err)
	}
	filter, err := assembleFilter(info)
	if err != nil {
		return err
	}
	d.filter = string(filter)
	if d.masks, err = procMasks("/proc"); err != nil {
		return err
	}
	d.disks = disksOf(d.options)
	if d.executable, err = initExecutable(initbin.Binary()); err != nil {
		return err
	}
	if d.ids, err = identity.OpenMapped(d.options.IdentityDir); err != nil {
		return err
	}
	if err := d.noteBlock(); err != nil {
		return err
	}
	if d.mounts, err = openMounts(d.rootDirectory(), d.options.Base); err != nil {
		return err
	}
	if d.cgroups, err = cgroup.OpenTree(d.options.StateDir, d.findCgroups, d.logger); err != nil {
		return err
	}
	d.stock = ephemeral.NewStock(ephemeral.Options{Dir: d.options.StateDir, SizeMiB: readyTmpMiB}, stockedTmps)
	d.spawner, err = startSpawner(d.executable)
	return err
}

// stockedTmps is how many file systems for /tmp are made ahead.
const stockedTmps = 4

// disks are those that all sandboxes read from.
type disks struct {
	all     []cgroup.Disk
	devices []uint64 // of the file systems on them
}

// disksOf finds the disks of the Base and the state directory.
func disksOf(options Options) (found disks) {
	paths := []string{options.StateDir}
	for _, mount := range options.Base {
		paths = append(paths, mount.Source)
	}
	for _, path := range paths {
		disk, ok := cgroup.DiskOf(path)
		var stat unix.Stat_t
		if !ok || unix.Stat(path, &stat) != nil {
			continue
		}
		if !slices.Contains(found.all, disk) {
			found.all = append(found.all, disk)
		}
		found.devices = append(found.devices, stat.Dev)
	}
	return found
}

// has reports whether a path is on one of the disks for certain.
func (d disks) has(path string) bool {
	var stat unix.Stat_t
	return unix.Stat(path, &stat) == nil && slices.Contains(d.devices, stat.Dev)
}

// noteBlock writes the first user ID of the driver's block and their number to the state directory, for people who wonder whose a process is.
func (d *Driver) noteBlock() error {
	text := fmt.Sprintf("%d %d\n", d.ids.First(), d.ids.IDs())
	if err := os.WriteFile(filepath.Join(d.options.StateDir, "block"), []byte(text), 0o600); err != nil {
		return fmt.Errorf("note the user IDs: %w", err)
	}
	return nil
}

// rootDirectory is where the template of the sandboxes' roots is mounted.
func (d *Driver) rootDirectory() string { return filepath.Join(d.options.StateDir, "root") }

// release gives back what open acquired.
func (d *Driver) release() error {
	var all []error
	d.spawnMu.Lock()
	if d.spawner != nil {
		all = append(all, d.spawner.close())
	}
	d.spawnMu.Unlock()
	if d.stock != nil {
		d.stock.Close()
	}
	if d.mounts != nil {
		d.mounts.close()
	}
	if d.cgroups != nil {
		ctx, cancel := context.WithTimeout(context.Background(), destroyTimeout)
		defer cancel()
		all = append(all, d.cgroups.Close(ctx))
	}
	if d.ids != nil {
		all = append(all, d.ids.Close())
	}
	for _, file := range []*os.File{d.executable, d.lock} {
		if file != nil {
			all = append(all, file.Close())
		}
	}
	return errors.Join(all...)
}

// initExecutable puts the init into memory, sealed, so that nothing can change what sandboxes run. Without an embedded
// init it is this process's own executable, which must call MaybeInit.
func initExecutable(binary []byte) (*os.File, error) {
	if binary == nil {
		return ownExecutable()
	}
	fd, err := unix.MemfdCreate("lambent-init", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3 every memfd could be executed
		fd, err = unix.MemfdCreate("lambent-init", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("store the init: %w", err)
	}
	file := os.NewFile(uintptr(fd), "lambent-init")
	if _, err := file.Write(binary); err != nil {
		file.Close()
		return nil, fmt.Errorf("store the init: %w", err)
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(file.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		file.Close()
		return nil, fmt.Errorf("seal the init: %w", err)
	}
	return file, nil
}

// ownExecutable opens this process's executable, which must be able to run in a root that has no libraries.
func ownExecutable() (*os.File, error) {
	file, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("open the init: %w", err)
	}
	image, err := elf.NewFile(file)
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("open the init: %w", err)
	}
	for _, segment := range image.Progs {
		if segment.Type == elf.PT_INTERP {
			file.Close()
			return nil, errors.New("this executable carries no sandbox init and is not static, so that it cannot be one itself: " +
				"build it with `make build`, or with CGO_ENABLED=0")
		}
	}
	return file, nil
}

// Create makes a ready-made sandbox. The id is unique among the driver's living sandboxes, and a file name.
func (d *Driver) Create(ctx context.Context, id string, _ sandbox.Template) (sandbox.Sandbox, error) {
	if id == "" || id != filepath.Base(id) || len(id) > 128 || id[0] == '.' {
		return nil, fmt.Errorf("create sandbox: %q is no file name", id)
	}
	s := &Sandbox{driver: d, id: id}
	d.mu.Lock()
	_, exists := d.all[id]
	closed := d.closed
	if !exists && !closed {
		d.all[id] = s
		d.creating.Add(1)
		defer d.creating.Done()
	}
	d.mu.Unlock()
	switch {
	case closed:
		return nil, fmt.Errorf("create sandbox: %w", os.ErrClosed)
	case exists:
		return nil, fmt.Errorf("create sandbox: %s exists", id)
	}
	if err := s.create(ctx); err != nil {
		return nil, fmt.Errorf("create sandbox: %w", errors.Join(err, s.Destroy(context.WithoutCancel(ctx))))
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
