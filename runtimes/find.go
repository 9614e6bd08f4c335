package runtimes

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
	"time"

	"golang.org/x/sync/errgroup"

	"lambent/sandbox"
)

// probeTimeout bounds how long an interpreter may take to say what it is.
const probeTimeout = 15 * time.Second

// interpreter is a usable interpreter: what Launch needs to know of it. It is kept as JSON.
type interpreter struct {
	Name      string // of its runtime: "python3.11"
	Path      string // on the host
	Version   string // "3.11.7"
	Key       string // of the interpreter's file and the bootstrap's content
	Mounts    []sandbox.Mount
	Bootstrap string // directory on the host that is shown at /var/runtime
}

// finding is what became of a candidate: an interpreter, or why it is none.
type finding struct {
	Candidate   candidate
	Bootstraps  string // digest of the bootstraps that were embedded
	Interpreter *interpreter
	Reason      string
}

// finder finds interpreters. dir holds a directory for each of them, "KEY/", and "interpreters.json", the findings.
type finder struct {
	host   hostTree
	dir    string
	logger *slog.Logger
	// probe asks a program what it is, and compiles the Python files in directory bootstrap for it.
	probe func(ctx context.Context, path, bootstrap string) (identity, error)
}

// find returns the best interpreter for each runtime: the newest; of equals the first.
func (f finder) find(patterns []string) (map[string]interpreter, error) {
	if err := os.MkdirAll(f.dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the directory of the runtimes: %w", err)
	}
	bootstraps, err := bootstrapsDigest()
	if err != nil {
		return nil, err
	}
	known := f.read()
	all := candidates(patterns)
	findings := make([]finding, len(all))
	fresh := false
	var group errgroup.Group
	group.SetLimit(runtime.NumCPU())
	for i, c := range all {
		old, ok := known[c.Path]
		if ok && old.Candidate == c && old.Bootstraps == bootstraps && old.intact() {
			findings[i] = old
			continue
		}
		fresh = true
		group.Go(func() error {
			findings[i] = f.examine(c, bootstraps)
			return nil
		})
	}
	_ = group.Wait() // what goes wrong with a candidate is its finding
	if fresh || len(known) != len(all) {
		if err := f.write(findings); err != nil {
			return nil, err
		}
	}
	return best(findings), nil
}

// best chooses an interpreter for each runtime.
func best(findings []finding) map[string]interpreter {
	chosen := map[string]interpreter{}
	for _, one := range findings {
		if one.Interpreter == nil {
			continue
		}
		name := one.Interpreter.Name
		if rival, ok := chosen[name]; !ok || compareVersions(one.Interpreter.Version, rival.Version) > 0 {
			chosen[name] = *one.Interpreter
		}
	}
	return chosen
}

// intact reports whether what was found is still there.
func (old finding) intact() bool {
	if old.Interpreter == nil {
		return true
	}
	sources := []string{old.Interpreter.Bootstrap}
	for _, mount := range old.Interpreter.Mounts {
		sources = append(sources, mount.Source)
	}
	for _, source := range sources {
		if _, err := os.Stat(source); err != nil {
			return false
		}
	}
	return true
}

// examine finds out whether a candidate can run functions, and prepares its directory.
func (f finder) examine(c candidate, bootstraps string) finding {
	result := finding{Candidate: c, Bootstraps: bootstraps}
	found, err := f.prepare(c, bootstraps)
	if err != nil {
		if !errors.Is(err, errNotInterpreter) {
			f.logger.Info("an interpreter cannot be used", "path", c.Path, "error", err)
		}
		result.Reason = err.Error()
		return result
	}
	result.Interpreter = &found
	return result
}

// prepare writes the directory of an interpreter beside its place, and moves it there when it is complete.
func (f finder) prepare(c candidate, bootstraps string) (interpreter, error) {
	program, err := readProgram(c.Path)
	if err != nil {
		return interpreter{}, err
	}
	if err := f.host.checkLoader(program); err != nil {
		return interpreter{}, err
	}
	work, err := os.MkdirTemp(f.dir, "new-")
	if err != nil {
		return interpreter{}, fmt.Errorf("make a directory for a bootstrap: %w", err)
	}
	defer os.RemoveAll(work)
	if err := writeBootstraps(work); err != nil {
		return interpreter{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	id, err := f.probe(ctx, c.Path, filepath.Join(work, "python"))
	if err != nil {
		return interpreter{}, err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d\x00%d\x00%s", c.Path, c.Size, c.MTime, bootstraps))
	key := id.name() + "-" + hex.EncodeToString(sum[:6])
	found := interpreter{Name: id.name(), Path: c.Path, Version: id.Version, Key: key,
		Mounts: id.mounts(c.Path), Bootstrap: filepath.Join(f.dir, key)}
	if err := f.host.copyLibraries(id, c.Path, filepath.Join(work, id.language(), "lib")); err != nil {
		return interpreter{}, err
	}
	if err := os.RemoveAll(found.Bootstrap); err != nil {
		return interpreter{}, fmt.Errorf("replace a bootstrap: %w", err)
	}
	if err := os.Rename(filepath.Join(work, id.language()), found.Bootstrap); err != nil {
		return interpreter{}, fmt.Errorf("keep a bootstrap: %w", err)
	}
	return found, nil
}

func (f finder) findingsFile() string { return filepath.Join(f.dir, "interpreters.json") }

// read returns what was found before, by path. What cannot be read is found again.
func (f finder) read() map[string]finding {
	text, err := os.ReadFile(f.findingsFile())
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			f.logger.Warn("what is known of the interpreters cannot be read", "error", err)
		}
		return nil
	}
	var findings []finding
	if err := json.Unmarshal(text, &findings); err != nil {
		f.logger.Warn("what is known of the interpreters is damaged", "error", err)
		return nil
	}
	known := map[string]finding{}
	for _, one := range findings {
		known[one.Candidate.Path] = one
	}
	return known
}

// write keeps the findings, and removes the directories that none of them uses.
func (f finder) write(findings []finding) error {
	text, err := json.MarshalIndent(findings, "", "\t")
	if err != nil {
		return err
	}
	temporary := f.findingsFile() + ".new"
	if err := os.WriteFile(temporary, text, 0o644); err != nil {
		return fmt.Errorf("keep what is known of the interpreters: %w", err)
	}
	if err := os.Rename(temporary, f.findingsFile()); err != nil {
		return fmt.Errorf("keep what is known of the interpreters: %w", err)
	}
	used := map[string]bool{}
	for _, one := range findings {
		if one.Interpreter != nil {
			used[one.Interpreter.Key] = true
		}
	}
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name := entry.Name()
		ours := strings.HasPrefix(name, "python") || strings.HasPrefix(name, "nodejs") || strings.HasPrefix(name, "new-")
		if ours && !used[name] {
			if err := os.RemoveAll(filepath.Join(f.dir, name)); err != nil {
				f.logger.Warn("an old bootstrap cannot be removed", "error", err)
			}
		}
	}
	return nil
}
