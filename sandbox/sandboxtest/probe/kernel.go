package main

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

func kernelAttempts() map[string]attempt {
	return map[string]attempt{
		"syscalls":   forbiddenCalls,
		"sockets":    forbiddenSockets,
		"namespaces": makeNamespaces,
		"privileges": regainPrivileges,
		"routes":     changeNetwork,
		"abi":        otherABIs,
		"terminal":   injectInput,
	}
}

// call is a system call that must be refused before its arguments are looked at. The arguments are such that it does
// nothing where it is not refused.
type call struct {
	name   string
	number uintptr
	args   [6]uintptr
}

// refused tells whether a call was refused as one that the caller may not make. Any other error means that the kernel
// went on to look at the arguments.
func refused(errno unix.Errno) bool {
	return errno == unix.EPERM || errno == unix.ENOSYS || errno == unix.EACCES
}

func try(calls []call) (breaches []string) {
	for _, c := range calls {
		_, _, errno := unix.Syscall6(c.number, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		if !refused(errno) {
			breaches = append(breaches, fmt.Sprintf("%s answered %q", c.name, errno.Error()))
		}
	}
	return breaches
}

const bad = ^uintptr(0)

// text returns a C string that lives as long as the program.
func text(s string) uintptr {
	b := append([]byte(s), 0)
	kept = append(kept, b)
	return uintptr(unsafe.Pointer(&b[0]))
}

var kept [][]byte

// forbiddenCalls makes every call that has no business in a function.
func forbiddenCalls([]string) []string {
	self := uintptr(os.Getpid())
	return try([]call{
		{"mount", unix.SYS_MOUNT, [6]uintptr{text("x"), text("/tmp"), text("tmpfs")}},
		{"mount bind", unix.SYS_MOUNT, [6]uintptr{text("/"), text("/tmp"), 0, unix.MS_BIND}},
		{"mount remount", unix.SYS_MOUNT, [6]uintptr{0, text("/"), 0, unix.MS_REMOUNT | unix.MS_BIND}},
		{"umount2", unix.SYS_UMOUNT2, [6]uintptr{text("/tmp"), unix.MNT_DETACH}},
		{"pivot_root", unix.SYS_PIVOT_ROOT, [6]uintptr{text("/tmp"), text("/tmp")}},
		{"chroot", unix.SYS_CHROOT, [6]uintptr{text("/tmp")}},
		{"open_tree", unix.SYS_OPEN_TREE, [6]uintptr{bad, text("/"), unix.OPEN_TREE_CLONE}},
		{"move_mount", unix.SYS_MOVE_MOUNT, [6]uintptr{bad, text("/"), bad, text("/tmp")}},
		{"fsopen", unix.SYS_FSOPEN, [6]uintptr{text("tmpfs")}},
		{"fsmount", unix.SYS_FSMOUNT, [6]uintptr{bad}},
		{"mount_setattr", unix.SYS_MOUNT_SETATTR, [6]uintptr{bad, text("/"), 0, 0, 0}},
		{"swapon", unix.SYS_SWAPON, [6]uintptr{text("/tmp/none")}},
		{"quotactl", unix.SYS_QUOTACTL, [6]uintptr{bad, bad, bad, bad}},
		{"ptrace traceme", unix.SYS_PTRACE, [6]uintptr{unix.PTRACE_TRACEME}},
		{"ptrace attach init", unix.SYS_PTRACE, [6]uintptr{unix.PTRACE_ATTACH, 1}},
		{"ptrace seize init", unix.SYS_PTRACE, [6]uintptr{unix.PTRACE_SEIZE, 1}},
		{"process_vm_readv", unix.SYS_PROCESS_VM_READV, [6]uintptr{1, 0, 0, 0, 0, 0}},
		{"process_vm_writev", unix.SYS_PROCESS_VM_WRITEV, [6]uintptr{1, 0, 0, 0, 0, 0}},
		{"kcmp", unix.SYS_KCMP, [6]uintptr{self, 1, 0, 0, 0}},
		{"pidfd_getfd", unix.SYS_PIDFD_GETFD, [6]uintptr{bad, 0, 0}},
		{"bpf", unix.SYS_BPF, [6]uintptr{0, 0, 0}},
		{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, [6]uintptr{0, self, bad, bad, 0}},
		{"userfaultfd", unix.SYS_USERFAULTFD, [6]uintptr{bad}},
		{"io_uring_setup", unix.SYS_IO_URING_SETUP, [6]uintptr{1, 0}},
		{"io_uring_enter", unix.SYS_IO_URING_ENTER, [6]uintptr{bad}},
		{"init_module", unix.SYS_INIT_MODULE, [6]uintptr{0, 0, 0}},
		{"finit_module", unix.SYS_FINIT_MODULE, [6]uintptr{bad, 0, 0}},
		{"delete_module", unix.SYS_DELETE_MODULE, [6]uintptr{text("none")}},
		{"kexec_load", unix.SYS_KEXEC_LOAD, [6]uintptr{0, bad, 0, bad}},
		{"fanotify_init", unix.SYS_FANOTIFY_INIT, [6]uintptr{bad, bad}},
		{"add_key", unix.SYS_ADD_KEY, [6]uintptr{text("user"), text("x"), text("x"), 1, bad - 2}},
		{"request_key", unix.SYS_REQUEST_KEY, [6]uintptr{text("user"), text("x")}},
		{"keyctl", unix.SYS_KEYCTL, [6]uintptr{unix.KEYCTL_JOIN_SESSION_KEYRING}},
		{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, [6]uintptr{bad, 0, 0}},
		{"name_to_handle_at", unix.SYS_NAME_TO_HANDLE_AT, [6]uintptr{bad, 0, 0, 0, 0}},
		{"reboot", unix.SYS_REBOOT, [6]uintptr{0, 0, 0}},
		{"sethostname", unix.SYS_SETHOSTNAME, [6]uintptr{0, bad}},
		{"setdomainname", unix.SYS_SETDOMAINNAME, [6]uintptr{0, bad}},
		{"settimeofday", unix.SYS_SETTIMEOFDAY, [6]uintptr{1, 0}},
		{"clock_settime", unix.SYS_CLOCK_SETTIME, [6]uintptr{bad, 0}},
		{"syslog", unix.SYS_SYSLOG, [6]uintptr{3, 0, 0}},
		{"acct", unix.SYS_ACCT, [6]uintptr{text("/tmp/none")}},
		{"vhangup", unix.SYS_VHANGUP, [6]uintptr{}},
		{"personality of another kind", unix.SYS_PERSONALITY, [6]uintptr{0x0008}},
		{"personality with executable data", unix.SYS_PERSONALITY, [6]uintptr{0x0400000}},
		{"prctl set_mm", unix.SYS_PRCTL, [6]uintptr{unix.PR_SET_MM, 0, 0, 0, 0}},
		{"prctl set_seccomp", unix.SYS_PRCTL, [6]uintptr{unix.PR_SET_SECCOMP, bad}},
		{"prctl keepcaps", unix.SYS_PRCTL, [6]uintptr{unix.PR_SET_KEEPCAPS, 1}},
		{"prctl securebits", unix.SYS_PRCTL, [6]uintptr{unix.PR_SET_SECUREBITS, 0}},
		{"prctl ambient", unix.SYS_PRCTL, [6]uintptr{unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, unix.CAP_SYS_ADMIN}},
		{"seccomp", unix.SYS_SECCOMP, [6]uintptr{unix.SECCOMP_SET_MODE_FILTER, 0, 0}},
		{"prlimit of the init", unix.SYS_PRLIMIT64, [6]uintptr{1, unix.RLIMIT_NOFILE, 0, 0}},
		{"set_mempolicy", unix.SYS_SET_MEMPOLICY, [6]uintptr{bad, 0, 0}},
		{"move_pages", unix.SYS_MOVE_PAGES, [6]uintptr{1, 0, 0, 0, 0, 0}},
		{"a call that no kernel has", 700, [6]uintptr{}},
	})
}

// forbiddenSockets opens sockets of every family, and raw ones of the allowed.
func forbiddenSockets([]string) (breaches []string) {
	allowed := map[int]bool{unix.AF_UNIX: true, unix.AF_INET: true, unix.AF_INET6: true}
	for protocol := 1; protocol < 32; protocol++ { // 0 is routes: Node.js lists the interfaces with it
		if fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, protocol); err == nil {
			unix.Close(fd)
			breaches = append(breaches, fmt.Sprintf("opened a netlink socket of protocol %d", protocol))
		}
	}
	for family := range 64 {
		if family == unix.AF_NETLINK {
			continue
		}
		for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_RAW, unix.SOCK_SEQPACKET, unix.SOCK_PACKET} {
			fd, err := unix.Socket(family, kind, 0)
			if err != nil {
				continue
			}
			unix.Close(fd)
			if !allowed[family] || kind == unix.SOCK_RAW && family != unix.AF_UNIX || kind == unix.SOCK_PACKET {
				breaches = append(breaches, fmt.Sprintf("opened a socket of family %d, type %d", family, kind))
			}
		}
	}
	for _, protocol := range []int{unix.IPPROTO_ICMP, unix.IPPROTO_RAW} {
		if fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, protocol); err == nil {
			unix.Close(fd)
			breaches = append(breaches, fmt.Sprintf("opened a raw socket of protocol %d", protocol))
		}
	}
	// The upper half of a register must not change what the filter sees.
	if _, _, errno := unix.Syscall(unix.SYS_SOCKET, 1<<32|unix.AF_PACKET, unix.SOCK_RAW, 0); errno == 0 {
		breaches = append(breaches, "opened a packet socket through the upper half of a register")
	}
	return breaches
}

// changeNetwork asks for the loopback interface to be taken down, and for another one to be made.
func changeNetwork([]string) (breaches []string) {
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return nil
	}
	defer unix.Close(socket)
	for name, flags := range map[string]uint16{"down": 0, "new": unix.NLM_F_CREATE | unix.NLM_F_EXCL} {
		message := struct {
			header unix.NlMsghdr
			info   unix.IfInfomsg
		}{
			header: unix.NlMsghdr{Len: unix.SizeofNlMsghdr + unix.SizeofIfInfomsg, Type: unix.RTM_NEWLINK,
				Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK | flags},
			info: unix.IfInfomsg{Index: 1, Change: unix.IFF_UP},
		}
		packet := unsafe.Slice((*byte)(unsafe.Pointer(&message)), unsafe.Sizeof(message))
		if err := unix.Sendto(socket, packet, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			continue
		}
		answer := make([]byte, 4096)
		n, _, err := unix.Recvfrom(socket, answer, 0)
		if err != nil || n < unix.SizeofNlMsghdr+4 {
			continue
		}
		if errno := -*(*int32)(unsafe.Pointer(&answer[unix.SizeofNlMsghdr])); errno != int32(unix.EPERM) {
			breaches = append(breaches, fmt.Sprintf("%s answered %q", name, unix.Errno(errno).Error()))
		}
	}
	return breaches
}

// makeNamespaces asks for new ones in every way, and for those of others.
func makeNamespaces([]string) []string {
	var calls []call
	for name, flag := range map[string]uintptr{"user": unix.CLONE_NEWUSER, "mount": unix.CLONE_NEWNS, "pid": unix.CLONE_NEWPID,
		"net": unix.CLONE_NEWNET, "ipc": unix.CLONE_NEWIPC, "uts": unix.CLONE_NEWUTS, "cgroup": unix.CLONE_NEWCGROUP,
		"time": unix.CLONE_NEWTIME} {
		calls = append(calls, call{"unshare " + name, unix.SYS_UNSHARE, [6]uintptr{flag}})
		if name == "time" {
			continue // has no flag in clone
		}
		// CLONE_THREAD without CLONE_SIGHAND is invalid, so that nothing is made where it is not refused.
		calls = append(calls, call{"clone " + name, unix.SYS_CLONE, [6]uintptr{flag | unix.CLONE_THREAD}})
	}
	calls = append(calls,
		call{"clone3", unix.SYS_CLONE3, [6]uintptr{0, 0}},
		call{"setns", unix.SYS_SETNS, [6]uintptr{bad, 0}})
	return try(calls)
}

// regainPrivileges asks for what was given up.
func regainPrivileges([]string) (breaches []string) {
	full := [2]unix.CapUserData{{Effective: ^uint32(0), Permitted: ^uint32(0)}, {Effective: ^uint32(0), Permitted: ^uint32(0)}}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	for name, err := range map[string]error{
		"setuid":                unix.Setresuid(0, 0, 0),
		"setgid":                unix.Setresgid(0, 0, 0),
		"setuid of a neighbour": unix.Setresuid(994, 994, 994),
		"setgroups":             unix.Setgroups([]int{0}),
		"capset":                unix.Capset(&header, &full[0]),
		"setpriority":           unix.Setpriority(unix.PRIO_PROCESS, 0, -20),
		"chown to root":         chownToRoot(),
	} {
		if err == nil {
			breaches = append(breaches, name+" worked")
		}
	}
	fifo := struct{ priority int32 }{1}
	_, _, errno := unix.Syscall(unix.SYS_SCHED_SETSCHEDULER, 0, 1, uintptr(unsafe.Pointer(&fifo)))
	if errno == 0 {
		breaches = append(breaches, "became a real-time process")
	}
	return breaches
}

func chownToRoot() error {
	path := "/tmp/chown-probe"
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		fail(err)
	}
	defer os.Remove(path)
	return os.Chown(path, 0, 0)
}

// otherABIs makes calls by the numbers of other architectures, which a filter of numbers alone would misread.
func otherABIs([]string) (breaches []string) {
	if result := getpid32(); result > 0 {
		breaches = append(breaches, fmt.Sprintf("a 32-bit call answered %d", result))
	}
	const x32 = 0x40000000
	if pid, _, errno := unix.Syscall(x32|unix.SYS_GETPID, 0, 0, 0); errno == 0 {
		breaches = append(breaches, fmt.Sprintf("an x32 call answered %d", pid))
	}
	return breaches
}

// injectInput pushes characters into terminals.
func injectInput([]string) (breaches []string) {
	character := byte('x')
	for _, request := range []uintptr{unix.TIOCSTI, 0x541c /* TIOCLINUX */, 1<<32 | unix.TIOCSTI} {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, 0, request, uintptr(unsafe.Pointer(&character)))
		if errno == 0 {
			breaches = append(breaches, fmt.Sprintf("ioctl %#x worked", request))
		}
	}
	return breaches
}
