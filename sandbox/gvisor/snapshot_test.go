package gvisor

import (
	"bufio"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"lambent/sandbox"
	"lambent/sandbox/native/nativetest"
)

// shell is what the tests of snapshots show inside.
func shell() []sandbox.Mount {
	return []sandbox.Mount{{Source: "/usr", Target: "/usr"}}
}

// counter writes a file, and then numbers until it is told to stop by a file.
const counter = `echo kept > /tmp/kept; ln /tmp/kept /tmp/linked; ln -s kept /tmp/link; mkdir -p /tmp/a/b; echo deep > /tmp/a/b/c; i=0
while ! [ -e /tmp/stop ]; do i=$((i+1)); echo $i; sleep 0.02; done; exit 7`

// openShell makes a driver whose sandboxes have a shell.
func openShell(t testing.TB, stateDir string) *Driver {
	t.Helper()
	needHost(t)
	d, err := Open(Options{StateDir: stateDir, Runsc: runsc(), Base: shell()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if left := nativetest.Leftovers(stateDir); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	})
	return d
}

func specialised(t testing.TB, d *Driver, id string, ephemeralMiB int) sandbox.Sandbox {
	t.Helper()
	box, err := d.Create(t.Context(), id, sandbox.Template{})
	if err != nil {
		t.Fatal(err)
	}
	err = box.Specialise(t.Context(), sandbox.Spec{MemoryMiB: 128, VCPU: 2, Processes: 64, Descriptors: 256, EphemeralMiB: ephemeralMiB,
		Hostname: "function", Mounts: []sandbox.Mount{{Source: t.TempDir(), Target: "/var/task"}}})
	if err != nil {
		t.Fatal(err)
	}
	return box
}

func sh(t testing.TB, box sandbox.Sandbox, script string) sandbox.Process {
	t.Helper()
	p, err := box.Start(t.Context(), sandbox.Command{Path: "/usr/bin/bash", Args: []string{"bash", "-c", script}, Env: []string{"PATH=/usr/bin"}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func said(t testing.TB, box sandbox.Sandbox, script string) string {
	t.Helper()
	p := sh(t, box, script)
	defer p.Output().Close()
	out, err := io.ReadAll(p.Output())
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// next reads the next number of a counter.
func next(t testing.TB, r *bufio.Reader) int {
	t.Helper()
	line, err := r.ReadString('\n')
	n, convErr := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || convErr != nil {
		t.Fatalf("the counter said %q: %v", line, err)
	}
	return n
}

// checkSaved checks that a sandbox with a counter is as it was: its process counts on, /tmp and the Runtime API are there, and it ends
// as it would have.
func checkSaved(t *testing.T, box sandbox.Sandbox, counting sandbox.Process, numbers *bufio.Reader, least int) {
	t.Helper()
	if n := next(t, numbers); n < least {
		t.Errorf("after %d the counter said %d", least, n)
	}
	go answer(box.RuntimeAPI())
	for script, want := range map[string]string{
		"cat /tmp/kept /tmp/linked /tmp/link /tmp/a/b/c":                              "kept\nkept\nkept\ndeep",
		"stat -c %h:%u:%g /tmp/kept":                                                  "2:993:990",
		"cat /proc/sys/kernel/hostname":                                               "function",
		"exec 3<>/dev/tcp/169.254.100.1/9001; echo hello >&3; cat <&3":                "hello",
		"head -c 1000 /dev/zero > /tmp/new; stat -c %s /tmp/new":                      "1000",
		"ulimit -n; ulimit -u; touch /var/task/x 2>/dev/null && echo written || true": "256\n64",
	} {
		if got := said(t, box, script); got != want {
			t.Errorf("%s: %q instead of %q", script, got, want)
		}
	}
	said(t, box, "touch /tmp/stop")
	go io.Copy(io.Discard, numbers)
	ctx := t.Context()
	exit, err := counting.Wait(ctx)
	if err != nil || exit != (sandbox.Exit{Code: 7}) {
		t.Errorf("the counter ended with %+v, %v", exit, err)
	}
}

// answer returns to each connection its first line.
func answer(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		line, _ := bufio.NewReader(conn).ReadString('\n')
		io.WriteString(conn, line)
		conn.Close()
	}
}

func TestSnapshot(t *testing.T) {
	for _, ephemeralMiB := range []int{512, 600} {
		t.Run(strconv.Itoa(ephemeralMiB), func(t *testing.T) {
			d := openShell(t, t.TempDir())
			box := specialised(t, d, "original", ephemeralMiB)
			counting := sh(t, box, counter)
			defer counting.Output().Close()
			numbers := bufio.NewReader(counting.Output())
			for range 5 {
				next(t, numbers)
			}
			dir := filepath.Join(t.TempDir(), "snapshot")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			if err := d.Snapshot(t.Context(), box, dir); err != nil {
				t.Fatal(err)
			}
			t.Logf("snapshot: %v", time.Since(begun))
			for _, name := range []string{"one", "two"} {
				begun := time.Now()
				restored, processes, err := d.Restore(t.Context(), name, dir)
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("restore: %v", time.Since(begun))
				if len(processes) != 1 {
					t.Fatalf("%d processes", len(processes))
				}
				defer processes[0].Output().Close()
				checkSaved(t, restored, processes[0], bufio.NewReader(processes[0].Output()), 5)
			}
			checkSaved(t, box, counting, numbers, 6)
		})
	}
}
