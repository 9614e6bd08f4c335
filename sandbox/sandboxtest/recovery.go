package sandboxtest

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"lambent/sandbox"
)

// The variables that turn the victim's test on.
const (
	victimState = "SANDBOX_VICTIM_STATE"
	victimCode  = "SANDBOX_VICTIM_CODE"
)

// Victim is the process that the suite kills: it fills a driver with sandboxes, says so, and waits. In an ordinary test
// run it does nothing.
func Victim(t *testing.T, h Harness) {
	stateDir := os.Getenv(victimState)
	if stateDir == "" {
		t.Skip("this test is run by the suite, in a process of its own")
	}
	s := &suite{Harness: h, code: os.Getenv(victimCode), stateDir: stateDir}
	driver := s.open(t, stateDir)
	if _, err := driver.Create(t.Context(), "ready", sandbox.Template{}); err != nil {
		t.Fatal(err)
	}
	for _, state := range []string{"running", "frozen", "bombed"} {
		box, err := driver.Create(t.Context(), state, sandbox.Template{})
		if err != nil {
			t.Fatal(err)
		}
		spec := s.specification()
		if err := box.Specialise(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		if state == "bombed" {
			start(t, box, "forkbomb")
			continue
		}
		start(t, box, "count")
		if state == "frozen" {
			if err := box.Freeze(); err != nil {
				t.Fatal(err)
			}
		}
	}
	fmt.Println("\nvictim ready")
	select {}
}

// recovery kills a process that has sandboxes, and recovers, while another driver's sandbox lives.
func recovery(t *testing.T, s *suite) {
	bystander := s.sandbox(t, nil)
	living := start(t, bystander, "count")
	defer living.Output().Close()

	stateDir := t.TempDir()
	for range 2 {
		killVictim(t, s, stateDir)
		driver := s.open(t, stateDir)
		if left := withoutOwn(s.Leftovers(stateDir)); len(left) > 0 {
			t.Errorf("after Recover there are left: %s", strings.Join(left, ", "))
		}
		box, err := driver.Create(t.Context(), "running", sandbox.Template{}) // the names are free again
		if err != nil {
			t.Fatal(err)
		}
		if err := box.Specialise(t.Context(), s.specification()); err != nil {
			t.Fatal(err)
		}
		hold(t, box, "echo")
		s.closeClean(t, driver, stateDir)
	}
	if _, err := living.Output().Read(make([]byte, 1)); err != nil {
		t.Errorf("the other driver's sandbox ended: %v", err)
	}
	t.Run("one driver at a time", func(t *testing.T) {
		if driver, err := s.Open(s.stateDir); err == nil {
			driver.Close()
			t.Error("a second driver opened the same state directory")
		}
	})
	t.Run("create after close", func(t *testing.T) {
		driver := s.open(t, stateDir)
		s.closeClean(t, driver, stateDir)
		if _, err := driver.Create(t.Context(), "late", sandbox.Template{}); err == nil {
			t.Error("a closed driver made a sandbox")
		}
		if err := driver.Close(); err != nil {
			t.Errorf("the second Close: %v", err)
		}
	})
	t.Run("close with living sandboxes", func(t *testing.T) {
		driver := s.open(t, stateDir)
		for _, name := range []string{"a", "b", "c"} {
			if _, err := driver.Create(context.Background(), name, sandbox.Template{}); err != nil {
				t.Fatal(err)
			}
		}
		s.closeClean(t, driver, stateDir)
	})
}

// withoutOwn drops what the driver itself has while it is open; Leftovers marks it so.
func withoutOwn(left []string) []string {
	var rest []string
	for _, item := range left {
		if !strings.HasPrefix(item, OwnMark) {
			rest = append(rest, item)
		}
	}
	return rest
}

// OwnMark begins those items of Leftovers that an open driver has without any sandbox.
const OwnMark = "driver: "

// killVictim starts a victim, waits until it is ready, and kills it.
func killVictim(t *testing.T, s *suite, stateDir string) {
	t.Helper()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	victim := exec.Command(executable, "-test.run=^"+s.VictimTest+"$", "-test.v")
	victim.Env = append(os.Environ(), victimState+"="+stateDir, victimCode+"="+s.code)
	victim.Stderr = os.Stderr
	stdout, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(patience, func() { victim.Process.Kill() })
	defer timer.Stop()
	var said []string
	ready := false
	scanner := bufio.NewScanner(stdout)
	for !ready && scanner.Scan() {
		said = append(said, scanner.Text())
		ready = scanner.Text() == "victim ready"
	}
	victim.Process.Kill()
	victim.Wait()
	if !ready {
		t.Fatalf("the victim did not get ready: %s", strings.Join(said, "\n"))
	}
}
