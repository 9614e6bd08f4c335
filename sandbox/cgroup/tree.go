package cgroup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Tree is the cgroups of one driver: PARENT/lambent/NAME, where PARENT is the process's own cgroup and NAME stands for the
// driver's state directory, so that drivers of several processes, or of several regions in one, never meet. It is safe for use
// by many goroutines.
type Tree struct {
	stateDir string
	logger   *slog.Logger
	mine     Hierarchy
}

// hostLeaf is where lambent itself goes when it has to leave its cgroup to have children there: v2 only.
const hostLeaf = "lambent.host"

// treeName is the name of the directory that holds all trees of lambent.
const treeName = "lambent"

// parentAttempts is how often other drivers that close may take the common directory away while this one opens.
const parentAttempts = 100

// MissingError says which controllers the host lacks.
type MissingError struct{ Controllers []string }

// Error names them, and says what to do.
func (e *MissingError) Error() string {
	return "no cgroup controller for " + strings.Join(e.Controllers, ", ") +
		": mount cgroup2 at /sys/fs/cgroup, or start lambent as a service with Delegate=yes"
}

// OpenTree makes the cgroups of a state directory, which belongs to one living driver at a time, below what find returns, and
// notes there where they are. Find is the one to use, but for tests. Close removes them.
func OpenTree(stateDir string, find func() (Hierarchy, []string, error), logger *slog.Logger) (*Tree, error) {
	own, missing, err := find()
	if err != nil {
		return nil, err
	}
	if len(missing) > 0 {
		return nil, &MissingError{Controllers: missing}
	}
	if err := own.delegate(hostLeaf); err != nil {
		return nil, err
	}
	all := own.below(treeName)
	t := &Tree{stateDir: stateDir, logger: logger, mine: all.below(Name(stateDir))}
	if err := t.note(t.mine.directories()); err != nil {
		return nil, err
	}
	for range parentAttempts {
		err = errors.Join(all.make(), all.delegate(""), t.mine.make(), t.mine.delegate(""), apply(all.share(hostShare())),
			apply(t.mine.share(hostShare())))
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(err, t.Close(context.Background()))
	}
	return t, nil
}

// Make creates the groups of one sandbox. The id is a file name. What was made is returned also when there is an error, to be
// removed.
func (t *Tree) Make(id string) (*Group, error) { return newGroup(t.mine.below(id)) }

// Name is the name of the cgroups of a state directory.
func Name(stateDir string) string {
	sum := sha256.Sum256([]byte(stateDir))
	return hex.EncodeToString(sum[:8])
}

// noteFile lists the cgroups that this state directory has ever used and not removed.
func (t *Tree) noteFile() string { return filepath.Join(t.stateDir, "cgroups.json") }

// noted reads the list. A file that is not readable as one is as good as none: it is written in one go.
func (t *Tree) noted() ([]string, error) {
	text, err := os.ReadFile(t.noteFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the list of cgroups: %w", err)
	}
	var dirs []string
	if err := json.Unmarshal(text, &dirs); err != nil {
		t.logger.Warn("the list of cgroups is damaged", "file", t.noteFile(), "error", err)
		return nil, nil
	}
	return dirs, nil
}

// note adds directories to the list.
func (t *Tree) note(dirs []string) error {
	known, err := t.noted()
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
	temporary := t.noteFile() + ".new"
	if err := os.WriteFile(temporary, text, 0o600); err != nil {
		return fmt.Errorf("write the list of cgroups: %w", err)
	}
	if err := os.Rename(temporary, t.noteFile()); err != nil {
		return fmt.Errorf("write the list of cgroups: %w", err)
	}
	return nil
}

// Recover ends every process of the sandboxes that an earlier process of the state directory left behind, and removes their
// cgroups. It is called before the first Make.
func (t *Tree) Recover(ctx context.Context) error {
	dirs, err := t.noted()
	if err != nil {
		return err
	}
	var trees []string
	for _, dir := range dirs {
		children, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, child := range children {
			if child.IsDir() {
				trees = append(trees, filepath.Join(dir, child.Name()))
			}
		}
	}
	if err := killTrees(ctx, trees); err != nil {
		return err
	}
	return nil
}

// Close deletes the driver's cgroups, and those above that nobody else uses.
func (t *Tree) Close(ctx context.Context) error {
	var all []error
	for _, dir := range t.mine.directories() {
		err := removeTree(ctx, dir)
		all = append(all, err)
		if err == nil {
			_ = unix.Rmdir(filepath.Dir(dir)) // fails while other drivers have theirs there
		}
	}
	if err := errors.Join(all...); err != nil {
		return err
	}
	if err := os.Remove(t.noteFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// hostShare is what all sandboxes together weigh against the host's other processes, in virtual CPUs. Left alone they would
// weigh as much as one thread.
func hostShare() float64 { return 2 * float64(runtime.NumCPU()) }
