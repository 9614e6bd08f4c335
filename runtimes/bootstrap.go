package runtimes

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// bootstraps are the programs that speak the Runtime API, a directory per language.
//
//go:embed bootstrap/python/*.py bootstrap/nodejs/*.cjs
var bootstraps embed.FS

// bootstrapsDigest identifies the embedded content.
func bootstrapsDigest() (string, error) {
	hash := sha256.New()
	err := fs.WalkDir(bootstraps, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := bootstraps.ReadFile(name)
		fmt.Fprintf(hash, "%s\x00%d\x00%s", name, len(content), content)
		return err
	})
	return hex.EncodeToString(hash.Sum(nil)), err
}

// writeBootstraps writes the bootstraps to dir/python and dir/nodejs, readable by every user.
func writeBootstraps(dir string) error {
	return fs.WalkDir(bootstraps, "bootstrap", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel("bootstrap", name)
		if err != nil {
			return err
		}
		target := filepath.Join(dir, relative)
		if entry.IsDir() {
			if err := os.MkdirAll(target, 0o755); err != nil {
				return fmt.Errorf("write the bootstraps: %w", err)
			}
			return os.Chmod(target, 0o755) // whatever the umask
		}
		content, err := bootstraps.ReadFile(name)
		if err != nil {
			return err
		}
		if err := writeFile(target, content); err != nil {
			return fmt.Errorf("write the bootstraps: %w", err)
		}
		return nil
	})
}
