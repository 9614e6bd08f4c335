package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	MaybeChild()
	goleak.VerifyTestMain(m)
}

// everything is a host that has all.
func everything() map[string]Result {
	all := map[string]Result{}
	for _, p := range probes() {
		all[p.name] = OK
	}
	return all
}

func judged(results map[string]Result) map[Use]Usable {
	var checks []Check
	for name, result := range results {
		checks = append(checks, Check{Name: name, Result: result})
	}
	byUse := map[Use]Usable{}
	for _, u := range judge(checks) {
		byUse[u.Use] = u
	}
	return byUse
}

// TestRulesNameChecks finds rules that ask for a check that there is not.
func TestRulesNameChecks(t *testing.T) {
	all := everything()
	if len(all) != len(probes()) {
		t.Error("two probes have one name")
	}
	for _, rule := range rules() {
		for _, need := range rule.needs {
			for _, name := range need {
				if all[name] != OK {
					t.Errorf("%s needs %q, which nothing looks for", rule.use, name)
				}
			}
		}
	}
}

func TestJudge(t *testing.T) {
	for _, test := range []struct {
		name    string
		changed map[string]Result
		lost    []Use
		note    string // of microvm
	}{
		{name: "all there"},
		{name: "weak is enough", changed: map[string]Result{nameCgroups: Weak, nameKVM: Weak}},
		{name: "no rights", changed: map[string]Result{nameRights: Missing}, lost: []Use{Native, GVisor, MicroVM, Egress}},
		{name: "no loop devices", changed: map[string]Result{nameLoop: Missing}, lost: []Use{Native, GVisor}},
		{name: "no filter", changed: map[string]Result{nameSeccomp: Missing}, lost: []Use{Native, Rootless}},
		{name: "no delegation", changed: map[string]Result{nameDelegation: Missing}, lost: []Use{Rootless}},
		{name: "no programs that give IDs", changed: map[string]Result{nameRootless: Missing}, lost: []Use{Rootless}},
		{name: "no gVisor", changed: map[string]Result{nameRunsc: Missing}, lost: []Use{GVisor}},
		{name: "a KVM that boots nothing", changed: map[string]Result{nameKVMGuest: Missing},
			note: "by emulation: for development and tests, not for load"},
		{name: "no guest boots", changed: map[string]Result{nameKVMGuest: Missing, nameTCGGuest: Missing}, lost: []Use{MicroVM}},
		{name: "no images", changed: map[string]Result{nameMicroVM: Missing}, lost: []Use{MicroVM}},
		{name: "only the swap", changed: map[string]Result{"swap": Missing}},
	} {
		t.Run(test.name, func(t *testing.T) {
			results := everything()
			for name, result := range test.changed {
				results[name] = result
			}
			got := judged(results)
			for use, u := range got {
				want := true
				for _, lost := range test.lost {
					want = want && lost != use
				}
				if u.Usable != want {
					t.Errorf("%s: usable is %t; it lacks %v", use, u.Usable, u.Lacks)
				}
			}
			if got[MicroVM].Note != test.note {
				t.Errorf("microvm's note is %q", got[MicroVM].Note)
			}
		})
	}
}

func TestTable(t *testing.T) {
	report := &Report{
		Checks: []Check{
			{Name: "kernel", Result: OK, Seen: "Linux 6.1", For: []Use{Native, GVisor}},
			{Name: "swap", Result: Weak, Seen: "1 area\nis on", For: []Use{Native}, Advice: "swapoff -a"},
		},
		Usable: []Usable{{Use: Native, Usable: true, Note: "slowly"}, {Use: GVisor, Lacks: []string{"runsc", "cgroups"}}},
	}
	const want = `CHECK   RESULT  NEEDED FOR      SEEN
kernel  ok      native, gvisor  Linux 6.1
swap    weak    native          1 area is on
                                -> swapoff -a

native  usable      slowly
gvisor  not usable  lacks runsc, cgroups
`
	var out bytes.Buffer
	if err := report.Table(&out); err != nil || out.String() != want {
		t.Errorf("the table is (%v)\n%s", err, out.String())
	}
	out.Reset()
	if err := report.JSON(&out); err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(out.Bytes(), &back); err != nil || len(back.Checks) != 2 || back.Checks[1].Advice != "swapoff -a" {
		t.Errorf("JSON: %v\n%s", err, out.String())
	}
	if !report.Offers(Native) || report.Offers(GVisor) || report.Offers(Rootless) {
		t.Error("Offers does not say what the report says")
	}
}

func TestWatcher(t *testing.T) {
	w := &watcher{text: "needle", found: make(chan struct{})}
	for _, part := range []string{"nee", strings.Repeat("x", 100_000), "nee", "dle", "needle"} {
		if _, err := w.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-w.found:
	default:
		t.Error("it was not found")
	}
	if len(w.seen) > 64<<10 {
		t.Errorf("%d bytes are kept", len(w.seen))
	}
}

// TestTimeout has a probe that waits for its context.
func TestTimeout(t *testing.T) {
	d := &doctor{Options: Options{Timeout: time.Millisecond}}
	got := d.run(t.Context(), probe{name: "slow", advice: "be quick", run: func(_ *doctor, ctx context.Context) finding {
		<-ctx.Done()
		return missing("gave up")
	}})
	if got.Result != Missing || !strings.Contains(got.Seen, "not done within 1ms") || !strings.Contains(got.Advice, "--timeout") {
		t.Errorf("%+v", got)
	}
}

// TestRunHere probes this host, and looks for what it left. Tests run with rights on hosts that sandboxes run on.
func TestRunHere(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	report, err := Run(t.Context(), Options{Data: data})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := report.Table(&out); err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", out.String())
	if len(report.Checks) != len(probes()) {
		t.Errorf("%d checks", len(report.Checks))
	}
	for _, check := range report.Checks {
		if check.Seen == "" || check.Result != OK && check.Advice == "" {
			t.Errorf("%+v: nothing is said", check)
		}
	}
	if os.Geteuid() == 0 && !report.Offers(Native) {
		t.Error("this host does not do for native sandboxes")
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(data), "*")); len(left) > 0 {
		t.Errorf("there are left: %v", left)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), "lambent-doctor") {
		t.Errorf("there are mounts left (%v)", err)
	}
}

// TestRunWithoutRights runs the same as nobody, in a process of its own.
func TestRunWithoutRights(t *testing.T) {
	const marker = "LAMBENT_DOCTOR_NOBODY"
	if dir := os.Getenv(marker); dir != "" {
		report, err := Run(t.Context(), Options{Data: dir})
		if err != nil {
			t.Fatal(err)
		}
		if report.Offers(Native) {
			t.Error("native sandboxes are offered to nobody")
		}
		for _, check := range report.Checks {
			if check.Name == nameSeccomp && check.Result != OK {
				t.Errorf("%+v", check)
			}
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("TestRunHere ran without rights already; becoming nobody needs root")
	}
	dir, err := os.MkdirTemp("/tmp", "doctor-nobody-") //nolint:usetesting // nobody can pass through a test's own directory
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	binary, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "doctor.test")
	if err := os.WriteFile(program, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "-test.run=^TestRunWithoutRights$")
	cmd.Env, cmd.Dir = []string{marker + "=" + dir, "PATH=/usr/bin:/bin", "HOME=" + dir, "TMPDIR=" + dir}, dir
	cmd.SysProcAttr = asNobody()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
