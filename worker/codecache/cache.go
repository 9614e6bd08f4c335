// Package codecache keeps the unpacked code and layers of functions on a worker. Content is fetched by its digest, verified,
// unpacked once, and shown read-only to any number of sandboxes.
package codecache

import (
	"container/list"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"lambent"
)

// Limits bound what one tree may hold.
type Limits struct {
	// Bytes is the unpacked size of all archives of a tree. Default: 262,144,000 as on Lambda.
	Bytes int64
	// Archive is the size of one archive. Default: 262,144,000.
	Archive int64
	// Entries is the number of files, directories and links. Default: 200,000.
	Entries int
	// Path is the length of a path. Default: 1,024.
	Path int
}

func (l *Limits) defaults() {
	if l.Bytes == 0 {
		l.Bytes = 262_144_000
	}
	if l.Archive == 0 {
		l.Archive = 262_144_000
	}
	if l.Entries == 0 {
		l.Entries = 200_000
	}
	if l.Path == 0 {
		l.Path = 1024
	}
}

// Options configure a cache. Dir and Blobs are required.
type Options struct {
	// Dir holds the trees. It belongs to one cache at a time; what a crash left half done in it is removed.
	Dir string
	// Blobs gives the archives.
	Blobs lambent.Blobs
	// MaxBytes is how much unpacked code is kept when nobody uses it; the least recently used goes first. Default: 10 GiB.
	MaxBytes int64
	// Limits bound each tree.
	Limits Limits
	// Logger is told when something cannot be removed. Default: slog.Default().
	Logger *slog.Logger
}

// Cache holds trees. It is safe for use by many goroutines.
//
// Invariants: a directory below Dir without the prefix "." is complete and never changes; a tree in use is never removed; one
// goroutine unpacks a tree, and others that want it wait.
type Cache struct {
	options Options
	work    context.Context // ends with Close
	cancel  context.CancelFunc
	done    sync.WaitGroup

	mu     sync.Mutex
	closed bool
	trees  map[string]*tree
	idle   *list.List // of *tree, least recently used first
	bytes  int64      // of all complete trees
}

// tree is one directory, complete or on its way.
type tree struct {
	key     string
	refs    []lambent.CodeRef
	ready   chan struct{} // closed when err, size are final
	err     error
	size    int64
	users   int
	element *list.Element // in idle
}

// Tree is a directory in use. It stays until Release.
type Tree struct {
	// Path is the directory on the host: world-readable, and not to be written to.
	Path    string
	release func()
}

// Release gives the tree up. Later calls do nothing.
func (t *Tree) Release() { t.release() }

// Open opens the cache in a directory, and finds what is complete there.
func Open(options Options) (*Cache, error) {
	if options.Dir == "" || options.Blobs == nil {
		return nil, errors.New("open code cache: Dir and Blobs are required")
	}
	if options.MaxBytes == 0 {
		options.MaxBytes = 10 << 30
	}
	options.Limits.defaults()
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	var err error
	if options.Dir, err = filepath.Abs(options.Dir); err != nil {
		return nil, fmt.Errorf("open code cache: %w", err)
	}
	if err := os.MkdirAll(options.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("open code cache: %w", err)
	}
	c := &Cache{options: options, trees: map[string]*tree{}, idle: list.New()}
	c.work, c.cancel = context.WithCancel(context.Background())
	if err := c.recover(); err != nil {
		return nil, fmt.Errorf("open code cache: %w", err)
	}
	return c, nil
}

// Close ends what is being fetched, and returns when nothing of the cache runs any more. Trees stay on disk.
func (c *Cache) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.done.Wait()
	return nil
}

// recover removes what is half done, and takes up what is complete. The name of a complete tree ends in its size.
func (c *Cache) recover() error {
	entries, err := os.ReadDir(c.options.Dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		key, size, ok := parseName(entry.Name())
		if !ok || c.trees[key] != nil {
			if err := removeTree(filepath.Join(c.options.Dir, entry.Name())); err != nil {
				return err
			}
			continue
		}
		t := &tree{key: key, size: size, ready: make(chan struct{})}
		close(t.ready)
		c.trees[key] = t
		t.element = c.idle.PushBack(t)
		c.bytes += size
	}
	return nil
}

func treeName(key string, size int64) string { return fmt.Sprintf("%s-%d", key, size) }

func parseName(name string) (key string, size int64, ok bool) {
	key, digits, ok := strings.Cut(name, "-")
	if !ok || len(key) != 2*sha256.Size || strings.Trim(key, "0123456789abcdef") != "" {
		return "", 0, false
	}
	if _, err := fmt.Sscanf(digits, "%d", &size); err != nil || treeName(key, size) != name {
		return "", 0, false
	}
	return key, size, true
}

// keyOf names a tree: by its archive's digest, or by that of the digests, if there are several.
func keyOf(refs []lambent.CodeRef) string {
	if len(refs) == 1 {
		return refs[0].SHA256
	}
	sum := sha256.New()
	for _, ref := range refs {
		sum.Write([]byte(ref.SHA256 + "\n"))
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// Get returns the tree that unpacking the archives one over the other gives. It waits as long as ctx allows; the work goes on
// for others. The error's code is InvalidZip for content that is no acceptable archive.
func (c *Cache) Get(ctx context.Context, refs ...lambent.CodeRef) (*Tree, error) {
	if len(refs) == 0 {
		return nil, errors.New("code cache: no archive is named")
	}
	for _, ref := range refs {
		if len(ref.SHA256) != 2*sha256.Size || strings.Trim(ref.SHA256, "0123456789abcdef") != "" {
			return nil, fmt.Errorf("code cache: %.80q is no digest", ref.SHA256)
		}
	}
	t, err := c.acquire(keyOf(refs), refs)
	if err != nil {
		return nil, err
	}
	select {
	case <-t.ready:
	case <-ctx.Done():
		c.release(t)
		return nil, ctx.Err()
	}
	if t.err != nil {
		c.release(t)
		return nil, t.err
	}
	path := filepath.Join(c.options.Dir, treeName(t.key, t.size))
	return &Tree{Path: path, release: sync.OnceFunc(func() { c.release(t) })}, nil
}

// acquire takes a tree into use, and has it made if there is none.
func (c *Cache) acquire(key string, refs []lambent.CodeRef) (*tree, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, lambent.Errorf(lambent.Unavailable, "The worker is shutting down")
	}
	t := c.trees[key]
	if t == nil {
		t = &tree{key: key, refs: refs, ready: make(chan struct{})}
		c.trees[key] = t
		c.done.Go(func() { c.fill(t) })
	}
	t.users++
	if t.element != nil {
		c.idle.Remove(t.element)
		t.element = nil
	}
	return t, nil
}

// release gives a tree up. It becomes the first to be kept and the last to go.
func (c *Cache) release(t *tree) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t.users--
	select {
	case <-t.ready:
		c.settleLocked(t)
	default: // it is still being made: fill settles it
	}
}

// settleLocked makes a complete tree that nobody uses removable.
func (c *Cache) settleLocked(t *tree) {
	if t.users > 0 || t.err != nil || t.element != nil {
		return
	}
	t.element = c.idle.PushBack(t)
	c.evictLocked()
}

// evictLocked removes the least recently used trees while there is too much.
func (c *Cache) evictLocked() {
	for c.bytes > c.options.MaxBytes && c.idle.Len() > 0 {
		t := c.idle.Remove(c.idle.Front()).(*tree)
		t.element = nil
		delete(c.trees, t.key)
		c.bytes -= t.size
		path := filepath.Join(c.options.Dir, treeName(t.key, t.size))
		doomed, err := c.rename(path)
		if err != nil {
			c.options.Logger.Error("unused code cannot be removed", "path", path, "error", err)
			continue
		}
		c.done.Go(func() { c.remove(doomed) })
	}
}

// rename takes a tree out of sight, under a name that recover removes.
func (c *Cache) rename(path string) (string, error) {
	dir, err := os.MkdirTemp(c.options.Dir, ".removed-")
	if err != nil {
		return "", err
	}
	return dir, os.Rename(path, filepath.Join(dir, "tree"))
}

func (c *Cache) remove(path string) {
	if err := removeTree(path); err != nil {
		c.options.Logger.Error("unused code cannot be removed", "path", path, "error", err)
	}
}

// fill makes a tree.
func (c *Cache) fill(t *tree) {
	size, err := c.unpackAll(c.work, t)
	c.mu.Lock()
	defer c.mu.Unlock()
	t.size, t.err = size, err
	close(t.ready)
	if err != nil {
		delete(c.trees, t.key) // the next one tries again
		return
	}
	c.bytes += size
	c.settleLocked(t)
	c.evictLocked()
}

// unpackAll fetches and unpacks a tree's archives beside the trees, and then gives the result its name.
func (c *Cache) unpackAll(ctx context.Context, t *tree) (size int64, err error) {
	temporary, err := os.MkdirTemp(c.options.Dir, ".making-")
	if err != nil {
		return 0, err
	}
	defer c.remove(temporary)
	dir := filepath.Join(temporary, "tree")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return 0, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	u := newUnpacker(root, c.options.Limits)
	for _, ref := range t.refs {
		if err := c.unpackOne(ctx, u, ref, temporary); err != nil {
			return 0, err
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil { // whatever the process's umask
		return 0, err
	}
	if err := os.Rename(dir, filepath.Join(c.options.Dir, treeName(t.key, u.bytes))); err != nil {
		return 0, err
	}
	return u.bytes, nil
}

// removeTree removes a directory whose parts may not be writable.
func removeTree(path string) error {
	if err := os.RemoveAll(path); err == nil {
		return nil
	}
	walk := filepath.WalkDir(path, func(name string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			return os.Chmod(name, 0o700)
		}
		return err
	})
	return errors.Join(walk, os.RemoveAll(path))
}
