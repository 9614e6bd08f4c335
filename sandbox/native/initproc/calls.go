package initproc

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"lambent/sandbox/native/wire"
)

// The system calls of forks. Package unix's would tell the scheduler, which forks live without.

// call makes a system call, again if a signal interrupts it.
//
//go:uintptrescapes
func call(number uintptr, arguments ...uintptr) (int, error) {
	var a [6]uintptr
	copy(a[:], arguments)
	for {
		result, _, errno := syscall.RawSyscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
		switch errno {
		case 0:
			return int(result), nil
		case unix.EINTR:
		default:
			return -1, errno
		}
	}
}

// do is call for those whose result is of no use.
//
//go:uintptrescapes
func do(number uintptr, arguments ...uintptr) error {
	_, err := call(number, arguments...)
	return err
}

// at is the directory that relative names begin at, unix.AT_FDCWD in a register.
const at = ^uintptr(0) - 99

// named makes a system call with a name as its first argument.
func named(number uintptr, name string, second uintptr) error {
	text, err := unix.BytePtrFromString(name)
	if err != nil {
		return err
	}
	return do(number, uintptr(unsafe.Pointer(text)), second)
}

func mount(source, target, kind string, flags uintptr, data string) error {
	var texts [4]*byte
	for i, text := range []string{source, target, kind, data} {
		var err error
		if texts[i], err = unix.BytePtrFromString(text); err != nil {
			return err
		}
	}
	return do(unix.SYS_MOUNT, uintptr(unsafe.Pointer(texts[0])), uintptr(unsafe.Pointer(texts[1])), uintptr(unsafe.Pointer(texts[2])),
		flags, uintptr(unsafe.Pointer(texts[3])))
}

// moveMount attaches a tree that is mounted nowhere.
func moveMount(tree int, target string) error {
	none := new(byte)
	text, err := unix.BytePtrFromString(target)
	if err != nil {
		return err
	}
	return do(unix.SYS_MOVE_MOUNT, uintptr(tree), uintptr(unsafe.Pointer(none)), at, uintptr(unsafe.Pointer(text)), unix.MOVE_MOUNT_F_EMPTY_PATH)
}

func unmount(target string) error { return named(unix.SYS_UMOUNT2, target, unix.MNT_DETACH) }

// pivotRoot makes the current directory the root, with the former one mounted over it.
func pivotRoot() error {
	here := []byte(".\x00")
	return do(unix.SYS_PIVOT_ROOT, uintptr(unsafe.Pointer(&here[0])), uintptr(unsafe.Pointer(&here[0])))
}

func setHostname(name string) error {
	return named(unix.SYS_SETHOSTNAME, name, uintptr(len(name)))
}

// isDirectory looks at a name.
func isDirectory(name string) (bool, error) {
	text, err := unix.BytePtrFromString(name)
	if err != nil {
		return false, err
	}
	stat := new(unix.Statx_t)
	err = do(unix.SYS_STATX, at, uintptr(unsafe.Pointer(text)), 0, unix.STATX_TYPE, uintptr(unsafe.Pointer(stat)))
	return stat.Mode&unix.S_IFMT == unix.S_IFDIR, err
}

func closeFile(fd int) { _ = do(unix.SYS_CLOSE, uintptr(fd)) }

func closeFiles(fds []int) {
	for _, fd := range fds {
		closeFile(fd)
	}
}

// keepOnly makes sockets those of wire.ControlFD and, unless it is -1, of wire.EventsFD, and closes all others but the first three.
// The numbers are above those, or where they belong.
func keepOnly(control, events int) error {
	for i, fd := range []int{control, events} {
		to := wire.ControlFD + i
		if fd < 0 {
			return failed("close descriptors", do(unix.SYS_CLOSE_RANGE, uintptr(to), uintptr(^uint32(0)), 0))
		}
		if fd == to {
			continue
		}
		if err := do(unix.SYS_DUP3, uintptr(fd), uintptr(to), 0); err != nil {
			return failed("keep a socket", err)
		}
	}
	return closeInherited()
}

func prctl(option, value uintptr) error { return do(unix.SYS_PRCTL, option, value, 0, 0, 0) }

func setLimit(resource int, value uint64) error {
	limit := &syscall.Rlimit{Cur: value, Max: value}
	return do(unix.SYS_PRLIMIT64, 0, uintptr(resource), uintptr(unsafe.Pointer(limit)), 0)
}

// Of the kernel: the size of a set of signals, and that a mask replaces the former one.
const (
	signalSetBytes = 8
	setMask        = 2 // SIG_SETMASK
)

// signalMask has the thread take all signals but those of the set.
func signalMask(blocked uint64) error {
	set := &blocked
	return do(unix.SYS_RT_SIGPROCMASK, setMask, uintptr(unsafe.Pointer(set)), 0, signalSetBytes)
}

// The two actions of a signal that need no code.
const (
	defaultAction = 0 // SIG_DFL
	ignoreAction  = 1 // SIG_IGN
)

// setAction sets what a signal does.
func setAction(signal, action uintptr) error {
	value := &[4]uint64{uint64(action)} // struct sigaction of the kernel: no flags, no restorer, empty mask
	return do(unix.SYS_RT_SIGACTION, signal, uintptr(unsafe.Pointer(value)), 0, signalSetBytes)
}

// exit ends the process.
func exit(status int) {
	for {
		_ = do(unix.SYS_EXIT_GROUP, uintptr(status))
	}
}
