// Package agent is process 1 of a microVM: it loads the kernel's modules, builds the guest's root, and runs the native driver
// for its host.
package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"lambent/sandbox/microvm/agent/wire"
)

// Role is the argument that makes a process of the guest the agent.
const Role = "lambent-agent"

// ModulesOrder is the file in the first root that lists modules in the order of loading.
const ModulesOrder = "/modules/order"

// Main is process 1, or the agent that it starts. It returns only when something is wrong.
func Main() error {
	if len(os.Args) > 0 && os.Args[0] == Role {
		return serve()
	}
	if err := boot(); err != nil {
		return err
	}
	cmd := exec.Cmd{Path: "/proc/self/exe", Args: []string{Role}, Stdout: os.Stdout, Stderr: os.Stderr}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the agent: %w", err)
	}
	return reap(cmd.Process.Pid)
}

// PowerOff ends the machine.
func PowerOff() { _ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) } // which QEMU and Firecracker take for the end

// reap waits for the children that other processes left, until the agent ends.
func reap(agent int) error {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for processes: %w", err)
		case pid == agent:
			return fmt.Errorf("the agent ended: exit status %d, signal %d", status.ExitStatus(), status.Signal())
		}
	}
}

type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

func (m mount) do() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return fmt.Errorf("mount %s: %w", m.target, err)
	}
	if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s at %s: %w", m.kind, m.target, err)
	}
	return nil
}

// boot makes the guest a system: kernel file systems, modules, and a root that is the image below a writable layer in memory.
func boot() error {
	for _, m := range []mount{
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sys", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"dev", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
	} {
		if err := m.do(); err != nil {
			return err
		}
	}
	// What a function may use is up to its limit, so that it meets the same end here as on a host with memory to spare.
	if err := os.WriteFile("/proc/sys/vm/overcommit_memory", []byte("1"), 0); err != nil {
		return fmt.Errorf("let processes reserve memory: %w", err)
	}
	if err := loadModules(); err != nil {
		return err
	}
	root, err := diskNamed(wire.DiskRoot)
	if err != nil {
		return err
	}
	for _, m := range []mount{
		{"/dev/" + root, "/image", "erofs", unix.MS_RDONLY | unix.MS_NODEV | unix.MS_NOSUID, ""},
		{"tmpfs", "/memory", "tmpfs", unix.MS_NODEV | unix.MS_NOSUID, "mode=0755,size=25%"},
	} {
		if err := m.do(); err != nil {
			return err
		}
	}
	for _, directory := range []string{"/memory/upper", "/memory/work"} {
		if err := os.Mkdir(directory, 0o755); err != nil {
			return fmt.Errorf("make the root: %w", err)
		}
	}
	overlay := mount{"root", "/root", "overlay", unix.MS_NODEV | unix.MS_NOSUID, "lowerdir=/image,upperdir=/memory/upper,workdir=/memory/work"}
	if err := overlay.do(); err != nil {
		return err
	}
	return enterRoot()
}

// enterRoot leaves the kernel's first root, in which no other root can be made.
func enterRoot() error {
	for _, name := range []string{"proc", "sys", "dev"} {
		target := filepath.Join("/root", name)
		if err := (mount{"/" + name, target, "", unix.MS_MOVE, ""}).do(); err != nil {
			return err
		}
	}
	if err := os.RemoveAll("/modules"); err != nil { // it is in memory
		return fmt.Errorf("enter the root: %w", err)
	}
	if err := errors.Join(unix.Chdir("/root"), unix.Mount(".", "/", "", unix.MS_MOVE, ""), unix.Chroot("."), unix.Chdir("/")); err != nil {
		return fmt.Errorf("enter the root: %w", err)
	}
	for _, m := range []mount{
		{"cgroup", "/sys/fs/cgroup", "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"run", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
		{"shm", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "mode=1777"},
	} {
		if err := m.do(); err != nil {
			return err
		}
	}
	// The native driver works in a mount namespace of its own, where disks that are mounted later must arrive.
	if err := unix.Mount("", "/run", "", unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	state, err := diskNamed(wire.DiskState)
	if err != nil {
		return err
	}
	return mount{"/dev/" + state, "/state", "ext4", unix.MS_NOSUID | unix.MS_NODEV, ""}.do()
}

// loadModules loads the kernel's modules in the order in which the host listed them.
func loadModules() error {
	list, err := os.ReadFile(ModulesOrder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the kernel has everything built in
	}
	if err != nil {
		return fmt.Errorf("load modules: %w", err)
	}
	for _, path := range strings.Fields(string(list)) {
		file, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("load modules: %w", err)
		}
		flags := 0
		if !strings.HasSuffix(path, ".ko") {
			flags = unix.MODULE_INIT_COMPRESSED_FILE
		}
		err = unix.FinitModule(int(file.Fd()), "", flags)
		file.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load %s: %w", filepath.Base(path), err)
		}
	}
	return nil
}

// diskNamed returns the kernel's name of the disk with a serial number.
func diskNamed(serial string) (string, error) {
	paths, err := filepath.Glob("/sys/block/vd*/serial")
	if err != nil {
		return "", err
	}
	for _, path := range paths {
		if text, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(text)) == serial {
			return filepath.Base(filepath.Dir(path)), nil
		}
	}
	return "", fmt.Errorf("there is no disk %q among %d", serial, len(paths))
}

// readManifest reads what is in the root image.
func readManifest() (m wire.Manifest, err error) {
	text, err := os.ReadFile("/" + wire.ManifestName)
	if err != nil {
		return m, fmt.Errorf("read what the root holds: %w", err)
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, fmt.Errorf("read what the root holds: %w", err)
	}
	return m, nil
}
