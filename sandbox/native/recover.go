package native

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// The driver's cgroups are PARENT/lambent/NAME, where PARENT is the process's own cgroup and NAME stands for the state
// directory, so that drivers of several processes, or of several regions in one, never meet.

// hostLeaf is where lambent itself goes when it has to leave its cgroup to have children there: v2 only.
const hostLeaf = "lambent.host"

// cgroupName is the name of the tree that holds all trees of lambent.
const cgroupName = "lambent"

// openCgroups makes the driver's cgroups, and notes in the state directory where they are.
func (d *Driver) openCgroups() error {
	own, missing, err := d.findCgroups()
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return &MissingError{Missing: []string{fmt.Sprintf("no cgroup controller for %v", missing)}}
	}
	if err := own.delegate(hostLeaf); err != nil {
		return err
	}
	tree := own.below(cgroupName)
	mine := tree.below(stateName(d.options.StateDir))
	if err := d.noteCgroups(mine.directories()); err != nil {
		return err
	}
	d.cgroups = mine
	for range parentAttempts {
		err = errors.Join(tree.make(), tree.delegate(""), mine.make(), mine.delegate(""), apply(tree.cpuShare(hostShare())),
			apply(mine.cpuShare(hostShare())))
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return err
}

// parentAttempts is how often other drivers that close may take the common directory away while this one opens.
const parentAttempts = 100

// stateName is the name of the cgroups of a state directory.
func stateName(stateDir string) string {
	sum := sha256.Sum256([]byte(stateDir))
	return hex.EncodeToString(sum[:8])
}

// noteFile lists the cgroups that this state directory has ever used and not removed.
func (d *Driver) noteFile() string { return filepath.Join(d.options.StateDir, "cgroups.json") }

// noted reads the list. A file that is not readable as one is as good as none: it is written in one go.
func (d *Driver) noted() ([]string, error) {
	text, err := os.ReadFile(d.noteFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the list of cgroups: %w", err)
	}
	var dirs []string
	if err := json.Unmarshal(text, &dirs); err != nil {
		d.logger.Warn("the list of cgroups is damaged", "file", d.noteFile(), "error", err)
		return nil, nil
	}
	return dirs, nil
}

// noteCgroups adds directories to the list.
func (d *Driver) noteCgroups(dirs []string) error {
	known, err := d.noted()
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	var all []string
	for _, dir := range append(known, dirs...) {
		if !seen[dir] {
			seen[dir] = true
			all = append(all, dir)
		}
	}
	text, err := json.Marshal(all)
	if err != nil {
		return err
	}
	temporary := d.noteFile() + ".new"
	if err := os.WriteFile(temporary, text, 0o600); err != nil {
		return fmt.Errorf("write the list of cgroups: %w", err)
	}
	if err := os.Rename(temporary, d.noteFile()); err != nil {
		return fmt.Errorf("write the list of cgroups: %w", err)
	}
	return nil
}

// Recover implements sandbox.Driver. All that outlives a killed driver is processes and cgroups: mounts are in namespaces
// that end with their processes. Sandboxes of this driver's own that live are in the way, so it is called before Create.
func (d *Driver) Recover(ctx context.Context) error {
	d.mu.Lock()
	living := len(d.all)
	d.mu.Unlock()
	if living > 0 {
		return errors.New("recover: sandboxes have been created already")
	}
	dirs, err := d.noted()
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	var trees []string
	for _, dir := range dirs {
		children, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("recover: %w", err)
		}
		for _, child := range children {
			if child.IsDir() {
				trees = append(trees, filepath.Join(dir, child.Name()))
			}
		}
	}
	if err := killTrees(ctx, trees); err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	return nil
}

// removeCgroups deletes the driver's cgroups, and those above that nobody else uses.
func (d *Driver) removeCgroups(ctx context.Context) error {
	var all []error
	for _, dir := range d.cgroups.directories() {
		err := removeTree(ctx, dir)
		all = append(all, err)
		if err == nil {
			_ = unix.Rmdir(filepath.Dir(dir)) // fails while other drivers have theirs there
		}
	}
	if err := errors.Join(all...); err != nil {
		return err
	}
	if err := os.Remove(d.noteFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// removeAttempt is how long killTrees waits for processes to be gone before it signals again those that are not.
const removeAttempt = 100 * time.Millisecond

// killTrees ends every process in trees of cgroups, and removes the trees. With v1 a process is in several of them, and
// dies only when the one that froze it lets it go, so each step is done for all before the next.
func killTrees(ctx context.Context, trees []string) error {
	ctx, cancel := context.WithTimeout(ctx, destroyTimeout)
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

// signalAll sends SIGKILL to every process of the function.
func (g *cgroup) signalAll() error {
	if g.function.v2 != "" {
		return writeControl(filepath.Join(g.function.v2, "cgroup.kill"), "1")
	}
	return signalTree(g.function.v1["freezer"])
}

// signalFrozen signals the processes that a v1 freezer may hold, and lets them go, to die before they do anything else.
func (g *cgroup) signalFrozen() error {
	dir, ok := g.function.v1["freezer"]
	if !ok {
		return nil
	}
	if err := signalTree(dir); err != nil {
		return err
	}
	return g.freezer.set(false)
}

// thawForGood lets frozen processes die, where the kernel does not do so by itself: v1.
func (g *cgroup) thawForGood() error {
	if dir, ok := g.function.v1["freezer"]; ok {
		return ignoreMissing(writeControl(filepath.Join(dir, "freezer.state"), "THAWED"))
	}
	return nil
}

// hostShare is what all sandboxes together weigh against the host's other processes, in virtual CPUs. Left alone they would
// weigh as much as one thread.
func hostShare() float64 { return 2 * float64(runtime.NumCPU()) }
