package main

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

// Sizes of code, in bytes, from Lambda's quotas.
const (
	maxZipBytes      = 50 << 20
	maxUnpackedBytes = 250 << 20
)

// skipped are names that do not belong into an archive, wherever they are in the tree; one with a slash is the end of a path.
func skipped(name string) bool {
	base := path.Base(name)
	return slices.Contains([]string{".git", ".hg", ".svn", ".DS_Store", "__pycache__", ".pytest_cache", ".mypy_cache", ".venv"}, base) ||
		path.Ext(base) == ".pyc" || name == "node_modules/.cache" || strings.HasSuffix(name, "/node_modules/.cache")
}

// bundle packs files into a zip archive. The same files give the same bytes, whenever and wherever they are packed: the
// order is sorted, times are constant, and of the permissions only the right to execute is kept. Symbolic links are kept.
func bundle(files fs.FS) ([]byte, error) {
	var archive bytes.Buffer
	w := zip.NewWriter(&archive)
	w.RegisterCompressor(zip.Deflate, func(out io.Writer) (io.WriteCloser, error) { return flate.NewWriter(out, flate.BestCompression) })
	unpacked := int64(0)
	count := 0
	err := fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case name == ".":
			return nil
		case skipped(name) && entry.IsDir():
			return fs.SkipDir
		case skipped(name) || entry.IsDir():
			return nil
		}
		n, err := addFile(w, files, name, entry)
		if unpacked += n; err == nil && unpacked > maxUnpackedBytes {
			err = fmt.Errorf("the files are larger than %s together", byteSize(maxUnpackedBytes))
		}
		count++
		return err
	})
	if err == nil && count == 0 {
		err = errors.New("there are no files")
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("pack the function: %w", err)
	}
	return archive.Bytes(), checkZipSize(archive.Len())
}

func checkZipSize(size int) error {
	if size > maxZipBytes {
		return fmt.Errorf("the archive has %s, more than the %s that can be deployed", byteSize(int64(size)), byteSize(maxZipBytes))
	}
	return nil
}

// addFile adds a file or symbolic link and returns the number of its bytes.
func addFile(w *zip.Writer, files fs.FS, name string, entry fs.DirEntry) (int64, error) {
	info, err := entry.Info()
	if err != nil {
		return 0, err
	}
	header := &zip.FileHeader{Name: name, Method: zip.Deflate, Modified: time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		return addLink(w, files, name, header)
	case !info.Mode().IsRegular():
		return 0, fmt.Errorf("%s is neither a file, a directory nor a symbolic link", name)
	case info.Mode()&0o111 != 0:
		header.SetMode(0o755)
	default:
		header.SetMode(0o644)
	}
	file, err := files.Open(name)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	out, err := w.CreateHeader(header)
	if err != nil {
		return 0, err
	}
	return io.Copy(out, io.LimitReader(file, maxUnpackedBytes+1))
}

func addLink(w *zip.Writer, files fs.FS, name string, header *zip.FileHeader) (int64, error) {
	target, err := fs.ReadLink(files, name)
	if err != nil {
		return 0, err
	}
	if path.IsAbs(target) || !fs.ValidPath(path.Join(path.Dir(name), target)) {
		return 0, fmt.Errorf("the symbolic link %s leads out of the directory, to %s", name, target)
	}
	header.SetMode(fs.ModeSymlink | 0o777)
	out, err := w.CreateHeader(header)
	if err != nil {
		return 0, err
	}
	n, err := io.WriteString(out, target)
	return int64(n), err
}
