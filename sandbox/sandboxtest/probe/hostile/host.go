package hostile

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// noTime is a time that no file has.
var noTime = time.Unix(1, 0)

func hostAttempts() []Attempt {
	return []Attempt{
		{Name: "settimeofday", Tries: "change the host's clock", Layer: Syscalls, Proof: Guest, try: setTime},
		{Name: "clock-settime", Tries: "change the host's clock by clock_settime", Layer: Syscalls, Proof: Guest, try: setClock},
		{Name: "adjtimex", Tries: "have the host's clock run faster", Layer: Syscalls, Proof: Guest, try: adjustClock},
		{Name: "sethostname", Tries: "rename the host", Layer: Syscalls, Proof: Namespace,
			try: func(t *Trial) { t.got(unix.Sethostname([]byte(mark)), "renamed the host") }},
		{Name: "setdomainname", Tries: "change the host's domain name", Layer: Syscalls, Proof: Namespace,
			try: func(t *Trial) { t.got(unix.Setdomainname([]byte(mark)), "changed the domain name") }},
		{Name: "reboot", Tries: "restart the machine", Layer: Syscalls, Proof: Guest,
			try: func(t *Trial) {
				t.got(unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF), "changed what Ctrl-Alt-Del does")
			}},
		{Name: "swapon", Tries: "have the host swap to its file", Layer: Syscalls, Proof: Guest, try: swapOn},
		{Name: "acct", Tries: "have the host write its accounts to a file of the attacker", Layer: Syscalls, Proof: Guest, try: account},
		{Name: "quotactl", Tries: "change quotas of the host's disks", Layer: Syscalls, Proof: Guest, try: func(t *Trial) {
			const setQuota = 0x800008 << 8
			t.looked("setting a quota", unix.SYS_QUOTACTL, setQuota, t.text("/dev/vda"), 0, bad)
		}},
		{Name: "vhangup", Tries: "hang up the terminal of others", Layer: Syscalls, Proof: Guest,
			try: func(t *Trial) { t.call("hung up", unix.SYS_VHANGUP) }},
		{Name: "real-time", Tries: "become a real-time process that others wait for", Layer: Capabilities, Proof: Guest, try: realTime},
		{Name: "nice", Tries: "raise its priority over others, for processors and disks", Layer: Capabilities, Proof: Guest, try: raisePriority},
		{Name: "core-dump", Tries: "have the kernel write its memory to a file, or to the host's crash handler", Layer: CleanStart, Proof: Guest,
			try: dumpCore},
		{Name: "memory-policy", Tries: "choose the memory nodes that others need", Layer: Syscalls, Proof: Namespace, try: memoryPolicy},
	}
}

func setTime(t *Trial) {
	var now unix.Timeval
	unix.Gettimeofday(&now)
	now.Sec += 3600
	if t.got(unix.Settimeofday(&now), "set the clock by an hour") {
		now.Sec -= 3600
		unix.Settimeofday(&now)
	}
}

func setClock(t *Trial) {
	var now unix.Timespec
	unix.ClockGettime(unix.CLOCK_REALTIME, &now)
	t.got(unix.ClockSettime(unix.CLOCK_REALTIME, &now), "set the clock")
	now.Sec += 3600
	if t.got(unix.ClockSettime(unix.CLOCK_REALTIME, &now), "set the clock by an hour") {
		now.Sec -= 3600
		unix.ClockSettime(unix.CLOCK_REALTIME, &now)
	}
}

// adjustClock asks for a tick that is a little longer, by both calls.
func adjustClock(t *Trial) {
	const tick = 0x4000
	for name, number := range map[string]uintptr{"adjtimex": unix.SYS_ADJTIMEX, "clock_adjtime": unix.SYS_CLOCK_ADJTIME} {
		change := &unix.Timex{Modes: tick, Tick: 10001}
		args := []uintptr{address(t, change)}
		if name == "clock_adjtime" {
			args = []uintptr{unix.CLOCK_REALTIME, args[0]}
		}
		if t.call("sped up the clock by "+name, number, args...) {
			change.Modes, change.Tick = tick, 10000
			raw(number, args...)
		}
	}
}

func swapOn(t *Trial) {
	path := filepath.Join(t.Temp, mark+"-swap")
	image := make([]byte, 64<<10)
	copy(image[4086:], "SWAPSPACE2")
	image[1024], image[1028] = 1, 15
	os.WriteFile(path, image, 0o600)
	defer os.Remove(path)
	t.looked("swapping to a file", unix.SYS_SWAPON, t.text(path), 0)
	t.looked("ending the host's swapping", unix.SYS_SWAPOFF, t.text("/swapfile"))
}

func account(t *Trial) {
	path := filepath.Join(t.Temp, mark+"-accounts")
	os.WriteFile(path, nil, 0o600)
	defer os.Remove(path)
	if t.call("had accounts written", unix.SYS_ACCT, t.text(path)) {
		raw(unix.SYS_ACCT, 0)
	}
}

func realTime(t *Trial) {
	for name, policy := range map[string]uintptr{"FIFO": 1, "round robin": 2} {
		priority := new(int32)
		*priority = 1
		t.call("became a real-time process, "+name, unix.SYS_SCHED_SETSCHEDULER, 0, policy, address(t, priority))
	}
	deadline := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: 6, Runtime: 1e7, Deadline: 3e7, Period: 3e7}
	t.call("became a process with a deadline", unix.SYS_SCHED_SETATTR, 0, address(t, deadline), 0)
}

func raisePriority(t *Trial) {
	for _, nice := range []int{-1, -20} {
		t.got(unix.Setpriority(unix.PRIO_PROCESS, 0, nice), "raised its priority to %d", nice)
	}
	const realTimeClass = 1 << 13
	t.call("raised its priority of disk accesses", unix.SYS_IOPRIO_SET, 1, 0, realTimeClass)
}

// dumpCore has a child crash, and looks whether its memory was written anywhere.
func dumpCore(t *Trial) {
	unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
	var limit unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_CORE, &limit)
	err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	t.got(err, "lifted the limit of core files from %d", limit.Max)
	cmd := exec.Command("/proc/self/exe", "pause")
	cmd.Dir = t.directory("core")
	cmd.Env = append(os.Environ(), "GOTRACEBACK=crash")
	if err := cmd.Start(); err != nil {
		t.held("%v", err)
		return
	}
	cmd.Process.Signal(unix.SIGABRT)
	cmd.Wait()
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.CoreDump() {
		t.breach("a core file was written")
	}
	t.held("the child ended with %#x", uint32(status))
}

func memoryPolicy(t *Trial) {
	mask := &[16]uint64{1}
	t.call("chose its memory node", unix.SYS_SET_MEMPOLICY, 2, address(t, mask), 64)
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err == nil {
		t.call("bound memory to a node", unix.SYS_MBIND, address(t, &page[0]), 4096, 2, address(t, mask), 64, 0)
	}
}
