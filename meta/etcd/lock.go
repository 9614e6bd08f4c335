package etcd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// lockDir takes the lock of a data directory, or says at once who has it. bbolt's own lock would wait for ever. The kernel
// drops the lock with the process, so nothing is left behind by SIGKILL.
func lockDir(dir string) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("meta/etcd: open the lock file: %w", err)
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		holder := make([]byte, 16)
		n, _ := file.ReadAt(holder, 0)
		file.Close()
		return nil, fmt.Errorf("meta/etcd: %s is in use by process %s: %w", dir, strings.TrimSpace(string(holder[:n])), ErrLocked)
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("meta/etcd: lock %s: %w", dir, err)
	}
	// The number only helps people: the lock itself is the kernel's.
	if err := file.Truncate(0); err == nil {
		_, _ = file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return file, nil
}
