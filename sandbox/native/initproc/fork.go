package initproc

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Inits and starters are forks of their parents that execute no program: to execute this one anew would take a millisecond,
// several threads, and half a megabyte, of each. What makes that safe in Go:
//
//   - A fork has one thread, which is the one that called fork. It never gives up its processor (pinProcessor), never waits in
//     the scheduler, and makes system calls by calls.go only, of which the scheduler knows nothing.
//   - The spawner has one processor, so that nothing else runs Go code while it forks, and collects garbage between forks only.
//     So memory can be allocated in a fork. It is never given back: forks allocate little, and nothing while they wait.
//   - The runtime's own functions around a fork keep signals out of it, as for package syscall's.

// beforeFork blocks signals and keeps the calling goroutine on its thread. Until afterFork nothing may be called that could need
// a larger stack.
//
//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

// afterFork undoes beforeFork.
//
//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

// afterForkInChild takes back the runtime's signal handlers.
//
//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

// pinProcessor keeps the goroutine from ever being preempted.
//
//go:linkname pinProcessor runtime.procPin
func pinProcessor() int

// cloneArguments is struct clone_args of the kernel.
type cloneArguments struct {
	flags, pidFD, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// fork makes a child in new namespaces, as flags say, and in a cgroup of the unified tree, -1 for that of this process. It returns 0
// in the child, and in the parent the child's process ID and a pidfd.
func fork(flags uint64, cgroup int) (pid, pidFD int, err error) {
	descriptor := new(int32)
	arguments := &cloneArguments{
		flags: flags | unix.CLONE_PIDFD, pidFD: uint64(uintptr(unsafe.Pointer(descriptor))), exitSignal: uint64(syscall.SIGCHLD),
	}
	if cgroup >= 0 {
		arguments.flags |= unix.CLONE_INTO_CGROUP
		arguments.cgroup = uint64(cgroup)
	}
	beforeFork()
	child, _, errno := syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(arguments)), unsafe.Sizeof(*arguments), 0)
	if errno == 0 && child == 0 {
		afterForkInChild()
		afterFork()
		pinProcessor()
		return 0, -1, nil
	}
	afterFork()
	if errno != 0 {
		return 0, -1, errno
	}
	return int(child), int(*descriptor), nil
}
