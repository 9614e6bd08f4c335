package cgroup

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// freezeTimeout is how long the kernel may take to stop every process of a sandbox. It takes microseconds, unless a
// process waits for a disk.
const freezeTimeout = 2 * time.Second

// freezer stops and continues the processes of one cgroup.
type freezer struct {
	v2     bool
	state  *os.File // cgroup.freeze or freezer.state
	events *os.File // cgroup.events, v2 only

	mu     sync.Mutex
	frozen bool
}

// set freezes or thaws, and returns when it is so. It does nothing when it is so already.
func (f *freezer) set(frozen bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.frozen == frozen {
		return nil
	}
	if _, err := f.state.WriteAt([]byte(f.value(frozen)), 0); err != nil {
		return fmt.Errorf("freezer: %w", err)
	}
	if frozen {
		if err := f.awaitLocked(time.Now().Add(freezeTimeout)); err != nil {
			_, undo := f.state.WriteAt([]byte(f.value(false)), 0)
			return errors.Join(err, undo)
		}
	}
	f.frozen = frozen
	return nil
}

// release thaws whatever this process knows of the state, which another process may have changed.
func (f *freezer) release() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.state.WriteAt([]byte(f.value(false)), 0); err != nil {
		return fmt.Errorf("freezer: %w", err)
	}
	f.frozen = false
	return nil
}

func (f *freezer) value(frozen bool) string {
	switch {
	case f.v2 && frozen:
		return "1"
	case f.v2:
		return "0"
	case frozen:
		return "FROZEN"
	}
	return "THAWED"
}

// The first and the longest pause between two looks at whether processes have stopped.
const (
	minFreezePause = 5 * time.Microsecond
	maxFreezePause = time.Millisecond
)

// awaitLocked returns when every process has stopped. An empty cgroup counts as stopped. It looks again and again, because
// the kernel announces changes of cgroup.events at most every 10 ms.
func (f *freezer) awaitLocked(deadline time.Time) error {
	file, want := f.state, "FROZEN"
	if f.v2 {
		file, want = f.events, "frozen 1"
	}
	buffer := make([]byte, 128)
	for pause := minFreezePause; ; {
		n, err := file.ReadAt(buffer, 0)
		if n == 0 && err != nil {
			return fmt.Errorf("freezer: %w", err)
		}
		if strings.Contains(string(buffer[:n]), want) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("freezer: processes did not stop within %v", freezeTimeout)
		}
		timeout := unix.NsecToTimespec(pause.Nanoseconds())
		if err := unix.Nanosleep(&timeout, nil); err != nil && err != unix.EINTR {
			return fmt.Errorf("freezer: %w", err)
		}
		pause = min(2*pause, maxFreezePause)
	}
}
