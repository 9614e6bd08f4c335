package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"lambent/sandbox"
)

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

// The places of the processor time and of the OOM kills.
const (
	meterCPU   = 2
	meterKills = 4
)

// readMeters reads the meters as they stand. buf is scratch space.
func readMeters(v2 bool, files []*os.File, buf []byte) (sandbox.Usage, error) {
	kinds, unit := metersV1, time.Nanosecond
	if v2 {
		kinds, unit = metersV2, time.Microsecond
	}
	var values [len(metersV1)]int64
	for i, f := range files {
		if f == nil {
			continue
		}
		var err error
		if values[i], err = readMeter(f, kinds[i].key, buf); err != nil {
			return sandbox.Usage{}, fmt.Errorf("cgroup: %s: %w", kinds[i].name, err)
		}
	}
	return sandbox.Usage{MemoryBytes: values[0], PeakMemoryBytes: max(values[0], values[1]), CPU: time.Duration(values[2]) * unit,
		Processes: int(values[3]), OOMKills: values[4]}, nil
}

// readControl reads an open control file, which is shorter than buf, from its start. The kernel gives it in one piece; ReadAt would ask
// for a second one.
func readControl(f *os.File, buf []byte) ([]byte, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	n := 0
	var failed error
	err = raw.Control(func(fd uintptr) {
		for failed = unix.EINTR; failed == unix.EINTR; {
			n, failed = unix.Pread(int(fd), buf, 0)
		}
	})
	if err = errors.Join(err, failed); err != nil {
		return nil, err
	}
	return buf[:n], nil
}

// readMeter reads one number from the start of an open control file.
func readMeter(f *os.File, key string, buf []byte) (int64, error) {
	text, err := readControl(f, buf)
	if err != nil {
		return 0, err
	}
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
