package native

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// cpuPeriod is the period of CPU quotas. A short one makes the pauses of small functions short.
const cpuPeriod = 20 * time.Millisecond

// minCPUQuota is the smallest quota that the kernel takes.
const minCPUQuota = time.Millisecond

// cgroup is the control groups of one sandbox. The init lives in whole/init, and the function's processes in function:
// limits, freezing and killing reach them only, so that the init answers whatever they do.
//
//	v2, and the unified tree of hybrid hosts     ID/init  ID/function
//	v1 freezer, where there is no unified tree   ID/      ID/function   (the init in ID itself)
//	v1 controllers                               ID                     (functions only)
type cgroup struct {
	whole    hierarchy
	function hierarchy
	freezer  *freezer
	meters   meters
}

// functionGroup returns the directories that hold the function's processes.
func functionGroup(whole hierarchy) hierarchy {
	function := hierarchy{v1: map[string]string{}, limits: whole.limits}
	for controller, dir := range whole.v1 {
		function.v1[controller] = dir
		if controller == "freezer" {
			function.v1[controller] = filepath.Join(dir, "function")
		}
	}
	if whole.v2 != "" {
		function.v2 = filepath.Join(whole.v2, "function")
	}
	return function
}

// makeCgroup creates the groups of one sandbox. What it made stays when it fails: remove removes it.
func makeCgroup(whole hierarchy) (*cgroup, error) {
	g := &cgroup{whole: whole, function: functionGroup(whole)}
	if err := whole.make(); err != nil {
		return g, err
	}
	if whole.v2 != "" {
		if err := whole.delegate(""); err != nil {
			return g, err
		}
		if err := os.Mkdir(filepath.Join(whole.v2, "init"), 0o755); err != nil {
			return g, fmt.Errorf("make cgroup: %w", err)
		}
	}
	if err := g.function.make(); err != nil {
		return g, err
	}
	if err := g.limitDevices(); err != nil {
		return g, err
	}
	var err error
	g.freezer, err = openFreezer(g.function)
	return g, err
}

// devices are what functions may open: null, zero, full, random, urandom. Nothing may be made.
var devices = []string{"c 1:3 rw", "c 1:5 rw", "c 1:7 rw", "c 1:8 rw", "c 1:9 rw"}

// limitDevices denies all but devices, on hosts with the v1 controller. With v2 the user namespace, nodev mounts and the
// missing capability do so alone.
func (g *cgroup) limitDevices() error {
	dir, ok := g.function.v1["devices"]
	if !ok {
		return nil
	}
	if err := writeControl(filepath.Join(dir, "devices.deny"), "a"); err != nil {
		return err
	}
	for _, device := range devices {
		if err := writeControl(filepath.Join(dir, "devices.allow"), device); err != nil {
			return err
		}
	}
	return nil
}

// addInit puts the init into the freezer's tree where the kernel did not do so at its start.
func (g *cgroup) addInit(pid int) error {
	if dir, ok := g.whole.v1["freezer"]; ok {
		return writeControl(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid))
	}
	return nil
}

// admit lets the sandbox's root user, which is nobody on the host, start processes in the function's cgroup of the unified
// tree. To the kernel that is a move from the init's, for which it wants both and what is above them.
func (g *cgroup) admit(firstID uint32) error {
	if g.function.v2 == "" {
		return nil
	}
	for _, dir := range []string{g.whole.v2, g.function.v2} {
		if err := os.Chown(filepath.Join(dir, "cgroup.procs"), int(firstID), int(firstID)); err != nil {
			return fmt.Errorf("cgroup: %w", err)
		}
	}
	return nil
}

// openEntries opens what a starter needs to enter the function's cgroups: the directory in the unified tree, nil where
// there is none, and the files of the v1 cgroups that a thread enters by. The caller closes them.
func (g *cgroup) openEntries() (unified *os.File, tasks []*os.File, err error) {
	if g.function.v2 != "" {
		if unified, err = os.Open(g.function.v2); err != nil {
			return nil, nil, fmt.Errorf("cgroup: %w", err)
		}
	}
	entries := hierarchy{v1: g.function.v1}
	for _, dir := range entries.directories() {
		file, err := os.OpenFile(filepath.Join(dir, "tasks"), os.O_WRONLY, 0)
		if err != nil {
			closeFiles(append(tasks, unified))
			return nil, nil, fmt.Errorf("cgroup: %w", err)
		}
		tasks = append(tasks, file)
	}
	return unified, tasks, nil
}

// closeFiles closes those of the files that are not nil.
func closeFiles(files []*os.File) {
	for _, file := range files {
		if file != nil {
			file.Close()
		}
	}
}

// descriptors returns the files' numbers, which are valid as long as the files are open.
func descriptors(files []*os.File) []int {
	var fds []int
	for _, file := range files {
		if file != nil {
			fds = append(fds, int(file.Fd()))
		}
	}
	return fds
}

// limit is one control file with its value. Optional ones may be missing on a host without swap accounting.
type limit struct {
	file, value string
	optional    bool
}

// memoryLimits returns the files that limit memory to bytes, without swap. v1 keeps the limit of memory and swap
// together above that of memory at each step, so it goes out of the way first.
func (h hierarchy) memoryLimits(bytes int64) []limit {
	value := strconv.FormatInt(bytes, 10)
	if h.limits {
		return []limit{
			{file: filepath.Join(h.v2, "memory.max"), value: value},
			{file: filepath.Join(h.v2, "memory.swap.max"), value: "0", optional: true},
		}
	}
	both := filepath.Join(h.v1["memory"], "memory.memsw.limit_in_bytes")
	return []limit{
		{file: both, value: "-1", optional: true},
		{file: filepath.Join(h.v1["memory"], "memory.limit_in_bytes"), value: value},
		{file: both, value: value, optional: true},
	}
}

// cpuLimits returns the files that limit CPU time to a number of virtual CPUs, and that share a host which has too few of
// them in proportion.
func (h hierarchy) cpuLimits(vcpu float64) []limit {
	quota := time.Duration(vcpu * float64(cpuPeriod))
	quota = max(quota, minCPUQuota)
	quotaText, periodText := strconv.FormatInt(quota.Microseconds(), 10), strconv.FormatInt(cpuPeriod.Microseconds(), 10)
	if h.limits {
		return append(h.cpuShare(vcpu), limit{file: filepath.Join(h.v2, "cpu.max"), value: quotaText + " " + periodText})
	}
	return append(h.cpuShare(vcpu),
		limit{file: filepath.Join(h.v1["cpu"], "cpu.cfs_period_us"), value: periodText},
		limit{file: filepath.Join(h.v1["cpu"], "cpu.cfs_quota_us"), value: quotaText})
}

// sharesPerVCPU is what the kernel gives to a process outside of any cgroup.
const sharesPerVCPU = 1024

// cpuShare returns the file that weighs a cgroup against its siblings.
func (h hierarchy) cpuShare(vcpu float64) []limit {
	shares := min(max(int(vcpu*sharesPerVCPU), 2), 262144) // the kernel's bounds
	if h.limits {
		weight := 1 + (shares-2)*9999/262142 // as container runtimes convert them
		return []limit{{file: filepath.Join(h.v2, "cpu.weight"), value: strconv.Itoa(weight)}}
	}
	return []limit{{file: filepath.Join(h.v1["cpu"], "cpu.shares"), value: strconv.Itoa(shares)}}
}

// processLimits returns the file that limits processes and threads.
func (h hierarchy) processLimits(n int) []limit {
	dir := h.v1["pids"]
	if h.limits {
		dir = h.v2
	}
	return []limit{{file: filepath.Join(dir, "pids.max"), value: strconv.Itoa(n)}}
}

// apply writes limits in their order.
func apply(limits []limit) error {
	for _, l := range limits {
		err := writeControl(l.file, l.value)
		if err != nil && !(l.optional && errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	return nil
}

// oomKills reads how many processes the memory limit ended.
func oomKills(function hierarchy) (int64, error) {
	path := filepath.Join(function.v1["memory"], "memory.oom_control")
	if function.limits {
		path = filepath.Join(function.v2, "memory.events")
	}
	values, err := readValues(path)
	return values["oom_kill"], err
}

// resetPeak starts the measuring of peak memory anew, where the kernel can: v1 only.
func (g *cgroup) resetPeak() error {
	if dir, ok := g.function.v1["memory"]; ok {
		return writeControl(filepath.Join(dir, "memory.max_usage_in_bytes"), "0")
	}
	return nil
}

// remove deletes the groups, which have no processes any more but may need a moment to see it.
func (g *cgroup) remove(ctx context.Context) error {
	if g.freezer != nil {
		g.freezer.close()
	}
	g.meters.close()
	var all []error
	for _, dir := range g.whole.directories() {
		all = append(all, removeTree(ctx, dir))
	}
	return errors.Join(all...)
}
