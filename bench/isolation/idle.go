package isolation

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"lambent/sandbox"
)

// Idle is what idle sandboxes of the smallest program cost, which has no memory of its own to speak of.
type Idle struct {
	Count int // that there were at once
	// HostBytes is what the host had less for each of them: processes, the kernel's structures, and what the driver keeps.
	// Clean page cache is not counted.
	HostBytes int64
	// ProcessBytes is the part of it in processes: their proportional share of pages, summed over all that came.
	ProcessBytes int64
	Took         time.Duration // to make all of them
}

// idle makes count sandboxes with the smallest program waiting in each.
func (b *bench) idle(ctx context.Context, driver sandbox.Driver, count int) (Idle, error) {
	return b.fill(count, func() (func() error, error) {
		box, err := b.create(ctx, driver)
		if err != nil {
			return nil, err
		}
		end := func() error { return box.Destroy(context.WithoutCancel(ctx)) }
		if err := box.Specialise(ctx, b.specification()); err != nil {
			return end, err
		}
		process, err := box.Start(ctx, command(smallest, nil))
		if err != nil {
			return end, err
		}
		end = func() error {
			return errors.Join(box.Destroy(context.WithoutCancel(ctx)), process.Output().Close())
		}
		return end, errors.Join(firstByte(process.Output()), ctx.Err())
	})
}

// plainIdle starts as many plain processes.
func (b *bench) plainIdle(ctx context.Context, count int) (Idle, error) {
	return b.fill(count, func() (func() error, error) {
		process, output, err := b.plainStart(smallest, nil)
		if err != nil {
			return nil, err
		}
		end := func() error { return endPlain(process, output) }
		return end, errors.Join(firstByte(output), ctx.Err())
	})
}

// fill makes count of something, compares the host's memory before and after, and ends them.
func (b *bench) fill(count int, one func() (end func() error, err error)) (idle Idle, err error) {
	var ends []func() error
	defer func() {
		for _, end := range ends {
			err = errors.Join(err, end())
		}
	}()
	usedBefore, err := usedMemory()
	if err != nil {
		return idle, err
	}
	processesBefore := descendantsMemory()
	began := time.Now()
	for i := range count {
		end, err := one()
		if end != nil {
			ends = append(ends, end)
		}
		if err != nil {
			return idle, fmt.Errorf("number %d of %d: %w", i+1, count, err)
		}
	}
	idle = Idle{Count: count, Took: time.Since(began)}
	idle.ProcessBytes = max(0, descendantsMemory()-processesBefore) / int64(count)
	usedAfter, err := usedMemory()
	idle.HostBytes = max(0, usedAfter-usedBefore) / int64(count)
	return idle, err
}

// usedMemory is the host's memory that is neither free nor page cache.
func usedMemory() (int64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	return parseUsedMemory(string(text))
}

func parseUsedMemory(text string) (int64, error) {
	bytes := map[string]int64{}
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, ":")
		fields := strings.Fields(rest)
		if !ok || len(fields) != 2 || fields[1] != "kB" {
			continue
		}
		if n, err := strconv.ParseInt(fields[0], 10, 64); err == nil {
			bytes[name] = n << 10
		}
	}
	if bytes["MemTotal"] == 0 {
		return 0, errors.New("/proc/meminfo has no MemTotal")
	}
	// Shmem is counted in Cached, and is not cache.
	return bytes["MemTotal"] - bytes["MemFree"] - bytes["Buffers"] - bytes["Cached"] + bytes["Shmem"], nil
}

// descendantsMemory sums the proportional share of memory of all processes that descend from this one, without it. Processes
// that end meanwhile are left out.
func descendantsMemory() int64 {
	parents := map[int]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		text, readErr := os.ReadFile(path)
		if err != nil || readErr != nil {
			continue
		}
		if parent, ok := parseParent(string(text)); ok {
			parents[pid] = parent
		}
	}
	var sum int64
	for pid := range parents {
		if descends(pid, os.Getpid(), parents) {
			sum += proportionalShare(pid)
		}
	}
	return sum
}

// descends tells whether ancestor is above pid. Parents change while they are read, so the way up is bounded.
func descends(pid, ancestor int, parents map[int]int) bool {
	for range 64 {
		parent, ok := parents[pid]
		if !ok || parent == pid {
			return false
		}
		if parent == ancestor {
			return true
		}
		pid = parent
	}
	return false
}

// parseParent reads the parent's ID from /proc/PID/stat, where the name before it may hold anything.
func parseParent(stat string) (int, bool) {
	end := strings.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, false
	}
	fields := strings.Fields(stat[end+1:])
	if len(fields) < 2 {
		return 0, false
	}
	parent, err := strconv.Atoi(fields[1])
	return parent, err == nil
}

// proportionalShare reads a process's Pss in bytes, 0 when it is gone.
func proportionalShare(pid int) int64 {
	file, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) == 3 && fields[0] == "Pss:" {
			kib, _ := strconv.ParseInt(fields[1], 10, 64) // 0 when the kernel writes it otherwise
			return kib << 10
		}
	}
	return 0
}
