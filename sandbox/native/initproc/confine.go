package initproc

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"lambent/sandbox/native/wire"
)

// initCapabilities are what the init and its starters keep, in their own user namespace: mounting, changing user, giving
// up capabilities, and ending the function's processes.
const initCapabilities = 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_SETUID | 1<<unix.CAP_SETGID | 1<<unix.CAP_SETPCAP |
	1<<unix.CAP_KILL

// dropBounding empties the calling thread's bounding set, so that no exec can bring a capability back.
func dropBounding() error {
	for capability := uintptr(0); capability <= 63; capability++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0)
		if err == unix.EINVAL { // beyond the last capability of this kernel
			return nil
		}
		if err != nil {
			return failed("drop a capability", err)
		}
	}
	return nil
}

// securebits take from user 0 what it is by tradition allowed (noroot), forbid keeping capabilities through a change of
// user and ambient ones, and lock all of that. Package unix lacks the names.
const securebits = 1<<0 /* noroot */ | 1<<1 /* locked */ | 1<<3 /* no_setuid_fixup locked, off */ |
	1<<5 /* keep_caps locked, off */ | 1<<6 /* no_cap_ambient_raise */ | 1<<7 /* locked */

// dropInit leaves initCapabilities to every thread of the init. A starter gets them all back by its exec, as root of the
// user namespace, and gives them up in confine.
func dropInit() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{{Effective: initCapabilities, Permitted: initCapabilities}}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data)), 0)
	if errno != 0 {
		return failed("drop capabilities", errno)
	}
	return nil
}

// runStarter enters its cgroups, gives up every right, waits for a command, and becomes it. Cgroups and rights belong to threads in Linux, so all of it happens on one thread, which is the one that survives the exec.
func runStarter(conn *wire.Conn) int {
	runtime.LockOSThread()
	if closeInherited() != nil || unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) != nil {
		return 1
	}
	if conn.Send(nil, wire.Hello) != nil {
		return 1
	}
	parts, cgroups, err := conn.Receive()
	if err != nil || len(parts) != 4 || parts[0] != wire.Confine {
		return 1
	}
	err = enterCgroups(cgroups)
	wire.CloseAll(cgroups)
	if err == nil {
		err = confine(parts[1], parts[2], parts[3])
	}
	if err != nil {
		_ = reply(conn, nil, nil, err) // a driver that is gone needs no reason
		return 1
	}
	if conn.Send(nil, wire.Ready) != nil {
		return 1
	}
	parts, fds, err := conn.Receive()
	if err != nil || parts == nil {
		return 1
	}
	_ = reply(conn, nil, nil, become(parts, fds)) // a driver that is gone needs no reason
	return 1
}

// enterCgroups moves the calling thread. A thread that moves itself is the one case in which the kernel waits for nothing:
// any other move holds a lock of all cgroups, which freezing needs as well, for many milliseconds.
func enterCgroups(tasks []int) error {
	for _, fd := range tasks {
		if _, err := unix.Write(fd, []byte("0")); err != nil {
			return failed("enter a cgroup", err)
		}
	}
	return nil
}

// confine gives up every right of the calling thread. The order matters: each step still needs what later ones drop.
func confine(uidText, gidText, program string) error {
	uid, okUID := decimal(uidText, 1<<16)
	gid, okGID := decimal(gidText, 1<<16)
	if !okUID || !okGID || uid == 0 || gid == 0 {
		return failed("read the user", syscall.EINVAL)
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return failed("unshare the cgroup namespace", err)
	}
	_, _, errno := unix.RawSyscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0)
	if errno != 0 && errno != unix.ENOSYS {
		return failed("leave the host's key ring", errno)
	}
	if err := syscall.Setrlimit(unix.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		return failed("forbid core dumps", err)
	}
	unix.Umask(0o022)
	if err := dropBounding(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, securebits, 0, 0, 0); err != nil {
		return failed("set secure bits", err)
	}
	if err := changeUser(uid, gid); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return failed("set no_new_privs", err)
	}
	return loadFilter(program)
}

// changeUser sets the thread's groups and users, and clears all of its capabilities.
func changeUser(uid, gid int) error {
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
		return failed("drop groups", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)); errno != 0 {
		return failed("set the group", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
		return failed("set the user", errno)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return failed("drop capabilities", unix.Capset(&header, &none[0]))
}

// filterInstruction is the size of struct sock_filter.
const filterInstruction = 8

// loadFilter installs a seccomp program for the calling thread.
func loadFilter(program string) error {
	if len(program) == 0 || len(program)%filterInstruction != 0 {
		return failed("read the system call filter", syscall.EINVAL)
	}
	code := []byte(program)
	fprog := unix.SockFprog{
		Len:    uint16(len(code) / filterInstruction),
		Filter: (*unix.SockFilter)(unsafe.Pointer(unsafe.SliceData(code))),
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&fprog)))
	runtime.KeepAlive(code)
	if errno != 0 {
		return failed("load the system call filter", errno)
	}
	return nil
}

// become executes the command of an Exec message. It returns only when it fails.
func become(parts []string, fds []int) error {
	if len(parts) < 5 || parts[0] != wire.Exec || len(fds) != 1 {
		return failed("understand the driver", syscall.EBADMSG)
	}
	path, dir := parts[2], parts[3]
	files, okFiles := decimal(parts[1], 1<<20)
	count, okCount := decimal(parts[4], wire.MaxParts)
	if rest := parts[5:]; !okFiles || !okCount || count > len(rest) {
		return failed("understand the driver", syscall.EBADMSG)
	}
	args, env := parts[5:5+count], parts[5+count:]
	for _, to := range []int{1, 2} {
		if err := unix.Dup3(fds[0], to, 0); err != nil {
			return failed("set the output", err)
		}
	}
	limit := syscall.Rlimit{Cur: uint64(files), Max: uint64(files)}
	if err := syscall.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return failed("limit open files", err)
	}
	if err := unix.CloseRange(wire.ControlFD, ^uint(0)>>33, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return failed("close descriptors", err)
	}
	if err := unix.Chdir(dir); err != nil {
		return failed("enter "+dir, err)
	}
	if err := defaultSignals(); err != nil {
		return err
	}
	return failed("execute "+path, syscall.Exec(path, args, env))
}

// lastSignal is the highest signal number of Linux.
const lastSignal = 64

// defaultSignals gives every signal its default action. What the service ignores, as under nohup, would stay ignored over
// the exec.
func defaultSignals() error {
	var action [4]uint64 // struct sigaction of the kernel: SIG_DFL, no flags, no restorer, empty mask
	for signal := uintptr(1); signal <= lastSignal; signal++ {
		if signal == uintptr(syscall.SIGKILL) || signal == uintptr(syscall.SIGSTOP) {
			continue
		}
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, signal, uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
		if errno != 0 {
			return failed("reset signals", errno)
		}
	}
	return nil
}
