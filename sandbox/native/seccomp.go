package native

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// The system call filter is an allow-list. What it does not name answers ENOSYS, as on a kernel that does not know it, so
// that libraries fall back (clone3 to clone, io_uring to epoll, io_setup to threads: the kernel has a number of asynchronous requests
// for the whole host, all of which any process may take). What is named in refused answers EPERM, because programs
// take ENOSYS for a broken kernel there. Foreign architectures and x32 answer ENOSYS for everything. Calls that a bare
// number would open too wide are allowed for named arguments only.

// syscallGroup is a part of the allow-list with the reason for it.
type syscallGroup struct {
	reason string
	names  []string
}

// allowed are the calls that any argument may be given to. Names that an architecture does not have are left out there.
var allowed = []syscallGroup{
	{"files by descriptor", []string{"read", "write", "pread64", "pwrite64", "readv", "writev", "preadv", "pwritev", "preadv2",
		"pwritev2", "lseek", "close", "close_range", "dup", "dup2", "dup3", "fcntl", "flock", "fsync", "fdatasync", "syncfs",
		"sync_file_range", "ftruncate", "fallocate", "fadvise64", "readahead", "copy_file_range", "sendfile", "splice", "tee",
		"vmsplice", "pipe", "pipe2", "getdents", "getdents64", "fstat", "fstatfs", "fchdir", "fchmod", "fchown", "fgetxattr",
		"flistxattr", "fsetxattr", "fremovexattr", "sync"}},
	{"files by name; permissions and the read-only root decide", []string{"open", "openat", "openat2", "creat", "access",
		"faccessat", "faccessat2", "stat", "lstat", "newfstatat", "statx", "statfs", "readlink", "readlinkat", "getcwd", "chdir",
		"mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "rename", "renameat", "renameat2", "link", "linkat", "symlink",
		"symlinkat", "chmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchownat", "truncate", "utime", "utimes", "utimensat",
		"futimesat", "umask", "getxattr", "lgetxattr", "listxattr", "llistxattr", "setxattr", "lsetxattr", "removexattr",
		"lremovexattr", "mknod", "mknodat", "inotify_init", "inotify_init1", "inotify_add_watch", "inotify_rm_watch"}},
	{"memory", []string{"brk", "munmap", "mprotect", "mremap", "madvise", "msync", "mincore", "mlock", "mlock2",
		"munlock", "mlockall", "munlockall", "membarrier", "pkey_alloc", "pkey_free", "pkey_mprotect",
		"map_shadow_stack", "cachestat", "get_mempolicy"}},
	{"processes and threads; pids and memory are limited", []string{"fork", "vfork", "execve", "execveat", "exit",
		"exit_group", "wait4", "waitid", "set_tid_address", "set_robust_list", "get_robust_list", "rseq", "futex",
		"futex_waitv", "futex_wake", "futex_wait", "futex_requeue", "gettid", "getpid", "getppid", "getpgid", "setpgid",
		"getpgrp", "getsid", "setsid", "kill", "tkill", "tgkill", "pidfd_open", "pidfd_send_signal", "arch_prctl",
		"restart_syscall", "getcpu", "sched_yield"}},
	{"signals", []string{"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigpending", "rt_sigtimedwait",
		"rt_sigqueueinfo", "rt_tgsigqueueinfo", "rt_sigsuspend", "sigaltstack", "signalfd", "signalfd4", "pause", "alarm"}},
	{"waiting", []string{"poll", "ppoll", "select", "pselect6", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_wait",
		"epoll_pwait", "epoll_pwait2", "eventfd", "eventfd2", "timerfd_create", "timerfd_settime", "timerfd_gettime",
		"timer_create", "timer_settime", "timer_gettime", "timer_getoverrun", "timer_delete", "getitimer", "setitimer",
		"nanosleep", "clock_nanosleep"}},
	{"clocks, read only", []string{"clock_gettime", "clock_getres", "gettimeofday", "time", "times"}},
	{"sockets, of the families that socket allows", []string{"bind", "listen", "accept", "accept4", "connect", "getsockname",
		"getpeername", "getsockopt", "setsockopt", "shutdown", "sendto", "recvfrom", "sendmsg", "recvmsg", "sendmmsg",
		"recvmmsg"}},
	{"who am I; changing it fails without capabilities", []string{"getuid", "geteuid", "getgid", "getegid", "getresuid",
		"getresgid", "getgroups", "setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setgroups", "setfsuid",
		"setfsgid", "capget", "capset"}},
	{"limits and scheduling of one's own", []string{"getrlimit", "setrlimit", "getrusage", "getpriority", "setpriority",
		"ioprio_get", "ioprio_set", "sched_getaffinity", "sched_setaffinity", "sched_getparam", "sched_setparam",
		"sched_getscheduler", "sched_setscheduler", "sched_getattr", "sched_setattr", "sched_get_priority_max",
		"sched_get_priority_min", "sched_rr_get_interval"}},
	{"what system is this", []string{"uname", "sysinfo", "getrandom"}},
	{"System V and POSIX queues, in an own IPC namespace", []string{"shmat", "shmdt", "shmctl", "semget", "semop",
		"semctl", "semtimedop", "msgget", "msgsnd", "msgrcv", "msgctl", "mq_open", "mq_unlink", "mq_timedsend",
		"mq_timedreceive", "mq_notify", "mq_getsetattr"}},
	{"landlock only restricts the caller", []string{"landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"}},
}

// refused are calls that programs try and expect to be forbidden.
var refused = []syscallGroup{
	{"mounts and roots", []string{"mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "fsopen", "fsconfig",
		"fsmount", "fspick", "mount_setattr", "quotactl", "quotactl_fd", "swapon", "swapoff"}},
	{"namespaces", []string{"unshare", "setns"}},
	{"other processes' memory and state", []string{"ptrace", "process_vm_readv", "process_vm_writev", "kcmp",
		"process_madvise", "pidfd_getfd", "move_pages", "migrate_pages"}},
	{"kernel code and events", []string{"bpf", "perf_event_open", "init_module", "finit_module", "delete_module",
		"kexec_load", "kexec_file_load", "userfaultfd", "seccomp", "fanotify_init", "lookup_dcookie"}},
	{"keys", []string{"add_key", "request_key", "keyctl"}},
	{"handles that pass by permissions of directories", []string{"name_to_handle_at", "open_by_handle_at"}},
	{"the host", []string{"reboot", "sethostname", "setdomainname", "settimeofday", "clock_settime", "clock_adjtime",
		"adjtimex", "syslog", "acct", "vhangup", "iopl", "ioperm"}},
	{"memory policy", []string{"mbind", "set_mempolicy", "set_mempolicy_home_node"}},
}

// namespaceFlags are those bits of clone's flags that make namespaces.
const namespaceFlags = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID |
	unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP

// Constants of the kernel that package unix lacks; the same on amd64 and arm64.
const (
	addrNoRandomize = 0x40000
	fionclex        = 0x5450
	fioclex         = 0x5451
	fionbio         = 0x5421
	fioasync        = 0x5452
	shmHugeTLB      = 0x800
)

// argumentRule allows a call for some values of one argument, and answers another errno else. The kernel takes each of
// these arguments as 32 bits, so only those are looked at.
type argumentRule struct {
	reason   string
	name     string
	argument uint32
	errno    unix.Errno
	values   []uint32 // the argument is one of these
	without  uint32   // or, where there are none, has none of these bits
	further  []furtherRule
}

// furtherRule allows further values of the rule's argument, when other arguments have values as well.
type furtherRule struct {
	values     []uint32
	conditions []condition
}

// condition says what an argument has to be, without the bits of a mask.
type condition struct {
	argument uint32
	ignored  uint32
	errno    unix.Errno // the answer else
	values   []uint32
}

// allowedFor are the calls that are allowed for some arguments only.
var allowedFor = []argumentRule{
	{reason: "processes and threads, but no namespaces", name: "clone", argument: 0, errno: unix.EPERM,
		without: namespaceFlags},
	{reason: "no huge pages: they come from a pool of the whole host, and are not part of the sandbox's memory", name: "mmap",
		argument: 3, errno: unix.ENOMEM, without: unix.MAP_HUGETLB},
	{reason: "as for mmap", name: "memfd_create", argument: 1, errno: unix.EINVAL, without: unix.MFD_HUGETLB},
	{reason: "as for mmap", name: "shmget", argument: 2, errno: unix.ENOMEM, without: shmHugeTLB},
	{reason: "local sockets; internet sockets of TCP and UDP, and of ICMP, which the kernel refuses: others (MPTCP, UDP-Lite, SCTP, " +
		"DCCP, L2TP) are large, and the host would load modules for them; and of netlink only routes, which Node.js lists interfaces " +
		"with: in an own network namespace and without capabilities that changes nothing. Packet, vsock and the rest are not",
		name: "socket", argument: 0, errno: unix.EAFNOSUPPORT, values: []uint32{unix.AF_UNIX},
		further: []furtherRule{
			{values: []uint32{unix.AF_INET, unix.AF_INET6}, conditions: []condition{
				{argument: 1, ignored: unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK, errno: unix.ESOCKTNOSUPPORT,
					values: []uint32{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_RAW}},
				{argument: 2, errno: unix.EPROTONOSUPPORT,
					values: []uint32{0, unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6}}}},
			{values: []uint32{unix.AF_NETLINK}, conditions: []condition{
				{argument: 2, errno: unix.EAFNOSUPPORT, values: []uint32{unix.NETLINK_ROUTE}}}},
		}},
	{reason: "pairs of local sockets", name: "socketpair", argument: 0, errno: unix.EAFNOSUPPORT,
		values: []uint32{unix.AF_UNIX}},
	{reason: "plain Linux, with and without a random layout, and the question which it is", name: "personality", argument: 0,
		errno: unix.EPERM, values: []uint32{0, addrNoRandomize, 0xffffffff}},
	{reason: "limits of one's own; 0 is the caller", name: "prlimit64", argument: 0, errno: unix.EPERM, values: []uint32{0}},
	{reason: "terminals' and sockets' state and close-on-exec; not TIOCSTI, TIOCLINUX nor any device's", name: "ioctl",
		argument: 1, errno: unix.ENOTTY, values: []uint32{
			unix.TCGETS, unix.TCSETS, unix.TCSETSW, unix.TCSETSF, unix.TIOCGWINSZ, unix.TIOCSWINSZ, unix.TIOCGPGRP,
			unix.TIOCSPGRP, unix.TIOCINQ, unix.TIOCOUTQ, unix.TIOCNOTTY, unix.TIOCSCTTY, fionbio, fioasync,
			fioclex, fionclex, unix.SIOCGIFCONF, unix.SIOCGIFFLAGS, unix.SIOCGIFADDR, unix.SIOCGIFNETMASK,
			unix.SIOCGIFBRDADDR, unix.SIOCGIFHWADDR, unix.SIOCGIFINDEX, unix.SIOCGIFNAME, unix.SIOCGIFMTU, unix.FICLONE,
			unix.FS_IOC_GETFLAGS}},
	{reason: "names, signals at the parent's death, dumps, timer slack; of privileges only asking and giving up", name: "prctl",
		argument: 0, errno: unix.EPERM, values: []uint32{
			unix.PR_SET_PDEATHSIG, unix.PR_GET_PDEATHSIG, unix.PR_GET_DUMPABLE, unix.PR_SET_DUMPABLE, unix.PR_GET_KEEPCAPS,
			unix.PR_SET_NAME, unix.PR_GET_NAME, unix.PR_GET_SECCOMP, unix.PR_CAPBSET_READ, unix.PR_GET_SECUREBITS,
			unix.PR_SET_TIMERSLACK, unix.PR_GET_TIMERSLACK, unix.PR_SET_CHILD_SUBREAPER, unix.PR_GET_CHILD_SUBREAPER,
			unix.PR_SET_NO_NEW_PRIVS, unix.PR_GET_NO_NEW_PRIVS, unix.PR_GET_TID_ADDRESS, unix.PR_SET_THP_DISABLE,
			unix.PR_GET_THP_DISABLE, unix.PR_SET_PTRACER, unix.PR_SET_VMA, unix.PR_GET_SPECULATION_CTRL,
			unix.PR_SET_SPECULATION_CTRL, unix.PR_SET_MDWE, unix.PR_GET_MDWE}},
}

// Offsets of struct seccomp_data, and the bit that marks calls of the x32 ABI.
const (
	offsetNumber    = 0
	offsetArch      = 4
	offsetArguments = 16
	x32Bit          = 0x40000000
)

// assembleFilter makes the program of the tables above, as the bytes of struct sock_filter in this machine's order.
//
// Every block that loads an argument ends in a return, so that an argument is never compared with a call's number. The
// kernel remembers the calls that are allowed whatever their arguments, and runs the program for the others only.
func assembleFilter(info *arch.Info) ([]byte, error) {
	answer := func(errno unix.Errno) bpf.Instruction {
		return bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(errno)}
	}
	allow := bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offsetArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(info.ID), SkipTrue: 1},
		answer(unix.ENOSYS),
		bpf.LoadAbsolute{Off: offsetNumber, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: x32Bit, SkipTrue: 1},
		answer(unix.ENOSYS),
	}
	for _, rule := range allowedFor {
		number, ok := info.SyscallNames[rule.name]
		if !ok {
			return nil, fmt.Errorf("system call filter: %s has no %s", info.Name, rule.name)
		}
		block := []bpf.Instruction{bpf.LoadAbsolute{Off: offsetArguments + 8*rule.argument, Size: 4}}
		for _, value := range rule.values {
			block = append(block, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: value, SkipTrue: 1}, allow)
		}
		if len(rule.values) == 0 {
			block = append(block, bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: rule.without, SkipTrue: 1}, allow)
		}
		for _, further := range rule.further {
			block = append(block, further.test(allow, answer)...)
		}
		block = append(block, answer(rule.errno))
		program = append(program, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(number), SkipTrue: uint8(len(block))})
		program = append(program, block...)
	}
	for _, run := range numberRuns(info, refused) {
		program = append(program, run.test(answer(unix.EPERM))...)
	}
	for _, run := range numberRuns(info, allowed) {
		program = append(program, run.test(allow)...)
	}
	program = append(program, answer(unix.ENOSYS))
	return encodeFilter(program)
}

// test returns instructions that return for the values of the rule, and keep the argument for what follows otherwise.
func (r furtherRule) test(allow bpf.Instruction, answer func(unix.Errno) bpf.Instruction) []bpf.Instruction {
	var rest []bpf.Instruction
	for _, c := range r.conditions {
		rest = append(rest, bpf.LoadAbsolute{Off: offsetArguments + 8*c.argument, Size: 4})
		if c.ignored != 0 {
			rest = append(rest, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: ^c.ignored})
		}
		for i, value := range c.values {
			rest = append(rest, bpf.JumpIf{Cond: bpf.JumpEqual, Val: value, SkipTrue: uint8(len(c.values) - i)})
		}
		rest = append(rest, answer(c.errno))
	}
	rest = append(rest, allow)
	var block []bpf.Instruction
	for i, value := range r.values {
		block = append(block, bpf.JumpIf{Cond: bpf.JumpEqual, Val: value, SkipTrue: uint8(len(r.values) - i)})
	}
	block = append(block, bpf.Jump{Skip: uint32(len(rest))})
	return append(block, rest...)
}

// numberRun is a run of consecutive call numbers.
type numberRun struct{ first, last uint32 }

// test returns instructions that return result for the numbers of the run.
func (r numberRun) test(result bpf.Instruction) []bpf.Instruction {
	if r.first == r.last {
		return []bpf.Instruction{bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: r.first, SkipTrue: 1}, result}
	}
	return []bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: r.first, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: r.last, SkipTrue: 1},
		result,
	}
}

// numberRuns returns the numbers of the groups' calls on an architecture, in order, joined into runs.
func numberRuns(info *arch.Info, groups []syscallGroup) []numberRun {
	var numbers []int
	for _, group := range groups {
		for _, name := range group.names {
			if number, ok := info.SyscallNames[name]; ok {
				numbers = append(numbers, number)
			}
		}
	}
	slices.Sort(numbers)
	var runs []numberRun
	for _, n := range slices.Compact(numbers) {
		if last := len(runs) - 1; last >= 0 && runs[last].last+1 == uint32(n) {
			runs[last].last++
		} else {
			runs = append(runs, numberRun{uint32(n), uint32(n)})
		}
	}
	return runs
}

// encodeFilter turns instructions into the bytes of struct sock_filter.
func encodeFilter(program []bpf.Instruction) ([]byte, error) {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return nil, fmt.Errorf("system call filter: %w", err)
	}
	var code []byte
	for _, instruction := range raw {
		code = binary.NativeEndian.AppendUint16(code, instruction.Op)
		code = append(code, instruction.Jt, instruction.Jf)
		code = binary.NativeEndian.AppendUint32(code, instruction.K)
	}
	return code, nil
}
