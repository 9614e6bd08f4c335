package native

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lambent/sandbox"
	"lambent/sandbox/cgroup"
	"lambent/sandbox/ephemeral"
	"lambent/sandbox/identity"
	"lambent/sandbox/native/wire"
)

// Defaults of a ready-made sandbox, until it is specialised.
const (
	readyMemoryMiB   = 64
	readyProcesses   = 64
	readyVCPU        = 1
	readyDescriptors = 1024
	readyTmpMiB      = 512 // what most functions ask for
	shmMiB           = 64
)

// destroyTimeout bounds how long the kernel may take to end a sandbox. It takes milliseconds, unless a process waits for
// a disk.
const destroyTimeout = 30 * time.Second

// Sandbox is one sandbox of the native driver. It implements sandbox.Sandbox.
type Sandbox struct {
	driver *Driver
	id     string

	// Set by create, and not changed until end.
	firstID  uint32
	group    *cgroup.Group
	init     *initHandle
	initGone chan struct{}
	control  *control
	listener net.Listener
	network  sandbox.Attachment // nil: none

	descriptors int // set by the owner's calls, which come one at a time

	mu        sync.Mutex
	spare     *starter         // ready to become a process; nil: none
	processes map[int]*process // by process ID inside
	tmp       *ephemeral.FS
	lost      bool          // the init is gone: nothing new runs
	baseCPU   time.Duration // used before Specialise
	ending    chan struct{} // closed when Destroy is done; nil: not begun
	endErr    error
}

// create makes the sandbox's parts, at the same time where they do not need each other. When it fails, Destroy removes what there is.
func (s *Sandbox) create(ctx context.Context) (err error) {
	s.processes = map[int]*process{}
	s.descriptors = readyDescriptors
	if s.firstID, err = s.driver.ids.Take(); err != nil {
		return err
	}
	tmp := s.makeTmp(readyTmpMiB)
	if err := s.createAround(ctx); err != nil {
		return errors.Join(err, tmp.drop())
	}
	return s.giveTmp(tmp, false)
}

// createAround makes all parts but /tmp.
func (s *Sandbox) createAround(ctx context.Context) (err error) {
	if s.group, err = s.driver.cgroups.Make(s.id); err != nil {
		return err
	}
	if err := s.group.Admit(s.firstID); err != nil {
		return err
	}
	if err := s.startInit(); err != nil {
		return err
	}
	spare, err := s.setUp(func() error { return errors.Join(s.limitReady(), s.attach(ctx)) })
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.spare = spare
	s.mu.Unlock()
	return ctx.Err()
}

// limitReady sets the limits of a sandbox that has no function yet.
func (s *Sandbox) limitReady() error {
	if err := s.group.LimitDevices(); err != nil {
		return err
	}
	if err := s.limit(readyMemoryMiB<<20, readyProcesses, readyVCPU); err != nil {
		return err
	}
	for _, disk := range s.driver.disks.all {
		if err := s.group.SetIO(disk, s.driver.options.IO); err != nil {
			return err
		}
	}
	return s.group.Hold()
}

// takeSpare returns the spare starter to one caller.
func (s *Sandbox) takeSpare() *starter {
	s.mu.Lock()
	defer s.mu.Unlock()
	spare := s.spare
	s.spare = nil
	return spare
}

// startInit starts the init in new namespaces and in its cgroups.
func (s *Sandbox) startInit() error {
	control, asked, events, err := newControl("control", s.exited)
	if err != nil {
		return err
	}
	s.control = control
	defer closeFiles([]*os.File{asked, events})
	group, err := s.group.InitDirectory()
	if err != nil {
		return err
	}
	if group != nil {
		defer group.Close()
	}
	if s.init, err = s.driver.spawnInit(s.firstID, asked, events, group); err != nil {
		return err
	}
	s.initGone = make(chan struct{})
	go s.awaitInit()
	return s.group.AddInit(s.init.pid)
}

// awaitInit waits for the init's end, and ends the processes that ended with it.
func (s *Sandbox) awaitInit() {
	if err := s.init.wait(); err != nil {
		s.driver.logger.Error("waiting for a sandbox's init failed", "sandbox", s.id, "error", err)
	}
	s.mu.Lock()
	s.lost = true
	processes := s.processes
	s.processes = map[int]*process{}
	s.mu.Unlock()
	for _, p := range processes {
		p.finish(sandbox.Exit{Signal: int(unix.SIGKILL)})
	}
	close(s.initGone)
}

// setUp has the init build the root and the network and prepare a starter, calls during meanwhile, and receives the Runtime API's
// socket.
func (s *Sandbox) setUp(during func() error) (spare *starter, err error) {
	root, err := s.driver.mounts.cloneRoot(s.driver.rootDirectory())
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	preparation, err := s.beginPreparing()
	if err != nil {
		return nil, err
	}
	defer func() { preparation.end(err == nil) }()
	parts := append([]string{wire.Setup, "sandbox", sandbox.RuntimeAPIAddress, strconv.Itoa(shmMiB), strconv.Itoa(identity.FunctionUID),
		strconv.Itoa(identity.FunctionGID), s.driver.filter}, s.driver.masks...)
	answers, err := s.control.askAll(during, question{[]int{root}, parts}, preparation.question())
	if err != nil {
		return nil, fmt.Errorf("set up: %w", err)
	}
	defer wire.CloseAll(answers[0].files)
	if s.listener, err = listenerOf(answers[0]); err != nil {
		return nil, fmt.Errorf("take the Runtime API's socket: %w", err)
	}
	return preparation.finish(answers[1])
}

// listenerOf makes a listener of the socket that an answer brings.
func listenerOf(answer message) (net.Listener, error) {
	if len(answer.files) != 1 {
		return nil, wire.ErrMalformed
	}
	fd, err := unix.FcntlInt(uintptr(answer.files[0]), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "runtime-api")
	defer file.Close()
	return net.FileListener(file)
}

// attach connects the sandbox to the driver's network.
func (s *Sandbox) attach(ctx context.Context) error {
	if s.driver.options.Network == nil {
		return nil
	}
	namespace, err := os.Open("/proc/" + strconv.Itoa(s.init.pid) + "/ns/net")
	if err != nil {
		return fmt.Errorf("open the network namespace: %w", err)
	}
	defer namespace.Close()
	if !s.init.lives() {
		return errInitGone // and the process ID may be another's
	}
	s.network, err = s.driver.options.Network.Attach(ctx, s.id, namespace)
	return err
}

// limit sets the limits of the function's processes.
func (s *Sandbox) limit(memoryBytes int64, processes int, vcpu float64) error {
	return errors.Join(s.group.SetMemory(memoryBytes), s.group.SetProcesses(processes), s.group.SetVCPU(vcpu))
}

// SetVCPU implements sandbox.Sandbox.
func (s *Sandbox) SetVCPU(vcpu float64) error { return s.group.SetVCPU(vcpu) }

// Specialise implements sandbox.Sandbox.
func (s *Sandbox) Specialise(_ context.Context, spec sandbox.Spec) error {
	if spec.MemoryMiB <= 0 || spec.Processes <= 0 || spec.Descriptors <= 0 || spec.EphemeralMiB <= 0 || spec.VCPU <= 0 {
		return errors.New("specialise sandbox: a limit is not positive")
	}
	memoryMiB := spec.MemoryMiB
	if s.driver.options.TmpInMemory {
		memoryMiB += spec.EphemeralMiB
	}
	if err := s.specialise(spec, int64(memoryMiB)<<20); err != nil {
		return fmt.Errorf("specialise sandbox: %w", err)
	}
	return nil
}

// specialise has the init mount the code, and sets the limits meanwhile.
func (s *Sandbox) specialise(spec sandbox.Spec, memoryBytes int64) error {
	defer s.group.LetGo()
	s.descriptors = spec.Descriptors
	trees, targets, err := s.driver.mounts.trees(spec.Mounts)
	defer func() { wire.CloseAll(trees) }()
	if err != nil {
		return err
	}
	var used time.Duration
	limits := func() (err error) {
		if err := s.limit(memoryBytes, spec.Processes, spec.VCPU); err != nil {
			return err
		}
		if err := s.limitDisks(spec.Mounts); err != nil {
			return err
		}
		if err := s.group.ResetPeak(); err != nil {
			return err
		}
		used, err = s.group.CPU()
		return err
	}
	parts := append([]string{wire.Specialise, spec.Hostname}, targets...)
	if _, err := s.control.askAll(limits, question{trees, parts}); err != nil {
		return err
	}
	s.mu.Lock()
	s.baseCPU = used
	s.mu.Unlock()
	if spec.EphemeralMiB == readyTmpMiB {
		return nil
	}
	return s.giveTmp(s.makeTmp(spec.EphemeralMiB), true)
}

// limitDisks limits operations on the disks of mounts that are not limited already.
func (s *Sandbox) limitDisks(mounts []sandbox.Mount) error {
	for _, mount := range mounts {
		if s.driver.disks.has(mount.Source) {
			continue
		}
		disk, ok := cgroup.DiskOf(mount.Source)
		if !ok {
			continue
		}
		if err := s.group.SetIO(disk, s.driver.options.IO); err != nil {
			return err
		}
	}
	return nil
}

// newTmp is a /tmp in the making.
type newTmp struct {
	fs   *ephemeral.FS
	err  error
	made chan struct{}
}

// makeTmp begins to make a /tmp. What it returns is given to giveTmp or dropped.
func (s *Sandbox) makeTmp(sizeMiB int) *newTmp {
	t := &newTmp{made: make(chan struct{})}
	uid, gid := s.driver.ids.Function(s.firstID)
	options := ephemeral.Options{Dir: s.driver.options.StateDir, InMemory: s.driver.options.TmpInMemory, SizeMiB: sizeMiB, UID: uid, GID: gid}
	go func() {
		defer close(t.made)
		if sizeMiB == readyTmpMiB && !options.InMemory {
			t.fs, t.err = s.driver.stock.Take(uid, gid)
			return
		}
		t.fs, t.err = ephemeral.Make(options)
	}()
	return t
}

// drop waits for the /tmp and closes it.
func (t *newTmp) drop() error {
	<-t.made
	if t.err != nil {
		return nil //nolint:nilerr // there is nothing to close
	}
	return t.fs.Release(0)
}

// giveTmp mounts a new /tmp, in the place of the one there is if replace is set.
func (s *Sandbox) giveTmp(made *newTmp, replace bool) error {
	<-made.made
	if made.err != nil {
		return made.err
	}
	tmp := made.fs
	defer tmp.HandedOver()
	if tmp.Disk != "" {
		if err := s.group.SetIO(cgroup.Disk(tmp.Disk), s.driver.options.IO); err != nil {
			return errors.Join(err, tmp.Close())
		}
	}
	parts := []string{wire.Mount, "/tmp"}
	if replace {
		parts = []string{wire.Mount, wire.Replace, "/tmp"}
	}
	if _, err := s.control.ask([]int{tmp.Tree()}, parts...); err != nil {
		return errors.Join(err, tmp.Close())
	}
	s.mu.Lock()
	former := s.tmp
	if s.ending != nil { // end may have looked already
		former = tmp
	} else {
		s.tmp = tmp
	}
	s.mu.Unlock()
	if former == nil {
		return nil
	}
	return former.Close()
}

// Handle returns what freezes and meters the sandbox, for a process that has no rights. It is the sandbox's.
func (s *Sandbox) Handle() *cgroup.Handle { return s.group.Handle }

// RuntimeAPI implements sandbox.Sandbox.
func (s *Sandbox) RuntimeAPI() net.Listener { return s.listener }

// Freeze implements sandbox.Sandbox.
func (s *Sandbox) Freeze() error { return s.group.Freeze() }

// Thaw implements sandbox.Sandbox.
func (s *Sandbox) Thaw() error { return s.group.Thaw() }

// Usage implements sandbox.Sandbox.
func (s *Sandbox) Usage() (sandbox.Usage, error) {
	usage, err := s.group.Usage()
	if err != nil {
		return sandbox.Usage{}, fmt.Errorf("read the meters: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	usage.CPU = max(0, usage.CPU-s.baseCPU)
	return usage, nil
}

// Kill implements sandbox.Sandbox. The init signals everything in its process namespace at once. Processes that a v2
// freezer holds die of it; a v1 freezer has to let them go first.
//
// It does not use cgroup.kill: kernels since 6.14 that start a process in a cgroup where that was ever used, from another
// cgroup, kill the new process too.
func (s *Sandbox) Kill(context.Context) error {
	if spare := s.takeSpare(); spare != nil {
		spare.close()
	}
	if err := s.group.SignalFrozen(); err != nil {
		return fmt.Errorf("kill: %w", err)
	}
	if _, err := s.control.ask(nil, wire.KillAll); err != nil {
		return fmt.Errorf("kill: %w", err)
	}
	if err := s.group.Release(); err != nil {
		return fmt.Errorf("kill: %w", err)
	}
	return nil
}

// Destroy implements sandbox.Sandbox.
func (s *Sandbox) Destroy(ctx context.Context) error {
	s.mu.Lock()
	if s.ending == nil {
		s.ending = make(chan struct{})
		go s.end()
	}
	s.mu.Unlock()
	select {
	case <-s.ending:
		return s.endErr
	case <-ctx.Done():
		return fmt.Errorf("destroy sandbox: %w", ctx.Err())
	}
}

// end removes the sandbox. IDs are given back only when no process has them any more.
func (s *Sandbox) end() {
	defer close(s.ending)
	s.endErr = s.endProcesses()
	if s.listener != nil {
		s.listener.Close() // the last that holds the network namespace, with which the link goes
	}
	if s.network != nil {
		s.endErr = errors.Join(s.endErr, detach(s.network))
	}
	s.mu.Lock()
	tmp := s.tmp
	s.mu.Unlock()
	if tmp != nil {
		s.endErr = errors.Join(s.endErr, s.releaseTmp(tmp))
	}
	if s.group != nil {
		ctx, cancel := context.WithTimeout(context.Background(), destroyTimeout)
		defer cancel()
		s.endErr = errors.Join(s.endErr, s.group.Remove(ctx))
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

// unseenDetacher is an attachment that can be left to itself. The kernel takes tens of milliseconds for a network namespace, hardly
// more for many at once, and nothing of it is in the host's.
type unseenDetacher interface{ DetachUnseen() }

// detach lets go of a network when the sandbox's namespace has no process and no socket any more.
func detach(network sandbox.Attachment) error {
	if unseen, ok := network.(unseenDetacher); ok {
		unseen.DetachUnseen()
		return nil
	}
	return network.Detach()
}

// releaseTmp lets go of /tmp when no process is left.
func (s *Sandbox) releaseTmp(tmp *ephemeral.FS) error {
	dirty, err := s.group.Dirty()
	if err != nil {
		return tmp.Close()
	}
	return tmp.Release(dirty)
}

// endProcesses ends the init, and with it everything in its process namespace, and waits for it.
func (s *Sandbox) endProcesses() error {
	if spare := s.takeSpare(); spare != nil {
		defer spare.close()
	}
	if s.control != nil {
		defer s.control.close()
	}
	if s.init == nil {
		return nil
	}
	if err := s.group.SignalAll(); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	killErr := s.init.kill()
	thawErr := s.group.ThawForGood()
	timer := time.NewTimer(destroyTimeout)
	defer timer.Stop()
	select {
	case <-s.initGone:
		s.init.file.Close()
		return nil
	case <-timer.C:
		return errors.Join(killErr, thawErr, fmt.Errorf("the init did not end within %v", destroyTimeout))
	}
}
