package hostile

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func namespaceAttempts() []Attempt {
	return []Attempt{
		{Name: "unshare-user", Tries: "become root of a user namespace by unshare", Layer: Syscalls, Proof: Namespace,
			try: unshares(unix.CLONE_NEWUSER)},
		{Name: "unshare-mount", Tries: "make a mount namespace", Layer: Syscalls, Proof: Namespace, try: unshares(unix.CLONE_NEWNS)},
		{Name: "unshare-net", Tries: "make a network namespace, where it could use the kernel's packet filters", Layer: Syscalls,
			Proof: Namespace, try: unshares(unix.CLONE_NEWNET)},
		{Name: "unshare-others", Tries: "make pid, ipc, uts, cgroup and time namespaces", Layer: Syscalls, Proof: Namespace,
			try: unshares(unix.CLONE_NEWPID, unix.CLONE_NEWIPC, unix.CLONE_NEWUTS, unix.CLONE_NEWCGROUP, unix.CLONE_NEWTIME)},
		{Name: "clone-user", Tries: "start a process as root of a new user namespace by clone", Layer: Syscalls, Proof: Namespace, try: cloneUser},
		{Name: "clone3-user", Tries: "the same by clone3, whose flags a filter cannot see", Layer: Syscalls, Proof: Namespace,
			try: func(t *Trial) {
				err := clone3(t, cloneArguments{flags: unix.CLONE_NEWUSER, exitSignal: uint64(unix.SIGCHLD)})
				t.got(err, "started a process in a new user namespace")
			}},
		{Name: "map-users", Tries: "map the host's users into a namespace of its own by uid_map and setgroups", Layer: Syscalls,
			Proof: Namespace, try: mapUsers},
		{Name: "setns-proc", Tries: "enter the namespaces of another process by /proc/PID/ns", Layer: Syscalls, Proof: Namespace, try: enterByFile},
		{Name: "setns-pidfd", Tries: "enter the namespaces of another process by a pidfd", Layer: Syscalls, Proof: Namespace, try: enterByDescriptor},
		{Name: "namespace-ioctl", Tries: "climb to the owner of its namespaces by NS_GET_PARENT and NS_GET_USERNS", Layer: Syscalls,
			Proof: Namespace, try: climbNamespaces},
	}
}

// unshares asks for namespaces in processes made for that, which have one thread, as some of them demand.
func unshares(flags ...uintptr) func(*Trial) {
	return func(t *Trial) {
		for _, flag := range flags {
			t.got(inChild(unix.SYS_UNSHARE, flag), "unshared %#x", flag)
		}
	}
}

// inChild makes a system call in a child that does nothing else, and returns its error.
//
//go:norace
func inChild(number uintptr, args ...uintptr) error {
	var six [6]uintptr
	copy(six[:], args)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	child, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	if child == 0 {
		_, _, errno = unix.RawSyscall6(number, six[0], six[1], six[2], six[3], six[4], six[5])
		for {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, uintptr(errno), 0, 0)
		}
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(int(child), &status, 0, nil); err != nil {
		return err
	}
	if status.Signaled() {
		return syscall.EINTR
	}
	if status.ExitStatus() != 0 {
		return unix.Errno(status.ExitStatus())
	}
	return nil
}

// cloneArguments are the kernel's struct clone_args.
type cloneArguments struct {
	flags      uint64
	_          [3]uint64 // pidfd, child_tid, parent_tid
	exitSignal uint64
	_          [5]uint64 // stack, stack_size, tls, set_tid, set_tid_size
	cgroup     uint64
}

// clone3 starts a child that ends at once.
//
//go:norace
func clone3(t *Trial, arguments cloneArguments) error {
	at := address(t, &arguments)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	child, _, errno := unix.RawSyscall(unix.SYS_CLONE3, at, unsafe.Sizeof(arguments), 0)
	if errno != 0 {
		return errno
	}
	if child == 0 {
		for {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	var status unix.WaitStatus
	_, err := unix.Wait4(int(child), &status, 0, nil)
	return err
}

func cloneUser(t *Trial) {
	for name, flags := range map[string]uintptr{"user": unix.CLONE_NEWUSER, "user and mount": unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		"net": unix.CLONE_NEWNET, "pid": unix.CLONE_NEWPID} {
		cmd := exec.Command("/proc/self/exe", "echo")
		cmd.Env = os.Environ()
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
		t.got(startOnly(cmd), "started a process in new namespaces: %s", name)
	}
}

// startOnly starts a program, and ends it.
func startOnly(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	cmd.Process.Kill()
	cmd.Wait()
	return nil
}

func mapUsers(t *Trial) {
	cmd := exec.Command("/proc/self/exe", "echo")
	cmd.Env = os.Environ()
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 100}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 100}}, GidMappingsEnableSetgroups: true}
	t.got(startOnly(cmd), "mapped the users from 0 on")
	for _, name := range []string{"uid_map", "gid_map", "setgroups"} {
		err := os.WriteFile("/proc/self/"+name, []byte("0 0 1"), 0)
		t.got(err, "wrote its own %s", name)
	}
}

func enterByFile(t *Trial) {
	for _, pid := range t.pids() {
		for _, name := range []string{"net", "uts", "ipc", "pid", "cgroup"} {
			path := "/proc/" + strconv.Itoa(pid) + "/ns/" + name
			fd, err := unix.Open(path, unix.O_RDONLY, 0)
			if err != nil {
				t.held("open %s: %v", path, err)
				continue
			}
			t.got(inChild(unix.SYS_SETNS, uintptr(fd), 0), "entered %s", path)
			unix.Close(fd)
		}
	}
}

func enterByDescriptor(t *Trial) {
	for _, pid := range t.pids() {
		handle, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.held("pidfd_open of %d: %v", pid, err)
			continue
		}
		err = inChild(unix.SYS_SETNS, uintptr(handle), unix.CLONE_NEWNET|unix.CLONE_NEWUTS)
		t.got(err, "entered the namespaces of process %d", pid)
		unix.Close(handle)
	}
}

func climbNamespaces(t *Trial) {
	const getUser, getParent, getOwner = 0xb701, 0xb702, 0xb704
	for _, name := range []string{"user", "pid", "net", "mnt"} {
		path := "/proc/self/ns/" + name
		fd, err := unix.Open(path, unix.O_RDONLY, 0)
		if err != nil {
			t.held("open %s: %v", path, err)
			continue
		}
		for _, request := range []uintptr{getUser, getParent} {
			t.call("ioctl "+strings.ToLower(strconv.FormatInt(int64(request), 16))+" of "+path, unix.SYS_IOCTL, uintptr(fd), request, 0)
		}
		owner := new(uint32)
		t.call("asked who owns "+path, unix.SYS_IOCTL, uintptr(fd), getOwner, address(t, owner))
		unix.Close(fd)
	}
}
