package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lambent/sandbox"
)

// Handle freezes and meters the processes of one Group, and sets their share of CPU time. It is nothing but open control files, so
// that it can be handed to a process that has no right to open them; and using an open one costs a tenth of opening it, which
// matters because every invoke does. It is safe for use by many goroutines.
type Handle struct {
	layout  Layout
	files   []*os.File // in the order of handleFiles; nil where the kernel lacks an optional one
	freezer freezer

	mu     sync.Mutex // of what follows, and of reading and writing but for the freezer's files
	closed bool
	buf    [512]byte
}

// Layout says what the files of a Handle are.
type Layout struct {
	// FreezeV2 and LimitsV2 say whether the unified tree freezes, and whether it limits and meters.
	FreezeV2, LimitsV2 bool
	// Missing are the indices of the files that the kernel lacks.
	Missing []int
}

// The places of a Handle's files before those of the meters.
const (
	fileFreeze = iota
	fileEvents // with FreezeV2
	fileShare
	fileQuota
	fileMeters
)

// handleFiles are the paths of a group's files, and which of them may be missing.
func handleFiles(function Hierarchy) (paths []string, optional map[int]bool) {
	paths = []string{filepath.Join(function.V1["freezer"], "freezer.state"), "", "", ""}
	if function.V2 != "" {
		paths[fileFreeze], paths[fileEvents] = filepath.Join(function.V2, "cgroup.freeze"), filepath.Join(function.V2, "cgroup.events")
	}
	kinds := metersV1
	paths[fileShare], paths[fileQuota] = filepath.Join(function.V1["cpu"], "cpu.shares"), filepath.Join(function.V1["cpu"], "cpu.cfs_quota_us")
	if function.Limits {
		kinds = metersV2
		paths[fileShare], paths[fileQuota] = filepath.Join(function.V2, "cpu.weight"), filepath.Join(function.V2, "cpu.max")
	}
	optional = map[int]bool{fileEvents: function.V2 == ""}
	for i, kind := range kinds {
		dir := function.V2
		if !function.Limits {
			dir = function.V1[kind.controller]
		}
		paths = append(paths, filepath.Join(dir, kind.name))
		optional[fileMeters+i] = kind.optional
	}
	return paths, optional
}

// openHandle opens the files of a group.
func openHandle(function Hierarchy) (*Handle, error) {
	layout := Layout{FreezeV2: function.V2 != "", LimitsV2: function.Limits}
	paths, optional := handleFiles(function)
	files := make([]*os.File, len(paths))
	for i, path := range paths {
		flags := unix.O_RDONLY
		if i == fileFreeze || i == fileShare || i == fileQuota {
			flags = unix.O_RDWR
		}
		var err error
		if path != "" {
			files[i], err = openControlFile(path, flags)
		}
		if path == "" || optional[i] && errors.Is(err, fs.ErrNotExist) {
			files[i] = nil
			layout.Missing = append(layout.Missing, i)
			continue
		}
		if err != nil {
			closeFiles(files)
			return nil, err
		}
	}
	return newHandle(layout, files), nil
}

func newHandle(layout Layout, files []*os.File) *Handle {
	return &Handle{layout: layout, files: files,
		freezer: freezer{v2: layout.FreezeV2, state: files[fileFreeze], events: files[fileEvents]}}
}

// Export returns what another process needs to use the group. The files stay the Handle's.
func (h *Handle) Export() (Layout, []*os.File) {
	var files []*os.File
	for _, f := range h.files {
		if f != nil {
			files = append(files, f)
		}
	}
	return h.layout, files
}

// Import makes a Handle of what Export returned. It takes the files over.
func Import(layout Layout, files []*os.File) (*Handle, error) {
	all := make([]*os.File, fileMeters+len(metersV1))
	missing := map[int]bool{}
	for _, i := range layout.Missing {
		missing[i] = true
	}
	rest := files
	for i := range all {
		if missing[i] || len(rest) == 0 {
			continue
		}
		all[i], rest = rest[0], rest[1:]
	}
	if len(files)+len(missing) != len(all) || all[fileFreeze] == nil || layout.FreezeV2 != (all[fileEvents] != nil) {
		closeFiles(files)
		return nil, errors.New("the files of a cgroup do not fit their description")
	}
	return newHandle(layout, all), nil
}

// Freeze stops every process of the function. It is idempotent and returns when it is in force.
func (h *Handle) Freeze() error { return h.freezer.set(true) }

// Thaw continues what Freeze stopped. It is idempotent.
func (h *Handle) Thaw() error { return h.freezer.set(false) }

// Release continues the processes also when another Handle of the group has stopped them.
func (h *Handle) Release() error { return h.freezer.release() }

// Usage reads the meters as they stand.
func (h *Handle) Usage() (sandbox.Usage, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return sandbox.Usage{}, fmt.Errorf("cgroup: %w", os.ErrClosed)
	}
	return readMeters(h.layout.LimitsV2, h.files[fileMeters:], h.buf[:])
}

// OOMKills reads how many processes the memory limit ended.
func (h *Handle) OOMKills() (int64, error) { return h.meter(meterKills) }

// CPU reads the processor time that was used.
func (h *Handle) CPU() (time.Duration, error) {
	used, err := h.meter(meterCPU)
	if h.layout.LimitsV2 {
		return time.Duration(used) * time.Microsecond, err
	}
	return time.Duration(used), err
}

// meter reads one meter.
func (h *Handle) meter(place int) (int64, error) {
	kinds := metersV1
	if h.layout.LimitsV2 {
		kinds = metersV2
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return 0, fmt.Errorf("cgroup: %w", os.ErrClosed)
	}
	value, err := readMeter(h.files[fileMeters+place], kinds[place].key, h.buf[:])
	if err != nil {
		return 0, fmt.Errorf("cgroup: %s: %w", kinds[place].name, err)
	}
	return value, nil
}

// cpuPeriod is the period of CPU quotas. A short one makes the pauses of small functions short.
const cpuPeriod = 20 * time.Millisecond

// minCPUQuota is the smallest quota that the kernel takes.
const minCPUQuota = time.Millisecond

// SetVCPU limits the function's CPU time to a number of virtual CPUs, and weighs it against other groups in proportion.
func (h *Handle) SetVCPU(vcpu float64) error {
	quota := max(time.Duration(vcpu*float64(cpuPeriod)), minCPUQuota)
	text := strconv.FormatInt(quota.Microseconds(), 10)
	if h.layout.LimitsV2 {
		text += " " + strconv.FormatInt(cpuPeriod.Microseconds(), 10)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return fmt.Errorf("cgroup: %w", os.ErrClosed)
	}
	for _, w := range []struct {
		file  int
		value string
	}{{fileShare, cpuShare(vcpu, h.layout.LimitsV2)}, {fileQuota, text}} {
		if _, err := h.files[w.file].WriteAt([]byte(w.value), 0); err != nil {
			return fmt.Errorf("cgroup: write %q: %w", w.value, err)
		}
	}
	return nil
}

// Close closes the files. A frozen group stays frozen.
func (h *Handle) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.closed = true
		closeFiles(h.files)
	}
}
