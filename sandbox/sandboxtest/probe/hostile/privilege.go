package hostile

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func privilegeAttempts() []Attempt {
	return []Attempt{
		{Name: "become-root", Tries: "become root, or a neighbour's user, by setuid, setgid and setgroups", Layer: Capabilities,
			Proof: Namespace, try: becomeOthers},
		{Name: "raise-capabilities", Tries: "raise capabilities, ambient ones too", Layer: Capabilities, Proof: Namespace, try: raiseCapabilities},
		{Name: "set-user-id-program", Tries: "become the owner of a set-user-ID program", Layer: NoNewPrivileges, Proof: Namespace,
			try: runsAs("setuid"), outside: unprivileged},
		{Name: "set-group-id-program", Tries: "become the group of a set-group-ID program", Layer: NoNewPrivileges, Proof: Namespace,
			try: runsAs("setgid"), outside: unprivileged},
		{Name: "file-capabilities", Tries: "give capabilities to a program by its attributes, and start it", Layer: Capabilities,
			Proof: Namespace, try: fileCapabilities},
		{Name: "no-new-privileges", Tries: "clear no_new_privs", Layer: NoNewPrivileges, Proof: Namespace, try: clearNoNewPrivileges},
		{Name: "secure-bits", Tries: "unlock the secure bits, so that user 0 has capabilities again", Layer: Syscalls, Proof: Namespace,
			try: func(t *Trial) { t.got(unix.Prctl(unix.PR_SET_SECUREBITS, 0, 0, 0, 0), "cleared the secure bits") }},
		{Name: "drop-filter", Tries: "rid itself of the system call filter, or lay one over it that answers for it", Layer: Syscalls,
			Proof: Namespace, try: dropFilter},
		{Name: "seccomp-notify", Tries: "answer system calls of set-user-ID programs in the kernel's stead (SECCOMP_RET_USER_NOTIF)",
			Layer: Syscalls, Proof: Namespace, try: notifyFilter},
		{Name: "change-memory-map", Tries: "disguise itself in the host's process list by PR_SET_MM", Layer: Syscalls, Proof: Guest,
			try: changeMap},
		{Name: "raise-rlimits", Tries: "raise its limits of open files, processes, locked memory and core files", Layer: Capabilities,
			Proof: Guest, try: raiseLimitsOfProcess, outside: func(o *outside) { o.limited = true }},
		{Name: "forge-credentials", Tries: "pose as root and as process 1 to a peer of a local socket", Layer: Capabilities, Proof: Namespace,
			try: forgeCredentials},
	}
}

func becomeOthers(t *Trial) {
	for _, id := range []int{0, 1, 0x70000000, 1000} {
		if id == os.Getuid() && id != 0 {
			continue
		}
		t.got(unix.Setresuid(id, id, id), "became user %d", id)
		t.got(unix.Setresgid(id, id, id), "became group %d", id)
	}
	t.got(unix.Setgroups([]int{0}), "joined group 0")
	uid, _ := unix.SetfsuidRetUid(0)
	if now, _ := unix.SetfsuidRetUid(-1); now == 0 {
		t.breach("uses files as user 0, after %d", uid)
	}
}

func raiseCapabilities(t *Trial) {
	all := [2]unix.CapUserData{}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	for i := range 2 {
		all[i] = unix.CapUserData{Effective: ^uint32(0), Permitted: ^uint32(0), Inheritable: ^uint32(0)}
	}
	for _, one := range []uint32{1 << unix.CAP_SYS_ADMIN, 1 << unix.CAP_DAC_OVERRIDE, 1 << unix.CAP_NET_RAW, 1 << unix.CAP_SYS_PTRACE} {
		set := [2]unix.CapUserData{{Effective: one, Permitted: one, Inheritable: one}}
		t.got(unix.Capset(&header, &set[0]), "raised capability %#x", one)
	}
	t.got(unix.Capset(&header, &all[0]), "raised all capabilities")
	t.got(unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, unix.CAP_SYS_PTRACE, 0, 0), "raised an ambient capability")
	if status := ownStatus("CapBnd"); strings.Trim(status, "0") != "" {
		t.breach("its bounding set is %s", status)
	}
}

// ownStatus returns a field of /proc/self/status.
func ownStatus(field string) string {
	text, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// runsAs starts the copy of this program that belongs to another, and reads who that is.
func runsAs(name string) func(*Trial) {
	return func(t *Trial) {
		cmd := exec.Command(filepath.Join(t.Code, name), "whoami")
		cmd.Env = os.Environ()
		out, err := cmd.Output()
		if err != nil {
			t.held("%s: %v", name, err)
			return
		}
		uid, gid := strconv.Itoa(os.Getuid()), strconv.Itoa(os.Getgid())
		for i, id := range strings.Fields(string(bytes.SplitN(out, []byte("\n"), 2)[0])) {
			if own := []string{uid, uid, gid, gid}[i]; id != own {
				t.breach("became %s from %s", id, own)
			}
		}
		t.held("%s is %q", name, bytes.TrimSpace(out))
	}
}

// fileCapabilities writes the attribute that setcap writes.
func fileCapabilities(t *Trial) {
	path := filepath.Join(t.Temp, mark+"-capable")
	program, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(path, program, 0o755)
	}
	if err != nil {
		t.held("%v", err)
		return
	}
	defer os.Remove(path)
	const version2, effective = 0x02000000, 1
	value := binary.LittleEndian.AppendUint32(nil, version2|effective)
	value = binary.LittleEndian.AppendUint32(value, ^uint32(0))
	value = append(value, make([]byte, 12)...)
	t.got(unix.Setxattr(path, "security.capability", value, 0), "gave a program capabilities")
}

func clearNoNewPrivileges(t *Trial) {
	err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0)
	now, getErr := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	if getErr == nil && now == 0 {
		t.breach("no_new_privs is not set")
	}
	t.got(err, "cleared no_new_privs")
}

func dropFilter(t *Trial) {
	mode, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0)
	if err == nil && mode == 0 {
		t.breach("no filter is in force")
	}
	t.held("the mode is %d, %v", mode, err)
	t.got(unix.Prctl(unix.PR_SET_SECCOMP, 0, 0, 0, 0), "set the mode to none")
}

// allowAll is a filter that allows everything.
func allowAll(t *Trial) *unix.SockFprog {
	filter := &unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}
	t.kept = append(t.kept, filter)
	return &unix.SockFprog{Len: 1, Filter: filter}
}

func notifyFilter(t *Trial) {
	const newListener = 1 << 3
	fd, err := raw(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, newListener, address(t, allowAll(t)))
	if t.got(err, "made a filter with a listener") {
		unix.Close(int(fd))
	}
}

func changeMap(t *Trial) {
	text, _ := os.ReadFile("/proc/self/stat")
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 26 {
		t.held("/proc/self/stat has %d fields", len(fields))
		return
	}
	const startStackField = 25
	start, _ := strconv.ParseUint(fields[startStackField], 10, 64)
	t.got(unix.Prctl(unix.PR_SET_MM, unix.PR_SET_MM_START_STACK, uintptr(start), 0, 0), "moved the start of its stack")
}

func raiseLimitsOfProcess(t *Trial) {
	for name, which := range map[string]int{"open files": unix.RLIMIT_NOFILE, "processes": unix.RLIMIT_NPROC,
		"locked memory": unix.RLIMIT_MEMLOCK, "core files": unix.RLIMIT_CORE, "queued signals": unix.RLIMIT_SIGPENDING,
		"priority": unix.RLIMIT_RTPRIO, "nice": unix.RLIMIT_NICE} {
		var now unix.Rlimit
		if err := unix.Getrlimit(which, &now); err != nil || now.Max == unix.RLIM_INFINITY {
			t.held("the limit of %s is %d, %v", name, now.Max, err)
			continue
		}
		t.got(unix.Setrlimit(which, &unix.Rlimit{Cur: now.Max + 1, Max: now.Max + 1}), "raised its limit of %s from %d", name, now.Max)
	}
}

func forgeCredentials(t *Trial) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.held("%v", err)
		return
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	own := &unix.Ucred{Pid: int32(os.Getpid()), Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid())}
	forgeries := []*unix.Ucred{{Pid: own.Pid, Uid: 0, Gid: 0}}
	for _, pid := range t.pids() {
		forgeries = append(forgeries, &unix.Ucred{Pid: int32(pid), Uid: own.Uid, Gid: own.Gid})
	}
	for _, forged := range forgeries {
		err = unix.Sendmsg(pair[0], []byte("x"), unix.UnixCredentials(forged), nil, 0)
		t.got(err, "posed as process %d and user %d", forged.Pid, forged.Uid)
	}
}
