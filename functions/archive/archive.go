// Package archive judges a function's zip archive without unpacking it: that it is whole, that it fits, and that nothing in
// it would be written, or point, outside of the directory that it is unpacked to. It trusts no header: what counts is what
// the content inflates to.
package archive

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// The reasons for refusing an archive. Errors of Check wrap one of them.
var (
	ErrInvalid  = errors.New("not an archive that can be unpacked")
	ErrEmpty    = errors.New("an archive without content")
	ErrTooLarge = errors.New("unpacked, the archive is too large")
)

// Limits bound what Check accepts.
type Limits struct {
	UnzippedBytes int64 // the sum of all content must be below
	Entries       int   // at most
}

// Lengths that Linux's file systems accept.
const (
	maxPath = 4095
	maxName = 255
)

// Summary is what an archive holds.
type Summary struct {
	Entries       int
	UnzippedBytes int64
}

// Check reads an archive through once. The error says what is wrong with it, or that ctx has ended. It uses memory for the
// names, and none for the content.
func Check(ctx context.Context, content []byte, limits Limits) (Summary, error) {
	if len(content) == 0 {
		return Summary{}, ErrEmpty
	}
	// The directory is read into memory as a whole, so its size is bounded before: each entry has this signature, and a few
	// more may stand in stored content.
	if bytes.Count(content, []byte("PK\x01\x02")) > 2*limits.Entries {
		return Summary{}, fmt.Errorf("%w: it has more than %d entries", ErrInvalid, limits.Entries)
	}
	reader, err := zip.NewReader(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		return Summary{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	switch {
	case len(reader.File) == 0:
		return Summary{}, ErrEmpty
	case len(reader.File) > limits.Entries:
		return Summary{}, fmt.Errorf("%w: it has %d entries, more than %d", ErrInvalid, len(reader.File), limits.Entries)
	}
	if err := declared(reader.File, limits.UnzippedBytes); err != nil {
		return Summary{}, err
	}
	c := checker{tree: newTree(), left: limits.UnzippedBytes - 1}
	for _, file := range reader.File {
		if err := ctx.Err(); err != nil {
			return Summary{}, err
		}
		if err := c.entry(ctx, file); err != nil {
			return Summary{}, err
		}
	}
	if err := c.tree.escapes(); err != nil {
		return Summary{}, err
	}
	return Summary{Entries: len(reader.File), UnzippedBytes: limits.UnzippedBytes - 1 - c.left}, nil
}

// declared refuses, before anything is inflated, an archive that says itself that it is too large.
func declared(files []*zip.File, limit int64) error {
	var sum uint64
	for _, file := range files {
		if sum += min(file.UncompressedSize64, uint64(limit)); sum >= uint64(limit) {
			return ErrTooLarge
		}
	}
	return nil
}

// checker goes through the entries of one archive.
type checker struct {
	tree *tree
	left int64 // bytes that the rest may inflate to
}

func (c *checker) entry(ctx context.Context, file *zip.File) error {
	const encrypted = 1
	if file.Flags&encrypted != 0 {
		return fmt.Errorf("%w: %q is encrypted", ErrInvalid, file.Name)
	}
	name, err := cleanName(file.Name)
	if err != nil {
		return err
	}
	mode := file.Mode()
	switch mode.Type() {
	case 0:
		if _, err := c.inflate(ctx, file, io.Discard); err != nil {
			return err
		}
		return c.tree.add(name, kindFile, "")
	case fs.ModeDir:
		return c.tree.add(name, kindDir, "")
	case fs.ModeSymlink:
		var target strings.Builder
		n, err := c.inflate(ctx, file, &limitedWriter{&target, maxPath})
		if err != nil {
			return err
		}
		if n == 0 || strings.ContainsRune(target.String(), 0) {
			return fmt.Errorf("%w: the link %q points at no name", ErrInvalid, file.Name)
		}
		return c.tree.add(name, kindLink, target.String())
	}
	return fmt.Errorf("%w: %q is neither a file, nor a directory, nor a link", ErrInvalid, file.Name)
}

// inflate reads an entry's content, and with it checks its size and its CRC.
func (c *checker) inflate(ctx context.Context, file *zip.File, to io.Writer) (int64, error) {
	content, err := file.Open()
	if err != nil {
		return 0, fmt.Errorf("%w: %q: %w", ErrInvalid, file.Name, err)
	}
	defer content.Close()
	n, err := io.Copy(to, &meter{ctx: ctx, source: content, left: &c.left})
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, ErrTooLarge) || ctx.Err() != nil:
		return 0, err
	}
	return 0, fmt.Errorf("%w: %q: %w", ErrInvalid, file.Name, err)
}

// meter passes content on until what is left of the archive's allowance is used up, or ctx ends.
type meter struct {
	ctx    context.Context
	source io.Reader
	left   *int64
}

func (m *meter) Read(p []byte) (int, error) {
	if err := m.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := m.source.Read(p)
	if *m.left -= int64(n); *m.left < 0 {
		return 0, ErrTooLarge
	}
	return n, err
}

// limitedWriter refuses more than left bytes.
type limitedWriter struct {
	to   io.Writer
	left int
}

func (w *limitedWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, errors.New("a link's target is too long")
	}
	return w.to.Write(p)
}

// cleanName returns an entry's name relative to the root, without a trailing slash; "." is the root itself.
func cleanName(name string) (string, error) {
	bad := func(why string) (string, error) { return "", fmt.Errorf("%w: the name %q %s", ErrInvalid, name, why) }
	if name == "" || strings.ContainsRune(name, 0) {
		return bad("cannot be a file's")
	}
	if strings.HasPrefix(name, "/") {
		return bad("is absolute")
	}
	if len(name) > maxPath {
		return bad("is too long")
	}
	for element := range strings.SplitSeq(name, "/") {
		if element == ".." {
			return bad("leads upwards")
		}
		if len(element) > maxName {
			return bad("is too long")
		}
	}
	return path.Clean(name), nil
}
