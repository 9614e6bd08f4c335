package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"lambent/sandbox"
)

// meters are the control files that a sandbox's usage is read from. They are kept open, because every invoke reads them and
// opening one costs ten times as much as reading it.
type meters struct {
	mu     sync.Mutex
	files  []*os.File // as meterFiles lists them; nil before the first read and after close
	closed bool
	buf    [512]byte
}

// meterFile is one meter: a number, or the number behind a key.
type meterFile struct {
	controller string // v1
	name       string
	key        string // "" where the file holds one number
	optional   bool
}

// The meters in the order of usage's members: memory, peak, processor time, processes, OOM kills.
var (
	metersV1 = [...]meterFile{
		{controller: "memory", name: "memory.usage_in_bytes"}, {controller: "memory", name: "memory.max_usage_in_bytes"},
		{controller: "cpuacct", name: "cpuacct.usage"}, {controller: "pids", name: "pids.current"},
		{controller: "memory", name: "memory.oom_control", key: "oom_kill"},
	}
	metersV2 = [...]meterFile{
		{name: "memory.current"}, {name: "memory.peak", optional: true}, // since Linux 5.19
		{name: "cpu.stat", key: "usage_usec"}, {name: "pids.current"}, {name: "memory.events", key: "oom_kill"},
	}
)

// Usage reads the meters as they stand.
func (g *Group) Usage() (sandbox.Usage, error) {
	g.meters.mu.Lock()
	defer g.meters.mu.Unlock()
	if err := g.openMetersLocked(); err != nil {
		return sandbox.Usage{}, err
	}
	kinds, unit := metersV1, time.Nanosecond
	if g.function.Limits {
		kinds, unit = metersV2, time.Microsecond
	}
	var values [len(metersV1)]int64
	for i, f := range g.meters.files {
		if f == nil {
			continue
		}
		var err error
		if values[i], err = g.meters.readLocked(f, kinds[i].key); err != nil {
			return sandbox.Usage{}, fmt.Errorf("cgroup: %s: %w", kinds[i].name, err)
		}
	}
	return sandbox.Usage{MemoryBytes: values[0], PeakMemoryBytes: max(values[0], values[1]), CPU: time.Duration(values[2]) * unit,
		Processes: int(values[3]), OOMKills: values[4]}, nil
}

func (g *Group) openMetersLocked() error {
	if g.meters.closed {
		return fmt.Errorf("cgroup: %w", os.ErrClosed)
	}
	if g.meters.files != nil {
		return nil
	}
	kinds := metersV1
	if g.function.Limits {
		kinds = metersV2
	}
	files := make([]*os.File, len(kinds))
	for i, kind := range kinds {
		dir := g.function.V2
		if !g.function.Limits {
			dir = g.function.V1[kind.controller]
		}
		f, err := os.Open(filepath.Join(dir, kind.name))
		if kind.optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			closeFiles(files)
			return fmt.Errorf("cgroup: %w", err)
		}
		files[i] = f
	}
	g.meters.files = files
	return nil
}

// readLocked reads one number from the start of an open control file.
func (m *meters) readLocked(f *os.File, key string) (int64, error) {
	n, err := f.ReadAt(m.buf[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	text := m.buf[:n]
	if key == "" {
		return strconv.ParseInt(string(bytes.TrimSpace(text)), 10, 64)
	}
	for line := range bytes.Lines(text) {
		if name, value, ok := bytes.Cut(line, []byte(" ")); ok && string(name) == key {
			return strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
		}
	}
	return 0, fmt.Errorf("no %q in it", key)
}

func (m *meters) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	closeFiles(m.files)
	m.files, m.closed = nil, true
}
