package microvm

import (
	"os/exec"
	"runtime"
)

// keeper starts processes that are to end with this one. The kernel sends the signal that they ask for when the thread that started them
// ends, so it is always the same one, and it stays until close. It is safe for use by many goroutines.
type keeper struct{ starts chan func() }

func newKeeper() *keeper {
	k := &keeper{starts: make(chan func())}
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for start := range k.starts {
			start()
		}
	}()
	return k
}

func (k *keeper) start(cmd *exec.Cmd) error {
	started := make(chan error)
	k.starts <- func() { started <- cmd.Start() }
	return <-started
}

// close is called when nothing is started any more.
func (k *keeper) close() { close(k.starts) }
