package microvm

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"lambent/sandbox"
	"lambent/sandbox/cgroup"
	"lambent/sandbox/ephemeral/ext4"
	"lambent/sandbox/microvm/agent/wire"
	"lambent/sandbox/microvm/stream"
	"lambent/sandbox/remote"
)

// endTimeout bounds how long the kernel may take to end a machine.
const endTimeout = 30 * time.Second

// guestMiB is what a guest's kernel and agent need beside the function's memory; each 64 MiB of that need one more.
const guestMiB = 192

// commandLine is the guest kernel's.
const commandLine = "console=ttyS0 quiet loglevel=3 panic=-1 reboot=t random.trust_cpu=on init_on_free=1"

// emulatedCommandLine returns that for an emulated machine. Such a guest can hang while it measures its processor, and measures
// wrong, when its host is busy; so it is told. It counts time by the host's counter, whose frequency is in /proc/cpuinfo.
func emulatedCommandLine(cpuinfo string) string {
	khz := 1e6
	for line := range strings.Lines(cpuinfo) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "cpu MHz" {
			if mhz, err := strconv.ParseFloat(strings.TrimSpace(value), 64); err == nil && mhz >= 100 && mhz <= 20000 {
				khz = mhz * 1000
			}
			break
		}
	}
	return fmt.Sprintf("%s tsc_early_khz=%.0f tsc=reliable lpj=1000000 no_timer_check mitigations=off", commandLine, khz)
}

// Sandbox is one sandbox of the microVM driver. It implements sandbox.Sandbox: what it does not do itself, the native driver in the
// guest does.
type Sandbox struct {
	driver      *Driver
	id          string
	memoryMiB   int
	processors  int
	accelerator string // empty: the driver's

	// Set by create, and not changed until end.
	firstID uint32
	group   *cgroup.Group
	wiring  *wiring // nil: no network
	machine machine
	stream  *stream.Host
	client  *remote.Client
	inner   sandbox.Sandbox
	started []sandbox.Process // found in a snapshot

	// Set by the owner's calls, which come one at a time.
	disks []diskFile

	freezing sync.Mutex // of what follows
	paused   bool

	meter meter

	mu     sync.Mutex
	images []image       // in use
	ending chan struct{} // closed when Destroy is done; nil: not begun
	endErr error
}

// diskFile is a disk that has content, by the path of that.
type diskFile struct {
	Name     string
	Path     string
	Writable bool
}

// saved describes a snapshot. Paths are names in its directory.
type saved struct {
	MemoryMiB  int
	Processors int
	Network    bool   // it has an interface
	Monitor    string // what it ran under
	Disks      []diskFile
}

const (
	savedName = "sandbox.json"
	stateName = "memory"
)

// dir is the sandbox's directory.
func (s *Sandbox) dir(elements ...string) string {
	return s.driver.path(append([]string{"vm", s.id}, elements...)...)
}

// create makes the machine, from a snapshot's directory or, when that is empty, by booting, and connects to its agent. When it
// fails, Destroy removes what there is.
func (s *Sandbox) create(ctx context.Context, from string) error {
	if err := s.boot(ctx, from); err != nil {
		return err
	}
	if err := s.ask(ctx, func(ctx context.Context) error { return s.connect(ctx, from != "") }); err != nil {
		return fmt.Errorf("%w: %s", err, s.machine.Said())
	}
	return nil
}

// boot makes the machine.
func (s *Sandbox) boot(ctx context.Context, from string) (err error) {
	for _, directory := range []string{s.dir(), s.dir("mount"), s.dir("sockets")} {
		if err := os.Mkdir(directory, 0o700); err != nil {
			return err
		}
	}
	if s.firstID, err = s.driver.ids.Take(); err != nil {
		return err
	}
	if s.group, err = s.driver.cgroups.Make(s.id); err != nil {
		return err
	}
	plan := machinePlan{kernel: s.driver.path("kernel"), initramfs: s.driver.path("initramfs"), commandLine: commandLine, memoryMiB: s.guestMemoryMiB(),
		processors: s.processors}
	err = errors.Join(s.group.SetMemory(int64(plan.memoryMiB+qemuOverheadMiB)<<20), s.group.SetProcesses(qemuThreads),
		s.group.SetVCPU(float64(s.processors)+0.5)) // the emulator's own threads work too
	if err != nil {
		return err
	}
	if s.accelerator == "" {
		s.accelerator = s.driver.options.Accelerator
	}
	if s.accelerator == "tcg" {
		cpuinfo, err := os.ReadFile("/proc/cpuinfo")
		if err != nil {
			return err
		}
		plan.commandLine = emulatedCommandLine(string(cpuinfo))
	}
	if err := s.provideDisks(from); err != nil {
		return err
	}
	if from != "" {
		if plan.state, err = os.Open(filepath.Join(from, stateName)); err != nil {
			return err
		}
		defer plan.state.Close()
	}
	return s.launch(ctx, plan)
}

func (s *Sandbox) guestMemoryMiB() int { return s.memoryMiB + guestMiB + s.memoryMiB/64 }

// provideDisks makes the files of the disks that have content from the beginning.
func (s *Sandbox) provideDisks(from string) error {
	if from == "" {
		s.disks = []diskFile{{wire.DiskRoot, s.driver.rootImage, false}, {wire.DiskState, s.dir(wire.DiskState), true}}
		return formatDisk(s.dir(wire.DiskState), wire.ReadyTmpMiB)
	}
	description, err := readSaved(from)
	if err != nil {
		return err
	}
	for _, d := range description.Disks {
		source := filepath.Join(from, d.Path)
		d.Path = source
		if d.Writable {
			d.Path = s.dir(d.Name)
			if err := copyFile(d.Path, source); err != nil {
				return err
			}
		}
		s.disks = append(s.disks, d)
	}
	return nil
}

// formatDisk makes the file for a disk that holds a /tmp of a size.
func formatDisk(path string, ephemeralMiB int) error {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(ext4.Format(file, ext4.Layout{CapacityMiB: wire.StateMiB(ephemeralMiB)}), file.Close())
}

// launch starts the machine.
func (s *Sandbox) launch(ctx context.Context, plan machinePlan) (err error) {
	names := []string{wire.DiskRoot, wire.DiskState, wire.DiskTmp}
	for n := range wire.CodeDisks {
		names = append(names, wire.DiskCode(n))
	}
	for _, name := range names {
		next := disk{name: name, writable: name == wire.DiskTmp}
		for _, d := range s.disks {
			if d.Name != name {
				continue
			}
			next.writable = d.Writable
			if next.file, err = openDisk(d); err != nil {
				return err
			}
			defer next.file.Close()
		}
		plan.disks = append(plan.disks, next)
	}
	if s.driver.options.Network != nil {
		if s.wiring, err = openWiring(ctx, s.driver.options.Network, s.id); err != nil {
			return err
		}
		plan.tap = s.wiring.tap
		plan.hardwareAddr = s.wiring.setting.HardwareAddr
	}
	where := cell{keeper: s.driver.keeper, agentPath: s.driver.path("agent"), root: s.dir("mount"), id: s.firstID, group: s.group, binary: s.driver.options.QEMU,
		accelerator: s.accelerator}
	if s.machine, err = startQEMU(ctx, where, plan); err != nil {
		return err
	}
	if s.wiring != nil {
		if err := s.wiring.letGo(); err != nil {
			return err
		}
	}
	for _, name := range names {
		if err := s.machine.Limit(ctx, name, s.driver.options.Rate); err != nil {
			return err
		}
	}
	return s.machine.Resume(ctx)
}

func openDisk(d diskFile) (*os.File, error) {
	if d.Writable {
		return os.OpenFile(d.Path, os.O_RDWR, 0)
	}
	return os.Open(d.Path)
}

// connect greets the agent, and has or finds the sandbox in the guest.
func (s *Sandbox) connect(ctx context.Context, exists bool) (err error) {
	greeting := stream.Greeting{Time: time.Now()}
	if s.wiring != nil {
		if greeting.Note, err = json.Marshal(s.wiring.setting); err != nil {
			return err
		}
	}
	var number [4]byte
	_, _ = rand.Read(greeting.Seed[:]) // never fails
	_, _ = rand.Read(number[:])
	if s.stream, err = stream.Dial(ctx, s.machine.Port(), binary.LittleEndian.Uint32(number[:]), greeting); err != nil {
		return err
	}
	link, err := remote.DialMux(s.stream, s.dir("sockets"))
	if err != nil {
		return err
	}
	s.client = remote.Dial(link)
	driver := s.client.Driver(wire.Driver)
	if exists {
		s.inner, s.started, err = driver.Attach(ctx, wire.Box)
		if err == nil {
			err = s.inner.Thaw() // as it was saved, its processes stand still
		}
		return err
	}
	s.inner, err = driver.Create(ctx, wire.Box, sandbox.Template{})
	return err
}

// Specialise implements sandbox.Sandbox.
func (s *Sandbox) Specialise(ctx context.Context, spec sandbox.Spec) error {
	if spec.MemoryMiB > s.memoryMiB {
		return fmt.Errorf("specialise sandbox: it was made for %d MiB of memory, and %d are asked for", s.memoryMiB, spec.MemoryMiB)
	}
	if len(spec.Mounts) > wire.CodeDisks {
		return fmt.Errorf("specialise sandbox: %d mounts are more than %d", len(spec.Mounts), wire.CodeDisks)
	}
	mounts := make([]sandbox.Mount, len(spec.Mounts))
	for _, mount := range spec.Mounts { // before anything is packed
		if !filepath.IsAbs(mount.Target) || filepath.Clean(mount.Target) == "/" {
			return fmt.Errorf("specialise sandbox: nothing can be mounted at %q", mount.Target)
		}
	}
	for i, mount := range spec.Mounts {
		made, err := s.driver.images.tree(ctx, mount.Source)
		if err == nil {
			s.keep(made)
			err = s.fill(ctx, diskFile{wire.DiskCode(i), made.path, false})
		}
		if err != nil {
			return fmt.Errorf("specialise sandbox: %w", err)
		}
		mounts[i] = sandbox.Mount{Source: wire.CodeSource(i, made.file), Target: mount.Target}
	}
	spec.Mounts = mounts
	if spec.EphemeralMiB > 0 && spec.EphemeralMiB != wire.ReadyTmpMiB {
		d := diskFile{wire.DiskTmp, s.dir(wire.DiskTmp), true}
		if err := formatDisk(d.Path, spec.EphemeralMiB); err != nil {
			return fmt.Errorf("specialise sandbox: %w", err)
		}
		if err := s.fill(ctx, d); err != nil {
			return fmt.Errorf("specialise sandbox: %w", err)
		}
	}
	return s.ask(ctx, func(ctx context.Context) error { return s.inner.Specialise(ctx, spec) })
}

// keep holds on to an image while the sandbox lives.
func (s *Sandbox) keep(used image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending != nil {
		used.release()
		return
	}
	s.images = append(s.images, used)
}

// fill gives a disk of the machine its content.
func (s *Sandbox) fill(ctx context.Context, d diskFile) error {
	file, err := openDisk(d)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := s.machine.Fill(ctx, d.Name, file); err != nil {
		return err
	}
	s.disks = append(s.disks, d)
	return nil
}

// RuntimeAPI implements sandbox.Sandbox.
func (s *Sandbox) RuntimeAPI() net.Listener { return s.inner.RuntimeAPI() }

// Start implements sandbox.Sandbox.
func (s *Sandbox) Start(ctx context.Context, cmd sandbox.Command) (process sandbox.Process, err error) {
	return process, s.ask(ctx, func(ctx context.Context) (err error) { process, err = s.inner.Start(ctx, cmd); return err })
}

// Freeze implements sandbox.Sandbox: the host stops the guest, whether that has anything to say or not.
func (s *Sandbox) Freeze() error {
	s.freezing.Lock()
	defer s.freezing.Unlock()
	if s.paused {
		return nil
	}
	if _, err := s.meter.read(s.inner.Usage); err != nil { // for those who ask meanwhile
		return err
	}
	if err := s.machine.Pause(context.Background()); err != nil {
		return err
	}
	s.paused = true
	return nil
}

// Thaw implements sandbox.Sandbox.
func (s *Sandbox) Thaw() error {
	s.freezing.Lock()
	defer s.freezing.Unlock()
	return s.continueLocked()
}

// continueLocked lets the guest go on.
func (s *Sandbox) continueLocked() error {
	if !s.paused {
		return nil
	}
	if err := s.machine.Resume(context.Background()); err != nil {
		return err
	}
	s.paused = false
	return nil
}

// Kill implements sandbox.Sandbox.
func (s *Sandbox) Kill(ctx context.Context) error {
	s.freezing.Lock()
	defer s.freezing.Unlock()
	if err := s.continueLocked(); err != nil {
		return err
	}
	return s.ask(ctx, s.inner.Kill)
}

// SetVCPU implements sandbox.Sandbox. In a frozen sandbox it takes effect before anything runs.
func (s *Sandbox) SetVCPU(vcpu float64) error {
	s.freezing.Lock()
	defer s.freezing.Unlock()
	frozen := s.paused
	if err := s.continueLocked(); err != nil {
		return err
	}
	err := s.ask(context.Background(), func(context.Context) error { return s.inner.SetVCPU(vcpu) })
	if err != nil || !frozen {
		return err
	}
	s.paused = true
	return s.machine.Pause(context.Background())
}

// Usage implements sandbox.Sandbox: the meters are those of the function's processes in the guest. While that is frozen, or does not
// answer, they are the last that it told of.
func (s *Sandbox) Usage() (sandbox.Usage, error) {
	if s.isPaused() {
		return s.meter.lastRead()
	}
	return s.meter.read(s.inner.Usage)
}

// isPaused tells whether the guest is stopped. What is being changed now counts as stopped.
func (s *Sandbox) isPaused() bool {
	if !s.freezing.TryLock() {
		return true
	}
	defer s.freezing.Unlock()
	return s.paused
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
	var all []error
	if s.machine != nil {
		all = append(all, s.machine.End())
	}
	if s.client != nil {
		_ = s.client.Close() // its connection is gone
	}
	if s.stream != nil {
		_ = s.stream.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	if s.inner != nil {
		all = append(all, s.inner.Destroy(ctx))
	}
	for _, process := range s.started {
		process.Output().Close()
	}
	if s.wiring != nil {
		all = append(all, s.wiring.close())
	}
	if s.group != nil {
		all = append(all, s.group.Remove(ctx))
	}
	all = append(all, os.RemoveAll(s.dir()))
	if err := errors.Join(all...); err != nil {
		s.endErr = fmt.Errorf("destroy sandbox: %w", err)
		return
	}
	s.mu.Lock()
	for _, used := range s.images {
		used.release()
	}
	s.mu.Unlock()
	if s.firstID != 0 {
		s.driver.ids.Release(s.firstID)
	}
	s.driver.forget(s)
}

func readSaved(dir string) (d saved, err error) {
	text, err := os.ReadFile(filepath.Join(dir, savedName))
	if err == nil {
		err = json.Unmarshal(text, &d)
	}
	if err != nil {
		return d, fmt.Errorf("read a snapshot: %w", err)
	}
	for _, disk := range d.Disks {
		if disk.Path != filepath.Base(disk.Path) || disk.Name != disk.Path {
			return d, fmt.Errorf("read a snapshot: %q is no disk of it", disk.Path)
		}
	}
	return d, nil
}
