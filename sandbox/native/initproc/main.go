// Package initproc is what runs on behalf of the native driver before a function does. The spawner, one for a driver, is a
// small process outside that starts inits: a fork of the driver's own process would copy the tables of all its memory. The
// init is process 1 of a sandbox, builds its root and network, and reaps. The starter gives up every right and then becomes
// the function's process by exec.
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

// memoryLimit keeps the heap of spawner and init small, in bytes.
const memoryLimit = 8 << 20

// Main runs a spawner, an init or a starter, as os.Args[0] says, and returns the exit status. known is false when os.Args[0] names
// none; then nothing was done.
func Main() (status int, known bool) {
	if len(os.Args) == 0 {
		return 0, false
	}
	switch os.Args[0] {
	case wire.SpawnerName, wire.InitName, wire.StarterName:
		setName(os.Args[0])
	default:
		return 0, false
	}
	switch os.Args[0] {
	case wire.SpawnerName:
		debug.SetGCPercent(-1)
		debug.SetMemoryLimit(memoryLimit)
		return runSpawner(wire.NewConn(wire.ControlFD)), true
	case wire.InitName:
		debug.SetGCPercent(-1)
		debug.SetMemoryLimit(memoryLimit)
		return runInit(wire.NewConn(wire.ControlFD)), true
	}
	debug.SetGCPercent(-1)
	return runStarter(wire.NewConn(wire.ControlFD)), true
}

// setName sets what ps shows, "exe" without it. It is no harm when it fails.
func setName(name string) {
	text := append([]byte(name), 0)
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&text[0])), 0, 0, 0)
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

// closeInherited closes every descriptor above the control socket.
func closeInherited() error {
	return failed("close inherited descriptors", unix.CloseRange(wire.ControlFD+1, ^uint(0)>>33, 0))
}
