package gvisor

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"lambent/sandbox"
	"lambent/sandbox/gvisor/initproc"
)

// homePath is where the driver's tmpfs is in its mount namespace. It is short, because the addresses of sockets have to be.
const homePath = "/run/lambent/gvisor"

// What is in the tmpfs: the root that runsc gives to every sandbox, what runsc writes down, and a directory for each sandbox.
const (
	rootName  = "root"
	stateName = "runsc"
	boxesName = "boxes"
)

// home is a tmpfs of the driver's own, in its mount namespace.
type home struct {
	space *namespace
	root  *os.Root
}

// openHome makes the tmpfs, and the root in it.
func openHome(space *namespace, program []byte, base []sandbox.Mount) (*home, error) {
	h := &home{space: space}
	if err := os.MkdirAll(homePath, 0o755); err != nil {
		return nil, fmt.Errorf("make %s: %w", homePath, err)
	}
	err := space.do(func() error {
		if err := unix.Mount("gvisor", homePath, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0711"); err != nil {
			return fmt.Errorf("mount the driver's files: %w", err)
		}
		var err error
		h.root, err = os.OpenRoot(homePath)
		return err
	})
	if err == nil {
		err = h.build(program, base)
	}
	if err != nil {
		if h.root != nil {
			h.root.Close()
		}
		return nil, err
	}
	return h, nil
}

// build makes the root for sandboxes. It is only read.
func (h *home) build(program []byte, base []sandbox.Mount) error {
	for _, name := range []string{stateName, boxesName, "root/dev/shm", "root/dev/pts", "root/proc", "root/sys", "root/tmp",
		path.Join(rootName, initproc.BaseDir), path.Join(rootName, initproc.Exchange), path.Join(rootName, initproc.NewRoot)} {
		if err := h.root.MkdirAll(name, 0o755); err != nil {
			return fmt.Errorf("build the root: %w", err)
		}
	}
	if err := h.root.WriteFile(path.Join(rootName, initproc.InitPath), program, 0o755); err != nil {
		return fmt.Errorf("build the root: %w", err)
	}
	for i, mount := range base {
		if !path.IsAbs(mount.Target) || path.Clean(mount.Target) == "/" {
			return fmt.Errorf("mount %q at %q: the target must be an absolute path below the root", mount.Source, mount.Target)
		}
		if err := h.show(mount.Source, path.Join(rootName, initproc.BaseDir, strconv.Itoa(i))); err != nil {
			return err
		}
	}
	return nil
}

// show makes a file or directory of the host visible, read-only, at a new name.
func (h *home) show(source, name string) error {
	if !filepath.IsAbs(source) {
		return fmt.Errorf("mount %q: the source must be an absolute path", source)
	}
	info, err := os.Stat(source)
	if err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	if err := h.point(name, info.IsDir()); err != nil {
		return err
	}
	return h.space.do(func() error {
		tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return fmt.Errorf("open %s: %w", source, err)
		}
		defer unix.Close(tree)
		err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{
			Attr_set:    unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV,
			Propagation: unix.MS_PRIVATE,
		})
		if err != nil {
			return fmt.Errorf("restrict %s: %w", source, err)
		}
		return h.attach(tree, name)
	})
}

// point makes an empty file or directory to mount on.
func (h *home) point(name string, directory bool) error {
	if directory {
		if err := h.root.Mkdir(name, 0o755); err != nil {
			return fmt.Errorf("make a mount point: %w", err)
		}
		return nil
	}
	if err := h.root.WriteFile(name, nil, 0o444); err != nil {
		return fmt.Errorf("make a mount point: %w", err)
	}
	return nil
}

// attach mounts a tree at a name. It is to be called in the namespace.
func (h *home) attach(tree int, name string) error {
	err := unix.MoveMount(tree, "", unix.AT_FDCWD, path.Join(homePath, name), unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	return nil
}

// unmount takes the mount at a name away.
func (h *home) unmount(name string) error {
	return h.space.do(func() error {
		err := unix.Unmount(path.Join(homePath, name), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && err != unix.EINVAL && err != unix.ENOENT {
			return fmt.Errorf("unmount: %w", err)
		}
		return nil
	})
}

// close takes the tmpfs away.
func (h *home) close() error { return errors.Join(h.root.Close(), h.unmount("")) }

// files are the files of one sandbox: its directory, and the exchange in it, which is a mount whose mounts appear inside.
type files struct {
	home     *home
	name     string // of the directory
	exchange *os.File
}

// openFiles makes a sandbox's directory and its exchange, which belongs to a user.
func (h *home) openFiles(box string, owner int) (*files, error) {
	f := &files{home: h, name: path.Join(boxesName, box)}
	if err := h.root.MkdirAll(f.inside(""), 0o711); err != nil {
		return nil, fmt.Errorf("make the sandbox's files: %w", err)
	}
	full := path.Join(homePath, f.inside(""))
	err := h.space.do(func() error {
		if err := unix.Mount(full, full, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		if err := unix.Mount("", full, "", unix.MS_SHARED, ""); err != nil {
			return err
		}
		var err error
		f.exchange, err = os.Open(full)
		return err
	})
	if err == nil {
		err = errors.Join(f.exchange.Chown(owner, owner), f.exchange.Chmod(0o700))
	}
	if err != nil {
		return f, fmt.Errorf("make the sandbox's files: %w", err)
	}
	return f, nil
}

// inside is the name of something in the exchange.
func (f *files) inside(name string) string {
	return path.Join(f.name, strings.TrimPrefix(initproc.Exchange, "/"), name)
}

// path is the path, in the namespace, of something in the sandbox's directory.
func (f *files) path(name string) string { return path.Join(homePath, f.name, name) }

// address is a short path of something in the exchange that is valid in every namespace of this process.
func (f *files) address(name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", f.exchange.Fd(), name)
}

// listen opens a socket in the exchange, for its owner inside.
func (f *files) listen(name string, owner int) (*net.UnixListener, error) {
	if err := f.remove(name); err != nil {
		return nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: f.address(name), Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	listener.SetUnlinkOnClose(false)
	if err := unix.Fchownat(int(f.exchange.Fd()), name, owner, owner, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		listener.Close()
		return nil, fmt.Errorf("listen: %w", err)
	}
	return listener, nil
}

// pipe makes a named pipe for a user in the exchange, and opens its read end. It is at its end until somebody has opened the other.
func (f *files) pipe(name string, uid, gid int) (*os.File, error) {
	directory := int(f.exchange.Fd())
	err := unix.Mkfifoat(directory, name, 0o600)
	if err == nil {
		err = unix.Fchownat(directory, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
	}
	fd := -1
	if err == nil {
		fd, err = unix.Openat(directory, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	return os.NewFile(uintptr(fd), "output"), nil
}

// remove deletes a file of the exchange.
func (f *files) remove(name string) error {
	err := unix.Unlinkat(int(f.exchange.Fd()), name, 0)
	if err != nil && err != unix.ENOENT {
		return fmt.Errorf("remove from the exchange: %w", err)
	}
	return nil
}

// close takes the mounts and the directory away. The mounts are those below the exchange.
func (f *files) close(mounts []string) error {
	var all []error
	for _, name := range mounts {
		all = append(all, f.home.unmount(f.inside(name)))
	}
	if f.exchange != nil {
		all = append(all, f.exchange.Close())
	}
	all = append(all, f.home.unmount(f.inside("")), f.home.root.RemoveAll(f.name))
	return errors.Join(all...)
}
