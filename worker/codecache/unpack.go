package codecache

import (
	"archive/zip"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"lambent"
)

// maxLink is the longest target of a symbolic link, in bytes.
const maxLink = 4095

// unpacker writes archives into a directory, one over the other. Nothing is ever written outside of it: every access goes
// through an os.Root, which follows no link that leads out.
type unpacker struct {
	root    *os.Root
	limits  Limits
	bytes   int64
	entries int
	made    map[string]bool // directories that exist
}

func newUnpacker(root *os.Root, limits Limits) *unpacker {
	return &unpacker{root: root, limits: limits, made: map[string]bool{".": true}}
}

// invalid makes the error for an archive that is not acceptable.
func invalid(err error, format string, args ...any) error {
	return lambent.Wrap(lambent.InvalidZip, err, "Could not unzip uploaded file. "+format, args...)
}

// unpackOne fetches one archive into the directory beside, and unpacks it.
func (c *Cache) unpackOne(ctx context.Context, u *unpacker, ref lambent.CodeRef, beside string) error {
	file, size, err := c.fetch(ctx, ref, beside)
	if err != nil {
		return err
	}
	defer file.Close()
	return u.unpackAll(ctx, file, size)
}

// unpackAll unpacks one archive.
func (u *unpacker) unpackAll(ctx context.Context, archive io.ReaderAt, size int64) error {
	reader, err := zip.NewReader(archive, size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return invalid(err, "It is not a zip archive.")
	}
	for _, entry := range reader.File {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := u.unpack(entry); err != nil {
			return err
		}
	}
	return nil
}

// fetch copies an archive to an unnamed file, and verifies it.
func (c *Cache) fetch(ctx context.Context, ref lambent.CodeRef, beside string) (*os.File, int64, error) {
	source, err := c.options.Blobs.Open(ctx, ref.SHA256)
	if err != nil {
		return nil, 0, err
	}
	defer source.Close()
	name := filepath.Join(beside, "archive.zip")
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, 0, err
	}
	if err := os.Remove(name); err != nil {
		file.Close()
		return nil, 0, err
	}
	sum := newSum()
	directory := &entryCounter{}
	size, err := io.Copy(io.MultiWriter(file, sum, directory), io.LimitReader(source, c.options.Limits.Archive+1))
	if err == nil && size > c.options.Limits.Archive {
		err = invalid(nil, "It is larger than %d bytes.", c.options.Limits.Archive)
	}
	if err == nil {
		err = sum.check(ref.SHA256)
	}
	if err == nil && directory.n > 2*c.options.Limits.Entries {
		err = invalid(nil, "It has more than %d entries.", c.options.Limits.Entries)
	}
	if err != nil {
		file.Close()
		return nil, 0, err
	}
	return file, size, nil
}

// unpack writes one entry.
func (u *unpacker) unpack(entry *zip.File) error {
	if u.entries++; u.entries > u.limits.Entries {
		return invalid(nil, "It has more than %d entries.", u.limits.Entries)
	}
	name, err := u.cleanName(entry.Name)
	if err != nil || name == "." {
		return err
	}
	mode := entry.Mode()
	switch {
	case strings.HasSuffix(entry.Name, "/") || mode.IsDir():
		return u.makeDirectory(name)
	case mode&fs.ModeSymlink != 0:
		return u.makeLink(name, entry)
	case mode.IsRegular():
		return u.makeFile(name, entry, permissions(entry))
	}
	return invalid(nil, "%.200q is neither a file, a directory nor a symbolic link.", entry.Name)
}

// cleanName checks the name of an entry. Names that lead out of the tree are refused, rather than bent into it.
func (u *unpacker) cleanName(name string) (string, error) {
	switch {
	case len(name) > u.limits.Path:
		return "", invalid(nil, "A path is longer than %d characters.", u.limits.Path)
	case name == "" || name[0] == '/' || strings.ContainsAny(name, "\\\x00"):
		return "", invalid(nil, "The path %.200q is not valid.", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." || len(part) > 255 {
			return "", invalid(nil, "The path %.200q is not valid.", name)
		}
	}
	return path.Clean(name), nil
}

// permissions are those of the archive's entry, with what makes it readable for the function. Archives from systems without
// permissions hold nothing that may be executed, as on Lambda.
func permissions(entry *zip.File) fs.FileMode {
	const unix, macOS = 3, 19
	if creator := entry.CreatorVersion >> 8; creator != unix && creator != macOS || entry.ExternalAttrs>>16 == 0 {
		return 0o644
	}
	mode := entry.Mode().Perm()
	mode |= 0o444
	if mode&0o111 != 0 {
		mode |= 0o111
	}
	return mode &^ 0o022
}

// makeDirectory makes a directory with its parents.
func (u *unpacker) makeDirectory(name string) error {
	if u.made[name] {
		return nil
	}
	if err := u.makeDirectory(path.Dir(name)); err != nil {
		return err
	}
	err := u.root.Mkdir(name, 0o755)
	if errors.Is(err, fs.ErrExist) {
		var info fs.FileInfo
		if info, err = u.root.Stat(name); err == nil && !info.IsDir() {
			return invalid(nil, "%.200q is both a file and a directory.", name)
		}
	} else if err == nil {
		if u.entries++; u.entries > u.limits.Entries {
			return invalid(nil, "It has more than %d entries.", u.limits.Entries)
		}
		err = u.root.Chmod(name, 0o755)
	}
	if err != nil {
		return u.failed(err, name)
	}
	u.made[name] = true
	return nil
}

// failed tells the archive's faults from the host's.
func (u *unpacker) failed(err error, name string) error {
	var pathError *fs.PathError
	if errors.As(err, &pathError) && strings.Contains(pathError.Err.Error(), "escapes from parent") {
		return invalid(err, "The path %.200q leads out of the archive through a symbolic link.", name)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) || isStructure(err) {
		return invalid(err, "The path %.200q cannot be made.", name)
	}
	return err
}

// makeRoom removes what an earlier entry or archive has put in the place of a file or link.
func (u *unpacker) makeRoom(name string) error {
	if err := u.makeDirectory(path.Dir(name)); err != nil {
		return err
	}
	info, err := u.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return u.failed(err, name)
	}
	if info.IsDir() {
		return invalid(nil, "%.200q is both a file and a directory.", name)
	}
	clear(u.made) // a link that stood for a directory may be gone
	u.made["."] = true
	return u.root.Remove(name)
}

func (u *unpacker) makeLink(name string, entry *zip.File) error {
	if entry.UncompressedSize64 > maxLink {
		return invalid(nil, "The target of the symbolic link %.200q is too long.", name)
	}
	content, err := entry.Open()
	if err != nil {
		return invalid(err, "%.200q cannot be read.", name)
	}
	defer content.Close()
	target, err := io.ReadAll(io.LimitReader(content, maxLink+1))
	if err != nil || len(target) == 0 || len(target) > maxLink || strings.ContainsRune(string(target), 0) {
		return invalid(err, "The symbolic link %.200q is not valid.", name)
	}
	if err := u.makeRoom(name); err != nil {
		return err
	}
	if err := u.root.Symlink(string(target), name); err != nil {
		return u.failed(err, name)
	}
	return nil
}

func (u *unpacker) makeFile(name string, entry *zip.File, mode fs.FileMode) error {
	if err := u.makeRoom(name); err != nil {
		return err
	}
	content, err := entry.Open()
	if err != nil {
		return invalid(err, "%.200q cannot be read.", name)
	}
	defer content.Close()
	file, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return u.failed(err, name)
	}
	n, err := io.Copy(file, &archiveReader{io.LimitReader(content, u.limits.Bytes-u.bytes+1)})
	u.bytes += n
	if err == nil {
		err = file.Chmod(mode)
	}
	if closing := file.Close(); err == nil {
		err = closing
	}
	if err == nil && u.bytes > u.limits.Bytes {
		return invalid(nil, "Unzipped size must be smaller than %d bytes", u.limits.Bytes)
	}
	return err
}

// archiveReader marks errors of reading, so that they are not taken for the host's.
type archiveReader struct{ io.Reader }

func (r *archiveReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = invalid(err, "It is damaged.")
	}
	return n, err
}
