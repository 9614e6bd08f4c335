// Package ephemeral makes the file systems for sandboxes' /tmp.
//
// Each is an ext4 file system of its own on a loop device, in a file that has no name any more. So its size and its number of
// files are enforced by the kernel, filling it gives ENOSPC, it is not part of the function's memory (its cache is, and is given
// back under pressure), and it is gone when the last process that has it mounted is, whatever happens to the driver.
package ephemeral

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"lambent/sandbox/ephemeral/ext4"
)

// shutdownRequest is EXT4_IOC_SHUTDOWN, and shutdownNow its argument that writes nothing more.
const (
	shutdownRequest = 0x8004587d
	shutdownNow     = 2
)

// loopAttempts bounds how often another process may be faster in taking a free loop device.
const loopAttempts = 100

// Options say what a file system is to be like. All but InMemory are required.
type Options struct {
	Dir      string // holds the file, which has no name
	InMemory bool   // a tmpfs instead, for hosts without loop devices
	SizeMiB  int
	UID, GID uint32 // of the root directory's owner
}

// FS is the file system for one /tmp. It belongs to one goroutine.
type FS struct {
	SizeMiB int
	// Disk is the device, as "MAJOR:MINOR"; empty in memory.
	Disk string
	tree int      // the mount, for somebody to move; -1 when it was handed over
	root *os.File // its root directory, for shutdown; nil in memory
}

// Tree returns the mount, which is mounted nowhere, as a descriptor for move_mount. HandedOver closes it.
func (t *FS) Tree() int { return t.tree }

// Make makes an empty file system.
func Make(o Options) (*FS, error) {
	if o.InMemory {
		tree, err := memoryTmp(o)
		if err != nil {
			return nil, err
		}
		return &FS{SizeMiB: o.SizeMiB, tree: tree}, nil
	}
	file, err := os.OpenFile(o.Dir, unix.O_TMPFILE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make /tmp: %w", err)
	}
	defer file.Close()
	layout := ext4.Layout{CapacityMiB: o.SizeMiB, UID: o.UID, GID: o.GID}
	if err := ext4.Format(file, layout); err != nil {
		return nil, fmt.Errorf("make /tmp: %w", err)
	}
	device, path, err := attachLoop(file)
	if err != nil {
		return nil, fmt.Errorf("make /tmp: %w", err)
	}
	defer device.Close() // from now on the mount holds it, and its end frees it
	tree, err := mountTmp(path)
	if err != nil {
		return nil, fmt.Errorf("make /tmp: %w", err)
	}
	root, err := unix.Openat(tree, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Close(tree)
		return nil, fmt.Errorf("make /tmp: %w", err)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(root, &stat); err != nil {
		unix.Close(tree)
		unix.Close(root)
		return nil, fmt.Errorf("make /tmp: %w", err)
	}
	disk := fmt.Sprintf("%d:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev))
	return &FS{SizeMiB: o.SizeMiB, Disk: disk, tree: tree, root: os.NewFile(uintptr(root), "tmp")}, nil
}

// attachLoop puts a file behind a free loop device, which is free again when its last user has closed it.
func attachLoop(file *os.File) (device *os.File, path string, err error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, "", fmt.Errorf("take a loop device: %w", err)
	}
	defer control.Close()
	config := unix.LoopConfig{Fd: uint32(file.Fd()), Size: 4096, Info: unix.LoopInfo64{
		Flags: unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO}}
	copy(config.Info.File_name[:], "lambent")
	for range loopAttempts {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, "", fmt.Errorf("take a loop device: %w", err)
		}
		path = "/dev/loop" + strconv.Itoa(number)
		device, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return nil, "", fmt.Errorf("take a loop device: %w", err)
		}
		err = unix.IoctlLoopConfigure(int(device.Fd()), &config)
		if err == nil {
			return device, path, nil
		}
		device.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, "", fmt.Errorf("set up %s: %w", path, err)
		}
	}
	return nil, "", errors.New("take a loop device: others were faster each time")
}

// mountTmp mounts a device, at no place yet.
func mountTmp(device string) (int, error) {
	context, err := unix.Fsopen("ext4", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("mount ext4: %w", err)
	}
	defer unix.Close(context)
	if err := unix.FsconfigSetString(context, "source", device); err != nil {
		return -1, fmt.Errorf("mount %s: %w", device, err)
	}
	if err := unix.FsconfigSetString(context, "errors", "continue"); err != nil {
		return -1, fmt.Errorf("mount %s: %w", device, err)
	}
	if err := unix.FsconfigCreate(context); err != nil {
		return -1, fmt.Errorf("mount %s: %w", device, err)
	}
	const attributes = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOATIME
	tree, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, attributes)
	if err != nil {
		return -1, fmt.Errorf("mount %s: %w", device, err)
	}
	return tree, nil
}

// memoryTmp makes a file system in memory, mounted at no place yet.
func memoryTmp(o Options) (int, error) {
	context, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("make /tmp: %w", err)
	}
	defer unix.Close(context)
	for _, option := range [][2]string{
		{"source", "tmp"},
		{"size", fmt.Sprintf("%dm", o.SizeMiB)},
		{"nr_inodes", strconv.Itoa(o.SizeMiB * ext4.InodesPerMiB)},
		{"mode", "0700"},
		{"uid", strconv.FormatUint(uint64(o.UID), 10)},
		{"gid", strconv.FormatUint(uint64(o.GID), 10)},
	} {
		if err := unix.FsconfigSetString(context, option[0], option[1]); err != nil {
			return -1, fmt.Errorf("make /tmp: %s: %w", option[0], err)
		}
	}
	if err := unix.FsconfigCreate(context); err != nil {
		return -1, fmt.Errorf("make /tmp: %w", err)
	}
	tree, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return -1, fmt.Errorf("make /tmp: %w", err)
	}
	return tree, nil
}

// HandedOver closes the driver's own hold on the mount.
func (t *FS) HandedOver() {
	if t.tree >= 0 {
		unix.Close(t.tree)
		t.tree = -1
	}
}

// fewBytes are so few that writing them at the end is faster than not to.
const fewBytes = 1 << 20

// Release is Close for a file system of which the kernel has dirty bytes, or fewer, that it has not written yet. Few are written: to
// shut a file system down makes the kernel tell the console, which can take a millisecond.
func (t *FS) Release(dirty int64) error {
	if dirty > fewBytes {
		return t.Close()
	}
	t.HandedOver()
	if t.root == nil {
		return nil
	}
	return t.root.Close()
}

// Close lets go of the file system. What the function wrote and the kernel has not yet written to the disk never will be.
func (t *FS) Close() error {
	t.HandedOver()
	if t.root == nil {
		return nil
	}
	defer t.root.Close()
	if err := unix.IoctlSetPointerInt(int(t.root.Fd()), shutdownRequest, shutdownNow); err != nil {
		return fmt.Errorf("shut down /tmp: %w", err)
	}
	return nil
}

// Check says what the host lacks for /tmp on a loop device.
func Check() []string {
	var missing []string
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		missing = append(missing, "there are no loop devices (/dev/loop-control): load the module loop, or keep /tmp in memory")
	}
	known, err := os.ReadFile("/proc/filesystems")
	if err == nil && !slices.Contains(strings.Fields(string(known)), "ext4") {
		if matches, _ := filepath.Glob("/lib/modules/*/kernel/fs/ext4"); len(matches) == 0 {
			missing = append(missing, "the kernel has no ext4: keep /tmp in memory")
		}
	}
	return missing
}
