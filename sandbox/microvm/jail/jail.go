// Package jail shuts the monitor of a virtual machine in: a root of its own that holds nothing but its program and libraries, a
// user of its own, no rights, no network, no other processes.
//
// A Command starts this package's Main in new namespaces. It waits until the driver has put it into its cgroups, builds the root,
// gives everything up, and becomes the monitor.
package jail

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Role is the name, as its first argument, of a process that is to become what a Plan says.
const Role = "lambent-jail"

// Plan says what to become.
type Plan struct {
	// Root is an empty directory on the host that the root is mounted on, in a mount namespace of its own.
	Root string
	// Show are paths of the host that are seen read-only inside at the same place; what does not exist is left out. Links stay links.
	Show []string
	// Directories are made, empty.
	Directories []string
	// Files are shown at other places: inside to outside.
	Files map[string]string
	// Devices are those of the host that may be used.
	Devices []string
	// ID is the user and group. 0 keeps the caller's, and of its rights that to read all files, for a program that packs those of all
	// users.
	ID uint32
	// Writable is a directory of the host that is shown writable as /out; may be empty.
	Writable string
	// Args are the program, by its path inside, and its arguments.
	Args []string
	Env  []string
}

// Command returns what starts a plan in new namespaces. It begins when something can be read from its standard input, which the
// caller sets, and gives up when that ends. Descriptors from 3 on are passed on.
func Command(executable string, plan Plan) (*exec.Cmd, error) {
	text, err := json.Marshal(plan)
	if err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{Path: executable, Args: []string{Role, string(text)}, Env: []string{}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC |
		unix.CLONE_NEWUTS, Setsid: true}
	return cmd, nil
}

// Main carries a plan out when this process was started to, and returns only when that fails.
func Main() (known bool, err error) {
	if len(os.Args) != 2 || os.Args[0] != Role {
		return false, nil
	}
	var plan Plan
	if err := json.Unmarshal([]byte(os.Args[1]), &plan); err != nil {
		return true, fmt.Errorf("jail: %w", err)
	}
	if _, err := io.ReadFull(os.Stdin, make([]byte, 1)); err != nil {
		return true, fmt.Errorf("jail: wait for the driver: %w", err)
	}
	runtime.LockOSThread() // the signal is a thread's
	if err := plan.enter(); err != nil {
		return true, fmt.Errorf("jail: %w", err)
	}
	// A program whose driver was killed is not to go on by itself. Becoming another user would have undone this.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return true, fmt.Errorf("jail: end with the driver: %w", err)
	}
	return true, fmt.Errorf("jail: run %s: %w", plan.Args[0], unix.Exec(plan.Args[0], plan.Args, plan.Env))
}

// enter builds the root and gives up what the program does not need.
func (p *Plan) enter() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("leave the host's mounts: %w", err)
	}
	if err := unix.Mount("jail", p.Root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=1m"); err != nil {
		return fmt.Errorf("make the root: %w", err)
	}
	for _, path := range p.Show {
		if err := p.show(path, path); err != nil {
			return err
		}
	}
	for _, path := range p.Directories {
		if err := os.MkdirAll(filepath.Join(p.Root, path), 0o755); err != nil {
			return err
		}
	}
	for inside, outside := range p.Files {
		if err := p.show(outside, inside); err != nil {
			return err
		}
	}
	if err := p.makeDevices(); err != nil {
		return err
	}
	if p.Writable != "" {
		if err := p.bind(p.Writable, "/out", unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC); err != nil {
			return err
		}
	}
	if err := p.pivot(); err != nil {
		return err
	}
	return p.giveUp()
}

// makeDevices makes the devices anew: those of the host may be root's alone.
func (p *Plan) makeDevices() error {
	dev := filepath.Join(p.Root, "dev")
	if err := os.MkdirAll(dev, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("dev", dev, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=0755,size=64k"); err != nil {
		return fmt.Errorf("make devices: %w", err)
	}
	for _, path := range append([]string{"/dev/null", "/dev/urandom"}, p.Devices...) {
		var stat unix.Stat_t
		if err := unix.Stat(path, &stat); err != nil {
			return &os.PathError{Op: "stat", Path: path, Err: err}
		}
		at := filepath.Join(p.Root, path)
		if err := errors.Join(unix.Mknod(at, unix.S_IFCHR|0o666, int(stat.Rdev)), unix.Chmod(at, 0o666)); err != nil {
			return fmt.Errorf("make %s: %w", path, err)
		}
	}
	return unix.Mount("", dev, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NOEXEC, "")
}

// show makes a path of the host visible, read-only.
func (p *Plan) show(outside, inside string) error {
	info, err := os.Lstat(outside)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&os.ModeSymlink != 0 && outside == inside {
		target, err := os.Readlink(outside)
		if err != nil {
			return err
		}
		at := filepath.Join(p.Root, inside)
		return errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.Symlink(target, at))
	}
	return p.bind(outside, inside, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV)
}

// bind mounts a path of the host in the new root.
func (p *Plan) bind(outside, inside string, attributes uint64) error {
	at := filepath.Join(p.Root, inside)
	info, err := os.Stat(outside)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	if info.IsDir() {
		err = os.MkdirAll(at, 0o755)
	} else {
		err = os.WriteFile(at, nil, 0o600)
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(outside, at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("show %s: %w", outside, err)
	}
	set := unix.MountAttr{Attr_set: attributes | unix.MOUNT_ATTR_NOSUID}
	if err := unix.MountSetattr(unix.AT_FDCWD, at, unix.AT_RECURSIVE, &set); err != nil {
		return fmt.Errorf("show %s: %w", outside, err)
	}
	return nil
}

// pivot makes the new root the only one, and read-only.
func (p *Plan) pivot() error {
	if err := unix.Chdir(p.Root); err != nil {
		return fmt.Errorf("enter the root: %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("enter the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the host's root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter the root: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("make the root read-only: %w", err)
	}
	return nil
}

// giveUp drops the rights. System calls of package syscall that change a user do so for all threads.
func (p *Plan) giveUp() error {
	limits := map[int]uint64{unix.RLIMIT_CORE: 0, unix.RLIMIT_NOFILE: 1024}
	for resource, value := range limits {
		if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: value, Max: value}); err != nil {
			return fmt.Errorf("set limits: %w", err)
		}
	}
	if err := p.dropCapabilities(); err != nil {
		return err
	}
	if p.ID != 0 {
		id := int(p.ID)
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setresgid(id, id, id), syscall.Setresuid(id, id, id)); err != nil {
			return fmt.Errorf("become user %d: %w", id, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up new rights: %w", err)
	}
	// A guest's memory is used here and there: a huge page for each place would take twice what is used.
	if err := unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) { // a kernel without them
		return fmt.Errorf("give up huge pages: %w", err)
	}
	return refuseHandles()
}

// dropCapabilities bounds the rights that the program is given, which root has otherwise.
func (p *Plan) dropCapabilities() error {
	for capability := 0; capability <= unix.CAP_LAST_CAP; capability++ {
		if p.ID == 0 && capability == unix.CAP_DAC_READ_SEARCH {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(capability), 0, 0, 0)
		if err != nil && !errors.Is(err, unix.EINVAL) { // which an older kernel does not know
			return fmt.Errorf("give up capability %d: %w", capability, err)
		}
	}
	return nil
}

// Libraries are the places that a program of a distribution needs to see of the host.
func Libraries(program string) []string {
	places := []string{"/usr/lib", "/usr/lib64", "/usr/share/qemu", "/usr/share/seabios", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/ld.so.conf",
		"/etc/ld.so.conf.d"}
	for _, place := range places {
		if strings.HasPrefix(program, place+"/") {
			return places
		}
	}
	return append(places, program)
}
