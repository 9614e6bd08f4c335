package rootless

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"lambent/sandbox/native"
)

// roleVariable says what else than tests this program is.
const roleVariable = "LAMBENT_ROOTLESS_TEST"

// The roles. Each starts the next, which has fewer rights.
const (
	roleGuest = "guest" // root of a virtual machine that is thrown away: makes a user there, who calls Run
	roleTests = "tests" // the same, with a user who runs the tests and does not call Run
	roleHost  = "host"  // root of a mount namespace of this host, in which a user has subordinate IDs
	roleUser  = "user"  // that user: calls Run
)

func TestMain(m *testing.M) {
	native.MaybeInit()
	inside, err := Continue()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if inside {
		FollowParent()
		os.Exit(m.Run())
	}
	role := os.Getenv(roleVariable)
	os.Unsetenv(roleVariable)
	switch role {
	case roleGuest:
		err = inGuest(roleUser)
	case roleTests:
		err = inGuest("")
	case roleHost:
		err = onHost()
	case roleUser:
		var status int
		if status, err = asUser(); err == nil {
			os.Exit(status)
		}
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, role+":", err)
		os.Exit(1)
	}
}

// The user that a guest has.
const (
	guestUser  = 1000
	guestHome  = "/state/user"
	guestRange = 100000
	guestIDs   = 65536
)

// inGuest gives a user of the guest what systemd and the package uidmap give one, and becomes it with the same arguments.
func inGuest(next string) error {
	ranges := fmt.Sprintf("user:%d:%d\n", guestRange, guestIDs)
	for path, text := range map[string]string{
		"/etc/passwd": "root:x:0:0::/:/none\nuser:x:1000:1000::" + guestHome + ":/none\n",
		"/etc/group":  "root:x:0:\nuser:x:1000:\n",
		"/etc/subuid": ranges,
		"/etc/subgid": ranges,
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			return err
		}
	}
	own, err := os.Executable()
	if err != nil {
		return err
	}
	if err := installPrograms(filepath.Dir(own)); err != nil {
		return err
	}
	for _, dir := range []string{guestHome, "/run/user"} {
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.Chown(dir, guestUser, guestUser)); err != nil {
			return err
		}
	}
	if err := errors.Join(os.Chmod("/var/tmp", 0o1777), os.Chmod("/tmp", 0o1777), os.Chmod(filepath.Dir(guestHome), 0o755)); err != nil {
		return err
	}
	if err := raiseLoopback(); err != nil {
		return err
	}
	// What attempts try on a process of the guest, by its number, is not to meet one of the sandbox that has the same by chance.
	if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte("20000"), 0); err != nil {
		return err
	}
	scope, err := delegatedCgroup()
	if err != nil {
		return err
	}
	defer scope.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = os.Args
	cmd.Env = append(os.Environ(), roleVariable+"="+next, "PATH="+setuidDirectory, "HOME="+guestHome, "TMPDIR="+guestHome, "XDG_RUNTIME_DIR=/run/user")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: guestUser, Gid: guestUser}, UseCgroupFD: true, CgroupFD: int(scope.Fd())}
	return cmd.Run()
}

// raiseLoopback gives the guest its own address.
func raiseLoopback() error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, request)
}

// setuidDirectory is where set-user-ID programs of the guest are: its root forbids them.
const setuidDirectory = "/run/programs"

// installPrograms puts newuidmap and newgidmap, with their libraries, where they belong. The host has laid them below root.
func installPrograms(dir string) error {
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(setuidDirectory, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("programs", setuidDirectory, "tmpfs", unix.MS_NODEV, "mode=0755,size=4m"); err != nil {
		return err
	}
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		target, mode := strings.TrimPrefix(path, root), os.FileMode(0o755)
		if name := filepath.Base(path); strings.HasPrefix(name, "new") {
			target, mode = filepath.Join(setuidDirectory, name), 0o755|os.ModeSetuid
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return errors.Join(os.MkdirAll(filepath.Dir(target), 0o755), os.WriteFile(target, content, 0o755), os.Chmod(target, mode))
	})
}

// delegatedCgroup makes a cgroup as "systemd-run --user --scope -p Delegate=yes" does, below which the user may make others.
func delegatedCgroup() (*os.File, error) {
	const top = "/sys/fs/cgroup"
	if err := unix.Mount("", top, "", unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "nsdelegate"); err != nil {
		return nil, err
	}
	dir := filepath.Join(top, "user.slice", "lambent.scope")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for _, above := range []string{top, filepath.Dir(dir)} {
		if err := os.WriteFile(filepath.Join(above, "cgroup.subtree_control"), []byte("+memory +cpu +pids +io"), 0); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{".", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"} {
		if err := os.Chown(filepath.Join(dir, name), guestUser, guestUser); err != nil {
			return nil, err
		}
	}
	return os.Open(dir)
}

// The user of the host that onHost becomes: there is one everywhere, and it owns nothing.
const hostUser = 65534

// onHost gives subordinate IDs to a user, in a mount namespace of this thread, and becomes it with the same arguments.
func onHost() error {
	runtime.LockOSThread() // which is never unlocked: what it starts is in its namespace
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	file := filepath.Join(os.Getenv("TMPDIR"), "ranges")
	if err := os.WriteFile(file, []byte(strconv.Itoa(hostUser)+":1879000000:65536\n"), 0o644); err != nil {
		return err
	}
	for _, path := range []string{"/etc/subuid", "/etc/subgid"} {
		if err := unix.Mount(file, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount at %s: %w", path, err)
		}
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = os.Args
	cmd.Env = append(os.Environ(), roleVariable+"="+roleUser, "HOME=/nonexistent")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: hostUser, Gid: hostUser}}
	return cmd.Run()
}

// asUser runs this program, with the same arguments, as root of a user namespace. Where the host has no cgroups that can be delegated
// it goes without.
func asUser() (int, error) {
	command := Command{Args: os.Args, Env: os.Environ(), Stdout: os.Stdout, Stderr: os.Stderr}
	if os.Getuid() == hostUser {
		return Try(context.Background(), command)
	}
	if missing := Check(); len(missing) > 0 {
		return 0, &MissingError{Missing: missing}
	}
	return Run(context.Background(), command)
}
