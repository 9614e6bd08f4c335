// Package initproc is what runs on behalf of the native driver before a function does. The spawner, one for a driver, is a
// small process outside that forks inits: a fork of the driver's own process would copy the tables of all its memory. The
// init is process 1 of a sandbox, builds its root and network, forks starters, and reaps. A starter gives up every right and then
// becomes the function's process by exec.
//
// All are trusted until the function starts. From then on the init trusts nothing that happens in the sandbox, and the
// driver trusts nothing that the init says.
package initproc

import (
	"os"
	"runtime/debug"
	"unsafe"

	"golang.org/x/sys/unix"

	"lambent/sandbox/native/wire"
)

// Main runs a spawner when os.Args[0] says so, and returns the exit status. known is false when it does not; then nothing was done.
func Main() (status int, known bool) {
	if len(os.Args) == 0 || os.Args[0] != wire.SpawnerName {
		return 0, false
	}
	setName(wire.SpawnerName)
	debug.SetGCPercent(-1) // see fork.go
	return runSpawner(wire.NewConn(wire.ControlFD)), true
}

// setName sets what ps shows, "exe" without it. It is no harm when it fails.
func setName(name string) {
	text := append([]byte(name), 0)
	_ = do(unix.SYS_PRCTL, unix.PR_SET_NAME, uintptr(unsafe.Pointer(&text[0])), 0, 0, 0)
}

// stepError is a system call that failed, by the name of the step. It keeps package fmt out of the init.
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

// closeInherited closes every descriptor above the sockets.
func closeInherited() error {
	return failed("close inherited descriptors", do(unix.SYS_CLOSE_RANGE, wire.EventsFD+1, uintptr(^uint32(0)), 0))
}
