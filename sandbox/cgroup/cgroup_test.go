package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

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
	dir := fakeTree(t, map[string]string{"memory.max": "", "memory.swap.max": "", "pids.max": ""})
	h := Hierarchy{V2: dir, Limits: true}
	for _, limits := range [][]limit{h.memoryLimits(unknownLimit, 128<<20), h.processLimits(1024)} {
		if err := apply(limits); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]string{"memory.max": "134217728", "memory.swap.max": "0", "pids.max": "1024"}
	if diff := cmp.Diff(want, content(t, dir)); diff != "" {
		t.Error(diff)
	}
	if err := os.Remove(filepath.Join(dir, "memory.swap.max")); err != nil {
		t.Fatal(err)
	}
	if err := apply(h.memoryLimits(noLimit, 1)); err != nil {
		t.Errorf("without swap accounting: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "memory.max")); err != nil {
		t.Fatal(err)
	}
	if err := apply(h.memoryLimits(noLimit, 1)); err == nil {
		t.Error("a limit that cannot be set was accepted")
	}
}

// filesV2 and filesV1 are the control files of a Handle.
func filesV2() map[string]string {
	return map[string]string{
		"memory.current": "1000\n", "memory.peak": "2000\n", "pids.current": "3\n", "cpu.max": "", "cpu.weight": "",
		"cgroup.freeze": "0\n", "cgroup.events": "populated 1\nfrozen 1\n",
		"cpu.stat":      "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n",
		"memory.events": "low 0\nhigh 0\nmax 7\noom 5\noom_kill 4\noom_group_kill 0\n",
	}
}

func filesV1() map[string]string {
	return map[string]string{
		"freezer.state": "THAWED\n", "memory.usage_in_bytes": "1000\n", "memory.max_usage_in_bytes": "2000\n", "cpuacct.usage": "1500000\n",
		"pids.current": "3\n", "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n", "cpu.shares": "", "cpu.cfs_quota_us": "",
	}
}

// allV1 has every controller in one directory.
func allV1(dir string) Hierarchy {
	h := Hierarchy{V1: map[string]string{}}
	for _, controller := range append(slices.Clone(controllersV1), "freezer") {
		h.V1[controller] = dir
	}
	return h
}

func TestCPULimits(t *testing.T) {
	for _, test := range []struct {
		vcpu                      float64
		weight, max, share, quota string
	}{
		{128.0 / 1769, "3", "1447 20000", "74", "1447"},
		{0.001, "1", "1000 20000", "2", "1000"}, // the kernel takes no less
		{1, "39", "20000 20000", "1024", "20000"},
		{5.788, "226", "115760 20000", "5926", "115760"},
	} {
		v2, v1 := fakeTree(t, filesV2()), fakeTree(t, filesV1())
		for _, h := range []Hierarchy{{V2: v2, Limits: true}, allV1(v1)} {
			handle, err := openHandle(h)
			if err != nil {
				t.Fatal(err)
			}
			if err := handle.SetVCPU(test.vcpu); err != nil {
				t.Fatal(err)
			}
			handle.Close()
			if handle.SetVCPU(1) == nil {
				t.Error("a closed handle set a limit")
			}
		}
		two, one := content(t, v2), content(t, v1)
		if two["cpu.weight"] != test.weight || two["cpu.max"] != test.max || one["cpu.shares"] != test.share || one["cpu.cfs_quota_us"] != test.quota {
			t.Errorf("%v vCPU are %q, %q, %q, %q", test.vcpu, two["cpu.weight"], two["cpu.max"], one["cpu.shares"], one["cpu.cfs_quota_us"])
		}
	}
}

func TestUsage(t *testing.T) {
	want := sandbox.Usage{MemoryBytes: 1000, PeakMemoryBytes: 2000, CPU: 1500 * time.Microsecond, OOMKills: 4, Processes: 3}
	files := filesV2()
	for name, h := range map[string]Hierarchy{"v2": {V2: fakeTree(t, files), Limits: true}, "v1": allV1(fakeTree(t, filesV1()))} {
		if got, err := usageOf(t, h); err != nil || got != want {
			t.Errorf("%s: usage is %+v, %v", name, got, err)
		}
	}
	delete(files, "memory.peak")
	want.PeakMemoryBytes = 1000
	if got, err := usageOf(t, Hierarchy{V2: fakeTree(t, files), Limits: true}); err != nil || got != want {
		t.Errorf("usage on an older kernel is %+v, %v", got, err)
	}
	delete(files, "memory.current")
	if _, err := openHandle(Hierarchy{V2: fakeTree(t, files), Limits: true}); err == nil {
		t.Error("a group without a meter was opened")
	}
}

// usageOf reads the meters through an exported handle.
func usageOf(t *testing.T, h Hierarchy) (sandbox.Usage, error) {
	t.Helper()
	handle, err := openHandle(h)
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	layout, files := handle.Export()
	copies := make([]*os.File, len(files))
	for i, f := range files {
		fd, err := unix.Dup(int(f.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		copies[i] = os.NewFile(uintptr(fd), f.Name())
	}
	if _, err := Import(Layout{FreezeV2: !layout.FreezeV2, LimitsV2: layout.LimitsV2}, nil); err == nil {
		t.Error("files that are missing were imported")
	}
	imported, err := Import(layout, copies)
	if err != nil {
		t.Fatal(err)
	}
	defer imported.Close()
	return imported.Usage()
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
	v2, v1 := fakeTree(t, filesV2()), fakeTree(t, filesV1())
	for _, test := range []struct {
		function             Hierarchy
		file, frozen, thawed string
	}{
		{Hierarchy{V2: v2, Limits: true}, v2 + "/cgroup.freeze", "1", "0"},
		{allV1(v1), v1 + "/freezer.state", "FROZEN", "THAWED"},
	} {
		h, err := openHandle(test.function)
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			set  func() error
			want string
		}{{h.Freeze, test.frozen}, {h.Freeze, test.frozen}, {h.Thaw, test.thawed}} {
			if err := step.set(); err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(test.file)
			if err != nil || strings.TrimSpace(string(text)) != step.want {
				t.Errorf("the state is %q, %v", text, err)
			}
		}
		h.Close()
		if err := h.Freeze(); err == nil {
			t.Error("a closed freezer froze")
		}
	}
	if _, err := openHandle(Hierarchy{V2: t.TempDir()}); err == nil {
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

// TestHold sets limits by files that were opened before, and by their paths afterwards.
func TestHold(t *testing.T) {
	dir := fakeTree(t, map[string]string{"memory.limit_in_bytes": "", "memory.max_usage_in_bytes": "", "pids.max": ""})
	g := &Group{function: Hierarchy{V1: map[string]string{"memory": dir, "pids": dir}}, memory: noLimit}
	if err := g.Hold(); err != nil {
		t.Fatal(err)
	}
	if len(g.held) != 3 {
		t.Errorf("%d files are held", len(g.held))
	}
	for i := range 2 {
		if err := errors.Join(g.SetMemory(128<<20), g.SetProcesses(1024), g.ResetPeak()); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"memory.limit_in_bytes": "134217728", "memory.max_usage_in_bytes": "0", "pids.max": "1024"}
		if diff := cmp.Diff(want, content(t, dir)); diff != "" {
			t.Errorf("round %d: %s", i, diff)
		}
		g.LetGo()
	}
}
