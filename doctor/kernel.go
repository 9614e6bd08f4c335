package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"lambent/sandbox/ephemeral"
	"lambent/sandbox/native"
)

// readText reads a file of the kernel's, empty when it cannot.
func readText(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// probeKernel asks the native driver, whose needs are the highest.
func probeKernel(*doctor, context.Context) finding {
	release := readText("/proc/sys/kernel/osrelease")
	for _, lack := range native.Check() {
		if strings.Contains(lack, "Linux 5.") {
			return missing("%s: %s", release, lack)
		}
	}
	return ok("Linux %s, %s", release, runtime.GOARCH)
}

// neededCapabilities are those that making sandboxes takes.
func neededCapabilities() map[string]int {
	return map[string]int{"CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN, "CAP_NET_ADMIN": unix.CAP_NET_ADMIN, "CAP_SETUID": unix.CAP_SETUID,
		"CAP_SETGID": unix.CAP_SETGID, "CAP_CHOWN": unix.CAP_CHOWN, "CAP_KILL": unix.CAP_KILL, "CAP_DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE}
}

func probeRights(d *doctor, _ context.Context) finding {
	if !d.root {
		return missing("not root (user %d): what root would find is not known for the checks that say so", os.Geteuid())
	}
	effective, err := strconv.ParseUint(statusField("CapEff"), 16, 64)
	if err != nil {
		return weak("root; its capabilities cannot be read: %v", err)
	}
	var lacking []string
	for name, number := range neededCapabilities() {
		if effective&(1<<number) == 0 {
			lacking = append(lacking, name)
		}
	}
	if len(lacking) > 0 {
		return missing("root without %s", strings.Join(lacking, ", ")).with("give it those, or in a container --privileged")
	}
	return ok("root, with all capabilities that are needed")
}

// statusField reads a line of /proc/self/status.
func statusField(name string) string {
	for line := range strings.Lines(readText("/proc/self/status")) {
		if key, value, found := strings.Cut(line, ":"); found && key == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// The IDs that the child of probeUserRange is given: those just below the ones that sandboxes are given.
const (
	probeFirstID = 0x6fff0000
	probeIDs     = 1024
)

func probeUserRange(d *doctor, ctx context.Context) finding {
	if !d.root {
		if _, err := d.inChild(ctx, syscall.CLONE_NEWUSER, "nothing"); err != nil {
			return missing("not even with one ID: %v", err).with("set sysctl user.max_user_namespaces above 0, and on Ubuntu kernel.apparmor_restrict_unprivileged_userns=0")
		}
		return weak("with one ID; a range needs root").with("run it as root to see")
	}
	mapping := []syscall.SysProcIDMap{{HostID: probeFirstID, Size: probeIDs}}
	cmd := child(ctx, syscall.CLONE_NEWUSER, mapping, "identity")
	cmd.SysProcAttr.Credential = &syscall.Credential{} // root of the namespace: nobody on the host
	seen, err := output(cmd)
	if err != nil {
		return missing("%v", err)
	}
	return ok("root inside is %d on the host; inside: %s", probeFirstID, seen)
}

// showIdentity becomes the last user of its range and says who it is.
func showIdentity([]string) (string, error) {
	if err := unix.Setresuid(probeIDs-1, probeIDs-1, probeIDs-1); err != nil {
		return "", fmt.Errorf("become the last user of the range: %w", err)
	}
	return "user " + strconv.Itoa(os.Getuid()) + " too", nil
}

func probeNamespaces(d *doctor, ctx context.Context) finding {
	var there, lacking []string
	for _, kind := range []struct {
		name string
		flag uintptr
	}{
		{"user", unix.CLONE_NEWUSER}, {"mount", unix.CLONE_NEWNS}, {"pid", unix.CLONE_NEWPID}, {"net", unix.CLONE_NEWNET},
		{"ipc", unix.CLONE_NEWIPC}, {"uts", unix.CLONE_NEWUTS}, {"cgroup", unix.CLONE_NEWCGROUP},
	} {
		if _, err := d.inChild(ctx, kind.flag, "nothing"); err != nil {
			lacking = append(lacking, fmt.Sprintf("%s (%v)", kind.name, err))
			continue
		}
		there = append(there, kind.name)
	}
	if len(lacking) > 0 {
		return missing("no %s; there are %s", strings.Join(lacking, ", "), strings.Join(there, ", "))
	}
	return ok("%s", strings.Join(there, ", "))
}

func probeSeccomp(d *doctor, ctx context.Context) finding {
	seen, err := d.inChild(ctx, 0, "seccomp")
	return tried(err, seen)
}

// trySeccomp loads a filter that forbids getppid and looks whether it acts.
func trySeccomp([]string) (string, error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return "", fmt.Errorf("no_new_privs: %w", err)
	}
	const number, allow, deny = 0, 0x7fff0000, 0x00050000 | uint32(unix.EDOM)
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: number},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 0, Jf: 1, K: unix.SYS_GETPPID},
		{Code: unix.BPF_RET | unix.BPF_K, K: deny},
		{Code: unix.BPF_RET | unix.BPF_K, K: allow},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	const setModeFilter = 1
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, 0, uintptr(unsafe.Pointer(&program))); errno != 0 {
		return "", fmt.Errorf("load a filter: %w", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0); errno != unix.EDOM {
		return "", fmt.Errorf("the filter was loaded and does not act: getppid answers %w", errno)
	}
	return "a filter was loaded, and answered a call with the error it names", nil
}

func probeNoNewPrivs(d *doctor, ctx context.Context) finding {
	seen, err := d.inChild(ctx, 0, "no-new-privs")
	return tried(err, seen)
}

func tryNoNewPrivs([]string) (string, error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return "", err
	}
	if value, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err != nil || value != 1 {
		return "", fmt.Errorf("it was set and reads %d: %w", value, errors.Join(err))
	}
	return "set, and it stays", nil
}

func probePivotRoot(d *doctor, ctx context.Context) finding {
	dir := filepath.Join(d.dir, "root")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return missing("%v", err)
	}
	seen, err := d.inChild(ctx, syscall.CLONE_NEWNS, "pivot-root", dir)
	return tried(err, seen)
}

// tryPivotRoot changes the root of its mount namespace to an empty tmpfs.
func tryPivotRoot(args []string) (string, error) {
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"make mounts private", func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") }},
		{"mount a tmpfs", func() error { return unix.Mount("tmpfs", args[0], "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=64k") }},
		{"enter it", func() error { return unix.Chdir(args[0]) }},
		{"pivot_root", func() error { return unix.PivotRoot(".", ".") }},
		{"detach the old root", func() error { return unix.Unmount(".", unix.MNT_DETACH) }},
	} {
		if err := step.do(); err != nil {
			return "", fmt.Errorf("%s: %w", step.name, err)
		}
	}
	entries, err := os.ReadDir("/")
	if err != nil {
		return "", err
	}
	if len(entries) > 0 {
		return "", fmt.Errorf("the new root still shows %d entries", len(entries))
	}
	return "the root was changed to an empty one, and the old one detached", nil
}

func probeLoop(d *doctor, _ context.Context) finding {
	if !d.root {
		return missing("loop devices need root").with("run it as root to see")
	}
	if lacks := ephemeral.Check(); len(lacks) > 0 {
		return missing("%s", strings.Join(lacks, "; "))
	}
	fs, err := ephemeral.Make(ephemeral.Options{Dir: d.dir, SizeMiB: 16, UID: 1, GID: 1})
	if err != nil {
		return missing("%v", err)
	}
	var stat unix.Statfs_t
	statErr := unix.Fstatfs(fs.Tree(), &stat)
	fs.HandedOver()
	if err := errors.Join(statErr, fs.Close()); err != nil {
		return missing("%v", err)
	}
	return ok("an image of 16 MiB was mounted from device %s: %d KiB free", fs.Disk, stat.Bavail*uint64(stat.Bsize)>>10)
}

func probeOverlay(d *doctor, ctx context.Context) finding {
	dir := filepath.Join(d.dir, "overlay")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return missing("%v", err)
	}
	seen, err := d.inChild(ctx, syscall.CLONE_NEWNS, "overlayfs", dir)
	return tried(err, seen)
}

// tryOverlay writes to a file of the lower directory and finds it unchanged there.
func tryOverlay(args []string) (string, error) {
	dir := args[0]
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return "", err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		return "", fmt.Errorf("mount a tmpfs: %w", err)
	}
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			return "", err
		}
	}
	lower, merged := filepath.Join(dir, "lower", "file"), filepath.Join(dir, "merged")
	if err := os.WriteFile(lower, []byte("below"), 0o600); err != nil {
		return "", err
	}
	options := fmt.Sprintf("lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work", dir, dir, dir)
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		return "", fmt.Errorf("mount: %w", err)
	}
	if err := os.WriteFile(filepath.Join(merged, "file"), []byte("above"), 0o600); err != nil {
		return "", err
	}
	if text := readText(lower); text != "below" {
		return "", fmt.Errorf("what was written above is below: %q", text)
	}
	return "a write went to the upper directory", nil
}
