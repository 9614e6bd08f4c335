package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// endTimeout bounds how long the kernel may take to end processes. It takes milliseconds, unless one waits for a disk.
const endTimeout = 30 * time.Second

// removeAttempt is how long killTrees waits for processes to be gone before it signals again those that are not.
const removeAttempt = 100 * time.Millisecond

// killTrees ends every process in trees of cgroups, and removes the trees. With v1 a process is in several of them, and
// dies only when the one that froze it lets it go, so each step is done for all before the next.
func killTrees(ctx context.Context, trees []string) error {
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	for {
		var failures []error
		for _, step := range []func(string) error{signalTree, thawTree} {
			for _, dir := range trees {
				failures = append(failures, ignoreMissing(step(dir)))
			}
		}
		if err := errors.Join(failures...); err != nil {
			return err
		}
		attempt, stop := context.WithTimeout(ctx, removeAttempt)
		for _, dir := range trees {
			failures = append(failures, removeTree(attempt, dir))
		}
		stop()
		err := errors.Join(failures...)
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
}

// signalTree sends SIGKILL to every process in a tree of cgroups.
func signalTree(dir string) error {
	err := writeControl(filepath.Join(dir, "cgroup.kill"), "1")
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return ignoreMissing(err)
		}
		pids, err := readNumbers(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return ignoreMissing(err)
		}
		for _, pid := range pids {
			if err := unix.Kill(int(pid), unix.SIGKILL); err != nil && err != unix.ESRCH {
				return fmt.Errorf("kill process %s: %w", strconv.FormatInt(pid, 10), err)
			}
		}
		return nil
	})
}

// thawTree lets the processes of v1 freezers go on, to die.
func thawTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return ignoreMissing(err)
		}
		return ignoreMissing(writeControl(filepath.Join(path, "freezer.state"), "THAWED"))
	})
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// removeTree deletes a tree of cgroups. Processes that are about to be gone keep theirs for a moment, so it tries until
// ctx ends.
func removeTree(ctx context.Context, dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		return ignoreMissing(err)
	})
	if err != nil {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	pause := 100 * time.Microsecond
	for i := len(dirs) - 1; i >= 0; {
		err := unix.Rmdir(dirs[i])
		if err == nil || err == unix.ENOENT {
			i--
			continue
		}
		if err != unix.EBUSY {
			return fmt.Errorf("remove cgroup %s: %w", dirs[i], err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove cgroup %s: %w", dirs[i], err)
		case <-time.After(pause):
			pause = min(2*pause, 50*time.Millisecond)
		}
	}
	return nil
}

// SignalAll sends SIGKILL to every process of the function.
func (g *Group) SignalAll() error {
	if g.function.V2 != "" {
		return writeControl(filepath.Join(g.function.V2, "cgroup.kill"), "1")
	}
	return signalTree(g.function.V1["freezer"])
}

// SignalFrozen signals the processes that a v1 freezer may hold, and lets them go, to die before they do anything else.
func (g *Group) SignalFrozen() error {
	dir, ok := g.function.V1["freezer"]
	if !ok {
		return nil
	}
	if err := signalTree(dir); err != nil {
		return err
	}
	return g.Release()
}

// ThawForGood lets frozen processes die, where the kernel does not do so by itself: v1.
func (g *Group) ThawForGood() error {
	if dir, ok := g.function.V1["freezer"]; ok {
		return ignoreMissing(writeControl(filepath.Join(dir, "freezer.state"), "THAWED"))
	}
	return nil
}
