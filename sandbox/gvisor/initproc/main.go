package initproc

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"lambent/sandbox/native/wire"
)

// memoryLimit keeps the init's heap small, in bytes.
const memoryLimit = 8 << 20

// Main runs a launcher, an init or a starter, as os.Args[0] says, and returns the exit status. known is false when os.Args[0] names
// none; then nothing was done.
func Main() (status int, known bool) {
	if len(os.Args) == 0 {
		return 0, false
	}
	switch os.Args[0] {
	case LauncherName:
		return launch(os.Args[1:]), true
	case InitName:
		debug.SetGCPercent(25)
		debug.SetMemoryLimit(memoryLimit)
		return runInit(os.Args[1:]), true
	case StarterName:
		debug.SetGCPercent(-1)
		return runStarter(wire.NewConn(wire.ControlFD)), true
	}
	return 0, false
}

// stepError is a system call that failed, by the name of the step.
type stepError struct {
	step string
	err  error
}

func (e *stepError) Error() string { return e.step + ": " + e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

// failed names the step of an error, and passes nil through.
func failed(step string, err error) error {
	if err == nil {
		return nil
	}
	return &stepError{step, err}
}

// failure makes a Failed message of an error.
func failure(err error) []string {
	number := 0
	for cause := err; cause != nil; {
		if errno, ok := cause.(syscall.Errno); ok { //nolint:errorlint // the loop unwraps
			number = int(errno)
		}
		wrapped, ok := cause.(interface{ Unwrap() error })
		if !ok {
			break
		}
		cause = wrapped.Unwrap()
	}
	return []string{Failed, err.Error(), strconv.Itoa(number)}
}

// runStarter waits for a command and becomes it, without any right.
func runStarter(conn *wire.Conn) int {
	runtime.LockOSThread()
	if unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) != nil || conn.Send(nil, wire.Ready) != nil {
		return 1
	}
	parts, files, err := conn.Receive()
	if err != nil || parts == nil {
		return 1
	}
	_ = conn.Send(nil, failure(become(parts, files))...) // an init that is gone needs no reason
	return 1
}

// become executes the command of a Start message, in which the limits stand before the path. It returns only when it fails.
func become(parts []string, files []int) error {
	if len(parts) < 7 || parts[0] != Start || len(files) != 1 {
		return failed("understand the init", syscall.EBADMSG)
	}
	numbers := [3]int{}
	for i, at := range []int{1, 2, 6} {
		n, err := strconv.Atoi(parts[at])
		if err != nil || n < 0 {
			return failed("understand the init", syscall.EBADMSG)
		}
		numbers[i] = n
	}
	if rest := parts[7:]; numbers[2] > len(rest) {
		return failed("understand the init", syscall.EBADMSG)
	}
	args, env := parts[7:7+numbers[2]], parts[7+numbers[2]:]
	for _, to := range []int{1, 2} {
		if err := unix.Dup3(files[0], to, 0); err != nil {
			return failed("set the output", err)
		}
	}
	if err := confine(numbers[0], numbers[1]); err != nil {
		return err
	}
	if err := unix.CloseRange(wire.ControlFD, ^uint(0)>>33, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return failed("close descriptors", err)
	}
	if err := unix.Chdir(parts[5]); err != nil {
		return failed("enter "+parts[5], err)
	}
	return failed("execute "+parts[4], syscall.Exec(parts[4], args, env))
}

// The function's user and group, as package identity has them.
const (
	functionUID = 993
	functionGID = 990
)

// confine sets the limits and gives up every right of the calling thread. The order matters: each step needs what later ones drop.
func confine(descriptors, processes int) error {
	for resource, limit := range map[int]int{unix.RLIMIT_CORE: 0, unix.RLIMIT_NOFILE: descriptors, unix.RLIMIT_NPROC: processes} {
		if err := syscall.Setrlimit(resource, &syscall.Rlimit{Cur: uint64(limit), Max: uint64(limit)}); err != nil {
			return failed("set a limit", err)
		}
	}
	unix.Umask(0o022)
	for capability := uintptr(0); capability <= 63; capability++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0)
		if err == unix.EINVAL { // beyond the last capability
			break
		}
		if err != nil {
			return failed("drop a capability", err)
		}
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
		return failed("drop groups", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, functionGID, functionGID, functionGID); errno != 0 {
		return failed("set the group", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, functionUID, functionUID, functionUID); errno != 0 {
		return failed("set the user", errno)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return failed("drop capabilities", err)
	}
	return failed("set no_new_privs", unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
}
