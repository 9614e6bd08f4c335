package hostile

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func processAttempts() []Attempt {
	return []Attempt{
		{Name: "see-processes", Tries: "see processes that it has not started", Layer: PIDs, Proof: Namespace, try: seeProcesses},
		{Name: "proc-root-of-others", Tries: "reach another process's files by /proc/PID/root, cwd, exe and fd", Layer: PIDs,
			Proof: Namespace, try: rootOfOthers},
		{Name: "environment-of-others", Tries: "read another process's environment, arguments and memory map", Layer: PIDs,
			Proof: Namespace, try: environmentOfOthers},
		{Name: "proc-mem", Tries: "read another process's memory by /proc/PID/mem", Layer: PIDs, Proof: Namespace, try: procMem},
		{Name: "ptrace-attach", Tries: "trace another process", Layer: Syscalls, Proof: Namespace, try: traceVictim(unix.PTRACE_ATTACH)},
		{Name: "ptrace-seize", Tries: "trace another process without stopping it, the sandbox's init too", Layer: Syscalls,
			Proof: Namespace, try: traceVictim(unix.PTRACE_SEIZE)},
		{Name: "process-vm-readv", Tries: "read another process's memory", Layer: Syscalls, Proof: Namespace,
			try: victimMemory(unix.SYS_PROCESS_VM_READV)},
		{Name: "process-vm-writev", Tries: "change another process's memory", Layer: Syscalls, Proof: Namespace,
			try: victimMemory(unix.SYS_PROCESS_VM_WRITEV)},
		{Name: "kcmp", Tries: "compare what it shares with another process, which tells addresses in the kernel apart",
			Layer: Syscalls, Proof: Namespace, try: compare},
		{Name: "pidfd-getfd", Tries: "take an open file out of another process", Layer: Syscalls, Proof: Namespace, try: takeDescriptor},
		{Name: "pidfd-signal", Tries: "signal another process by a pidfd", Layer: PIDs, Proof: Namespace, try: signalByDescriptor},
		{Name: "signal-others", Tries: "signal a process outside by kill, tgkill and rt_sigqueueinfo", Layer: PIDs, Proof: Namespace,
			try: signalOthers},
		{Name: "kill-everything", Tries: "kill every process that it can reach, by kill(-1)", Layer: PIDs, Proof: Namespace,
			try: killEverything},
		{Name: "prlimit-others", Tries: "change the limits of another process", Layer: Syscalls, Proof: Namespace, try: limitOthers},
		{Name: "priority-others", Tries: "slow down another process, by its priority and its processors", Layer: PIDs, Proof: Namespace,
			try: slowOthers},
		{Name: "move-pages", Tries: "move another process's memory between nodes", Layer: Syscalls, Proof: Namespace, try: moveVictim},
		{Name: "process-madvise", Tries: "have another process's memory paged out", Layer: Syscalls, Proof: Guest, try: adviseVictim},
	}
}

// seeProcesses lists /proc, and asks for PIDs that are not shown there.
func seeProcesses(t *Trial) {
	own := map[int]bool{os.Getpid(): true}
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil && !own[pid] {
			name, _ := os.ReadFile("/proc/" + entry.Name() + "/comm")
			t.breach("saw process %d, %q", pid, bytes.TrimSpace(name))
		}
	}
	if len(t.breaches) == 0 {
		t.held("%d entries in /proc and no other process", len(entries))
	}
}

// pids are those to try: the victim's, the sandbox's init, the parent. A number of the host's may be this process's own inside.
func (t *Trial) pids() []int {
	var list []int
	if os.Getpid() != 1 {
		list = append(list, 1)
	}
	if parent := os.Getppid(); parent > 1 {
		list = append(list, parent)
	}
	for _, victim := range t.Victims {
		if victim.PID != 0 && !isOwn(victim.PID) {
			list = append(list, victim.PID)
		}
	}
	return list
}

func rootOfOthers(t *Trial) {
	for _, pid := range t.pids() {
		for _, name := range []string{"root", "cwd", "fd", "exe", "map_files"} {
			path := fmt.Sprintf("/proc/%d/%s", pid, name)
			file, err := os.Open(path)
			if t.got(err, "opened %s", path) {
				file.Close()
			}
		}
	}
}

func environmentOfOthers(t *Trial) {
	for _, pid := range t.pids() {
		for _, name := range []string{"environ", "cmdline", "maps", "stack", "auxv"} {
			path := fmt.Sprintf("/proc/%d/%s", pid, name)
			content, err := os.ReadFile(path)
			if err == nil && len(content) == 0 {
				err = unix.ENODATA
			}
			t.got(err, "read %d bytes of %s", len(content), path)
		}
	}
}

func procMem(t *Trial) {
	victim, ok := t.victim()
	if !ok {
		return
	}
	buffer := make([]byte, len(victim.Secret))
	file, err := os.Open(fmt.Sprintf("/proc/%d/mem", victim.PID))
	if err == nil {
		_, err = file.ReadAt(buffer, int64(victim.Address))
		file.Close()
	}
	if err == nil && string(buffer) != victim.Secret {
		err = unix.ESRCH // another process has that number here
	}
	t.got(err, "read %q in the victim's memory", buffer)
}

// traceVictim attaches to processes. It must stay on one thread, which is what the kernel takes for the tracer.
func traceVictim(request uintptr) func(*Trial) {
	return func(t *Trial) {
		runtime.LockOSThread()
		for _, pid := range t.pids() {
			if t.call(fmt.Sprintf("traced process %d", pid), unix.SYS_PTRACE, request, uintptr(pid), 0, 0) {
				var status unix.WaitStatus
				if request == unix.PTRACE_ATTACH {
					unix.Wait4(pid, &status, unix.WALL, nil)
				}
				unix.PtraceDetach(pid)
			}
		}
	}
}

// victimMemory reads or overwrites the victim's secret; what it writes is the same, so that nothing is harmed.
func victimMemory(number uintptr) func(*Trial) {
	return func(t *Trial) {
		victim, ok := t.victim()
		if !ok {
			return
		}
		buffer := []byte(victim.Secret)
		if number == unix.SYS_PROCESS_VM_READV {
			clear(buffer)
		}
		local := &unix.Iovec{Base: &buffer[0]}
		local.SetLen(len(buffer))
		remote := &[2]uint64{victim.Address, uint64(len(buffer))}
		n, err := raw(number, uintptr(victim.PID), address(t, local), 1, address(t, remote), 1, 0)
		if err == nil && (int(n) != len(buffer) || string(buffer) != victim.Secret) {
			err = unix.ESRCH
		}
		t.got(err, "had %d bytes of the victim's memory", n)
		runtime.KeepAlive(buffer)
	}
}

func compare(t *Trial) {
	for _, pid := range t.pids() {
		t.call(fmt.Sprintf("compared itself with process %d", pid), unix.SYS_KCMP, uintptr(os.Getpid()), uintptr(pid), 1, 0, 0)
	}
}

func takeDescriptor(t *Trial) {
	victim, ok := t.victim()
	if !ok {
		return
	}
	for _, pid := range t.pids() {
		handle, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.held("pidfd_open of %d: %v", pid, err)
			continue
		}
		for _, descriptor := range []int{0, victim.Descriptor} {
			fd, err := unix.PidfdGetfd(handle, descriptor, 0)
			if t.got(err, "took descriptor %d out of process %d", descriptor, pid) {
				unix.Close(fd)
			}
		}
		unix.Close(handle)
	}
}

func signalByDescriptor(t *Trial) {
	victim, ok := t.victim()
	if !ok {
		return
	}
	handle, err := unix.PidfdOpen(victim.PID, 0)
	if err != nil {
		t.held("pidfd_open: %v", err)
		return
	}
	defer unix.Close(handle)
	t.got(unix.PidfdSendSignal(handle, 0, nil, 0), "signalled process %d", victim.PID)
}

func signalOthers(t *Trial) {
	victim, ok := t.victim()
	if !ok {
		return
	}
	pid := victim.PID
	t.got(unix.Kill(pid, 0), "kill of %d", pid)
	t.got(unix.Tgkill(pid, pid, 0), "tgkill of %d", pid)
	info := &[16]uint64{}
	(*[3]int32)(unsafe.Pointer(info))[2] = -1 // SI_QUEUE
	t.call(fmt.Sprintf("rt_sigqueueinfo to %d", pid), unix.SYS_RT_SIGQUEUEINFO, uintptr(pid), uintptr(unix.SIGURG), address(t, info))
}

// killEverything spares itself, as the kernel does. The victim, and the sandbox's init, must outlive it.
func killEverything(t *Trial) {
	victim, _ := t.victim()
	known := victim.PID != 0 && unix.Kill(victim.PID, 0) == nil
	for _, signal := range []syscall.Signal{unix.SIGSTOP, unix.SIGCONT, unix.SIGKILL} {
		err := unix.Kill(-1, signal)
		t.held("kill(-1, %d): %v", signal, err)
	}
	for range 1000 {
		if known && unix.Kill(victim.PID, 0) == unix.ESRCH {
			t.breach("killed the victim")
			return
		}
		runtime.Gosched()
		unix.Nanosleep(&unix.Timespec{Nsec: 1e6}, nil)
		if !known {
			return
		}
	}
}

func limitOthers(t *Trial) {
	for _, pid := range t.pids() {
		var now unix.Rlimit
		err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &now)
		if err == nil {
			err = unix.Prlimit(pid, unix.RLIMIT_NOFILE, &now, nil)
		}
		t.got(err, "set a limit of process %d", pid)
	}
}

func slowOthers(t *Trial) {
	victim, ok := t.victim()
	if !ok {
		return
	}
	for _, pid := range t.pids() {
		t.got(unix.Setpriority(unix.PRIO_PROCESS, pid, 19), "set the priority of process %d", pid)
	}
	var set unix.CPUSet
	set.Set(0)
	t.got(unix.SchedSetaffinity(victim.PID, &set), "chose the processors of process %d", victim.PID)
}

func moveVictim(t *Trial) {
	victim, ok := t.victim()
	if !ok {
		return
	}
	page := &[1]uint64{victim.Address &^ 4095}
	status := &[1]int32{}
	t.call("asked where the victim's memory is", unix.SYS_MOVE_PAGES, uintptr(victim.PID), 1, address(t, page), 0, address(t, status), 0)
	mask := &[16]uint64{1}
	t.call("moved the victim's memory", unix.SYS_MIGRATE_PAGES, uintptr(victim.PID), 64, address(t, mask), address(t, mask))
}

func adviseVictim(t *Trial) {
	victim, ok := t.victim()
	if !ok {
		return
	}
	handle, err := unix.PidfdOpen(victim.PID, 0)
	if err != nil {
		t.held("pidfd_open: %v", err)
		return
	}
	defer unix.Close(handle)
	vector := &[2]uint64{victim.Address &^ 4095, 4096}
	const processMadvise, madviseCold = 440, 20
	t.call("paged out the victim's memory", processMadvise, uintptr(handle), address(t, vector), 1, madviseCold, 0)
}

// ownCgroups returns the lines of /proc/self/cgroup.
func ownCgroups() []string {
	text, _ := os.ReadFile("/proc/self/cgroup")
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}
