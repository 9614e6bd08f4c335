package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Group is the control groups of one sandbox. What the driver itself runs in the sandbox, its init, lives in whole/init, and the
// function's processes in function: limits, freezing and killing reach them only, so that the init answers whatever they do. A
// driver without such a process puts all of them in function. It is safe for use by many goroutines, but for Remove.
//
//	v2, and the unified tree of hybrid hosts     ID/init  ID/function
//	v1 freezer, where there is no unified tree   ID/      ID/function   (the init in ID itself)
//	v1 controllers                               ID                     (functions only)
type Group struct {
	*Handle
	whole    Hierarchy
	function Hierarchy

	limitMu sync.Mutex
	memory  int64          // the limit in bytes
	held    map[string]int // open files of limits that are about to be set, by path
}

// functionGroup returns the directories that hold the function's processes.
func functionGroup(whole Hierarchy) Hierarchy {
	function := Hierarchy{V1: map[string]string{}, Limits: whole.Limits}
	for controller, dir := range whole.V1 {
		function.V1[controller] = dir
		if controller == "freezer" {
			function.V1[controller] = filepath.Join(dir, "function")
		}
	}
	if whole.V2 != "" {
		function.V2 = filepath.Join(whole.V2, "function")
	}
	return function
}

// newGroup creates the groups of one sandbox. What it made stays when it fails: Remove removes it.
func newGroup(whole Hierarchy) (*Group, error) {
	g := &Group{whole: whole, function: functionGroup(whole), memory: noLimit}
	if err := whole.make(); err != nil {
		return g, err
	}
	if whole.V2 != "" {
		if err := whole.delegate(""); err != nil {
			return g, err
		}
		if err := os.Mkdir(filepath.Join(whole.V2, "init"), 0o755); err != nil {
			return g, fmt.Errorf("make cgroup: %w", err)
		}
	}
	if err := g.function.make(); err != nil {
		return g, err
	}
	if dir, ok := g.function.V1["cpu"]; ok {
		if err := writeControl(filepath.Join(dir, "cpu.cfs_period_us"), strconv.FormatInt(cpuPeriod.Microseconds(), 10)); err != nil {
			return g, err
		}
	}
	var err error
	g.Handle, err = openHandle(g.function)
	return g, err
}

// devices are what functions may open: null, zero, full, random, urandom. Nothing may be made.
var devices = []string{"c 1:3 rw", "c 1:5 rw", "c 1:7 rw", "c 1:8 rw", "c 1:9 rw"}

// LimitDevices denies all devices but null, zero, full, random, urandom, on hosts with the v1 controller. With v2 the user namespace, nodev mounts and the
// missing capability do so alone.
func (g *Group) LimitDevices() error {
	dir, ok := g.function.V1["devices"]
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

// SetMemory limits the memory of the function's processes, in bytes, without swap.
func (g *Group) SetMemory(bytes int64) error {
	g.limitMu.Lock()
	defer g.limitMu.Unlock()
	err := g.applyLocked(g.function.memoryLimits(g.memory, bytes))
	g.memory = bytes
	if err != nil {
		g.memory = unknownLimit
	}
	return err
}

// SetProcesses limits the function's processes and threads.
func (g *Group) SetProcesses(n int) error {
	g.limitMu.Lock()
	defer g.limitMu.Unlock()
	return g.applyLocked(g.function.processLimits(n))
}

// Hold opens the files of the limits of memory and processes, and of the peak, ahead of the moment when they are set and time
// matters. LetGo closes them.
func (g *Group) Hold() error {
	g.limitMu.Lock()
	defer g.limitMu.Unlock()
	files := append(append(g.function.memoryLimits(noLimit, 0), g.function.processLimits(1)...), g.function.peak()...)
	g.held = make(map[string]int, len(files))
	for _, l := range files {
		fd, err := openControl(l.file, unix.O_WRONLY)
		if l.optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		g.held[l.file] = fd
	}
	return nil
}

// LetGo closes what Hold has opened. It is idempotent.
func (g *Group) LetGo() {
	g.limitMu.Lock()
	defer g.limitMu.Unlock()
	for _, fd := range g.held {
		unix.Close(fd)
	}
	g.held = nil
}

// applyLocked is apply by way of the files that are open.
func (g *Group) applyLocked(limits []limit) error {
	for _, l := range limits {
		fd, ok := g.held[l.file]
		if !ok {
			if err := apply([]limit{l}); err != nil {
				return err
			}
			continue
		}
		if err := writeOpen(fd, l.value); err != nil {
			return fmt.Errorf("cgroup: write %q to %s: %w", l.value, l.file, err)
		}
	}
	return nil
}

// InitDirectory opens the directory in the unified tree that the init is to be started in; nil where there is no such tree.
// The caller closes it.
func (g *Group) InitDirectory() (*os.File, error) {
	if g.whole.V2 == "" {
		return nil, nil
	}
	return openControlFile(filepath.Join(g.whole.V2, "init"), unix.O_RDONLY|unix.O_DIRECTORY)
}

// Enter moves a process, with its threads but not its children, into the function's groups. A driver that can have a process
// enter by itself uses OpenEntries, which is faster.
func (g *Group) Enter(pid int) error {
	for _, dir := range g.function.directories() {
		if err := writeControl(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			return err
		}
	}
	return nil
}

// Processes lists the function's processes, by their IDs on the host.
func (g *Group) Processes() ([]int, error) {
	dir := g.function.V2
	if !g.function.Limits {
		dir = g.function.V1["pids"]
	}
	numbers, err := readNumbers(filepath.Join(dir, "cgroup.procs"))
	pids := make([]int, len(numbers))
	for i, n := range numbers {
		pids[i] = int(n)
	}
	return pids, err
}

// AddInit puts the init into the freezer's tree where the kernel did not do so at its start.
func (g *Group) AddInit(pid int) error {
	if dir, ok := g.whole.V1["freezer"]; ok {
		return writeControl(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid))
	}
	return nil
}

// Admit lets the sandbox's root user, which is nobody on the host, start processes in the function's cgroup of the unified
// tree. To the kernel that is a move from the init's, for which it wants both and what is above them.
func (g *Group) Admit(firstID uint32) error {
	if g.function.V2 == "" {
		return nil
	}
	for _, dir := range []string{g.whole.V2, g.function.V2} {
		if err := os.Chown(filepath.Join(dir, "cgroup.procs"), int(firstID), int(firstID)); err != nil {
			return fmt.Errorf("cgroup: %w", err)
		}
	}
	return nil
}

// OpenEntries opens what a starter needs to enter the function's cgroups: the directory in the unified tree, nil where
// there is none, and the files of the v1 cgroups that a thread enters by. The caller closes them.
func (g *Group) OpenEntries() (unified *os.File, tasks []*os.File, err error) {
	if g.function.V2 != "" {
		if unified, err = openControlFile(g.function.V2, unix.O_RDONLY|unix.O_DIRECTORY); err != nil {
			return nil, nil, err
		}
	}
	entries := Hierarchy{V1: g.function.V1}
	for _, dir := range entries.directories() {
		file, err := openControlFile(filepath.Join(dir, "tasks"), unix.O_WRONLY)
		if err != nil {
			closeFiles(append(tasks, unified))
			return nil, nil, err
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

// limit is one control file with its value. Optional ones may be missing on a host without swap accounting.
type limit struct {
	file, value string
	optional    bool
}

// What the limit of memory may be before it is set.
const (
	noLimit      = math.MaxInt64
	unknownLimit = -1
)

// memoryLimits returns the files that limit memory to bytes, without swap, when the limit was another before. v1 keeps the limit of
// memory and swap together above that of memory at each step, so it is the first that is raised, and the last that is lowered.
func (h Hierarchy) memoryLimits(before, bytes int64) []limit {
	value := strconv.FormatInt(bytes, 10)
	if h.Limits {
		return []limit{
			{file: filepath.Join(h.V2, "memory.max"), value: value},
			{file: filepath.Join(h.V2, "memory.swap.max"), value: "0", optional: true},
		}
	}
	alone := limit{file: filepath.Join(h.V1["memory"], "memory.limit_in_bytes"), value: value}
	both := limit{file: filepath.Join(h.V1["memory"], "memory.memsw.limit_in_bytes"), value: value, optional: true}
	switch {
	case before == unknownLimit:
		return []limit{{file: both.file, value: "-1", optional: true}, alone, both}
	case before <= bytes:
		return []limit{both, alone}
	}
	return []limit{alone, both}
}

// sharesPerVCPU is what the kernel gives to a process outside of any cgroup.
const sharesPerVCPU = 1024

// cpuShare is what weighs a cgroup against its siblings.
func cpuShare(vcpu float64, v2 bool) string {
	shares := min(max(int(vcpu*sharesPerVCPU), 2), 262144) // the kernel's bounds
	if v2 {
		return strconv.Itoa(1 + (shares-2)*9999/262142) // as container runtimes convert them
	}
	return strconv.Itoa(shares)
}

// share returns the file that weighs a cgroup.
func (h Hierarchy) share(vcpu float64) []limit {
	file := filepath.Join(h.V1["cpu"], "cpu.shares")
	if h.Limits {
		file = filepath.Join(h.V2, "cpu.weight")
	}
	return []limit{{file: file, value: cpuShare(vcpu, h.Limits)}}
}

// processLimits returns the file that limits processes and threads.
func (h Hierarchy) processLimits(n int) []limit {
	dir := h.V1["pids"]
	if h.Limits {
		dir = h.V2
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

// Dirty reads how many bytes the function has written to files that are not on a disk yet, and those that are on their way there.
func (g *Group) Dirty() (int64, error) {
	dir, names := g.function.V1["memory"], []string{"dirty", "writeback"}
	if g.function.Limits {
		dir, names = g.function.V2, []string{"file_dirty", "file_writeback"}
	}
	values, err := readValues(filepath.Join(dir, "memory.stat"))
	if err != nil {
		return 0, err
	}
	sum := int64(0)
	for _, name := range names {
		value, ok := values[name]
		if !ok {
			return 0, fmt.Errorf("cgroup: memory.stat has no %q", name)
		}
		sum += value
	}
	return sum, nil
}

// ResetPeak starts the measuring of peak memory anew, where the kernel can: v1 only.
func (g *Group) ResetPeak() error {
	g.limitMu.Lock()
	defer g.limitMu.Unlock()
	return g.applyLocked(g.function.peak())
}

// peak returns the file that holds the peak of memory, to be reset.
func (h Hierarchy) peak() []limit {
	dir, ok := h.V1["memory"]
	if !ok {
		return nil
	}
	return []limit{{file: filepath.Join(dir, "memory.max_usage_in_bytes"), value: "0"}}
}

// Remove deletes the groups, which have no processes any more but may need a moment to see it.
func (g *Group) Remove(ctx context.Context) error {
	g.LetGo()
	if g.Handle != nil {
		g.Close()
	}
	// There is nothing below these but what a driver of the sandbox has made there.
	for _, dir := range append(g.function.directories(), filepath.Join(g.whole.V2, "init")) {
		if filepath.IsAbs(dir) {
			_ = unix.Rmdir(dir) // what does not go at once is seen below
		}
	}
	var all []error
	for _, dir := range g.whole.directories() {
		if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
			all = append(all, removeTree(ctx, dir))
		}
	}
	return errors.Join(all...)
}
