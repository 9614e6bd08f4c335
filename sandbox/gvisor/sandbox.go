package gvisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"lambent/sandbox"
	"lambent/sandbox/cgroup"
	"lambent/sandbox/ephemeral"
	"lambent/sandbox/gvisor/initproc"
	"lambent/sandbox/identity"
)

// Defaults of a ready-made sandbox, until it is specialised.
const (
	readyMemoryMiB   = 64
	readyProcesses   = 64
	readyVCPU        = 2 // so that the Sentry starts fast
	readyDescriptors = 1024
	readyTmpMiB      = 512 // what most functions ask for
)

// What the Sentry needs beside the function's own. Its memory is measured before it has a process of the function's, some 17 MiB, and growthMiB
// more is for what it grows by with the function's files, connections and threads.
const (
	mostSentryMiB  = 24 // the rest of what is measured is cached files, which give way
	growthMiB      = 8
	startMemoryMiB = 256 // until it is measured
	sentryThreads  = 512
	threadsPerTask = 3 // on the host, for each of the function's
)

// endTimeout bounds how long the kernel may take to end a sandbox. It takes milliseconds, unless a process waits for a disk.
const endTimeout = 30 * time.Second

// Sandbox is one sandbox of the gvisor driver. It implements sandbox.Sandbox.
type Sandbox struct {
	driver *Driver
	id     string
	name   string // of its directory

	// Set by create, and not changed until end.
	firstID  uint32
	group    *cgroup.Group
	files    *files
	listener *net.UnixListener

	// Set by the owner's calls, which come one at a time.
	spec      sandbox.Spec // zero: not specialised
	setting   setting
	boots     int
	container string     // runsc's name for the Sentry
	last      int        // process number
	sentry    int64      // bytes of memory that the Sentry had; 0: not measured
	stale     []*os.File // outputs that nobody reads

	launchMu sync.Mutex         // of starting runsc, which end waits for, and of what follows
	netns    *os.File           // nil: none
	network  sandbox.Attachment // nil: none

	mu        sync.Mutex
	control   *control         // nil: no Sentry, or it is being saved
	processes map[int]*process // by number
	disks     []*ephemeral.FS
	mounted   []string      // names in the exchange
	overhead  int64         // bytes of memory that are the Sentry's
	limit     int64         // bytes of memory that are the function's; 0: not specialised
	baseCPU   time.Duration // used before Specialise
	ending    chan struct{} // closed when Destroy has begun
	ended     chan struct{} // closed when Destroy is done
	endErr    error
}

// setting is what an init is told.
type setting struct {
	mounts      []string // triples, as initproc.Mount has them
	hostname    string
	descriptors int
	processes   int
}

// create makes the sandbox's parts. When it fails, Destroy removes what there is.
func (s *Sandbox) create(ctx context.Context) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	tmp, err := s.giveTmp("t0", readyTmpMiB)
	if err != nil {
		return err
	}
	s.setting.mounts = tmp
	s.setting.descriptors, s.setting.processes = readyDescriptors, readyProcesses
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err = s.living(ctx)
	return err
}

// prepare makes all but the Sentry and /tmp.
func (s *Sandbox) prepare(ctx context.Context) (err error) {
	if s.firstID, err = s.driver.ids.Take(); err != nil {
		return err
	}
	if s.group, err = s.driver.cgroups.Make(s.id); err != nil {
		return err
	}
	if err := s.group.LimitDevices(); err != nil {
		return err
	}
	if err := s.limits((startMemoryMiB+readyMemoryMiB)<<20, readyProcesses, readyVCPU); err != nil {
		return err
	}
	for _, disk := range s.driver.disks {
		if err := s.group.SetIO(disk, s.driver.options.IO); err != nil {
			return err
		}
	}
	if s.files, err = s.driver.home.openFiles(s.name, int(s.firstID)); err != nil {
		return err
	}
	s.listener, err = s.files.listen(initproc.API, int(s.firstID))
	return err
}

// attach connects the sandbox to the driver's network. runsc takes over what it finds in the namespace and leaves nothing for another
// Sentry, so each has a namespace of its own.
func (s *Sandbox) attach(ctx context.Context) error {
	if s.driver.options.Network == nil {
		return nil
	}
	s.launchMu.Lock()
	defer s.launchMu.Unlock()
	if s.isEnding() {
		return os.ErrClosed
	}
	if err := s.detach(); err != nil {
		return err
	}
	var err error
	if s.netns, err = newNetwork(); err != nil {
		return err
	}
	s.network, err = s.driver.options.Network.Attach(ctx, s.id, s.netns)
	return err
}

// detach takes the connection to the network away.
func (s *Sandbox) detach() error {
	var all []error
	if s.network != nil {
		all = append(all, s.network.Detach())
	}
	if s.netns != nil {
		all = append(all, s.netns.Close())
	}
	s.network, s.netns = nil, nil
	return errors.Join(all...)
}

// limits sets the limits of the function's processes and the Sentry together.
func (s *Sandbox) limits(memoryBytes int64, processes int, vcpu float64) error {
	return errors.Join(s.group.SetMemory(memoryBytes), s.group.SetProcesses(sentryThreads+threadsPerTask*processes), s.group.SetVCPU(vcpu))
}

// living returns the connection to the init, of a new Sentry when there is none.
func (s *Sandbox) living(ctx context.Context) (*control, error) {
	s.mu.Lock()
	c := s.control
	s.mu.Unlock()
	if c != nil {
		return c, nil
	}
	if s.isEnding() {
		return nil, os.ErrClosed
	}
	if err := errors.Join(s.killAll(ctx), s.reset()); err != nil { // what a dead Sentry left behind
		return nil, err
	}
	c, err := s.boot(ctx, "run")
	if err != nil {
		return nil, err
	}
	return c, s.configure(c)
}

// configure tells a new init all that it is to know.
func (s *Sandbox) configure(c *control) error {
	if s.setting.hostname != "" {
		if _, err := c.ask(initproc.Hostname, s.setting.hostname); err != nil {
			return err
		}
	}
	if _, err := c.ask(append([]string{initproc.Mount}, s.setting.mounts...)...); err != nil {
		return err
	}
	return s.tellLimits(c)
}

// tellLimits sets the limits that the Sentry enforces.
func (s *Sandbox) tellLimits(c *control) error {
	_, err := c.ask(initproc.Limit, strconv.Itoa(s.setting.descriptors), strconv.Itoa(s.setting.processes))
	return err
}

// Specialise implements sandbox.Sandbox.
func (s *Sandbox) Specialise(ctx context.Context, spec sandbox.Spec) error {
	if err := s.specialise(ctx, spec); err != nil {
		return fmt.Errorf("specialise sandbox: %w", err)
	}
	return nil
}

func (s *Sandbox) specialise(ctx context.Context, spec sandbox.Spec) error {
	if spec.MemoryMiB <= 0 || spec.Processes <= 0 || spec.Descriptors <= 0 || spec.EphemeralMiB <= 0 || spec.VCPU <= 0 {
		return errors.New("a limit is not positive")
	}
	c, err := s.living(ctx)
	if err != nil {
		return err
	}
	fresh, err := s.mount(spec)
	if err != nil {
		return err
	}
	if _, err := c.ask(append([]string{initproc.Mount}, fresh...)...); err != nil {
		return err
	}
	if spec.Hostname != "" {
		s.setting.hostname = spec.Hostname
		if _, err := c.ask(initproc.Hostname, spec.Hostname); err != nil {
			return err
		}
	}
	s.setting.descriptors, s.setting.processes = spec.Descriptors, spec.Processes
	if err := s.tellLimits(c); err != nil {
		return err
	}
	if err := s.measure(); err != nil {
		return err
	}
	s.spec = spec
	return s.meter(spec, s.sentry)
}

// measure finds out, once, how much memory the Sentry takes: before there is a process, which may be before Specialise.
func (s *Sandbox) measure() error {
	if s.sentry > 0 {
		return nil
	}
	used, err := s.group.Usage()
	if err != nil {
		return err
	}
	s.sentry = min(used.MemoryBytes, mostSentryMiB<<20)
	return nil
}

// meter sets the limits that the host enforces, beside so many bytes that are the Sentry's, and begins to measure.
func (s *Sandbox) meter(spec sandbox.Spec, overhead int64) error {
	used, err := s.group.Usage()
	if err != nil {
		return err
	}
	limit := int64(spec.MemoryMiB) << 20
	s.mu.Lock()
	s.overhead, s.limit, s.baseCPU = overhead, limit, used.CPU
	s.mu.Unlock()
	return errors.Join(s.limits(overhead+growthMiB<<20+limit, spec.Processes, spec.VCPU), s.group.ResetPeak())
}

// mount shows the code, and /tmp, on the host's side, and returns what the init is to be told of it.
func (s *Sandbox) mount(spec sandbox.Spec) (fresh []string, err error) {
	if fresh, err = s.showCode(spec); err != nil {
		return nil, err
	}
	if spec.EphemeralMiB != readyTmpMiB {
		tmp, err := s.giveTmp("t1", spec.EphemeralMiB)
		if err != nil {
			return nil, err
		}
		s.setting.mounts = nil // a Sentry that begins later is to mount this /tmp only
		fresh = append(fresh, tmp...)
	}
	s.setting.mounts = append(s.setting.mounts, fresh...)
	return fresh, nil
}

// showCode shows the mounts of a specification in the exchange.
func (s *Sandbox) showCode(spec sandbox.Spec) (fresh []string, err error) {
	for i, mount := range spec.Mounts {
		if !path.IsAbs(mount.Target) || path.Clean(mount.Target) == "/" || !filepath.IsAbs(mount.Source) {
			return nil, fmt.Errorf("mount %q at %q: both must be absolute paths, and the root cannot be replaced", mount.Source, mount.Target)
		}
		if disk, ok := cgroup.DiskOf(mount.Source); ok && !slices.Contains(s.driver.disks, disk) {
			if err := s.group.SetIO(disk, s.driver.options.IO); err != nil {
				return nil, err
			}
		}
		name := "m" + strconv.Itoa(i)
		if err := s.driver.home.show(mount.Source, s.files.inside(name)); err != nil {
			return nil, err
		}
		s.noteMount(name)
		fresh = append(fresh, name, path.Clean(mount.Target), initproc.ReadOnly)
	}
	return fresh, nil
}

// noteMount remembers a mount in the exchange.
func (s *Sandbox) noteMount(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mounted = append(s.mounted, name)
}

// giveTmp makes a new /tmp, with a name in the exchange, and returns what the init is to be told to mount it.
func (s *Sandbox) giveTmp(name string, sizeMiB int) ([]string, error) {
	tmp, err := ephemeral.Make(ephemeral.Options{Dir: s.driver.options.StateDir, SizeMiB: sizeMiB,
		UID: s.firstID + identity.FunctionUID, GID: s.firstID + identity.FunctionGID})
	if err != nil {
		return nil, err
	}
	defer tmp.HandedOver()
	s.mu.Lock()
	s.disks = append(s.disks, tmp)
	s.mounted = append(s.mounted, name)
	s.mu.Unlock()
	if err := s.group.SetIO(cgroup.Disk(tmp.Disk), s.driver.options.IO); err != nil {
		return nil, err
	}
	if err := s.driver.home.point(s.files.inside(name), true); err != nil {
		return nil, err
	}
	err = s.driver.space.do(func() error { return s.driver.home.attach(tmp.Tree(), s.files.inside(name)) })
	return []string{name, "/tmp", initproc.Writable}, err
}

// SetVCPU implements sandbox.Sandbox.
func (s *Sandbox) SetVCPU(vcpu float64) error { return s.group.SetVCPU(vcpu) }

// RuntimeAPI implements sandbox.Sandbox. Its connections come from the sandbox's init.
func (s *Sandbox) RuntimeAPI() net.Listener { return s.listener }

// Freeze implements sandbox.Sandbox. The Sentry stands still as well.
func (s *Sandbox) Freeze() error { return s.group.Freeze() }

// Thaw implements sandbox.Sandbox.
func (s *Sandbox) Thaw() error { return s.group.Thaw() }

// Usage implements sandbox.Sandbox. What the Sentry took before Specialise is not the function's memory; of what it takes later nobody
// can tell. The processes are those on the host: one or more for each of the function's, and some for the Sentry as long as there is
// one.
func (s *Sandbox) Usage() (sandbox.Usage, error) {
	usage, err := s.group.Usage()
	if err != nil {
		return sandbox.Usage{}, fmt.Errorf("read the meters: %w", err)
	}
	// The meter counts dead ones that the host's process 1 has not reaped yet.
	processes, err := s.group.Processes()
	if err != nil {
		return sandbox.Usage{}, fmt.Errorf("read the meters: %w", err)
	}
	usage.Processes = len(processes)
	s.mu.Lock()
	defer s.mu.Unlock()
	usage.CPU = max(0, usage.CPU-s.baseCPU)
	if s.limit > 0 {
		usage.MemoryBytes = min(max(0, usage.MemoryBytes-s.overhead), s.limit)
		usage.PeakMemoryBytes = min(max(usage.MemoryBytes, usage.PeakMemoryBytes-s.overhead), s.limit)
	}
	return usage, nil
}

// Kill implements sandbox.Sandbox. It ends the Sentry too; the next Start begins another one.
func (s *Sandbox) Kill(ctx context.Context) error {
	if err := errors.Join(s.killAll(ctx), s.reset()); err != nil {
		return fmt.Errorf("kill: %w", err)
	}
	s.closeStale()
	for ; s.last > 0; s.last-- {
		if err := s.files.remove(pipeName(s.last)); err != nil {
			return fmt.Errorf("kill: %w", err)
		}
	}
	return nil
}

// closeStale closes the outputs that nobody reads.
func (s *Sandbox) closeStale() {
	for _, output := range s.stale {
		output.Close()
	}
	s.stale = nil
}

// isEnding tells whether Destroy has begun.
func (s *Sandbox) isEnding() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ending != nil && isClosed(s.ending)
}

// endingChannel is closed when Destroy begins.
func (s *Sandbox) endingChannel() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.endingLocked()
}

func (s *Sandbox) endingLocked() chan struct{} {
	if s.ending == nil {
		s.ending, s.ended = make(chan struct{}), make(chan struct{})
	}
	return s.ending
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Destroy implements sandbox.Sandbox.
func (s *Sandbox) Destroy(ctx context.Context) error {
	s.mu.Lock()
	ending := s.endingLocked()
	if !isClosed(ending) {
		close(ending)
		go s.end()
	}
	s.mu.Unlock()
	select {
	case <-s.ended:
		return s.endErr
	case <-ctx.Done():
		return fmt.Errorf("destroy sandbox: %w", ctx.Err())
	}
}

// end removes the sandbox. IDs are given back only when no process has them any more.
func (s *Sandbox) end() {
	defer close(s.ended)
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	if s.group != nil && s.group.Handle != nil {
		s.launchMu.Lock() // what is being launched has entered its cgroup; what comes later is not
		s.endErr = errors.Join(s.killAll(ctx), s.reset())
		s.launchMu.Unlock()
	}
	if s.endErr == nil {
		s.endErr = s.release(ctx)
	}
	if s.endErr != nil {
		s.endErr = fmt.Errorf("destroy sandbox: %w", s.endErr)
		return
	}
	if s.firstID != 0 {
		s.driver.ids.Release(s.firstID)
	}
	s.driver.forget(s.id)
}

// release gives back what the sandbox has beside its processes.
func (s *Sandbox) release(ctx context.Context) error {
	var all []error
	all = append(all, s.detach())
	if s.listener != nil {
		s.listener.Close() // whoever serves it may have done so
	}
	s.mu.Lock()
	disks, mounted := s.disks, s.mounted
	s.mu.Unlock()
	if s.files != nil {
		all = append(all, s.files.close(mounted))
	}
	for _, disk := range disks {
		all = append(all, disk.Close())
	}
	if s.group != nil {
		all = append(all, s.group.Remove(ctx))
	}
	return errors.Join(all...)
}
