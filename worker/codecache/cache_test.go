package codecache

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"lambent"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// blobs is a store in memory that counts its reads and may give wrong content.
type blobs struct {
	mu      sync.Mutex
	content map[string][]byte
	opened  atomic.Int64
	gate    chan struct{} // nil, or what Open waits for
}

func (b *blobs) Open(ctx context.Context, digest string) (io.ReadCloser, error) {
	b.opened.Add(1)
	if b.gate != nil {
		select {
		case <-b.gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	content, ok := b.content[digest]
	if !ok {
		return nil, lambent.Errorf(lambent.NotFound, "no such content")
	}
	return io.NopCloser(bytes.NewReader(content)), nil
}

func (b *blobs) put(content []byte) lambent.CodeRef {
	sum := sha256.Sum256(content)
	digest := hex.EncodeToString(sum[:])
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.content == nil {
		b.content = map[string][]byte{}
	}
	b.content[digest] = content
	return lambent.CodeRef{SHA256: digest, Size: int64(len(content))}
}

type entry struct {
	name, content string
	mode          fs.FileMode
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for _, e := range entries {
		h := &zip.FileHeader{Name: e.name, Method: zip.Deflate}
		if e.mode != 0 {
			h.SetMode(e.mode)
		}
		f, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(f, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func open(t testing.TB, b *blobs, change func(*Options)) *Cache {
	t.Helper()
	options := Options{Dir: filepath.Join(t.TempDir(), "code"), Blobs: b, Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&options)
	}
	c, err := Open(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func read(t testing.TB, tree *Tree, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(tree.Path, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestTreesAndModes(t *testing.T) {
	b := &blobs{}
	c := open(t, b, nil)
	ref := b.put(archive(t, entry{"main.py", "code", 0}, entry{"bin/run", "#!", 0o700}, entry{"secret", "s", 0o600}, entry{"setuid", "s", 0o777 | fs.ModeSetuid},
		entry{"dir/", "", 0o700 | fs.ModeDir}, entry{"dir/link", "../main.py", 0o777 | fs.ModeSymlink}, entry{"out", "/etc/passwd", fs.ModeSymlink | 0o777}))
	tree, err := c.Get(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Release()
	for name, want := range map[string]fs.FileMode{".": fs.ModeDir | 0o755, "main.py": 0o644, "bin": fs.ModeDir | 0o755, "bin/run": 0o755,
		"secret": 0o644, "setuid": 0o755, "dir": fs.ModeDir | 0o755} {
		info, err := os.Lstat(filepath.Join(tree.Path, name))
		if err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if got := read(t, tree, "dir/link"); got != "code" {
		t.Error(got)
	}
	if target, err := os.Readlink(filepath.Join(tree.Path, "out")); target != "/etc/passwd" {
		t.Error(target, err)
	}
}

func TestLayersAreUnpackedOverEachOther(t *testing.T) {
	b := &blobs{}
	c := open(t, b, nil)
	first := b.put(archive(t, entry{"a", "1", 0}, entry{"lib/b", "1", 0}, entry{"l", "lib", fs.ModeSymlink | 0o777}))
	second := b.put(archive(t, entry{"a", "2", 0}, entry{"lib/c", "2", 0}, entry{"l", "2", 0}))
	both, err := c.Get(t.Context(), first, second)
	if err != nil {
		t.Fatal(err)
	}
	defer both.Release()
	for name, want := range map[string]string{"a": "2", "lib/b": "1", "lib/c": "2", "l": "2"} {
		if got := read(t, both, name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	other, err := c.Get(t.Context(), second, first)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Release()
	if other.Path == both.Path || read(t, other, "a") != "1" {
		t.Error("the order of layers does not matter")
	}
}

func TestHostileArchives(t *testing.T) {
	b := &blobs{}
	limits := Limits{Bytes: 1 << 20, Archive: 1 << 20, Entries: 100, Path: 200}
	c := open(t, b, func(o *Options) { o.Limits = limits })
	many := make([]entry, 101)
	for i := range many {
		many[i] = entry{fmt.Sprint("f", i), "", 0}
	}
	bomb := strings.Repeat("\x00", 2<<20)
	good := archive(t, entry{"a", "b", 0})
	lying := bytes.Replace(archive(t, entry{"a", strings.Repeat("x", 100), 0}), []byte{100, 0, 0, 0}, []byte{10, 0, 0, 0}, -1)
	for name, content := range map[string][]byte{
		"empty":                  nil,
		"no zip":                 []byte("PK\x03\x04 but not really"),
		"truncated":              good[:len(good)-5],
		"dot dot":                archive(t, entry{"../evil", "x", 0}),
		"dot dot inside":         archive(t, entry{"a/../../evil", "x", 0}),
		"absolute":               archive(t, entry{"/evil", "x", 0}),
		"backslash":              archive(t, entry{"..\\evil", "x", 0}),
		"null":                   archive(t, entry{"a\x00b", "x", 0}),
		"long path":              archive(t, entry{strings.Repeat("a/", 101) + "b", "x", 0}),
		"long name":              archive(t, entry{strings.Repeat("a", 199), "x", 0}, entry{"b/" + strings.Repeat("c", 256), "", 0}),
		"through absolute link":  archive(t, entry{"l", "/tmp", fs.ModeSymlink | 0o777}, entry{"l/evil", "x", 0}),
		"through link up":        archive(t, entry{"l", "..", fs.ModeSymlink | 0o777}, entry{"l/evil", "x", 0}),
		"through link chain":     archive(t, entry{"a", ".", fs.ModeSymlink | 0o777}, entry{"b", "a/..", fs.ModeSymlink | 0o777}, entry{"b/evil", "x", 0}),
		"directory through link": archive(t, entry{"l", "/tmp", fs.ModeSymlink | 0o777}, entry{"l/evil/", "", fs.ModeDir | 0o755}),
		"link loop":              archive(t, entry{"l", "l", fs.ModeSymlink | 0o777}, entry{"l/x", "x", 0}),
		"file as directory":      archive(t, entry{"a", "x", 0}, entry{"a/b", "x", 0}),
		"directory as file":      archive(t, entry{"a/b", "x", 0}, entry{"a", "x", 0}),
		"bomb":                   archive(t, entry{"a", bomb, 0}),
		"bomb in parts":          archive(t, entry{"a", bomb[:700_000], 0}, entry{"b", bomb[:700_000], 0}),
		"many files":             archive(t, many...),
		"many directories":       archive(t, entry{strings.Repeat("a/", 99) + "b", "", 0}, entry{"c/" + strings.Repeat("a/", 97) + "b", "", 0}),
		"device":                 archive(t, entry{"d", "", fs.ModeDevice | 0o666}),
		"pipe":                   archive(t, entry{"d", "", fs.ModeNamedPipe | 0o666}),
		"empty link":             archive(t, entry{"l", "", fs.ModeSymlink | 0o777}),
		"long link":              archive(t, entry{"l", strings.Repeat("x", 5000), fs.ModeSymlink | 0o777}),
		"wrong sizes":            lying,
		"too large":              append(bytes.Repeat([]byte{'x'}, 1<<20), good...),
	} {
		tree, err := c.Get(t.Context(), b.put(content))
		if err == nil {
			t.Errorf("%s: accepted", name)
			tree.Release()
			continue
		}
		if lambent.CodeOf(err) != lambent.InvalidZip {
			t.Errorf("%s: %v", name, err)
		}
	}
	tree, err := c.Get(t.Context(), b.put(archive(t, entry{"twice", "1", 0}, entry{"twice", "2", 0}, entry{"./x//y", "3", 0})))
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Release()
	if read(t, tree, "twice") != "2" || read(t, tree, "x/y") != "3" {
		t.Error("the last of two entries does not count")
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(c.options.Dir, ".*"))
	if err != nil || len(left) > 0 {
		t.Error(left, err)
	}
	for _, evil := range []string{"/tmp/evil", filepath.Join(c.options.Dir, "evil"), filepath.Join(c.options.Dir, "..", "evil")} {
		if _, err := os.Lstat(evil); err == nil {
			t.Errorf("%s was written", evil)
		}
	}
}

func TestOneFetchForMany(t *testing.T) {
	b := &blobs{gate: make(chan struct{})}
	c := open(t, b, nil)
	ref := b.put(archive(t, entry{"a", "1", 0}))
	impatient, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	for i := range 10 {
		group.Go(func() {
			ctx := t.Context()
			if i == 0 {
				ctx = impatient
			}
			tree, err := c.Get(ctx, ref)
			if i == 0 {
				if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			tree.Release()
			tree.Release()
		})
	}
	cancel()
	close(b.gate)
	group.Wait()
	if n := b.opened.Load(); n != 1 {
		t.Errorf("fetched %d times", n)
	}
}

func TestEvictionAndReopen(t *testing.T) {
	b := &blobs{}
	dir := filepath.Join(t.TempDir(), "code")
	change := func(o *Options) { o.Dir, o.MaxBytes = dir, 2500 }
	c := open(t, b, change)
	var refs []lambent.CodeRef
	for i := range 4 {
		refs = append(refs, b.put(archive(t, entry{"a", strings.Repeat(fmt.Sprint(i), 1000), 0})))
	}
	kept, err := c.Get(t.Context(), refs[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range refs[1:] {
		tree, err := c.Get(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		tree.Release()
	}
	if read(t, kept, "a") != strings.Repeat("0", 1000) {
		t.Error("a tree in use was removed")
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, ".making-x"), 0o700); err != nil {
		t.Fatal(err)
	}
	fetched := b.opened.Load()
	c = open(t, b, change)
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Error(entries, err)
	}
	for _, ref := range []lambent.CodeRef{refs[0], refs[3]} {
		tree, err := c.Get(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		tree.Release()
	}
	if b.opened.Load() != fetched {
		t.Error("what is there was fetched again")
	}
	tree, err := c.Get(t.Context(), refs[1])
	if err != nil {
		t.Fatal(err)
	}
	tree.Release()
}

func TestDamageIsNotKept(t *testing.T) {
	b := &blobs{}
	c := open(t, b, nil)
	good := archive(t, entry{"a", "1", 0})
	ref := b.put(good)
	b.content[ref.SHA256] = archive(t, entry{"a", "2", 0})
	if _, err := c.Get(t.Context(), ref); err == nil {
		t.Fatal("other content was accepted")
	}
	b.content[ref.SHA256] = good
	tree, err := c.Get(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	tree.Release()
	if _, err := c.Get(t.Context(), lambent.CodeRef{SHA256: strings.Repeat("0", 64)}); lambent.CodeOf(err) != lambent.NotFound {
		t.Error(err)
	}
	if _, err := c.Get(t.Context(), lambent.CodeRef{SHA256: "../../etc"}); err == nil {
		t.Error("a path is taken for a digest")
	}
}

// FuzzUnpack checks that no archive writes outside of its tree, and that its faults are its own.
func FuzzUnpack(f *testing.F) {
	f.Add(archive(f, entry{"a", "b", 0}, entry{"d/e", "f", 0o755}))
	f.Add(archive(f, entry{"l", "..", fs.ModeSymlink | 0o777}, entry{"l/evil", "x", 0}))
	f.Add([]byte("PK\x05\x06"))
	f.Fuzz(func(t *testing.T, content []byte) {
		above := t.TempDir()
		if err := os.Mkdir(filepath.Join(above, "tree"), 0o755); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(filepath.Join(above, "tree"))
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		u := newUnpacker(root, Limits{Bytes: 1 << 16, Archive: 1 << 16, Entries: 50, Path: 100})
		if err := u.unpackAll(t.Context(), bytes.NewReader(content), int64(len(content))); err != nil && lambent.CodeOf(err) != lambent.InvalidZip {
			t.Error(err)
		}
		outside, err := os.ReadDir(above)
		if err != nil || len(outside) != 1 {
			t.Error(outside, err)
		}
	})
}
