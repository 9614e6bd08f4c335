package initproc

import (
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// What every root has, as under the native driver.
var (
	directories = []string{"dev", "etc", "home", "mnt", "opt", "proc", "root", "run", "tmp", "usr/bin", "usr/sbin", "usr/lib",
		"usr/lib64", "var/lang", "var/runtime", "var/task", "var/tmp"}
	symlinks = map[string]string{"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}

	deviceLinks = map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
		"stderr": "/proc/self/fd/2"}
	deviceNodes = map[string]uint32{"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}
)

const (
	plain   = unix.MS_NOSUID | unix.MS_NODEV
	sealed  = plain | unix.MS_NOEXEC
	shmSize = "size=64m,mode=1777,nr_inodes=4096"
)

// buildRoot makes the function's root out of what gVisor's root holds, and lets go of that. Base are the targets of the trees in
// BaseDir.
func buildRoot(base []string) error {
	unix.Umask(0)
	if err := unix.Mount("root", NewRoot, "tmpfs", plain, "mode=0755,size=4m,nr_inodes=4096"); err != nil {
		return failed("mount the root", err)
	}
	for i, target := range base {
		if err := bind(path.Join(BaseDir, strconv.Itoa(i)), path.Join(NewRoot, target), plain|unix.MS_RDONLY); err != nil {
			return err
		}
	}
	for _, name := range directories {
		if err := os.MkdirAll(path.Join(NewRoot, name), 0o755); err != nil && !isReadOnly(err) {
			return failed("build the root", err)
		}
	}
	for name, target := range symlinks {
		if err := os.Symlink(target, path.Join(NewRoot, name)); err != nil && !os.IsExist(err) {
			return failed("build the root", err)
		}
	}
	if err := buildDevices(path.Join(NewRoot, "dev")); err != nil {
		return err
	}
	if err := unix.Mount("proc", path.Join(NewRoot, "proc"), "proc", sealed, ""); err != nil {
		return failed("mount /proc", err)
	}
	if err := bind(Exchange, path.Join(NewRoot, hidden), sealed|unix.MS_RDONLY); err != nil {
		return err
	}
	if err := unix.PivotRoot(NewRoot, path.Join(NewRoot, "mnt")); err != nil {
		return failed("pivot to the root", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return failed("enter the root", err)
	}
	if err := unix.Unmount("/mnt", unix.MNT_DETACH); err != nil {
		return failed("unmount gVisor's root", err)
	}
	return sealRoot()
}

// sealRoot and openRoot make the root read-only, and writable for the making of a mount point.
func sealRoot() error {
	return failed("seal the root", unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|plain, ""))
}

func openRoot() error {
	return failed("open the root", unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|plain, ""))
}

func isReadOnly(err error) bool { return strings.HasSuffix(err.Error(), unix.EROFS.Error()) }

// buildDevices mounts /dev.
func buildDevices(directory string) error {
	if err := unix.Mount("dev", directory, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=0755,size=64k,nr_inodes=64"); err != nil {
		return failed("mount /dev", err)
	}
	for name, minor := range deviceNodes {
		if err := unix.Mknod(path.Join(directory, name), unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))); err != nil {
			return failed("make /dev/"+name, err)
		}
	}
	for name, target := range deviceLinks {
		if err := os.Symlink(target, path.Join(directory, name)); err != nil {
			return failed("make /dev/"+name, err)
		}
	}
	shm := path.Join(directory, "shm")
	if err := os.Mkdir(shm, 0o755); err != nil {
		return failed("make /dev/shm", err)
	}
	if err := unix.Mount("shm", shm, "tmpfs", sealed, shmSize); err != nil {
		return failed("mount /dev/shm", err)
	}
	return failed("seal /dev", unix.Mount("", directory, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NOEXEC, ""))
}

// bind shows a file or directory at a target, which is made when it is missing.
func bind(source, target string, flags uintptr) error {
	info, err := os.Stat(source)
	if err != nil {
		return failed("look at "+source, err)
	}
	if err := makePoint(target, info.IsDir()); err != nil {
		return failed("make mount point "+target, err)
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return failed("mount "+target, err)
	}
	return failed("restrict "+target, unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|flags, ""))
}

// makePoint makes an empty file or directory unless there is one.
func makePoint(target string, directory bool) error {
	if _, err := os.Stat(target); err == nil {
		return nil
	}
	if directory {
		return os.MkdirAll(target, 0o755)
	}
	if err := os.MkdirAll(path.Dir(target), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(target, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	return file.Close()
}

// mountLate shows what has appeared in the exchange: triples of a name, a target and how.
func mountLate(triples []string) error {
	if err := openRoot(); err != nil {
		return err
	}
	for ; len(triples) >= 3; triples = triples[3:] {
		target := path.Join("/", triples[1])
		flags := uintptr(plain)
		if triples[2] != Writable {
			flags |= unix.MS_RDONLY
		} else if err := unix.Unmount(target, unix.MNT_DETACH); err != nil && err != unix.EINVAL {
			return failed("unmount "+target, err)
		}
		if err := bind(inExchange(triples[0]), target, flags); err != nil {
			return err
		}
	}
	return sealRoot()
}
