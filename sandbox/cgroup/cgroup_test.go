package cgroup

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lambent/sandbox"
)

// Hosts as their /proc describes them.
const (
	hybridMounts = `
24 23 0:22 / /sys/fs/cgroup rw,nosuid - tmpfs tmpfs rw,mode=755
25 24 0:23 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct
26 24 0:24 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
27 24 0:25 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
28 24 0:26 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices
29 24 0:27 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
30 24 0:28 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
`
	unifiedBeside  = "31 24 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
	unifiedOnly    = "31 24 0:29 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
	containerMount = "31 24 0:29 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"

	hybridOwn = "5:cpu,cpuacct:/\n4:memory:/a/b\n3:pids:/\n2:devices:/d\n6:freezer:/\n1:name=systemd:/s\n0::/s\n"
)

func TestChooseHierarchy(t *testing.T) {
	hybrid := map[string]string{"memory": "/sys/fs/cgroup/memory/a/b", "cpu": "/sys/fs/cgroup/cpu,cpuacct",
		"cpuacct": "/sys/fs/cgroup/cpu,cpuacct", "pids": "/sys/fs/cgroup/pids", "devices": "/sys/fs/cgroup/devices/d"}
	v1 := map[string]string{"freezer": "/sys/fs/cgroup/freezer"}
	for controller, dir := range hybrid {
		v1[controller] = dir
	}
	all := []string{"cpuset", "cpu", "io", "memory", "pids"}
	for _, test := range []struct {
		name, mounts, own string
		v2                []string
		want              Hierarchy
		missing           []string
	}{
		{"hybrid", hybridMounts + unifiedBeside, hybridOwn, nil, Hierarchy{V1: hybrid, V2: "/sys/fs/cgroup/unified/s"}, nil},
		{"v1", hybridMounts, hybridOwn, nil, Hierarchy{V1: v1}, nil},
		{"v2", unifiedOnly, "0::/system.slice/x.service\n", all,
			Hierarchy{V2: "/sys/fs/cgroup/system.slice/x.service", Limits: true}, nil},
		{"v2, second driver of a process", unifiedOnly, "0::/x.service/lambent.host\n", all,
			Hierarchy{V2: "/sys/fs/cgroup/x.service", Limits: true}, nil},
		{"v2 in a container", containerMount, "0::/docker/abc/x\n", all, Hierarchy{V2: "/sys/fs/cgroup/x", Limits: true}, nil},
		{"v2 outside of what is mounted", containerMount, "0::/../other\n", all, Hierarchy{V2: "/sys/fs/cgroup", Limits: true}, nil},
		{"v2 without memory", unifiedOnly, "0::/\n", []string{"cpu", "pids"}, Hierarchy{V1: map[string]string{}, V2: "/sys/fs/cgroup"},
			controllersV1},
		{"nothing", "", "", nil, Hierarchy{V1: map[string]string{}}, append(slices.Clone(controllersV1), "freezer")},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, missing := chooseHierarchy(parseCgroupMounts(test.mounts), parseOwnCgroups(test.own),
				func(string) []string { return test.v2 })
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %+v instead of %+v", got, test.want)
			}
			if !slices.Equal(missing, test.missing) {
				t.Errorf("missing are %q instead of %q", missing, test.missing)
			}
		})
	}
}

// fakeTree is a directory with control files that keep what is written.
func fakeTree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func content(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[entry.Name()] = strings.TrimRight(string(text), "\n")
	}
	return files
}

func TestLimitsV2(t *testing.T) {
	dir := fakeTree(t, map[string]string{"memory.max": "", "memory.swap.max": "", "cpu.max": "", "cpu.weight": "", "pids.max": ""})
	h := Hierarchy{V2: dir, Limits: true}
	for _, limits := range [][]limit{h.memoryLimits(128 << 20), h.cpuLimits(0.5), h.processLimits(1024)} {
		if err := apply(limits); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]string{"memory.max": "134217728", "memory.swap.max": "0", "cpu.max": "10000 20000", "cpu.weight": "20", "pids.max": "1024"}
	if diff := cmp.Diff(want, content(t, dir)); diff != "" {
		t.Error(diff)
	}
	if err := os.Remove(filepath.Join(dir, "memory.swap.max")); err != nil {
		t.Fatal(err)
	}
	if err := apply(h.memoryLimits(1)); err != nil {
		t.Errorf("without swap accounting: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "memory.max")); err != nil {
		t.Fatal(err)
	}
	if err := apply(h.memoryLimits(1)); err == nil {
		t.Error("a limit that cannot be set was accepted")
	}
}

func TestCPULimits(t *testing.T) {
	for _, test := range []struct {
		vcpu         float64
		weight, want string
	}{
		{128.0 / 1769, "3", "1447 20000"},
		{0.001, "1", "1000 20000"}, // the kernel takes no less
		{1, "39", "20000 20000"},
		{5.788, "226", "115760 20000"},
	} {
		got := Hierarchy{V2: "x", Limits: true}.cpuLimits(test.vcpu)
		if len(got) != 2 || got[0].value != test.weight || got[1].value != test.want {
			t.Errorf("%v vCPU are %+v instead of %s", test.vcpu, got, test.want)
		}
	}
}

func TestUsageV2(t *testing.T) {
	files := map[string]string{
		"memory.current": "1000\n", "memory.peak": "2000\n", "pids.current": "3\n",
		"cpu.stat":      "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n",
		"memory.events": "low 0\nhigh 0\nmax 7\noom 5\noom_kill 4\noom_group_kill 0\n",
	}
	want := sandbox.Usage{MemoryBytes: 1000, PeakMemoryBytes: 2000, CPU: 1500 * time.Microsecond, OOMKills: 4, Processes: 3}
	got, err := usageOf(fakeTree(t, files))
	if err != nil || got != want {
		t.Errorf("usage is %+v, %v", got, err)
	}
	delete(files, "memory.peak")
	want.PeakMemoryBytes = 1000
	if got, err = usageOf(fakeTree(t, files)); err != nil || got != want {
		t.Errorf("usage on an older kernel is %+v, %v", got, err)
	}
	delete(files, "memory.current")
	if _, err := usageOf(fakeTree(t, files)); err == nil {
		t.Error("usage without a meter has no error")
	}
}

func TestDelegate(t *testing.T) {
	dir := fakeTree(t, map[string]string{"cgroup.subtree_control": ""})
	if err := (Hierarchy{V2: dir, Limits: true}).delegate(""); err != nil {
		t.Fatal(err)
	}
	if got := content(t, dir)["cgroup.subtree_control"]; got != "+memory +cpu +pids" {
		t.Errorf("wrote %q", got)
	}
	if err := (Hierarchy{V2: t.TempDir()}).delegate("x"); err != nil {
		t.Errorf("a hybrid host needs no delegation: %v", err)
	}
	if err := (Hierarchy{V2: t.TempDir(), Limits: true}).delegate(""); err == nil {
		t.Error("a failure is not reported")
	}
}

// TestFreezerFiles drives the freezer of both versions on files.
func TestFreezerFiles(t *testing.T) {
	v2 := fakeTree(t, map[string]string{"cgroup.freeze": "0\n", "cgroup.events": "populated 1\nfrozen 1\n"})
	v1 := fakeTree(t, map[string]string{"freezer.state": "THAWED\n"})
	for _, test := range []struct {
		function             Hierarchy
		file, frozen, thawed string
	}{
		{Hierarchy{V2: v2}, v2 + "/cgroup.freeze", "1", "0"},
		{Hierarchy{V1: map[string]string{"freezer": v1}}, v1 + "/freezer.state", "FROZEN", "THAWED"},
	} {
		f, err := openFreezer(test.function)
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			frozen bool
			want   string
		}{{true, test.frozen}, {true, test.frozen}, {false, test.thawed}} {
			if err := f.set(step.frozen); err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(test.file)
			if err != nil || strings.TrimSpace(string(text)) != step.want {
				t.Errorf("the state is %q, %v", text, err)
			}
		}
		f.close()
		if err := f.set(true); err == nil {
			t.Error("a closed freezer froze")
		}
	}
	if _, err := openFreezer(Hierarchy{V2: t.TempDir()}); err == nil {
		t.Error("a freezer without files was opened")
	}
}

func FuzzCgroupText(f *testing.F) {
	for _, seed := range []string{hybridMounts, unifiedBeside, hybridOwn, "0::/../..\n", "::\n", " - \n", "a b\noom_kill 5\n"} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, mountinfo, own string) {
		h, missing := chooseHierarchy(parseCgroupMounts(mountinfo), parseOwnCgroups(own), func(string) []string { return nil })
		if h.Limits {
			t.Error("limits without controllers")
		}
		if len(missing) == 0 && len(h.V1) == 0 {
			t.Error("nothing is missing and nothing is there")
		}
		parseValues(own)
	})
}

// usageOf reads the meters of a v2 cgroup once.
func usageOf(dir string) (sandbox.Usage, error) {
	g := Group{function: Hierarchy{V2: dir, Limits: true}}
	defer g.meters.close()
	return g.Usage()
}
