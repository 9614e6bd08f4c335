// Package dir is a blob store in a directory. Content stands in ab/abcdef..., named by its SHA-256; it is written and synced
// under another name first, so that a name is never seen with less than its content, whenever the process or the host dies.
package dir

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/blob"
)

// ErrLocked: another process, or another Store of this one, has the directory open.
var ErrLocked = errors.New("the directory is locked")

// uploads is the directory of content that is being written. What is in it when a store is opened is left from a crash.
const uploads = "uploads"

// Options of a Store.
type Options struct {
	Dir string // created with mode 0700 where it does not exist
}

// Store is a blob.Store in a directory.
type Store struct {
	dir  string
	lock *os.File
}

var _ blob.Store = (*Store)(nil)

// Open opens the store in a directory and removes what a crash left half written. A directory that is in use gives
// ErrLocked at once.
func Open(options Options) (*Store, error) {
	s := &Store{dir: options.Dir}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("blob/dir: make the directory: %w", err)
	}
	if err := s.takeLock(); err != nil {
		return nil, err
	}
	if err := s.prepare(); err != nil {
		s.lock.Close()
		return nil, err
	}
	return s, nil
}

func (s *Store) takeLock() error {
	lock, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("blob/dir: open the lock file: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("blob/dir: %s is in use by another process: %w", s.dir, ErrLocked)
		}
		return fmt.Errorf("blob/dir: lock %s: %w", s.dir, err)
	}
	s.lock = lock
	return nil
}

func (s *Store) prepare() error {
	if err := os.RemoveAll(filepath.Join(s.dir, uploads)); err != nil {
		return fmt.Errorf("blob/dir: remove half-written content: %w", err)
	}
	if err := os.Mkdir(filepath.Join(s.dir, uploads), 0o700); err != nil {
		return fmt.Errorf("blob/dir: make the directory for uploads: %w", err)
	}
	return syncDir(s.dir)
}

// Open implements lambent.Blobs. The reader fails at the end of content that is damaged.
func (s *Store) Open(ctx context.Context, digest string) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("blob/dir: open: %w", err)
	}
	if !blob.IsDigest(digest) {
		return nil, blob.ErrNotFound(digest)
	}
	file, err := os.Open(s.path(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, blob.ErrNotFound(digest)
	}
	if err != nil {
		return nil, fmt.Errorf("blob/dir: open: %w", err)
	}
	return blob.Verify(file, digest), nil
}

// Put implements blob.Store.
func (s *Store) Put(ctx context.Context, r io.Reader, limit int64) (lambent.CodeRef, error) {
	file, err := os.CreateTemp(filepath.Join(s.dir, uploads), "")
	if err != nil {
		return lambent.CodeRef{}, fmt.Errorf("blob/dir: make a file: %w", err)
	}
	ref, err := s.fill(ctx, file, r, limit)
	if err != nil {
		_ = os.Remove(file.Name())
		if lambent.CodeOf(err) == lambent.TooLarge {
			return lambent.CodeRef{}, err
		}
		return lambent.CodeRef{}, fmt.Errorf("blob/dir: store: %w", err)
	}
	return ref, nil
}

// fill writes content to a file, and gives the file its name once the content is on the disk. It closes the file.
func (s *Store) fill(ctx context.Context, file *os.File, r io.Reader, limit int64) (lambent.CodeRef, error) {
	defer file.Close()
	sum := sha256.New()
	size, err := io.Copy(io.MultiWriter(file, sum), &contextReader{ctx, io.LimitReader(r, limit+1)})
	if err != nil {
		return lambent.CodeRef{}, err
	}
	if size > limit {
		return lambent.CodeRef{}, blob.ErrTooLarge(limit)
	}
	ref := lambent.CodeRef{SHA256: hex.EncodeToString(sum.Sum(nil)), Size: size}
	target := s.path(ref.SHA256)
	if info, err := os.Stat(target); err == nil && info.Size() == size {
		if err := os.Remove(file.Name()); err != nil {
			return lambent.CodeRef{}, err
		}
		// Another Put may have named it, and not have synced the name yet.
		return ref, s.syncName(target)
	}
	if err := file.Sync(); err != nil {
		return lambent.CodeRef{}, err
	}
	if err := os.Mkdir(filepath.Dir(target), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return lambent.CodeRef{}, err
	}
	if err := os.Rename(file.Name(), target); err != nil {
		return lambent.CodeRef{}, err
	}
	return ref, s.syncName(target)
}

// syncName makes a name durable, with the directory that it is in: another Put may have made that one just now.
func (s *Store) syncName(target string) error {
	if err := syncDir(filepath.Dir(target)); err != nil {
		return err
	}
	return syncDir(s.dir)
}

// Delete implements blob.Store.
func (s *Store) Delete(ctx context.Context, digest string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("blob/dir: delete: %w", err)
	}
	if !blob.IsDigest(digest) {
		return nil
	}
	if err := os.Remove(s.path(digest)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("blob/dir: delete: %w", err)
	}
	return nil
}

// List implements blob.Store.
func (s *Store) List(ctx context.Context, fn func(lambent.CodeRef) bool) error {
	for i := range 256 {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("blob/dir: list: %w", err)
		}
		entries, err := os.ReadDir(filepath.Join(s.dir, fmt.Sprintf("%02x", i)))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("blob/dir: list: %w", err)
		}
		for _, entry := range entries {
			info, err := entry.Info()
			if err != nil || !blob.IsDigest(entry.Name()) {
				continue // deleted meanwhile, or not ours
			}
			if !fn(lambent.CodeRef{SHA256: entry.Name(), Size: info.Size()}) {
				return nil
			}
		}
	}
	return nil
}

// Close releases the directory. Readers that are open keep reading.
func (s *Store) Close() error { return s.lock.Close() }

func (s *Store) path(digest string) string { return filepath.Join(s.dir, digest[:2], digest) }

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("blob/dir: sync: %w", err)
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("blob/dir: sync %s: %w", path, err)
	}
	return nil
}

// contextReader ends a copy with its context.
type contextReader struct {
	ctx    context.Context
	source io.Reader
}

func (r *contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.source.Read(p)
}
