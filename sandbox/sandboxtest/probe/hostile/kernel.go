package hostile

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

func kernelAttempts() []Attempt {
	return []Attempt{
		{Name: "bpf", Tries: "load programs into the kernel and make maps there", Layer: Syscalls, Proof: Guest, try: loadProgram},
		{Name: "perf-events", Tries: "count and sample what the processor does, for others too", Layer: Syscalls, Proof: Guest, try: perfEvents},
		{Name: "userfaultfd", Tries: "stop the kernel in the middle of reading its memory", Layer: Syscalls, Proof: Guest, try: userFault},
		{Name: "io-uring", Tries: "make system calls that no filter sees, by io_uring", Layer: Syscalls, Proof: Namespace, try: ring},
		{Name: "add-key", Tries: "use up the kernel's memory for keys, and read keys of others", Layer: Syscalls, Proof: Namespace, try: addKey},
		{Name: "keyctl-keyrings", Tries: "join the key rings of its user and of others", Layer: Syscalls, Proof: Namespace, try: joinKeyrings},
		{Name: "request-key", Tries: "have the host start its key helper", Layer: Syscalls, Proof: Namespace, try: requestKey},
		{Name: "load-module", Tries: "load a kernel module", Layer: Syscalls, Proof: Guest, try: loadModule},
		{Name: "delete-module", Tries: "remove a kernel module", Layer: Syscalls, Proof: Guest,
			try: func(t *Trial) {
				t.looked("removing a module", unix.SYS_DELETE_MODULE, t.text(mark), unix.O_NONBLOCK)
			}},
		{Name: "kexec", Tries: "start another kernel", Layer: Syscalls, Proof: Guest,
			try: func(t *Trial) {
				t.looked("unloading the next kernel", unix.SYS_KEXEC_LOAD, 0, 0, 0, 0)
				t.looked("loading a kernel file", kexecFileLoad, bad, bad, 0, 0, 0)
			}},
		{Name: "signal-by-kernel", Tries: "have the kernel signal another process in its stead (F_SETOWN)", Layer: PIDs, Proof: Namespace,
			try: ownSignals},
	}
}

func loadProgram(t *Trial) {
	const mapCreate, programLoad, array, socketFilter = 0, 5, 2, 1
	type mapAttributes struct{ kind, key, value, entries, flags uint32 }
	size := uintptr(20)
	fd, err := raw(unix.SYS_BPF, mapCreate, address(t, &mapAttributes{array, 4, 8, 1, 0}), size)
	if t.got(err, "made a map") {
		unix.Close(int(fd))
	}
	program := &[2]uint64{0xb7, 0x95} // r0 = 0; exit
	license := t.text("GPL")
	attributes := &struct {
		kind, count           uint32
		instructions, license uint64
		logLevel, logSize     uint32
		log                   uint64
		version               uint32
		flags                 uint32
	}{kind: socketFilter, count: 2, instructions: uint64(address(t, program)), license: uint64(license)}
	fd, err = raw(unix.SYS_BPF, programLoad, address(t, attributes), 48)
	if t.got(err, "loaded a program") {
		unix.Close(int(fd))
	}
}

func perfEvents(t *Trial) {
	for _, pid := range append(t.pids(), 0, -1) {
		attributes := &unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Size: unix.PERF_ATTR_SIZE_VER1, Config: unix.PERF_COUNT_SW_CPU_CLOCK}
		cpu := -1
		if pid == -1 {
			cpu = 0
		}
		fd, err := unix.PerfEventOpen(attributes, pid, cpu, -1, 0)
		if t.got(err, "counts events of process %d", pid) {
			unix.Close(fd)
		}
	}
}

func userFault(t *Trial) {
	for _, flags := range []uintptr{0, 1} { // 1: faults of its own code only
		fd, err := raw(unix.SYS_USERFAULTFD, flags)
		if t.got(err, "made a descriptor for faults with flags %d", flags) {
			unix.Close(int(fd))
		}
	}
}

func ring(t *Trial) {
	parameters := &[15]uint64{}
	fd, err := raw(unix.SYS_IO_URING_SETUP, 4, address(t, parameters))
	if t.got(err, "made a ring") {
		unix.Close(int(fd))
	}
	for name, number := range map[string]uintptr{"io_uring_enter": unix.SYS_IO_URING_ENTER, "io_uring_register": unix.SYS_IO_URING_REGISTER} {
		if _, err := raw(number, bad, 0, 0, 0); !refused(err) {
			t.breach("%s was looked at: %v", name, err)
		}
	}
}

func addKey(t *Trial) {
	for name, keyring := range map[string]int{"session": unix.KEY_SPEC_SESSION_KEYRING, "user": unix.KEY_SPEC_USER_KEYRING,
		"process": unix.KEY_SPEC_PROCESS_KEYRING} {
		id, err := unix.AddKey("user", mark, []byte("x"), keyring)
		t.got(err, "added key %d to the %s ring", id, name)
	}
	for id := 1; id < 1<<16; id++ { // serial numbers are random: this only finds what was just made
		if _, err := unix.KeyctlBuffer(unix.KEYCTL_READ, id, make([]byte, 16), 0); err == nil {
			t.breach("read key %d", id)
			return
		} else if err == unix.EPERM || err == unix.ENOSYS {
			t.held("keyctl: %v", err)
			return
		}
	}
}

func joinKeyrings(t *Trial) {
	id, err := unix.KeyctlJoinSessionKeyring(mark)
	t.got(err, "joined key ring %d", id)
	for _, which := range []int{unix.KEY_SPEC_USER_KEYRING, unix.KEY_SPEC_USER_SESSION_KEYRING} {
		id, err = unix.KeyctlGetKeyringID(which, true)
		t.got(err, "found key ring %d", id)
	}
}

func requestKey(t *Trial) {
	_, err := raw(unix.SYS_REQUEST_KEY, t.text("user"), t.text(mark), t.text("x"), 0)
	if err != nil && !refused(err) {
		t.breach("the kernel looked for the key: %v", err)
	}
	t.held("request_key: %v", err)
}

func loadModule(t *Trial) {
	path := filepath.Join(t.Temp, mark+".ko")
	os.WriteFile(path, make([]byte, 4096), 0o600)
	defer os.Remove(path)
	file, err := os.Open(path)
	if err != nil {
		t.held("%v", err)
		return
	}
	defer file.Close()
	t.looked("loading a module from a file", unix.SYS_FINIT_MODULE, file.Fd(), t.text(""), 0)
	image := make([]byte, 4096)
	t.looked("loading a module from memory", unix.SYS_INIT_MODULE, address(t, &image[0]), 4096, t.text(""))
}

// ownSignals makes another process the owner of a pipe's signals.
func ownSignals(t *Trial) {
	victim, ok := t.victim()
	if !ok {
		return
	}
	pipe := make([]int, 2)
	if err := unix.Pipe(pipe); err != nil {
		t.held("%v", err)
		return
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	_, err := unix.FcntlInt(uintptr(pipe[0]), unix.F_SETOWN, victim.PID)
	t.got(err, "has its signals sent to process %d", victim.PID)
}
