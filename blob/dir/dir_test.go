package dir_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lambent"
	"lambent/blob"
	"lambent/blob/blobtest"
	"lambent/blob/dir"
)

const crashDirEnv = "LAMBENT_TEST_CRASH_DIR"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashDirEnv); path != "" {
		writeUntilKilled(path)
		return
	}
	os.Exit(m.Run())
}

func open(t *testing.T, path string) *dir.Store {
	t.Helper()
	store, err := dir.Open(dir.Options{Dir: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

func TestConformance(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store { return open(t, t.TempDir()) })
}

func TestLocked(t *testing.T) {
	path := t.TempDir()
	store := open(t, path)
	if _, err := dir.Open(dir.Options{Dir: path}); !errors.Is(err, dir.ErrLocked) {
		t.Fatalf("a second opening: %v", err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, path)
}

// TestDamage finds content that has changed or is shorter on the disk, at the latest at its end.
func TestDamage(t *testing.T) {
	damages := map[string]func([]byte) []byte{
		"changed":   func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"truncated": func(b []byte) []byte { return b[:len(b)-1] },
		"empty":     func([]byte) []byte { return nil },
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir()
			store := open(t, path)
			content := bytes.Repeat([]byte("content"), 1000)
			ref, err := store.Put(t.Context(), bytes.NewReader(content), 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(path, ref.SHA256[:2], ref.SHA256)
			if err := os.WriteFile(file, damage(bytes.Clone(content)), 0o600); err != nil {
				t.Fatal(err)
			}
			reader, err := store.Open(t.Context(), ref.SHA256)
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close()
			if _, err := io.ReadAll(reader); err == nil || !strings.Contains(err.Error(), "damaged") {
				t.Errorf("read without a complaint: %v", err)
			}
		})
	}
}

// writeUntilKilled is the child of TestKilled: it stores content of many sizes and prints the digest of what is stored.
func writeUntilKilled(path string) {
	store, err := dir.Open(dir.Options{Dir: path})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for i := 0; ; i++ {
		content := bytes.Repeat([]byte(fmt.Sprint(os.Getpid(), i)), 1+i*37%5000)
		ref, err := store.Put(context.Background(), bytes.NewReader(content), 1<<20)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Stdout.WriteString(ref.SHA256 + "\n")
	}
}

// TestKilled kills a writing process at random moments: all that it acknowledged is there and whole, and nothing is half
// there.
func TestKilled(t *testing.T) {
	path := t.TempDir()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var acknowledged []string
	for range 5 {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), crashDirEnv+"="+path)
		output, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(output)
		for n := 1 + random.IntN(50); n > 0 && lines.Scan(); n-- {
			acknowledged = append(acknowledged, lines.Text())
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() {
			acknowledged = append(acknowledged, lines.Text())
		}
		_ = child.Wait()
	}
	store := open(t, path)
	for _, digest := range acknowledged {
		check(t, store, digest)
	}
	if err := store.List(t.Context(), func(ref lambent.CodeRef) bool { check(t, store, ref.SHA256); return true }); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Join(path, "uploads"))
	if err != nil || len(left) != 0 || len(acknowledged) < 5 {
		t.Errorf("%d acknowledged; left behind: %v, %v", len(acknowledged), left, err)
	}
}

func check(t *testing.T, store *dir.Store, digest string) {
	t.Helper()
	reader, err := store.Open(t.Context(), digest)
	if err != nil {
		t.Errorf("%s: %v", digest, err)
		return
	}
	defer reader.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, reader); err != nil || hex.EncodeToString(sum.Sum(nil)) != digest {
		t.Errorf("%s: %v", digest, err)
	}
}
