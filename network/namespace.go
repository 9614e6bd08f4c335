package network

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// ownNamespace opens the network namespace that this process's threads are in.
func ownNamespace() (*os.File, error) {
	file, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open the network namespace: %w", err)
	}
	return file, nil
}

// newNamespace makes a network namespace that lives as long as the file is open.
func newNamespace() (*os.File, error) {
	var made *os.File
	own, err := ownNamespace()
	if err != nil {
		return nil, err
	}
	defer own.Close()
	err = onThread(own, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		made, err = ownNamespace()
		return err
	})
	return made, err
}

// inNamespace calls f on a thread that is in a network namespace. Sockets that f opens belong to it for good. The namespace
// own is the one that threads of this process are in otherwise.
func inNamespace(own, namespace *os.File, f func() error) error {
	return onThread(own, func() error {
		if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the network namespace: %w", err)
		}
		return f()
	})
}

// onThread calls f on a thread of which f may change the network namespace. If the thread cannot be brought back it ends:
// the goroutine that is locked to it does.
func onThread(own *os.File, f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := f()
		if unix.Setns(int(own.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}
