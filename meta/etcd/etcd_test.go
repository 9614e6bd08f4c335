package etcd_test

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lambent/meta"
	"lambent/meta/etcd"
	"lambent/meta/metatest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDirEnv); dir != "" {
		writeUntilKilled(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

func open(t *testing.T, options etcd.Options) *etcd.Store {
	t.Helper()
	options.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	store, err := etcd.Open(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

func TestConformance(t *testing.T) {
	const backlog = 60
	metatest.Run(t, backlog, func(t *testing.T) meta.Store {
		return open(t, etcd.Options{Dir: t.TempDir(), WatchBacklog: backlog})
	})
}

// TestReopen finds what was written, quickly: the promise is a request served within 1 s of the process's start, and the
// store may take 300 ms of it on an idle machine. The test allows for a busy one.
func TestReopen(t *testing.T) {
	dir := t.TempDir()
	store := open(t, etcd.Options{Dir: dir})
	revision, err := store.Commit(t.Context(), nil, []meta.Op{{Key: "a", Value: []byte("1")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	store = open(t, etcd.Options{Dir: dir})
	item, ok, err := store.Get(t.Context(), "a")
	elapsed := time.Since(start)
	if err != nil || !ok || string(item.Value) != "1" || item.Revision != revision {
		t.Fatalf("after the restart: %+v, %v, %v", item, ok, err)
	}
	t.Logf("open and read: %v", elapsed)
	if elapsed > time.Second {
		t.Errorf("open and read took %v", elapsed)
	}
}

// TestLocked refuses a second opening at once, and names the process that has the directory.
func TestLocked(t *testing.T) {
	dir := t.TempDir()
	store := open(t, etcd.Options{Dir: dir})
	start := time.Now()
	_, err := etcd.Open(t.Context(), etcd.Options{Dir: dir})
	if !errors.Is(err, etcd.ErrLocked) || !strings.Contains(err.Error(), dir) {
		t.Fatalf("a second opening: %v", err)
	}
	if elapsed := time.Since(start); elapsed > time.Second {
		t.Errorf("it took %v to refuse", elapsed)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, etcd.Options{Dir: dir})
}

// TestNoListeners finds no socket of this process that listens: the store has no authentication of its own.
func TestNoListeners(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	before := sockets(t)
	if len(before) == 0 {
		t.Fatal("this test does not see a listener that is there")
	}
	listener.Close()
	dir := t.TempDir()
	open(t, etcd.Options{Dir: dir})
	if after := sockets(t); len(after) >= len(before) {
		t.Errorf("sockets of this process: %q, with one listener: %q", after, before)
	}
	info, err := os.Stat(filepath.Join(dir, "etcd"))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the database's directory: %v, %v", info.Mode(), err)
	}
}

// sockets returns what the process's descriptors for sockets point at.
func sockets(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, entry := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + entry.Name()); err == nil && strings.HasPrefix(target, "socket:") {
			found = append(found, target)
		}
	}
	return found
}
