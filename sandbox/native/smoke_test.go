package native

import (
	"context"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"lambent/sandbox"
)

func TestMain(m *testing.M) {
	MaybeInit()
	os.Exit(m.Run())
}

func TestSmoke(t *testing.T) {
	dir := t.TempDir()
	code := t.TempDir()
	os.Chmod(code, 0o755)
	build := exec.Command("go", "build", "-o", code+"/probe", "lambent/sandbox/sandboxtest/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	d, err := Open(Options{StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}()
	ctx := context.Background()
	if err := d.Recover(ctx); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		t0 := time.Now()
		s, err := d.Create(ctx, "one")
		if err != nil {
			t.Fatal(err)
		}
		t1 := time.Now()
		err = s.Specialise(ctx, sandbox.Spec{MemoryMiB: 128, VCPU: 1, Processes: 100, Descriptors: 1024, EphemeralMiB: 512,
			Mounts: []sandbox.Mount{{Source: code, Target: "/var/task"}}, Hostname: "x"})
		if err != nil {
			t.Fatal(err)
		}
		t2 := time.Now()
		p, err := s.Start(ctx, sandbox.Command{Path: "/var/task/probe", Args: []string{"probe", "a"}, Dir: "/var/task"})
		if err != nil {
			t.Fatal(err)
		}
		t3 := time.Now()
		out, _ := io.ReadAll(p.Output())
		t4 := time.Now()
		e, err := p.Wait(ctx)
		t.Logf("%s %+v %v", out, e, err)
		u, err := s.Usage()
		t.Logf("%+v %v create %v specialise %v start %v output %v", u, err, t1.Sub(t0), t2.Sub(t1), t3.Sub(t2), t4.Sub(t3))
		t5 := time.Now()
		if err := s.Destroy(ctx); err != nil {
			t.Fatal(err)
		}
		t.Logf("destroy %v", time.Since(t5))
	}
}
