package initproc

import (
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"lambent/sandbox/native/wire"
)

// launch waits for a byte on the control descriptor, and becomes the program of its arguments. It is killed when the driver dies
// before that.
func launch(args []string) int {
	if len(args) == 0 {
		return 2
	}
	runtime.LockOSThread() // the filter is this thread's
	var word [1]byte
	if n, err := unix.Read(wire.ControlFD, word[:]); n != 1 || err != nil {
		return 1
	}
	unix.Close(wire.ControlFD)
	err := failed("load a filter", withoutNotifications())
	if err == nil {
		err = failed("execute "+args[0], syscall.Exec(args[0], args, os.Environ()))
	}
	println(err.Error())
	return 1
}

// The parts of struct seccomp_data that are looked at, and how large its arguments are.
const (
	offsetNumber    = 0
	offsetArguments = 16
	argumentSize    = 8
)

// withoutNotifications has the kernel refuse listeners for system calls, as one that is too old for them does. gVisor commands its
// subprocesses through such a listener where it can, and takes a subprocess for dead whose notification is withdrawn; freezing does
// that. Without one it uses futexes, which outlive being frozen.
func withoutNotifications() error {
	const second = offsetArguments + argumentSize // the flags; their lower half, on little-endian machines
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offsetNumber},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_SECCOMP, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: second},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EINVAL)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&filter)), 0, 0)
}
