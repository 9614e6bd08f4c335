package hostile

import (
	"golang.org/x/sys/unix"
)

const kexecFileLoad = unix.SYS_KEXEC_FILE_LOAD

// getpid32 calls getpid as a 32-bit program does.
func getpid32() int32

func machineAttempts() []Attempt {
	return []Attempt{
		{Name: "calls-of-32-bits", Tries: "make system calls by the numbers of 32-bit programs (int 0x80), which a filter of numbers misreads",
			Layer: Syscalls, Proof: Namespace, Crash: true, try: func(t *Trial) {
				if pid := getpid32(); pid > 0 {
					t.breach("a 32-bit getpid answered %d", pid)
				} else {
					t.held("a 32-bit getpid answered %d", pid)
				}
			}},
		{Name: "calls-of-x32", Tries: "make system calls by the numbers of x32 programs", Layer: Syscalls, Proof: Nowhere, Crash: true,
			Unproven: "the kernels at hand are built without x32",
			try: func(t *Trial) {
				const x32 = 0x40000000
				pid, err := raw(x32 | unix.SYS_GETPID)
				t.got(err, "an x32 getpid answered %d", pid)
			}},
		{Name: "io-ports", Tries: "use the machine's ports by iopl and ioperm", Layer: Syscalls, Proof: Guest, try: func(t *Trial) {
			t.call("raised its I/O privilege level", unix.SYS_IOPL, 3)
			t.call("opened port 0x80", unix.SYS_IOPERM, 0x80, 1, 1)
		}},
		{Name: "modify-ldt", Tries: "make segments of its own, a part of the kernel with a history of holes", Layer: Syscalls, Proof: Namespace,
			try: func(t *Trial) {
				entry := &[4]uint32{0, 0, 0xfffff, 0x51}
				t.call("made a segment", unix.SYS_MODIFY_LDT, 1, address(t, entry), 16)
			}},
	}
}
