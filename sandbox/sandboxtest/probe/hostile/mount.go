package hostile

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func mountAttempts() []Attempt {
	return []Attempt{
		{Name: "mount-tmpfs", Tries: "mount a file system in memory that no limit is on", Layer: Syscalls, Proof: Namespace,
			try: mountsType("tmpfs", "tmpfs", "size=10g")},
		{Name: "mount-device", Tries: "mount the host's disk", Layer: Syscalls, Proof: Guest, try: mountDevice},
		{Name: "bind-mount", Tries: "show a directory a second time without its options", Layer: Syscalls, Proof: Namespace, try: bindMount},
		{Name: "remount-writable", Tries: "make the code and the root writable by remounting", Layer: Syscalls, Proof: Namespace, try: remount},
		{Name: "move-mount", Tries: "move a mount out of the way", Layer: Syscalls, Proof: Namespace, try: moveMount},
		{Name: "unmount-masks", Tries: "unmount what hides parts of /proc and /dev", Layer: Syscalls, Proof: Namespace, try: unmount},
		{Name: "mount-propagation", Tries: "have its mounts show up on the host", Layer: Syscalls, Proof: Namespace, try: propagate},
		{Name: "fsopen", Tries: "mount by the newer calls (fsopen, fsconfig, fsmount, move_mount)", Layer: Syscalls, Proof: Namespace, try: newMount},
		{Name: "open-tree", Tries: "copy the tree of mounts by open_tree, and look behind them", Layer: Syscalls, Proof: Namespace, try: copyTree},
		{Name: "mount-setattr", Tries: "clear read-only, nosuid and nodev by mount_setattr", Layer: Syscalls, Proof: Namespace, try: clearOptions},
		{Name: "mount-overlay", Tries: "lay a writable file system over the code", Layer: Syscalls, Proof: Guest, try: mountOverlay},
		{Name: "mount-fuse", Tries: "mount a file system that the attacker serves", Layer: PrivateDev, Proof: Guest, try: mountFuse},
		{Name: "pivot-root", Tries: "get back to the host's root by pivot_root", Layer: Syscalls, Proof: Namespace, try: pivotRoot},
		{Name: "chroot-escape", Tries: "climb out of its root by chroot with an open directory", Layer: Syscalls, Proof: Namespace, try: chrootEscape},
	}
}

func mountDevice(t *Trial) {
	fd, err := unix.Open("/dev/loop-control", unix.O_RDWR, 0)
	if err == nil {
		unix.Close(fd)
	}
	t.held("open /dev/loop-control: %v", err)
	err = unix.Mount("/dev/vda", t.directory("disk"), "ext4", unix.MS_RDONLY, "")
	if err != nil && !refused(err) { // the kernel looked for the device
		t.breach("mounting a disk answered %v", err)
		return
	}
	t.got(err, "mounted /dev/vda")
}

func bindMount(t *Trial) {
	for _, source := range []string{"/", t.Code, "/proc"} {
		err := unix.Mount(source, t.directory("bind"), "", unix.MS_BIND|unix.MS_REC, "")
		t.got(err, "showed %s a second time", source)
	}
}

func remount(t *Trial) {
	for _, path := range []string{t.Code, "/", "/proc", "/proc/sys"} {
		for _, flags := range []uintptr{unix.MS_REMOUNT, unix.MS_REMOUNT | unix.MS_BIND} {
			t.got(unix.Mount("", path, "", flags, ""), "remounted %s with flags %#x", path, flags)
		}
	}
}

func moveMount(t *Trial) {
	for _, point := range mountPoints() {
		err := unix.Mount(point, t.directory("moved"), "", unix.MS_MOVE, "")
		if t.got(err, "moved %s", point) {
			return
		}
	}
}

// mountPoints are those that the attacker sees, the last ones first; without /proc, some that there may be.
func mountPoints() []string {
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return []string{"/proc/sys", "/proc", "/dev", "/tmp"}
	}
	var points []string
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[1] != "/" {
			points = append([]string{fields[1]}, points...)
		}
	}
	return points
}

func unmount(t *Trial) {
	for _, point := range mountPoints() {
		if !strings.HasPrefix(point, "/proc/") && !strings.HasPrefix(point, "/dev/") && !strings.HasPrefix(point, t.Code) {
			continue
		}
		if t.got(unix.Unmount(point, unix.MNT_DETACH), "unmounted %s", point) {
			return
		}
	}
}

func propagate(t *Trial) {
	for _, flags := range []uintptr{unix.MS_SHARED, unix.MS_SHARED | unix.MS_REC, unix.MS_SLAVE, unix.MS_UNBINDABLE} {
		t.got(unix.Mount("", "/", "", flags, ""), "changed the propagation of / to %#x", flags)
	}
	text, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 6 && strings.HasPrefix(fields[6], "shared:") {
			t.breach("%s propagates to others", fields[4])
		}
	}
}

func newMount(t *Trial) {
	fs, err := unix.Fsopen("tmpfs", 0)
	if !t.got(err, "opened a file system") {
		fs = 99
	} else {
		t.got(unix.FsconfigCreate(fs), "configured a file system")
	}
	tree, err := unix.Fsmount(fs, 0, 0)
	if !t.got(err, "mounted a file system") {
		tree = 99
	}
	err = unix.MoveMount(tree, "", unix.AT_FDCWD, t.directory("new"), unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err == unix.EBADF {
		t.breach("move_mount was looked at: %v", err)
	}
	t.got(err, "attached a file system")
}

func copyTree(t *Trial) {
	for _, path := range []string{"/", "/proc", t.Code} {
		fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE)
		if t.got(err, "copied the tree of %s", path) {
			unix.Close(fd)
		}
	}
}

func clearOptions(t *Trial) {
	attributes := &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	for _, path := range []string{t.Code, "/"} {
		t.got(unix.MountSetattr(unix.AT_FDCWD, path, 0, attributes), "cleared the options of %s", path)
	}
}

func mountOverlay(t *Trial) {
	upper, work := t.directory("upper"), t.directory("work")
	err := unix.Mount("overlay", t.directory("over"), "overlay", 0, "lowerdir="+t.Code+",upperdir="+upper+",workdir="+work)
	t.got(err, "mounted an overlay")
}

func mountFuse(t *Trial) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR, 0)
	if err != nil {
		t.held("open /dev/fuse: %v", err)
		fd = 0
	}
	err = unix.Mount(mark, t.directory("fuse"), "fuse", 0, "fd="+string(rune('0'+fd%10))+",rootmode=40000,user_id=0,group_id=0")
	t.got(err, "mounted a fuse file system")
}

func pivotRoot(t *Trial) {
	root := t.directory("root")
	old := filepath.Join(root, "old")
	os.Mkdir(old, 0o700)
	unix.Mount(mark, root, "tmpfs", 0, "")
	os.Mkdir(old, 0o700)
	t.got(unix.PivotRoot(root, old), "changed the root")
	t.got(unix.PivotRoot(".", "."), "stacked the root")
}

func chrootEscape(t *Trial) {
	top, err := unix.Open("/", unix.O_DIRECTORY|unix.O_RDONLY, 0)
	if err != nil {
		t.held("open /: %v", err)
		return
	}
	defer unix.Close(top)
	if !t.got(unix.Chroot(t.directory("jail")), "changed its root") {
		return
	}
	unix.Fchdir(top)
	for range 64 {
		unix.Chdir("..")
	}
	t.got(unix.Chroot("."), "climbed out of its root")
}
