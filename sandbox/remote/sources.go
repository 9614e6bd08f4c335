package remote

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Sources decides what a client without rights may have mounted: the paths that the operator's configuration names, as they are,
// and what lies below the client's own directories. In those the client can change at any time what a path means, so each such
// source is opened once, without following any link, and mounted at a place that only this process can change. It is safe for use by
// many goroutines.
//
// The mounts are in the mount namespace of this process, which is to be its own, so that they end with it; see EnterNamespace.
type Sources struct {
	dir    string // of the mount points
	fixed  map[string]bool
	owned  []string
	next   int
	mu     sync.Mutex // of what follows, and next
	mounts map[string]*source
}

// source is a mounted source. Its inode tells whether the path still means the same.
type source struct {
	point      string
	dev, inode uint64
	users      int
}

// NewSources makes Sources. Fixed are the paths that may be mounted as they are, owned the directories of the client, dir is an
// empty directory for mount points that the client cannot enter.
func NewSources(dir string, fixed, owned []string) *Sources {
	s := &Sources{dir: dir, fixed: map[string]bool{}, owned: owned, mounts: map[string]*source{}}
	for _, path := range fixed {
		s.fixed[path] = true
	}
	return s
}

// Source is for Options.
func (s *Sources) Source(path string) (string, func(), error) {
	if s.fixed[path] {
		return path, func() {}, nil
	}
	for _, dir := range s.owned {
		if rest, ok := strings.CutPrefix(path, dir+"/"); ok {
			return s.open(path, dir, rest)
		}
	}
	return "", nil, fmt.Errorf("%s may not be mounted: %w", path, unix.EPERM)
}

// open returns where a path below a directory of the client is mounted.
func (s *Sources) open(path, dir, rest string) (string, func(), error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, fmt.Errorf("open %s: %w", dir, err)
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, rest, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV})
	if err != nil {
		return "", nil, fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return "", nil, fmt.Errorf("open %s: %w", path, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.mounts[path]
	if m == nil || m.dev != stat.Dev || m.inode != stat.Ino {
		s.next++
		m = &source{point: filepath.Join(s.dir, strconv.Itoa(s.next)), dev: stat.Dev, inode: stat.Ino}
		if err := mountAt(fd, m.point, stat.Mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
			return "", nil, fmt.Errorf("mount %s: %w", path, err)
		}
		s.mounts[path] = m
	}
	m.users++
	return m.point, sync.OnceFunc(func() { s.release(path, m) }), nil
}

// release unmounts what nobody uses any more.
func (s *Sources) release(path string, m *source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.users--; m.users > 0 {
		return
	}
	if s.mounts[path] == m {
		delete(s.mounts, path)
	}
	_ = unix.Unmount(m.point, unix.MNT_DETACH) // it goes with the namespace at the latest
	_ = os.Remove(m.point)
}

// mountAt mounts an open file or directory, read-only, at a path that it makes.
func mountAt(fd int, point string, directory bool) (err error) {
	if directory {
		err = os.Mkdir(point, 0o700)
	} else {
		err = os.WriteFile(point, nil, 0o600)
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	tree, err := unix.OpenTree(fd, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	attributes := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attributes); err != nil {
		return err
	}
	return unix.MoveMount(tree, "", unix.AT_FDCWD, point, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// EnterNamespace gives the calling thread a mount namespace of its own, in which the mounts of the host go on to arrive and from
// which none goes there. A program execs itself right afterwards, so that all its threads are in it.
func EnterNamespace() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	// Drivers make namespaces below this one, in which mounts that are made here must arrive.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make a mount namespace: %w", err)
	}
	return nil
}
