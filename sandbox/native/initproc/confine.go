package initproc

import (
	"errors"
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
		err := prctl(unix.PR_CAPBSET_DROP, capability)
		if errors.Is(err, unix.EINVAL) { // beyond the last capability of this kernel
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

// capabilities is struct __user_cap_header_struct with the data that follows it in a call.
type capabilities struct {
	header unix.CapUserHeader
	data   [2]unix.CapUserData
}

// setCapabilities gives the process the capabilities of a set, and no others.
func setCapabilities(set uint32) error {
	c := &capabilities{header: unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3},
		data: [2]unix.CapUserData{{Effective: set, Permitted: set}}}
	err := do(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&c.header)), uintptr(unsafe.Pointer(&c.data)))
	return failed("drop capabilities", err)
}

// dropInit leaves initCapabilities to the init, and to its starters, which give them up in confine.
func dropInit() error { return setCapabilities(initCapabilities) }

// rights say what a starter gives up its own for.
type rights struct {
	uid, gid int
	filter   []byte // struct sock_filter, as often as there are
}

// runStarter enters its cgroups, gives up every right, waits for a command in a waiting room, and becomes it.
func runStarter(socket int, cgroups []int, to rights, in *room) int {
	conn, err := beginStarter(socket, cgroups, to)
	if err != nil {
		_ = reply(conn, nil, nil, err) // a driver that is gone needs no reason
		return 1
	}
	if conn.Send(nil, wire.Ready) != nil {
		return 1
	}
	in.await()
	return 1 // it never does
}

func beginStarter(socket int, cgroups []int, to rights) (*wire.Conn, error) {
	conn := wire.NewLonelyConn(socket)
	setName("lambent-starter")
	if err := do(unix.SYS_SETSID); err != nil {
		return conn, failed("begin a session", err)
	}
	if err := enterCgroups(cgroups); err != nil {
		return conn, err
	}
	if err := keepOnly(socket, -1); err != nil {
		return conn, err
	}
	conn = wire.NewLonelyConn(wire.ControlFD)
	if err := signalMask(0); err != nil {
		return conn, failed("take signals", err)
	}
	return conn, confine(to)
}

// enterCgroups moves the calling thread. A thread that moves itself is the one case in which the kernel waits for nothing:
// any other move holds a lock of all cgroups, which freezing needs as well, for many milliseconds.
func enterCgroups(tasks []int) error {
	for _, fd := range tasks {
		self := []byte("0")
		if err := do(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&self[0])), 1); err != nil {
			return failed("enter a cgroup", err)
		}
	}
	return nil
}

// confine gives up every right. The order matters: each step still needs what later ones drop.
func confine(to rights) error {
	if to.uid == 0 || to.gid == 0 {
		return failed("read the user", syscall.EINVAL)
	}
	if err := do(unix.SYS_UNSHARE, unix.CLONE_NEWCGROUP); err != nil {
		return failed("unshare the cgroup namespace", err)
	}
	err := do(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0)
	if err != nil && !errors.Is(err, unix.ENOSYS) {
		return failed("leave the host's key ring", err)
	}
	if err := setLimit(unix.RLIMIT_CORE, 0); err != nil {
		return failed("forbid core dumps", err)
	}
	_ = do(unix.SYS_UMASK, 0o022) // never fails
	if err := dropBounding(); err != nil {
		return err
	}
	if err := prctl(unix.PR_SET_SECUREBITS, securebits); err != nil {
		return failed("set secure bits", err)
	}
	if err := changeUser(uintptr(to.uid), uintptr(to.gid)); err != nil {
		return err
	}
	if err := setCapabilities(0); err != nil {
		return err
	}
	if err := prctl(unix.PR_SET_NO_NEW_PRIVS, 1); err != nil {
		return failed("set no_new_privs", err)
	}
	return loadFilter(to.filter)
}

// changeUser sets the groups and the users of the process.
func changeUser(uid, gid uintptr) error {
	if err := do(unix.SYS_SETGROUPS, 0, 0); err != nil {
		return failed("drop groups", err)
	}
	if err := do(unix.SYS_SETRESGID, gid, gid, gid); err != nil {
		return failed("set the group", err)
	}
	return failed("set the user", do(unix.SYS_SETRESUID, uid, uid, uid))
}

// filterInstruction is the size of struct sock_filter.
const filterInstruction = 8

// loadFilter installs a seccomp program.
func loadFilter(code []byte) error {
	if len(code) == 0 || len(code)%filterInstruction != 0 {
		return failed("read the system call filter", syscall.EINVAL)
	}
	program := &unix.SockFprog{
		Len:    uint16(len(code) / filterInstruction),
		Filter: (*unix.SockFilter)(unsafe.Pointer(unsafe.SliceData(code))),
	}
	err := do(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(program)))
	return failed("load the system call filter", err)
}

// lastSignal is the highest signal number of Linux.
const lastSignal = 64

// defaultSignals gives every signal its default action. What the service ignores, as under nohup, would stay ignored in the
// function.
func defaultSignals() error {
	for signal := uintptr(1); signal <= lastSignal; signal++ {
		if signal == uintptr(syscall.SIGKILL) || signal == uintptr(syscall.SIGSTOP) {
			continue
		}
		if err := setAction(signal, defaultAction); err != nil {
			return failed("reset signals", err)
		}
	}
	return nil
}
