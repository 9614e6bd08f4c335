package microvm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lambent/sandbox"
	"lambent/sandbox/microvm/agent/wire"
	"lambent/sandbox/microvm/jail"
)

// imageStore makes EROFS images of directories of the host, and keeps them by what they were made of. It is safe for use by many
// goroutines.
//
// Invariant: an image that somebody uses is there. Of the others those stay that were used last, as far as capacity goes.
type imageStore struct {
	dir       string // of the images
	root      string // an empty directory
	agentPath string
	capacity  int64 // bytes on the disk
	flights   *flights
	keeper    *keeper

	mu    sync.Mutex
	users map[string]int // by path
}

func newImageStore(dir, root, agentPath string, capacity int64, keeper *keeper) *imageStore {
	return &imageStore{dir: dir, root: root, agentPath: agentPath, capacity: capacity, flights: newFlights(), keeper: keeper, users: map[string]int{}}
}

// image is an image that is used until release, which may be called more than once.
type image struct {
	path    string
	file    string // the name of the only file in it; empty: it is of a directory
	release func()
}

// tree returns an image of a directory, or of a file: then it is the only one at the image's root, and named.
func (s *imageStore) tree(ctx context.Context, source string) (image, error) {
	if !filepath.IsAbs(source) {
		return image{}, fmt.Errorf("make an image: %q is no absolute path", source)
	}
	info, err := os.Stat(source)
	if err != nil {
		return image{}, fmt.Errorf("make an image: %w", err)
	}
	digest := sha256.New()
	if err := describeTree(digest, source); err != nil {
		return image{}, fmt.Errorf("make an image: %w", err)
	}
	inside, file := "/in", ""
	if !info.IsDir() {
		file = "content"
		inside = "/in/" + file
	}
	made, err := s.make(ctx, digest, jail.Plan{Files: map[string]string{inside: source}})
	made.file = file
	return made, err
}

// base returns the image of the guests' root, which stays.
func (s *imageStore) base(ctx context.Context, manifest wire.Manifest, mounts []sandbox.Mount) (string, error) {
	plan := jail.Plan{Files: map[string]string{}}
	for _, name := range []string{"proc", "sys", "dev", "run", "state", "tmp", "var/tmp"} {
		plan.Directories = append(plan.Directories, "/in/"+name)
	}
	digest := sha256.New()
	for i, mount := range mounts {
		place := "/base/" + strconv.Itoa(i)
		manifest.Base = append(manifest.Base, sandbox.Mount{Source: place, Target: mount.Target})
		plan.Files["/in"+place] = mount.Source
		if err := describeTree(digest, mount.Source); err != nil {
			return "", fmt.Errorf("make the root image: %w", err)
		}
	}
	text, err := json.Marshal(manifest)
	if err != nil {
		return "", err
	}
	digest.Write(text)
	note := filepath.Join(s.dir, hex.EncodeToString(digest.Sum(nil)[:8])+".json")
	if err := os.WriteFile(note, text, 0o600); err != nil {
		return "", fmt.Errorf("make the root image: %w", err)
	}
	defer os.Remove(note)
	plan.Files["/in/"+wire.ManifestName] = note
	made, err := s.make(ctx, digest, plan)
	return made.path, err
}

// describeTree writes what tells a tree's content from another's, wherever it is mounted. That is not the content: only root changes a
// file and hides it from its change time.
func describeTree(digest hash.Hash, source string) error {
	resolved, err := filepath.EvalSymlinks(source)
	if err != nil {
		return err
	}
	return filepath.WalkDir(resolved, func(path string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // hosts' trees change; the next image has it
		}
		if err != nil {
			return err
		}
		var stat unix.Stat_t
		if err := unix.Lstat(path, &stat); err != nil {
			return &fs.PathError{Op: "lstat", Path: path, Err: err}
		}
		path, err = filepath.Rel(resolved, path)
		fmt.Fprintf(digest, "%q %d %d %o %d %d %d %d\n", path, stat.Dev, stat.Ino, stat.Mode, stat.Size, stat.Uid, stat.Mtim.Nano(), stat.Ctim.Nano())
		return err
	})
}

// make returns the image of a digest, which is made when there is none.
func (s *imageStore) make(ctx context.Context, digest hash.Hash, plan jail.Plan) (image, error) {
	path := filepath.Join(s.dir, hex.EncodeToString(digest.Sum(nil))+".erofs")
	made := image{path: path, release: s.use(path)}
	err := s.flights.do(ctx, path, func(ctx context.Context) error {
		now := time.Now()
		if err := os.Chtimes(path, now, now); err == nil || !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return s.pack(ctx, path, plan)
	})
	if err != nil {
		made.release()
		return image{}, fmt.Errorf("make an image: %w", err)
	}
	return made, nil
}

// use keeps an image, or the one that is to be made, until release.
func (s *imageStore) use(path string) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[path]++
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.users[path]--; s.users[path] == 0 {
			delete(s.users, path)
		}
	})
}

// packing is the pattern of the names of directories that images are made in, packed is an image's name there.
const (
	packing = "packing-*.new"
	packed  = "image"
)

// pack makes an image.
func (s *imageStore) pack(ctx context.Context, path string, plan jail.Plan) error {
	program, err := findProgram("mkfs.erofs", "erofs-utils")
	if err != nil {
		return err
	}
	// The packer reads what is hostile, so it sees no other image, and what it leaves is looked at before it is one.
	out, err := os.MkdirTemp(s.dir, packing)
	if err != nil {
		return err
	}
	defer os.RemoveAll(out)
	plan.Root, plan.Show, plan.Writable = s.root, jail.Libraries(program), out
	// Extended attributes hold capabilities of files, which nothing inside may have.
	plan.Args = []string{program, "-x-1", "--quiet", "/out/" + packed, "/in"}
	cmd, err := jail.Command(s.agentPath, plan)
	if err != nil {
		return err
	}
	if err := runJailed(ctx, s.keeper, cmd); err != nil {
		return err
	}
	made := filepath.Join(out, packed)
	if info, err := os.Lstat(made); err != nil {
		return err
	} else if !info.Mode().IsRegular() {
		return fmt.Errorf("the packer left a file of mode %s", info.Mode())
	}
	if err := os.Rename(made, path); err != nil {
		return err
	}
	return s.evict()
}

// evict removes images that nobody uses, those first that were used longest ago, until the rest fits.
func (s *imageStore) evict() error {
	paths, err := filepath.Glob(filepath.Join(s.dir, "*.erofs"))
	if err != nil {
		return err
	}
	type kept struct {
		path string
		size int64
		used time.Time
	}
	var all []kept
	var total int64
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil {
			all = append(all, kept{path, info.Size(), info.ModTime()})
			total += info.Size()
		}
	}
	slices.SortFunc(all, func(a, b kept) int { return a.used.Compare(b.used) })
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range all {
		if total <= s.capacity {
			break
		}
		if s.users[one.path] > 0 {
			continue
		}
		if err := os.Remove(one.path); err != nil {
			return err
		}
		total -= one.size
	}
	return nil
}

// runJailed runs a command of package jail to its end.
func runJailed(ctx context.Context, keeper *keeper, cmd *exec.Cmd) error {
	waiting, begin, err := os.Pipe()
	if err != nil {
		return err
	}
	defer waiting.Close()
	said := &tail{}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = waiting, said, said
	if _, err := begin.Write([]byte{0}); err != nil {
		return errors.Join(err, begin.Close())
	}
	begin.Close()
	if err := keeper.start(cmd); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%w: %s", errors.Join(err, ctx.Err()), said)
	}
	return nil
}

// copySparse copies a file, and leaves out what it has holes for.
func copySparse(target, source *os.File) error {
	info, err := source.Stat()
	if err != nil {
		return err
	}
	if err := target.Truncate(info.Size()); err != nil {
		return err
	}
	for at := int64(0); at < info.Size(); {
		from, err := unix.Seek(int(source.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look for data in %s: %w", source.Name(), err)
		}
		to, err := unix.Seek(int(source.Fd()), from, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("look for data in %s: %w", source.Name(), err)
		}
		for at = from; at < to; {
			in, out := at, at
			n, err := unix.CopyFileRange(int(source.Fd()), &in, int(target.Fd()), &out, int(to-at), 0)
			if err != nil || n == 0 {
				return fmt.Errorf("copy %s: %w", source.Name(), errors.Join(err, fs.ErrInvalid))
			}
			at += int64(n)
		}
	}
	return nil
}
