package native

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"lambent/sandbox"
	"lambent/sandbox/identity"
)

// mounts is a mount namespace of the driver's own, which one locked thread lives in. The template of every sandbox's root
// is mounted there, so that nothing of it is seen on the host and nothing is left when the process dies.
type mounts struct {
	work chan func()
	stop chan struct{} // closed by close
	done chan struct{} // closed when the thread has ended
	root *os.Root      // the template, for making mount points
}

// openMounts makes the namespace and the template at directory.
func openMounts(directory string, base []sandbox.Mount) (*mounts, error) {
	m := &mounts{work: make(chan func()), stop: make(chan struct{}), done: make(chan struct{})}
	entered := make(chan error)
	go m.serve(entered)
	if err := <-entered; err != nil {
		<-m.done
		return nil, err
	}
	err := m.do(func() error { return m.buildTemplate(directory, base) })
	if err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

// serve is the namespace's thread. It is never unlocked, so that it ends with the goroutine. Mounts of the host go on to
// arrive here, and none of here goes there.
func (m *mounts) serve(entered chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The main thread is what /proc/self shows of the process, and cannot end. Holding it sends the next one elsewhere.
		elsewhere := make(chan error)
		go m.serve(elsewhere)
		entered <- <-elsewhere
		runtime.UnlockOSThread()
		return
	}
	defer close(m.done)
	err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "")
	}
	if err != nil {
		entered <- fmt.Errorf("make a mount namespace: %w", err)
		return
	}
	entered <- nil
	for {
		select {
		case f := <-m.work:
			f()
		case <-m.stop:
			return
		}
	}
}

// do runs f in the namespace. After close it fails with os.ErrClosed.
func (m *mounts) do(f func() error) error {
	result := make(chan error, 1)
	select {
	case m.work <- func() { result <- f() }:
		return <-result
	case <-m.done:
		return fmt.Errorf("mount namespace: %w", os.ErrClosed)
	}
}

// close ends the namespace. It is called once.
func (m *mounts) close() {
	close(m.stop)
	<-m.done
	if m.root != nil {
		m.root.Close()
	}
}

// directories are those of every root, symlinks its links, deviceNodes what is in /dev.
var (
	directories = []string{"dev", "etc", "home", "mnt", "opt", "proc", "root", "run", "tmp", "usr/bin", "usr/sbin", "usr/lib",
		"usr/lib64", "var/lang", "var/runtime", "var/task", "var/tmp"}
	symlinks = map[string]string{"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}

	deviceLinks = map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
		"stderr": "/proc/self/fd/2"}
	deviceNodes = map[string]uint32{"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}
)

// buildTemplate mounts the root that every sandbox gets a read-only copy of.
func (m *mounts) buildTemplate(directory string, base []sandbox.Mount) error {
	if err := unix.Mount("root", directory, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=4m,nr_inodes=4096"); err != nil {
		return fmt.Errorf("mount the root's template: %w", err)
	}
	var err error
	if m.root, err = os.OpenRoot(directory); err != nil {
		return fmt.Errorf("open the root's template: %w", err)
	}
	for _, mount := range base {
		if err := m.bindBase(directory, mount); err != nil {
			return err
		}
	}
	for _, name := range directories {
		if err := m.root.MkdirAll(name, 0o755); err != nil && !errors.Is(err, unix.EROFS) {
			return fmt.Errorf("build the root's template: %w", err)
		}
	}
	for name, target := range symlinks {
		if err := m.root.Symlink(target, name); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("build the root's template: %w", err)
		}
	}
	return m.buildDevices(filepath.Join(directory, "dev"))
}

// buildDevices mounts the template's /dev.
func (m *mounts) buildDevices(directory string) error {
	const flags = unix.MS_NOSUID | unix.MS_NOEXEC
	if err := unix.Mount("dev", directory, "tmpfs", flags, "mode=0755,size=64k,nr_inodes=64"); err != nil {
		return fmt.Errorf("mount /dev: %w", err)
	}
	for name, minor := range deviceNodes {
		if err := makeDevice(filepath.Join(directory, name), name, minor); err != nil {
			return fmt.Errorf("make /dev/%s: %w", name, err)
		}
	}
	for name, target := range deviceLinks {
		if err := os.Symlink(target, filepath.Join(directory, name)); err != nil {
			return fmt.Errorf("make /dev/%s: %w", name, err)
		}
	}
	if err := os.Mkdir(filepath.Join(directory, "shm"), 0o755); err != nil {
		return fmt.Errorf("make /dev/shm: %w", err)
	}
	return unix.Mount("", directory, "", flags|unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
}

// makeDevice makes a device, or shows the host's in its place where devices may not be made, not even harmless ones: in a user
// namespace.
func makeDevice(node, name string, minor uint32) error {
	err := unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor)))
	if err == nil {
		return unix.Chmod(node, 0o666)
	}
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	source := "/dev/" + name
	var stat unix.Stat_t
	if err := unix.Stat(source, &stat); err != nil {
		return err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFCHR || stat.Rdev != unix.Mkdev(1, minor) {
		return fmt.Errorf("the host's %s is another device", source)
	}
	if err := os.WriteFile(node, nil, 0o600); err != nil {
		return err
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	attributes := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC, Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attributes); err != nil {
		return err
	}
	return unix.MoveMount(tree, "", unix.AT_FDCWD, node, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// bindBase shows one of the host's trees in the template.
func (m *mounts) bindBase(directory string, mount sandbox.Mount) error {
	target, err := m.mountPoint(mount)
	if err != nil {
		return err
	}
	tree, err := readOnlyTree(mount.Source)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	point, err := unix.Openat2(unix.AT_FDCWD, filepath.Join(directory, target), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return fmt.Errorf("open mount point %s: %w", mount.Target, err)
	}
	defer unix.Close(point)
	err = unix.MoveMount(tree, "", point, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("mount %s: %w", mount.Target, err)
	}
	return nil
}

// mountPoint makes sure that the target of a mount exists in the template, and returns its name below the root. What it
// makes shows up, empty, in the other sandboxes of the driver.
func (m *mounts) mountPoint(mount sandbox.Mount) (string, error) {
	if !path.IsAbs(mount.Target) || !filepath.IsAbs(mount.Source) {
		return "", fmt.Errorf("mount %q at %q: both paths must be absolute", mount.Source, mount.Target)
	}
	name := strings.TrimPrefix(path.Clean(mount.Target), "/")
	if name == "" {
		return "", fmt.Errorf("mount %q: the root cannot be replaced", mount.Source)
	}
	source, err := os.Stat(mount.Source)
	if err != nil {
		return "", fmt.Errorf("mount at %s: %w", mount.Target, err)
	}
	if _, err := m.root.Stat(name); err == nil {
		return name, nil
	}
	if source.IsDir() {
		err = m.root.MkdirAll(name, 0o755)
	} else {
		var file *os.File
		if err = m.root.MkdirAll(path.Dir(name), 0o755); err == nil {
			if file, err = m.root.OpenFile(name, os.O_CREATE|os.O_RDONLY, 0o444); err == nil {
				file.Close()
			}
		}
	}
	if err != nil {
		return "", fmt.Errorf("make mount point %s: %w", mount.Target, err)
	}
	return name, nil
}

// cloneRoot returns a read-only copy of the template that is mounted nowhere. It is to be closed.
func (m *mounts) cloneRoot(directory string) (int, error) {
	tree := -1
	err := m.do(func() (err error) {
		tree, err = unix.OpenTree(unix.AT_FDCWD, directory, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err != nil {
			return fmt.Errorf("copy the root: %w", err)
		}
		return restrict(tree)
	})
	if err != nil && tree >= 0 {
		unix.Close(tree)
	}
	return tree, err
}

// trees opens mounts of a specification as trees that are mounted nowhere, and returns them with their targets. The trees
// are to be closed, also when there is an error. It opens them in the namespace of the caller, whose mounts are the same: the way
// to the other and back takes longer than the rest.
func (m *mounts) trees(list []sandbox.Mount) (trees []int, targets []string, err error) {
	for _, mount := range list {
		name, err := m.mountPoint(mount)
		if err != nil {
			return trees, targets, err
		}
		tree, err := readOnlyTree(mount.Source)
		if err != nil {
			return trees, targets, err
		}
		trees, targets = append(trees, tree), append(targets, "/"+name)
	}
	return trees, targets, nil
}

// readOnlyTree opens a file or directory of the host as a tree that is mounted nowhere: read-only, nosuid, nodev, without
// what may be mounted below.
func readOnlyTree(source string) (int, error) {
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if errors.Is(err, unix.EINVAL) && identity.Restricted() {
		return -1, fmt.Errorf("open %s: something is mounted below it, which only root may leave out: %w", source, err)
	}
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", source, err)
	}
	if err := restrict(tree); err != nil {
		unix.Close(tree)
		return -1, err
	}
	return tree, nil
}

// restrict makes the top mount of a tree read-only, nosuid and nodev, and cuts it off from other namespaces.
func restrict(tree int) error {
	err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{
		Attr_set:    unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV,
		Propagation: unix.MS_PRIVATE,
	})
	if err != nil {
		return fmt.Errorf("restrict a mount: %w", err)
	}
	return nil
}
