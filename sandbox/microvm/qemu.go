package microvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"lambent/sandbox/cgroup"
	"lambent/sandbox/microvm/agent/wire"
	"lambent/sandbox/microvm/jail"
)

// qemuOverheadMiB is what QEMU itself may use beside the guest's memory, its translated code included.
const qemuOverheadMiB = 320

// qemuThreads bounds QEMU's threads.
const qemuThreads = 96

// qemu is a machine of QEMU's type microvm.
type qemu struct {
	qmp  *qmp
	port net.Conn
	cmd  *exec.Cmd
	said *tail // what QEMU and the guest's kernel wrote
	gone chan struct{}

	sets     int // file sets in use
	writable map[string]bool

	end sync.Once
}

// cell is where a machine's monitor is shut in.
type cell struct {
	keeper      *keeper
	agentPath   string // the program that builds it
	root        string // an empty directory
	id          uint32
	group       *cgroup.Group
	binary      string // QEMU
	accelerator string // kvm or tcg
}

// startQEMU starts a machine, paused when it has a state to continue from.
func startQEMU(ctx context.Context, c cell, plan machinePlan) (_ machine, err error) {
	port, portInside, err := streamPair("agent")
	if err != nil {
		return nil, err
	}
	control, controlInside, err := streamPair("qmp")
	if err != nil {
		return nil, errors.Join(err, port.Close(), portInside.Close())
	}
	files := []*os.File{portInside, controlInside}
	m := &qemu{port: port, gone: make(chan struct{}), writable: map[string]bool{}, said: &tail{}}
	args := qemuArguments(c, plan)
	for i, d := range plan.disks {
		m.sets++
		m.writable[d.name] = d.writable
		args = append(args, qemuDisk(d, i, 3+len(files))...)
		if d.file != nil {
			files = append(files, d.file)
		}
	}
	if plan.tap != nil {
		// Without vhost: the host's kernel reads no descriptors that a guest has written.
		args = append(args, "-netdev", fmt.Sprintf("tap,id=uplink,fd=%d,vhost=off", 3+len(files)),
			"-device", fmt.Sprintf("virtio-net-device,netdev=uplink,mac=%s,guest_announce=off,mq=off", plan.hardwareAddr))
		files = append(files, plan.tap)
	}
	jailed := jail.Plan{Root: c.root, ID: c.id, Show: jail.Libraries(c.binary), Args: append([]string{c.binary}, args...),
		Files: map[string]string{"/kernel": plan.kernel, "/initramfs": plan.initramfs}}
	if c.accelerator == "kvm" {
		jailed.Devices = []string{"/dev/kvm"}
	}
	err = m.start(c, jailed, files)
	portInside.Close()
	controlInside.Close()
	if err != nil {
		return nil, errors.Join(err, port.Close(), control.Close())
	}
	if m.qmp, err = dialQMP(control); err == nil {
		err = m.begin(ctx, plan)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start a virtual machine: %w: %s", err, m.said), m.End())
	}
	return m, nil
}

// begin sets what has no place on the command line, and brings in the state.
func (m *qemu) begin(ctx context.Context, plan machinePlan) error {
	if plan.state == nil {
		return nil
	}
	return m.qmp.migrate(ctx, "migrate-incoming", plan.state)
}

// qemuArguments are those of the machine without its disks.
func qemuArguments(c cell, plan machinePlan) []string {
	accelerator := "kvm"
	processor := "host"
	if c.accelerator == "tcg" {
		accelerator, processor = "tcg,thread=multi,tb-size=96", "max"
	}
	args := []string{
		"-M", "microvm,acpi=on,ioapic2=on,rtc=on,pic=off,pit=off", "-accel", accelerator, "-cpu", processor,
		"-m", strconv.Itoa(plan.memoryMiB), "-smp", strconv.Itoa(plan.processors),
		"-S", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-name", "lambent,debug-threads=on",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-global", "virtio-mmio.force-legacy=false",
		"-kernel", "/kernel", "-initrd", "/initramfs", "-append", plan.commandLine,
		"-serial", "stdio",
		"-chardev", "socket,id=port,fd=3", "-device", "virtio-serial-device,max_ports=2",
		"-device", "virtserialport,chardev=port,name=" + wire.Port,
		"-chardev", "socket,id=qmp,fd=4", "-mon", "chardev=qmp,mode=control",
		"-device", "virtio-rng-device",
	}
	if plan.state != nil {
		args = append(args, "-incoming", "defer")
	}
	return args
}

// qemuDisk are the arguments for a disk whose file, if it has one, is a descriptor.
func qemuDisk(d disk, set, descriptor int) []string {
	var args []string
	readOnly := "on"
	if d.writable {
		readOnly = "off"
	}
	content := "driver=null-co,size=0,read-zeroes=on,read-only=" + readOnly
	if d.file != nil {
		args = append(args, "-add-fd", fmt.Sprintf("fd=%d,set=%d", descriptor, set))
		content = fmt.Sprintf("driver=file,filename=/dev/fdset/%d,locking=off,discard=unmap,read-only=%s", set, readOnly)
	}
	return append(args,
		"-blockdev", fmt.Sprintf("node-name=%s-content,%s", d.name, content),
		"-blockdev", fmt.Sprintf("driver=raw,node-name=%s,file=%[1]s-content,read-only=%s", d.name, readOnly),
		"-device", fmt.Sprintf("virtio-blk-device,id=%s-disk,drive=%[1]s,serial=%[1]s", d.name))
}

// start runs QEMU in its cell.
func (m *qemu) start(c cell, plan jail.Plan, files []*os.File) error {
	cmd, err := jail.Command(c.agentPath, plan)
	if err != nil {
		return err
	}
	waiting, begin, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start a virtual machine: %w", err)
	}
	defer begin.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = waiting, m.said, m.said, files
	err = c.keeper.start(cmd)
	waiting.Close()
	if err != nil {
		return fmt.Errorf("start a virtual machine: %w", err)
	}
	m.cmd = cmd
	go func() {
		defer close(m.gone)
		_ = cmd.Wait() // how it ended is in what it said
	}()
	if err := c.group.Enter(cmd.Process.Pid); err != nil {
		return errors.Join(err, m.kill())
	}
	if _, err := begin.Write([]byte{0}); err != nil {
		return errors.Join(fmt.Errorf("start a virtual machine: %w: %s", err, m.said), m.kill())
	}
	return nil
}

// Port implements machine.
func (m *qemu) Port() io.ReadWriteCloser { return m.port }

// Fill implements machine. The guest's driver asks for the size when it is bound anew.
func (m *qemu) Fill(_ context.Context, name string, file *os.File) error {
	m.sets++
	path, err := m.qmp.addFile(m.sets, file)
	if err != nil {
		return err
	}
	readOnly := !m.writable[name]
	content := name + "-filled"
	err = m.qmp.ask("blockdev-add", map[string]any{"driver": "file", "node-name": content, "filename": path, "locking": "off",
		"discard": "unmap", "read-only": readOnly}, nil)
	if err != nil {
		return err
	}
	return m.qmp.ask("blockdev-reopen", map[string]any{"options": []any{
		map[string]any{"driver": "raw", "node-name": name, "file": content, "read-only": readOnly}}}, nil)
}

// Limit implements machine.
func (m *qemu) Limit(_ context.Context, name string, rate Rate) error {
	return m.qmp.ask("block_set_io_throttle", map[string]any{"id": name + "-disk", "bps": 0, "iops": 0,
		"bps_rd": rate.BytesPerSecond, "bps_wr": rate.BytesPerSecond,
		"iops_rd": rate.OperationsPerSecond, "iops_wr": rate.OperationsPerSecond}, nil)
}

// Pause implements machine.
func (m *qemu) Pause(context.Context) error { return m.qmp.ask("stop", nil, nil) }

// Resume implements machine.
func (m *qemu) Resume(context.Context) error { return m.qmp.ask("cont", nil, nil) }

// Save implements machine.
func (m *qemu) Save(ctx context.Context, file *os.File) error {
	if err := m.qmp.ask("migrate-set-parameters", map[string]any{"max-bandwidth": 1 << 40}, nil); err != nil {
		return err
	}
	return m.qmp.migrate(ctx, "migrate", file)
}

// Said implements machine.
func (m *qemu) Said() string { return m.said.String() }

// End implements machine.
func (m *qemu) End() error {
	var err error
	m.end.Do(func() {
		err = m.kill()
		m.port.Close()
		if m.qmp != nil {
			m.qmp.close()
		}
	})
	return err
}

func (m *qemu) kill() error {
	if err := m.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end a virtual machine: %w", err)
	}
	<-m.gone
	return nil
}

// streamPair returns two connected sockets, one of them for another process.
func streamPair(name string) (*net.UnixConn, *os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket: %w", err)
	}
	mine, inside := os.NewFile(uintptr(pair[0]), name), os.NewFile(uintptr(pair[1]), name)
	defer mine.Close()
	conn, err := net.FileConn(mine)
	if err != nil {
		inside.Close()
		return nil, nil, fmt.Errorf("make a socket: %w", err)
	}
	return conn.(*net.UnixConn), inside, nil
}

// tail keeps the end of what is written to it. It is safe for use by many goroutines.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailBytes = 16 << 10

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	t.text = bytes.Clone(t.text[max(0, len(t.text)-tailBytes):])
	return len(p), nil
}

// String returns it as one line.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(strings.Fields(string(t.text)), " ")
}
