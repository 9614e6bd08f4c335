package etcd_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"lambent/meta"
	"lambent/meta/etcd"
)

const crashDirEnv = "LAMBENT_TEST_CRASH_DIR"

// writeUntilKilled is the child of TestKilled: it writes with several writers, and prints each key once it is acknowledged.
func writeUntilKilled(dir string) {
	store, err := etcd.Open(context.Background(), etcd.Options{Dir: dir})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var mu sync.Mutex
	var writers sync.WaitGroup
	for writer := range 4 {
		writers.Go(func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("k/%d/%d/%d", os.Getpid(), writer, i)
				ops := []meta.Op{{Key: key, Value: []byte(key)}, {Key: key + "/twin", Value: []byte(key)}}
				if _, err := store.Commit(context.Background(), nil, ops); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				mu.Lock()
				os.Stdout.WriteString(key + "\n")
				mu.Unlock()
			}
		})
	}
	writers.Wait()
}

// TestKilled kills a writing process at random moments, over and over on one directory, and then finds every acknowledged
// write, and both halves of each commit.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	acknowledged := map[string]bool{}
	for range 5 {
		count := len(acknowledged)
		killWriter(t, dir, random, acknowledged)
		if len(acknowledged) == count {
			t.Fatal("the writer acknowledged nothing")
		}
	}
	store := open(t, etcd.Options{Dir: dir})
	items, _, err := store.List(t.Context(), "k/", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	stored := map[string]bool{}
	for _, item := range items {
		stored[item.Key] = true
	}
	for key := range acknowledged {
		if !stored[key] {
			t.Errorf("%s was acknowledged and is lost", key)
		}
	}
	for key := range stored {
		if len(key) > 5 && key[len(key)-5:] != "/twin" && !stored[key+"/twin"] {
			t.Errorf("%s is there without its twin", key)
		}
	}
	t.Logf("%s acknowledged, %d stored", strconv.Itoa(len(acknowledged)), len(stored)/2)
}

func killWriter(t *testing.T, dir string, random *rand.Rand, acknowledged map[string]bool) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), crashDirEnv+"="+dir)
	child.Stderr = t.Output()
	output, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(output)
	for limit := 1 + random.IntN(400); limit > 0 && lines.Scan(); limit-- {
		acknowledged[lines.Text()] = true
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() { // what was acknowledged before the signal came
		acknowledged[lines.Text()] = true
	}
	_ = child.Wait()
}
