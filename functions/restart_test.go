package functions_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lambent"
	"lambent/blob"
	"lambent/blob/dir"
	blobmemory "lambent/blob/memory"
	"lambent/functions"
	"lambent/meta/etcd"
)

const crashDirEnv = "LAMBENT_TEST_CRASH_DIR"

func newBlobs() blob.Store { return &blobmemory.Store{} }

// disk is a control plane over stores on the disk.
type disk struct {
	*bench
	store *etcd.Store
	files *dir.Store
}

func openDisk(ctx context.Context, path string) (*disk, error) {
	store, err := etcd.Open(ctx, etcd.Options{Dir: filepath.Join(path, "meta")})
	if err != nil {
		return nil, err
	}
	files, err := dir.Open(dir.Options{Dir: filepath.Join(path, "blobs")})
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	service, err := functions.Open(ctx, functions.Options{Region: region, Meta: store, Blobs: files})
	if err != nil {
		return nil, errors.Join(err, files.Close(), store.Close())
	}
	return &disk{&bench{service, store, files}, store, files}, nil
}

func (d *disk) close() error {
	return errors.Join(d.Service.Close(), d.files.Close(), d.store.Close())
}

// TestRestart: all that was answered is there after a restart, to the operations and to the data plane.
func TestRestart(t *testing.T) {
	path := t.TempDir()
	before, err := openDisk(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	before.mutate(t, rand.New(rand.NewPCG(1, 2)), 100)
	r := request(t, "kept")
	r.Tags, r.Environment = tags(3), &map[string]string{"A": "1"}
	r.VpcConfig = &functions.VpcConfig{SubnetIDs: []string{"s"}}
	r.DeadLetter = &functions.DeadLetter{TargetARN: "arn:q"}
	if _, err := before.CreateFunction(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	before.settle(t, ref("kept", ""))
	before.publish(t, "kept")
	function, err := before.GetFunction(t.Context(), ref("kept", "1"))
	if err != nil {
		t.Fatal(err)
	}
	settings, err := before.GetAccountSettings(t.Context(), account)
	if err != nil {
		t.Fatal(err)
	}
	if err := before.close(); err != nil {
		t.Fatal(err)
	}
	after, err := openDisk(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer after.close()
	again, err := after.GetFunction(t.Context(), ref("kept", "1"))
	if diff := cmp.Diff(function, again); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	if now, err := after.GetAccountSettings(t.Context(), account); err != nil || now != settings {
		t.Errorf("%+v, %v; want %+v", now, err, settings)
	}
	page, err := after.ListFunctions(t.Context(), functions.ListFunctionsRequest{Account: account})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range page.Configurations { // what was under way is resumed
		after.settle(t, lambent.FunctionRef{FunctionName: c.Function})
	}
	v := newView()
	v.follow(t, watch(t, t.Context(), after), after.at(t))
	after.compare(t, v)
}

// TestResume: a function that was being created when the process ended becomes usable after the next start.
func TestResume(t *testing.T) {
	b := newBench(t)
	gate := &gatedBlobs{Store: b.blobs, gate: make(chan struct{})}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	first := openService(t, functions.Options{Meta: b.meta, Blobs: gate})
	r := request(t, "f")
	r.Publish = true
	if _, err := first.CreateFunction(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	b.Service = openService(t, functions.Options{Meta: b.meta, Blobs: b.blobs})
	for _, qualifier := range []string{"", "1"} {
		if c := b.settle(t, ref("f", qualifier)); c.State != lambent.StateActive {
			t.Errorf("%+v", c)
		}
	}
}

// createUntilKilled is the child of TestKilled: it creates functions and prints the name of each that was answered.
func createUntilKilled(path string) {
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	d, err := openDisk(context.Background(), path)
	if err != nil {
		fail(err)
	}
	var mu sync.Mutex
	var group sync.WaitGroup
	for worker := range 4 {
		group.Go(func() {
			for i := 0; ; i++ {
				r := request(panicker{}, fmt.Sprintf("f-%d-%d-%d", os.Getpid(), worker, i))
				r.Publish = i%2 == 0
				if _, err := d.CreateFunction(context.Background(), r); err != nil {
					fail(err)
				}
				mu.Lock()
				os.Stdout.WriteString(r.Function.Name + "\n")
				mu.Unlock()
			}
		})
	}
	group.Wait()
}

// panicker stands in for a test where there is none.
type panicker struct{ testing.TB }

func (panicker) Helper()           {}
func (panicker) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// TestKilled kills a process that creates functions, at random moments: each that was answered is there, becomes usable,
// and has its code.
func TestKilled(t *testing.T) {
	path := t.TempDir()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var answered []string
	for range 4 {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), crashDirEnv+"="+path)
		child.Stderr = t.Output()
		output, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(output)
		for n := 1 + random.IntN(60); n > 0 && lines.Scan(); n-- {
			answered = append(answered, lines.Text())
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() {
			answered = append(answered, lines.Text())
		}
		_ = child.Wait()
	}
	d, err := openDisk(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if err := d.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, fn := range answered {
		c := d.settle(t, ref(fn, ""))
		if c.State != lambent.StateActive {
			t.Errorf("%+v", c)
		}
		reader, err := d.OpenCode(t.Context(), c.Code)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, reader); err != nil {
			t.Error(err)
		}
		reader.Close()
	}
	if len(answered) < 4 {
		t.Errorf("only %d functions were created", len(answered))
	}
	t.Logf("%d functions were created", len(answered))
}
