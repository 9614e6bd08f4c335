package jail

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The parts of struct seccomp_data that are looked at, and the bit that marks calls of the x32 ABI.
const (
	offsetNumber = 0
	offsetArch   = 4
	x32Bit       = 0x40000000
)

// refuseHandles has the kernel open no file by its handle. Who may read all files, as a program that packs those of all users, could
// open by a handle whatever is in the file systems that it is shown a part of, and as root's user write it too. The calls of foreign
// architectures are refused altogether, since their numbers mean others.
func refuseHandles() error {
	refuse := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)}
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offsetArch},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: nativeArch, Jt: 1},
		refuse,
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offsetNumber},
		{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: x32Bit, Jt: 1},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_OPEN_BY_HANDLE_AT, Jf: 1},
		refuse,
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&filter)))
	if errno != 0 {
		return fmt.Errorf("refuse handles: %w", errno)
	}
	return nil
}
