package archive_test

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lambent/functions/archive"
)

// entry is one entry of an archive that a test makes.
type entry struct {
	name, content string
	mode          fs.FileMode
}

func file(name, content string) entry { return entry{name, content, 0o644} }

func link(name, target string) entry { return entry{name, target, fs.ModeSymlink | 0o777} }

func pack(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buffer bytes.Buffer
	writer := zip.NewWriter(&buffer)
	for _, e := range entries {
		header := &zip.FileHeader{Name: e.name, Method: zip.Deflate}
		header.SetMode(e.mode)
		w, err := writer.CreateHeader(header)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.content)); err != nil && !strings.HasSuffix(e.name, "/") {
			t.Fatal(err)
		}
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

var limits = archive.Limits{UnzippedBytes: 10_000, Entries: 50}

func TestEntries(t *testing.T) {
	cases := []struct {
		name    string
		entries []entry
		want    error
	}{
		{"one file", []entry{file("bootstrap", "x")}, nil},
		{"directories", []entry{{"a/", "", fs.ModeDir | 0o755}, file("a/b/c", "x"), file("./d", "x")}, nil},
		{"a file twice", []entry{file("a", "x"), file("a", "y")}, nil},
		{"dots in names", []entry{file("..a/b..", "x"), file("...", "x")}, nil},
		{"a backslash is a letter", []entry{file(`..\..\a`, "x")}, nil},
		{"nothing", nil, archive.ErrEmpty},
		{"an absolute name", []entry{file("/etc/passwd", "x")}, archive.ErrInvalid},
		{"upwards", []entry{file("../a", "x")}, archive.ErrInvalid},
		{"upwards inside", []entry{file("a/../../b", "x")}, archive.ErrInvalid},
		{"upwards but staying", []entry{file("a/../b", "x")}, archive.ErrInvalid},
		{"only upwards", []entry{file("..", "x")}, archive.ErrInvalid},
		{"no name", []entry{file("", "x")}, archive.ErrInvalid},
		{"a zero byte", []entry{file("a\x00b", "x")}, archive.ErrInvalid},
		{"a long name", []entry{file(strings.Repeat("a", 256), "x")}, archive.ErrInvalid},
		{"a long path", []entry{file(strings.Repeat("a/", 2100)+"b", "x")}, archive.ErrInvalid},
		{"a device", []entry{{"null", "", fs.ModeDevice | fs.ModeCharDevice | 0o666}}, archive.ErrInvalid},
		{"a pipe", []entry{{"pipe", "", fs.ModeNamedPipe | 0o666}}, archive.ErrInvalid},
		{"a socket", []entry{{"socket", "", fs.ModeSocket | 0o666}}, archive.ErrInvalid},
		{"a file as a directory", []entry{file("a", "x"), file("a/b", "x")}, archive.ErrInvalid},
		{"a directory as a file", []entry{file("a/b", "x"), file("a", "x")}, archive.ErrInvalid},
		{"a file in a link", []entry{file("d/x", "x"), link("l", "d"), file("l/y", "x")}, archive.ErrInvalid},
		{"too many entries", many(51), archive.ErrInvalid},
		{"far too many entries", many(500), archive.ErrInvalid},
		{"as many as may be", many(50), nil},
		{"just too large", []entry{file("a", strings.Repeat("x", 10_000))}, archive.ErrTooLarge},
		{"as large as may be", []entry{file("a", strings.Repeat("x", 9_999))}, nil},
		{"too large together", []entry{file("a", strings.Repeat("x", 5000)), file("b", strings.Repeat("x", 5000))}, archive.ErrTooLarge},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if _, err := archive.Check(t.Context(), pack(t, c.entries...), limits); !errors.Is(err, c.want) || (c.want == nil && err != nil) {
				t.Errorf("error %v, want %v", err, c.want)
			}
		})
	}
}

func many(n int) []entry {
	var entries []entry
	for i := range n {
		entries = append(entries, file(fmt.Sprint(i), ""))
	}
	return entries
}

func TestLinks(t *testing.T) {
	cases := []struct {
		name    string
		entries []entry
		leaves  bool
	}{
		{"beside", []entry{link("a", "b"), file("b", "x")}, false},
		{"upwards, staying", []entry{link("a/b/c", "../../d"), file("d", "x")}, false},
		{"to the root", []entry{link("a/b", "..")}, false},
		{"to itself", []entry{link("a", "a")}, false},
		{"in a circle", []entry{link("a", "b/x"), link("b", "a/x")}, false},
		{"to nothing", []entry{link("a", "none/../..")}, false},
		{"absolute", []entry{link("a", "/etc/passwd")}, true},
		{"out", []entry{link("a", "..")}, true},
		{"out from below", []entry{link("a/b", "../../c")}, true},
		{"out through a link", []entry{link("d/e/up", "../.."), link("d/e/out", "up/../x")}, true},
		{"out through two", []entry{link("a/1", ".."), link("a/2", "1/a/1"), link("b", "a/2/..")}, true},
		{"with dots and slashes", []entry{link("a", ".//./../b")}, true},
		{"to no name", []entry{link("a", "")}, true},
		{"to a zero byte", []entry{link("a", "b\x00")}, true},
		{"too long", []entry{link("a", strings.Repeat("b", 4096))}, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := archive.Check(t.Context(), pack(t, c.entries...), limits)
			if errors.Is(err, archive.ErrInvalid) != c.leaves || (!c.leaves && err != nil) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestLies changes what the headers say of the sizes: what counts is the content.
func TestLies(t *testing.T) {
	const size = 1 << 20
	honest := pack(t, file("bomb", strings.Repeat("\x00", size)))
	lie := func(declared uint32) []byte {
		content := bytes.Clone(honest)
		directory := bytes.LastIndex(content, []byte("PK\x01\x02"))
		binary.LittleEndian.PutUint32(content[directory+24:], declared)
		return content
	}
	for _, declared := range []uint32{0, 1, 5000} {
		if _, err := archive.Check(t.Context(), lie(declared), limits); err == nil {
			t.Errorf("an archive of %d bytes that says %d is accepted", size, declared)
		}
	}
	if _, err := archive.Check(t.Context(), lie(1<<31), limits); !errors.Is(err, archive.ErrTooLarge) {
		t.Errorf("an archive that says 2 GiB: %v", err)
	}
	if _, err := archive.Check(t.Context(), lie(size), archive.Limits{UnzippedBytes: size + 1, Entries: 1}); err != nil {
		t.Errorf("the honest archive: %v", err)
	}
}

// TestOverlap makes many directory entries share one file's data, as the densest bombs do.
func TestOverlap(t *testing.T) {
	const size, copies = 4000, 20
	single := pack(t, file("a", strings.Repeat("\x00", size)))
	directory := bytes.LastIndex(single, []byte("PK\x01\x02"))
	end := bytes.LastIndex(single, []byte("PK\x05\x06"))
	record := single[directory:end]
	bomb := append(bytes.Clone(single[:directory]), bytes.Repeat(record, copies)...)
	tail := bytes.Clone(single[end:])
	binary.LittleEndian.PutUint16(tail[8:], copies)
	binary.LittleEndian.PutUint16(tail[10:], copies)
	binary.LittleEndian.PutUint32(tail[12:], uint32(copies*len(record)))
	bomb = append(bomb, tail...)
	if _, err := archive.Check(t.Context(), bomb, limits); !errors.Is(err, archive.ErrTooLarge) {
		t.Errorf("%d entries of %d bytes over one another: %v", copies, size, err)
	}
}

// TestTangle bounds the time that links can take.
func TestTangle(t *testing.T) {
	deep := strings.Repeat("d/", 1000)
	entries := []entry{file(deep+"x", "")}
	for i := range 2000 {
		entries = append(entries, link(fmt.Sprintf("l%d", i), deep))
	}
	content := pack(t, entries...)
	start := time.Now()
	_, err := archive.Check(t.Context(), content, archive.Limits{UnzippedBytes: 1 << 30, Entries: 10_000})
	if !errors.Is(err, archive.ErrInvalid) {
		t.Errorf("error %v", err)
	}
	if elapsed := time.Since(start); elapsed > 10*time.Second {
		t.Errorf("it took %v", elapsed)
	}
}

// TestDamaged cuts an archive at each byte, and changes each byte of it: every cut is refused, no change is fatal.
func TestDamaged(t *testing.T) {
	content := pack(t, file("a/b", "some content"), link("c", "a/b"))
	for n := range content {
		if _, err := archive.Check(t.Context(), content[:n], limits); err == nil {
			t.Errorf("accepted with %d of %d bytes", n, len(content))
		}
		changed := bytes.Clone(content)
		changed[n] ^= 0xff
		_, _ = archive.Check(t.Context(), changed, limits)
	}
	for _, garbage := range []string{"x", "PK", "PK\x05\x06", strings.Repeat("PK\x01\x02", 1000), "<html>"} {
		if _, err := archive.Check(t.Context(), []byte(garbage), limits); !errors.Is(err, archive.ErrInvalid) {
			t.Errorf("garbage %.10q: %v", garbage, err)
		}
	}
}

func TestContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := archive.Check(ctx, pack(t, file("a", "x")), limits); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// TestAgainstUnzip has another program unpack what was accepted.
func TestAgainstUnzip(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("no python3 to compare with")
	}
	content := pack(t, file("a/b", "some content"), file("c", strings.Repeat("x", 3000)))
	summary, err := archive.Check(t.Context(), content, limits)
	if err != nil || summary.Entries != 2 || summary.UnzippedBytes != 3012 {
		t.Fatalf("%+v, %v", summary, err)
	}
	path := filepath.Join(t.TempDir(), "a.zip")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if output, err := exec.Command("python3", "-m", "zipfile", "-t", path).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, output)
	}
}

// FuzzCheck unpacks what Check accepts through os.Root, which refuses to leave its directory: nothing may be refused there,
// and no link may lead out.
func FuzzCheck(f *testing.F) {
	f.Add(pack(f, file("a/b", "x"), link("c", "a/b"), link("a/d", "..")))
	f.Add(pack(f, file("a", strings.Repeat("\x00", 5000))))
	f.Add(pack(f, link("d/e/up", "../.."), link("d/e/out", "up/../x")))
	f.Add(pack(f, file("../a", "x")))
	f.Add([]byte("PK\x05\x06"))
	f.Fuzz(func(t *testing.T, content []byte) {
		summary, err := archive.Check(t.Context(), content, limits)
		if err != nil {
			return
		}
		if summary.Entries > limits.Entries || summary.UnzippedBytes >= limits.UnzippedBytes {
			t.Fatalf("accepted %+v", summary)
		}
		unpack(t, content)
	})
}

func unpack(t *testing.T, content []byte) {
	dir := filepath.Join(t.TempDir(), "outer", "root")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	reader, err := zip.NewReader(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range reader.File {
		if strings.Contains(file.Name, "..") && !filepath.IsLocal(file.Name) {
			t.Fatalf("accepted the name %q", file.Name)
		}
	}
	var links []string
	for _, file := range reader.File {
		if file.Mode()&fs.ModeSymlink == 0 {
			continue
		}
		source, err := file.Open()
		if err != nil {
			t.Fatal(err)
		}
		var target bytes.Buffer
		_, _ = target.ReadFrom(source)
		source.Close()
		_ = root.MkdirAll(filepath.Dir(file.Name), 0o700)
		_ = root.Remove(file.Name)
		if root.Symlink(target.String(), file.Name) == nil {
			links = append(links, file.Name)
		}
	}
	for _, name := range links {
		real, err := filepath.EvalSymlinks(filepath.Join(dir, name))
		if err == nil && real != dir && !strings.HasPrefix(real, dir+"/") {
			t.Fatalf("the link %q leads to %q", name, real)
		}
	}
}
