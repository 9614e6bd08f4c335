package rootless

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// regionPatience bounds whatever TestRegion waits for, in an emulated machine.
const regionPatience = 3 * time.Minute

// TestRegion is a user without rights who starts a region, deploys a function and invokes it, and who stops and kills regions. It is run
// in a virtual machine by TestRootlessInGuest of package microvm.
func TestRegion(t *testing.T) {
	programs := os.Getenv("LAMBENT_ROOTLESS_PROGRAMS")
	if programs == "" {
		t.Skip("this test is run by TestRootlessInGuest of package microvm, without root in a virtual machine")
	}
	home, err := os.MkdirTemp("", "region") //nolint:usetesting // what is in it belongs to subordinate IDs, and goes with the machine
	if err != nil {
		t.Fatal(err)
	}
	r := &region{t: t, lambent: filepath.Join(programs, "lambent"), data: filepath.Join(home, "data")}
	r.enterLeaf()

	r.up()
	for _, want := range []string{"running without root", "docs/isolation.md#rootless"} {
		if !strings.Contains(r.said.String(), want) {
			t.Errorf("it does not say %q: %s", want, r.said)
		}
	}
	function := filepath.Join(t.TempDir(), "echo")
	if err := os.Mkdir(function, 0o755); err != nil {
		t.Fatal(err)
	}
	bootstrap, err := os.ReadFile(filepath.Join(programs, "bootstrap"))
	if err == nil {
		err = os.WriteFile(filepath.Join(function, "bootstrap"), bootstrap, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	r.run("deploy", function, "--data", r.data, "--timeout", "60s", "--memory", "1769") // it is slow enough with a whole processor
	if out := r.run("invoke", "echo", "--data", r.data, "-d", `{"hello":"user"}`); strings.TrimSpace(out) != `{"hello":"user"}` {
		t.Errorf("the function answered %q", out)
	}
	r.checkOwners()
	if err := r.cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM it ended with %v: %s", err, r.said)
	}
	r.awaitEmpty()

	r.up() // what is there is kept
	if out := r.run("invoke", "echo", "--data", r.data, "-d", `"again"`); strings.TrimSpace(out) != `"again"` {
		t.Errorf("the function answered %q", out)
	}
	if err := r.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = r.cmd.Wait() // it was killed
	r.awaitEmpty()
	r.checkDoctor()
	r.checkRefusals()
}

// region is a region of this user's.
type region struct {
	t             *testing.T
	lambent, data string
	scope         string // the cgroup that is delegated to the user
	cmd           *exec.Cmd
	said          *bytes.Buffer // to the standard error; complete when cmd has ended
}

// enterLeaf moves this process out of the way, so that regions may have cgroups beside it, as under a user's systemd.
func (r *region) enterLeaf() {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		r.t.Fatal(err)
	}
	_, path, _ := strings.Cut(strings.TrimSpace(string(text)), "::")
	r.scope = filepath.Join("/sys/fs/cgroup", path)
	for _, step := range []struct{ file, text string }{
		{"test/cgroup.procs", "0"}, {"cgroup.subtree_control", "+memory +cpu +pids +io"},
	} {
		path := filepath.Join(r.scope, step.file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			r.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(step.text), 0); err != nil {
			r.t.Fatal(err)
		}
	}
	if err := os.Mkdir(r.home(), 0o755); err != nil {
		r.t.Fatal(err)
	}
}

// home is the cgroup that regions are started in.
func (r *region) home() string { return filepath.Join(r.scope, "region") }

// command is a command of lambent's in the region's cgroup.
func (r *region) command(args ...string) *exec.Cmd {
	home, err := os.Open(r.home())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { home.Close() })
	cmd := exec.CommandContext(r.t.Context(), r.lambent, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(home.Fd())}
	return cmd
}

// up starts the region and waits until it listens.
func (r *region) up() {
	r.t.Helper()
	r.emptyHome()
	r.cmd, r.said = r.command("up", "--data", r.data, "--listen", "127.0.0.1:0"), &bytes.Buffer{}
	said, err := r.cmd.StderrPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	out, err := r.cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	timer := time.AfterFunc(regionPatience, func() { r.cmd.Process.Kill() })
	defer timer.Stop()
	first, err := bufio.NewReader(said).ReadString('\n') // what is weaker
	r.said.WriteString(first)
	if err == nil {
		go io.Copy(io.Discard, said)
		first, err = bufio.NewReader(out).ReadString('\n')
	}
	if err != nil || !strings.Contains(first, "Lambent listens") {
		r.cmd.Process.Kill()
		rest, _ := io.ReadAll(said)
		r.t.Fatalf("the region does not start: %v: %s%s%s", err, r.said, first, rest)
	}
	go io.Copy(io.Discard, out)
}

// emptyHome makes the region's cgroup anew: the one that a region was in keeps its controllers for those below.
func (r *region) emptyHome() {
	removeBelow(r.home())
	if err := unix.Rmdir(r.home()); err != nil {
		r.t.Fatalf("remove the cgroup of a region that has ended: %v", err)
	}
	if err := os.Mkdir(r.home(), 0o755); err != nil {
		r.t.Fatal(err)
	}
}

// run runs a command of lambent's to its end and returns what it printed.
func (r *region) run(args ...string) string {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), r.lambent, args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatalf("lambent %q: %v: %s%s", args, err, out, errs.String())
	}
	return string(out)
}

// checkOwners looks who the processes of the region are outside: the user, and IDs of the user's, one for the service and two for a
// sandbox.
func (r *region) checkOwners() {
	owners := map[uint32]bool{}
	filepath.WalkDir(r.home(), func(path string, _ os.DirEntry, _ error) error {
		text, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		for pid := range strings.FieldsSeq(string(text)) {
			var stat unix.Stat_t
			if unix.Stat("/proc/"+pid, &stat) == nil {
				owners[stat.Uid] = true
			}
		}
		return nil
	})
	for _, needed := range []uint32{guestUser, guestRange, guestRange + 2} {
		if !owners[needed] {
			r.t.Errorf("no process is user %d; there are %v", needed, owners)
		}
	}
	for owner := range owners {
		if owner != guestUser && (owner < guestRange || owner >= guestRange+guestIDs) {
			r.t.Errorf("a process is user %d, who is not this user's", owner)
		}
	}
}

// awaitEmpty waits until no process of the region is left, and checks that cgroups of sandboxes are not left after an orderly end.
func (r *region) awaitEmpty() {
	r.t.Helper()
	for deadline := time.Now().Add(regionPatience); ; <-time.After(50 * time.Millisecond) {
		text, err := os.ReadFile(filepath.Join(r.home(), "cgroup.events"))
		if err != nil {
			r.t.Fatal(err)
		}
		if strings.Contains(string(text), "populated 0") {
			break
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("processes of the region are left: %s", text)
		}
	}
	if r.cmd.ProcessState.Success() {
		if left, _ := filepath.Glob(filepath.Join(r.home(), "lambent", "*")); len(left) > 0 {
			r.t.Errorf("cgroups are left: %q", left)
		}
	}
}

// removeBelow removes the cgroups below one, as systemd does when a unit has ended.
func removeBelow(dir string) {
	var dirs []string
	filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && entry.IsDir() && path != dir {
			dirs = append(dirs, path)
		}
		return nil
	})
	for _, path := range slices.Backward(dirs) {
		_ = unix.Rmdir(path) // up says what is left
	}
}

// checkDoctor asks "lambent doctor", which has to agree with "lambent up".
func (r *region) checkDoctor() {
	r.emptyHome()
	cmd := r.command("doctor", "--json", "--timeout", "20s", "--data", r.data)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	var report struct {
		Usable []struct {
			Use    string
			Usable bool
			Lacks  []string
		}
	}
	if jsonErr := json.Unmarshal(out, &report); jsonErr != nil {
		r.t.Fatalf("doctor says %q, %v", out, err)
	}
	for _, use := range report.Usable {
		if want := use.Use == "rootless"; use.Usable != want && (want || use.Use == "native") {
			r.t.Errorf("doctor says of %s that it is usable: %t; it lacks %q", use.Use, use.Usable, use.Lacks)
		}
	}
	if err != nil {
		r.t.Errorf("doctor ended with %v", err)
	}
}

// checkRefusals asks for what there is not.
func (r *region) checkRefusals() {
	for _, asked := range [][2]string{{"--isolation", "gvisor"}, {"--isolation", "microvm"}, {"--egress", "internet"}, {"--egress", "all"}} {
		want := "without root there is no " + strings.Replace(asked[0], "--isolation", "isolation", 1) + " " + asked[1]
		out, err := r.command("up", "--data", r.data, asked[0], asked[1]).CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) {
			r.t.Errorf("%q was answered with %v, %s", asked, err, out)
		}
	}
}
