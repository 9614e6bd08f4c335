package native

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/elastic/go-seccomp-bpf/arch"
)

// ConfineProcess puts the whole calling process, with all its threads, under the system call filter that functions run under, and
// gives up the gaining of privileges by executing a program. It cannot be undone. It is for the process that parses what sandboxes
// say, after it has become an unprivileged user.
func ConfineProcess() error {
	info, err := arch.GetInfo("")
	if err != nil {
		return fmt.Errorf("system call filter: %w", err)
	}
	program, err := assembleFilter(info)
	if err != nil {
		return err
	}
	runtime.LockOSThread() // no_new_privs is a thread's, until the filter is given to all
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	const size = int(unsafe.Sizeof(unix.SockFilter{}))
	filter := unix.SockFprog{Len: uint16(len(program) / size), Filter: (*unix.SockFilter)(unsafe.Pointer(unsafe.SliceData(program)))}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&filter)))
	runtime.KeepAlive(program)
	if errno != 0 {
		return fmt.Errorf("load the system call filter: %w", errno)
	}
	if thread != 0 {
		return fmt.Errorf("load the system call filter: thread %d has another one", thread)
	}
	return nil
}
