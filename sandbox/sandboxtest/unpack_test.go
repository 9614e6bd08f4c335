package sandboxtest_test

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
	"testing"

	"lambent"
	"lambent/sandbox/sandboxtest/probe/hostile"
	"lambent/worker/codecache"
)

// TestUnpackHolds unpacks hostile archives as a worker does, and by an unpacker that trusts them. The first must plant
// nothing outside of its directory, and the other must, or the archive is harmless.
func TestUnpackHolds(t *testing.T) {
	for _, attempt := range hostile.Archives() {
		t.Run(attempt.Name, func(t *testing.T) {
			for name, unpack := range map[string]unpacker{"code cache": unpackByCache, "trusting": unpackTrusting} {
				target, dir := t.TempDir(), t.TempDir()
				var archives [][]byte
				for _, entries := range attempt.Archives(target) {
					archives = append(archives, zipOf(t, entries))
				}
				stop := func() {}
				if attempt.Race {
					stop = swap(dir, target)
				}
				var planted []string
				var err error
				for round := 0; round < 10 && len(planted) == 0; round++ { // a race is not won each time
					err = unpack(t, dir, archives)
					planted, _ = filepath.Glob(filepath.Join(target, hostile.Planted+"*"))
					if !attempt.Race || err == nil && name != "trusting" {
						break
					}
				}
				stop()
				t.Logf("%s: %d files outside, %v", name, len(planted), err)
				if trusting := name == "trusting"; (len(planted) > 0) != trusting {
					t.Errorf("%s: %d files were planted outside, %v", name, len(planted), err)
				}
			}
		})
	}
}

// unpacker unpacks archives one over the other below a directory.
type unpacker func(t *testing.T, dir string, archives [][]byte) error

// content is a store of archives by their digests.
type content map[string][]byte

func (c content) Open(_ context.Context, digest string) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(c[digest])), nil
}

func unpackByCache(t *testing.T, dir string, archives [][]byte) error {
	store := content{}
	var refs []lambent.CodeRef
	for _, archive := range archives {
		sum := sha256.Sum256(archive)
		ref := lambent.CodeRef{SHA256: hex.EncodeToString(sum[:]), Size: int64(len(archive))}
		store[ref.SHA256] = archive
		refs = append(refs, ref)
	}
	earlier, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(dir, fmt.Sprintf("cache-%d", len(earlier)))
	cache, err := codecache.Open(codecache.Options{Dir: own, Blobs: store, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	tree, err := cache.Get(t.Context(), refs...)
	if err == nil {
		tree.Release()
	}
	return err
}

// unpackTrusting does what each name says.
func unpackTrusting(_ *testing.T, dir string, archives [][]byte) error {
	dir = filepath.Join(dir, "trusting", "making", "tree")
	for _, archive := range archives {
		reader, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
		if reader == nil {
			return err
		}
		for _, file := range reader.File {
			path := filepath.Join(dir, file.Name)
			if filepath.IsAbs(file.Name) {
				path = file.Name
			}
			os.MkdirAll(filepath.Dir(path), 0o755)
			in, err := file.Open()
			if err != nil {
				return err
			}
			text, err := io.ReadAll(in)
			if err != nil {
				return err
			}
			if file.Mode()&fs.ModeSymlink != 0 {
				err = os.Symlink(string(text), path)
			} else {
				err = os.WriteFile(path, text, 0o644)
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) { // in a race it is gone for a moment
				return err
			}
		}
	}
	return nil
}

// swap replaces the raced directory by a link to the target, wherever below dir it is being made, until stop is called.
func swap(dir, target string) (stop func()) {
	ended, end := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		aside := 0
		for {
			select {
			case <-end:
				return
			default:
			}
			for _, pattern := range []string{"*/*/tree/", "*/.*/tree/"} {
				found, _ := filepath.Glob(filepath.Join(dir, pattern+hostile.RacedDirectory))
				for _, raced := range found {
					if info, err := os.Lstat(raced); err == nil && info.IsDir() {
						os.Rename(raced, fmt.Sprintf("%s-aside-%d", raced, aside))
						os.Symlink(target, raced)
						aside++
					}
				}
			}
		}
	}()
	return func() { close(end); <-ended }
}

func zipOf(t *testing.T, entries []hostile.Entry) []byte {
	t.Helper()
	var out bytes.Buffer
	writer := zip.NewWriter(&out)
	for _, entry := range entries {
		header := &zip.FileHeader{Name: entry.Name}
		header.SetMode(entry.Mode | 0o644)
		w, err := writer.CreateHeader(header)
		if err == nil {
			_, err = io.WriteString(w, entry.Content)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
