package hostile

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func procfsAttempts() []Attempt {
	return []Attempt{
		{Name: "core-pattern", Tries: "have the kernel start a program of the attacker on the host for each crash, by /proc/sys/kernel/core_pattern",
			Layer: ProcMasks, Proof: Guest, try: writes("/proc/sys/kernel/core_pattern")},
		{Name: "modprobe-path", Tries: "have the kernel start a program of the attacker as its module loader, by /proc/sys/kernel/modprobe",
			Layer: ProcMasks, Proof: Guest, try: writes("/proc/sys/kernel/modprobe")},
		{Name: "uevent-helper", Tries: "have the kernel start a program of the attacker for each device, by /sys/kernel/uevent_helper or a uevent file",
			Layer: NoSysfs, Proof: Guest, try: writes("/sys/kernel/uevent_helper", "/sys/devices/virtual/mem/null/uevent")},
		{Name: "sysrq", Tries: "restart or crash the machine by /proc/sysrq-trigger", Layer: ProcMasks, Proof: Guest,
			try: writes("/proc/sysrq-trigger")},
		{Name: "drop-caches", Tries: "empty the page cache of the whole host by /proc/sys/vm/drop_caches", Layer: ProcMasks,
			Proof: Guest, try: writes("/proc/sys/vm/drop_caches", "/proc/sys/vm/compact_memory")},
		{Name: "sysctl-write", Tries: "change any setting of the kernel below /proc/sys", Layer: ProcMasks, Proof: Guest,
			try: func(t *Trial) { writable(t, "/proc/sys") }},
		{Name: "sysfs-write", Tries: "change any setting of devices, memory or modules below /sys", Layer: NoSysfs, Proof: Guest,
			try: func(t *Trial) { writable(t, "/sys") }},
		{Name: "oom-score", Tries: "have the host's other processes killed in its stead when memory is short", Layer: Capabilities,
			Proof: Guest, try: oomScore},
		{Name: "proc-kcore", Tries: "read the memory of the kernel by /proc/kcore", Layer: ProcMasks, Proof: Guest,
			try: reads("/proc/kcore")},
		{Name: "proc-kallsyms", Tries: "learn where the kernel's code lies in memory", Layer: ProcMasks, Proof: Guest, try: kernelSymbols},
		{Name: "kernel-log", Tries: "read the kernel's log, by syslog(2), /dev/kmsg and /proc/kmsg", Layer: Syscalls, Proof: Guest,
			try: kernelLog},
		{Name: "proc-keys", Tries: "list the keys, timers, slabs and disks of the host", Layer: ProcMasks, Proof: Guest,
			try: reads("/proc/keys", "/proc/timer_list", "/proc/slabinfo", "/proc/vmallocinfo", "/proc/diskstats", "/proc/partitions",
				"/proc/iomem", "/proc/modules", "/proc/config.gz", "/proc/kpagecount", "/proc/sched_debug", "/proc/locks")},
		{Name: "mount-procfs", Tries: "mount another /proc that nothing is hidden in", Layer: Syscalls, Proof: Namespace,
			try: mountsType("proc", "proc", "")},
		{Name: "mount-sysfs", Tries: "mount /sys", Layer: Syscalls, Proof: Namespace, try: mountsType("sysfs", "sysfs", "")},
		{Name: "mount-debugfs", Tries: "mount the kernel's debugging and tracing file systems", Layer: Syscalls, Proof: Guest,
			try: func(t *Trial) { mountsType("debugfs", "debugfs", "")(t); mountsType("tracefs", "tracefs", "")(t) }},
	}
}

// writes opens files of the kernel for writing.
func writes(paths ...string) func(*Trial) {
	return func(t *Trial) {
		for _, path := range paths {
			t.got(openForWriting(path), "opened %s for writing", path)
		}
	}
}

// openForWriting says why a file cannot be changed. One that /dev/null hides can be opened, to no effect.
func openForWriting(path string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return err
	}
	if stat.Mode&unix.S_IFMT == unix.S_IFCHR && stat.Rdev == unix.Mkdev(1, 3) {
		return fmt.Errorf("open %s: it is hidden behind /dev/null", path)
	}
	return nil
}

// reads takes the first bytes of files.
func reads(paths ...string) func(*Trial) {
	return func(t *Trial) {
		for _, path := range paths {
			err := readSome(path)
			t.got(err, "read %s", path)
		}
	}
}

func readSome(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	n, err := file.Read(make([]byte, 64))
	if n == 0 && err == nil {
		err = fs.ErrNotExist
	}
	return err
}

// writable looks for files below a directory that may be written, and names the first few.
func writable(t *Trial, directory string) {
	found := 0
	filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return nil //nolint:nilerr // what cannot be read is not reached
		}
		if strings.HasPrefix(path, "/sys/kernel/debug/") || strings.HasPrefix(path, "/sys/kernel/tracing/") {
			return fs.SkipDir
		}
		file, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return nil //nolint:nilerr // it is held
		}
		file.Close()
		t.breach("may write %s", path)
		if found++; found > 3 {
			return fs.SkipAll
		}
		return nil
	})
	if found == 0 {
		t.held("no file below %s could be opened for writing", directory)
	}
}

// oomScore makes its own process dearer than it was, or than the floor where the host could not pin it higher.
func oomScore(t *Trial) {
	const path = "/proc/self/oom_score_adj"
	before, err := os.ReadFile(path)
	if err != nil {
		t.held("%v", err)
		return
	}
	score, _ := strconv.Atoi(strings.TrimSpace(string(before)))
	for _, lower := range []int{min(score, t.ScoreFloor) - 1, -1000} {
		t.got(os.WriteFile(path, []byte(strconv.Itoa(lower)), 0), "lowered its score from %d to %d", score, lower)
	}
}

// kernelSymbols looks for an address that is not zero.
func kernelSymbols(t *Trial) {
	text, err := os.ReadFile("/proc/kallsyms")
	if err != nil {
		t.held("%v", err)
		return
	}
	for line := range bytes.Lines(text) {
		if address, _, _ := bytes.Cut(line, []byte(" ")); len(bytes.Trim(address, "0")) > 0 {
			t.breach("read the address %s", bytes.TrimSpace(line))
			return
		}
	}
	t.held("/proc/kallsyms has no addresses")
}

func kernelLog(t *Trial) {
	buffer := make([]byte, 4096)
	const readAll = 3
	n, err := unix.Klogctl(readAll, buffer)
	if t.got(err, "read %d bytes of the log by syslog", n) {
		if leaksNothing(buffer[:n]) {
			t.breaches = t.breaches[:len(t.breaches)-1]
			t.held("syslog answered with a log that is not the host's")
		}
	}
	for _, path := range []string{"/dev/kmsg", "/proc/kmsg"} {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
		if err == nil {
			n, err = unix.Read(fd, buffer)
			unix.Close(fd)
			if err == nil && n == 0 {
				err = io.EOF
			}
		}
		t.got(err, "read %d bytes of %s", n, path)
	}
}

// leaksNothing tells whether a kernel's log is the one that gVisor makes up for each sandbox.
func leaksNothing(log []byte) bool { return bytes.Contains(log, []byte("Starting gVisor...")) }

// mountsType mounts a file system at a directory of the attacker.
func mountsType(source, kind, options string) func(*Trial) {
	return func(t *Trial) {
		err := unix.Mount(source, t.directory(kind), kind, 0, options)
		t.got(err, "mounted a %s", strings.TrimSpace(kind+" "+options))
	}
}

// directory makes a directory of the attacker and returns its path.
func (t *Trial) directory(name string) string {
	path := filepath.Join(t.Temp, fmt.Sprintf("%s-%d-%s", mark, os.Getpid(), name))
	os.MkdirAll(path, 0o777)
	return path
}
