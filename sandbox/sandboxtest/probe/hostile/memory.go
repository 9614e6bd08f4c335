package hostile

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// memoryAttempts hold more memory than the sandbox may have, each kind of it, as far as they can tell. Being ended by the
// limit is being held.
func memoryAttempts() []Attempt {
	return []Attempt{
		{Name: "memory-heap", Tries: "use the host's memory as its own", Layer: MemoryLimit, Proof: Namespace, Flood: true,
			try: touches(unix.MAP_PRIVATE|unix.MAP_ANON, -1)},
		{Name: "memory-shared", Tries: "the same as shared memory, which outlives its process's children", Layer: MemoryLimit, Proof: Namespace,
			Flood: true, try: touches(unix.MAP_SHARED|unix.MAP_ANON, -1)},
		{Name: "memory-tmpfs", Tries: "the same as files in /dev/shm", Layer: MemoryLimit, Proof: Namespace, Flood: true, try: fillShared},
		{Name: "memory-memfd", Tries: "the same as files without names", Layer: MemoryLimit, Proof: Namespace, Flood: true, try: fillMemfd},
		{Name: "memory-sysv", Tries: "the same as System V shared memory, which outlives every process", Layer: MemoryLimit, Proof: Namespace,
			Flood: true, try: fillSysV},
		{Name: "memory-messages", Tries: "the same as messages that nobody takes", Layer: MemoryLimit, Proof: Namespace, Flood: true, try: fillMessages},
		{Name: "memory-page-cache", Tries: "hold the host's memory as cached pages of files", Layer: MemoryLimit, Proof: Namespace, Flood: true,
			try: fillCache},
		{Name: "memory-pipes", Tries: "hold the kernel's memory in pipes", Layer: MemoryLimit, Proof: Guest, Flood: true, try: fillPipes},
		{Name: "memory-sockets", Tries: "hold the kernel's memory in sockets that nobody reads", Layer: MemoryLimit, Proof: Namespace, Flood: true,
			try: fillSockets},
		{Name: "memory-page-tables", Tries: "hold the kernel's memory as page tables of empty memory", Layer: MemoryLimit, Proof: Namespace,
			Flood: true, try: fillTables},
		{Name: "memory-locked", Tries: "lock more memory than it may have", Layer: MemoryLimit, Proof: Guest, Flood: true, try: lockMemory},
		{Name: "huge-pages", Tries: "take the host's pool of huge pages", Layer: MemoryLimit, Proof: Guest, try: hugePages},
	}
}

// enough is how many bytes are too many.
func (t *Trial) enough() int { return (t.MemoryMiB + 32) << 20 }

func touches(flags, fd int) func(*Trial) {
	return func(t *Trial) {
		memory, err := unix.Mmap(fd, 0, t.enough(), unix.PROT_READ|unix.PROT_WRITE, flags)
		if err != nil {
			t.held("mmap: %v", err)
			return
		}
		for at := 0; at < len(memory); at += 4096 {
			memory[at] = 1
		}
		t.breach("holds %d MiB where %d are allowed", len(memory)>>20, t.MemoryMiB)
	}
}

// fills writes to a file until it is too large.
func fills(t *Trial, fd int, what string) {
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i) | 1
	}
	written := 0
	for written < t.enough() {
		n, err := unix.Write(fd, block)
		if err != nil {
			t.held("%d MiB, then %v", written>>20, err)
			return
		}
		written += n
	}
	t.breach("holds %d MiB in %s where %d are allowed", written>>20, what, t.MemoryMiB)
}

func fillShared(t *Trial) {
	path := filepath.Join(t.Shared, mark+"-memory")
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_WRONLY, 0o600)
	if err != nil {
		t.held("%v", err)
		return
	}
	defer os.Remove(path)
	fills(t, fd, t.Shared)
}

func fillMemfd(t *Trial) {
	fd, err := unix.MemfdCreate(mark, 0)
	if err != nil {
		t.held("%v", err)
		return
	}
	fills(t, fd, "a file without a name")
}

func fillSysV(t *Trial) {
	id, err := unix.SysvShmGet(unix.IPC_PRIVATE, t.enough(), unix.IPC_CREAT|0o600)
	if err != nil {
		t.held("shmget: %v", err)
		return
	}
	memory, err := unix.SysvShmAttach(id, 0, 0)
	if err != nil {
		t.held("shmat: %v", err)
		return
	}
	unix.SysvShmCtl(id, unix.IPC_RMID, nil)
	for at := 0; at < len(memory); at += 4096 {
		memory[at] = 1
	}
	t.breach("holds %d MiB of shared memory where %d are allowed", len(memory)>>20, t.MemoryMiB)
}

// fillMessages fills queues with messages, and removes them.
func fillMessages(t *Trial) {
	const size = 8192
	message := &[1 + size/8]uint64{1}
	sent := 0
	for sent < t.enough() {
		id, err := raw(unix.SYS_MSGGET, unix.IPC_PRIVATE, 0o600|unix.IPC_CREAT)
		if err != nil {
			t.held("%d MiB, then %v", sent>>20, err)
			return
		}
		defer raw(unix.SYS_MSGCTL, id, unix.IPC_RMID, 0)
		before := sent
		for err == nil {
			if _, err = raw(unix.SYS_MSGSND, id, address(t, message), size, unix.IPC_NOWAIT); err == nil {
				sent += size
			}
		}
		t.kept = nil
		if sent == before { // the next queues would take nothing either
			t.held("%d MiB, then %v", sent>>20, err)
			return
		}
	}
	t.breach("holds %d MiB in messages where %d are allowed", sent>>20, t.MemoryMiB)
}

// fillCache writes a file, and counts how much of it stays in memory.
func fillCache(t *Trial) {
	path := filepath.Join(t.Temp, mark+"-cache")
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_RDWR, 0o600)
	if err != nil {
		t.held("%v", err)
		return
	}
	defer os.Remove(path)
	defer unix.Close(fd)
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i) | 1
	}
	size := 0
	for size < t.enough()+t.MemoryMiB<<20 {
		n, err := unix.Write(fd, block)
		if err != nil {
			break
		}
		size += n
	}
	memory, err := unix.Mmap(fd, 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.held("mmap: %v", err)
		return
	}
	present := make([]byte, (size+4095)/4096)
	if _, err := raw(unix.SYS_MINCORE, address(t, &memory[0]), uintptr(size), address(t, &present[0])); err != nil {
		t.held("mincore: %v", err)
		return
	}
	resident := 0
	for _, page := range present {
		resident += int(page&1) * 4096
	}
	if resident > t.enough() {
		t.breach("%d MiB of its file are in memory where %d are allowed", resident>>20, t.MemoryMiB)
	}
	t.held("%d MiB of %d are in memory", resident>>20, size>>20)
}

// fillPipes fills pipes of the largest size.
func fillPipes(t *Trial) {
	block := make([]byte, 1<<16)
	held := 0
	for held < t.enough() {
		pipe := make([]int, 2)
		if err := unix.Pipe2(pipe, unix.O_NONBLOCK); err != nil {
			t.held("%d MiB, then %v", held>>20, err)
			return
		}
		unix.FcntlInt(uintptr(pipe[1]), unix.F_SETPIPE_SZ, 1<<20)
		for {
			n, err := unix.Write(pipe[1], block)
			if err != nil {
				break
			}
			held += n
		}
		unix.Close(pipe[1])
	}
	t.breach("holds %d MiB in pipes where %d are allowed", held>>20, t.MemoryMiB)
}

// fillSockets fills sockets by processes, since one may not have enough of them.
func fillSockets(t *Trial) {
	const helper = "LAMBENT_HOSTILE_FILLER"
	if os.Getenv(helper) != "" {
		t.held("filled %d", fillOwnSockets())
		for _, line := range t.answers {
			os.Stdout.WriteString(line + "\n")
		}
		unix.Pause()
	}
	total, buffer := 0, make([]byte, 256)
	for range 6 {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), helper+"=1")
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.held("%v", err)
			break
		}
		defer func() { cmd.Process.Kill(); cmd.Wait() }()
		n, _ := out.Read(buffer)
		line, _, _ := strings.Cut(string(buffer[:n]), "\n")
		filled, err := strconv.Atoi(strings.TrimPrefix(line, "filled "))
		if err != nil {
			t.held("a process ended at %d MiB", total>>20)
			return
		}
		total += filled
	}
	if total > t.enough() {
		t.breach("holds %d MiB in sockets where %d are allowed", total>>20, t.MemoryMiB)
	}
	t.held("%d MiB in sockets", total>>20)
}

// fillOwnSockets fills as many sockets as it may have, and closes the ends that it wrote to.
func fillOwnSockets() int {
	block, filled := make([]byte, 1<<15), 0
	for range 400 {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			break
		}
		for {
			n, err := unix.Write(pair[0], block)
			if err != nil {
				break
			}
			filled += n
		}
		unix.Close(pair[0])
	}
	return filled
}

// fillTables reads one byte of each 2 MiB, which takes no memory but for the tables that lead there.
func fillTables(t *Trial) {
	tables := t.enough() / 4096
	const each = 2 << 20
	done := 0
	for done < tables {
		const part = 1024
		memory, err := unix.Mmap(-1, 0, part*each, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
		if err != nil {
			t.held("%d tables, then %v", done, err)
			return
		}
		unix.Madvise(memory, unix.MADV_NOHUGEPAGE)
		sum := byte(0)
		for at := 0; at < len(memory); at += each {
			sum += memory[at]
		}
		done += part + int(sum)
	}
	t.breach("holds %d MiB in page tables where %d are allowed", done*4096>>20, t.MemoryMiB)
}

func lockMemory(t *Trial) {
	memory, err := unix.Mmap(-1, 0, t.enough(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.held("mmap: %v", err)
		return
	}
	t.got(unix.Mlock(memory), "locked %d MiB where %d are allowed", len(memory)>>20, t.MemoryMiB)
}

func hugePages(t *Trial) {
	memory, err := unix.Mmap(-1, 0, 2<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_HUGETLB)
	if t.got(err, "took a huge page") {
		unix.Munmap(memory)
	}
	fd, err := unix.MemfdCreate(mark, unix.MFD_HUGETLB)
	if err == nil {
		err = unix.Fallocate(fd, 0, 0, 2<<20)
		unix.Close(fd)
	}
	t.got(err, "took a huge page for a file")
}
