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
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"lambent/sandbox"
	"lambent/sandbox/microvm/agent/wire"
	"lambent/sandbox/microvm/jail"
)

// imageStore makes EROFS images of directories of the host, and keeps them by what they were made of. It is safe for use by many
// goroutines.
type imageStore struct {
	dir       string // of the images
	root      string // an empty directory
	agentPath string

	mu     sync.Mutex
	making map[string]*sync.Mutex // by name
}

func newImageStore(dir, root, agentPath string) *imageStore {
	return &imageStore{dir: dir, root: root, agentPath: agentPath, making: map[string]*sync.Mutex{}}
}

// tree returns an image of a directory, or of a file: then it is the only one at the image's root, and named.
func (s *imageStore) tree(ctx context.Context, source string) (path, file string, err error) {
	if !filepath.IsAbs(source) {
		return "", "", fmt.Errorf("make an image: %q is no absolute path", source)
	}
	info, err := os.Stat(source)
	if err != nil {
		return "", "", fmt.Errorf("make an image: %w", err)
	}
	digest := sha256.New()
	if err := describeTree(digest, source); err != nil {
		return "", "", fmt.Errorf("make an image: %w", err)
	}
	inside := "/in"
	if !info.IsDir() {
		file = "content"
		inside = "/in/" + file
	}
	path, err = s.make(ctx, digest, jail.Plan{Files: map[string]string{inside: source}})
	return path, file, err
}

// base returns the image of the guests' root.
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
	return s.make(ctx, digest, plan)
}

// describeTree writes what tells a tree's content from another's. That is not the content: only root changes a file and hides it
// from its change time.
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
		fmt.Fprintf(digest, "%q %d %d %o %d %d %d %d\n", path, stat.Dev, stat.Ino, stat.Mode, stat.Size, stat.Uid, stat.Mtim.Nano(), stat.Ctim.Nano())
		return nil
	})
}

// make makes an image unless there is one.
func (s *imageStore) make(ctx context.Context, digest hash.Hash, plan jail.Plan) (string, error) {
	name := hex.EncodeToString(digest.Sum(nil)) + ".erofs"
	path := filepath.Join(s.dir, name)
	s.mu.Lock()
	turn := s.making[name]
	if turn == nil {
		turn = &sync.Mutex{}
		s.making[name] = turn
	}
	s.mu.Unlock()
	turn.Lock()
	defer turn.Unlock()
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	program, err := findProgram("mkfs.erofs", "erofs-utils")
	if err != nil {
		return "", err
	}
	plan.Root, plan.Show, plan.Writable = s.root, jail.Libraries(program), s.dir
	// Extended attributes hold capabilities of files, which nothing inside may have.
	plan.Args = []string{program, "-x-1", "--quiet", "/out/" + name + ".new", "/in"}
	cmd, err := jail.Command(s.agentPath, plan)
	if err != nil {
		return "", err
	}
	if err := runJailed(ctx, cmd); err != nil {
		return "", fmt.Errorf("make an image: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return "", fmt.Errorf("make an image: %w", err)
	}
	return path, nil
}

// runJailed runs a command of package jail to its end.
func runJailed(ctx context.Context, cmd *exec.Cmd) error {
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
	if err := cmd.Start(); err != nil {
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
