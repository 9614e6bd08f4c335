package hostile

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

func floodAttempts() []Attempt {
	return []Attempt{
		{Name: "fork-bomb", Tries: "start processes until the host has no room for more", Layer: ProcessLimit, Proof: Namespace, Flood: true, try: forkBomb},
		{Name: "thread-bomb", Tries: "start threads until the host has no room for more", Layer: ProcessLimit, Proof: Namespace, Flood: true, try: threadBomb},
		{Name: "inode-bomb", Tries: "make files until the disk has no inodes", Layer: DiskLimit, Proof: Namespace, Flood: true, try: inodeBomb},
		{Name: "disk-bomb", Tries: "fill the host's disk", Layer: DiskLimit, Proof: Namespace, Flood: true, try: diskBomb},
		{Name: "shared-inode-bomb", Tries: "make files in /dev/shm, each of which is memory of the kernel, without end", Layer: MemoryLimit,
			Proof: Namespace, Flood: true, try: sharedInodeBomb},
		{Name: "descriptor-flood", Tries: "open files without end", Layer: DescriptorLimit, Proof: Namespace, Flood: true, try: descriptorFlood},
		{Name: "socket-flood", Tries: "open sockets and connections without end", Layer: DescriptorLimit, Proof: Namespace, Flood: true, try: socketFlood},
		{Name: "log-flood", Tries: "write to its output without end while nobody reads it", Layer: BoundedOutput, Proof: Namespace, Flood: true, Unread: true, try: logFlood},
		{Name: "deep-directories", Tries: "make directories so deep that removing them fails", Layer: DiskLimit, Proof: Nowhere, Flood: true,
			Unproven: "directories may be deep; what must not be is a sandbox that cannot be destroyed for it, which the suite checks after each attempt",
			try:      deepDirectories},
		{Name: "stopped-processes", Tries: "leave processes behind that are stopped and ignore every signal", Layer: PIDs, Proof: Nowhere, Flood: true,
			Unproven: "processes may stop themselves; what must not be is a sandbox that cannot be destroyed for it, which the suite checks after each attempt",
			try:      stoppedProcesses},
	}
}

// forkBomb starts processes that wait, two more than allowed.
func forkBomb(t *Trial) {
	var children []*exec.Cmd
	defer func() {
		for _, child := range children {
			child.Process.Kill()
			child.Wait()
		}
	}()
	for len(children) < t.Processes+2 {
		cmd := exec.Command("/proc/self/exe", "pause")
		cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "GOGC=off")
		if err := cmd.Start(); err != nil {
			t.held("%d processes, then %v", len(children), err)
			return
		}
		children = append(children, cmd)
	}
	t.breach("started %d processes where %d are allowed", len(children), t.Processes)
}

// threadBomb starts threads, two more than allowed. Go ends a program that gets none.
func threadBomb(t *Trial) {
	started, release := make(chan bool), make(chan bool)
	defer close(release)
	for range t.Processes + 2 {
		go func() {
			runtime.LockOSThread()
			started <- true
			<-release
		}()
		<-started
	}
	t.breach("started %d threads where %d are allowed", t.Processes+2, t.Processes)
}

// makeFiles makes empty files in directories of a thousand, and removes them.
func makeFiles(top string, count int) (made int, err error) {
	defer os.RemoveAll(top)
	for ; made < count; made++ {
		directory := filepath.Join(top, strconv.Itoa(made/1000))
		if made%1000 == 0 {
			if err := os.MkdirAll(directory, 0o700); err != nil {
				return made, err
			}
		}
		fd, err := unix.Open(directory+"/"+strconv.Itoa(made), unix.O_CREAT|unix.O_WRONLY, 0o600)
		if err != nil {
			return made, err
		}
		unix.Close(fd)
	}
	return made, nil
}

func inodeBomb(t *Trial) {
	made, err := makeFiles(t.directory("inodes"), t.FilesMax)
	t.got(err, "made %d files in %s", made, t.Temp)
}

func sharedInodeBomb(t *Trial) {
	made, err := makeFiles(filepath.Join(t.Shared, mark), t.FilesMax)
	t.got(err, "made %d files in %s", made, t.Shared)
}

func diskBomb(t *Trial) {
	path := filepath.Join(t.Temp, mark+"-disk")
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_RDWR, 0o600)
	if err != nil {
		t.held("%v", err)
		return
	}
	defer os.Remove(path)
	defer unix.Close(fd)
	size := int64(t.EphemeralMiB+64) << 20
	if err := unix.Fallocate(fd, 0, 0, size); err != nil {
		t.held("fallocate: %v", err)
		block := make([]byte, 1<<20)
		for written := int64(0); written < size; written += int64(len(block)) {
			if _, err := unix.Write(fd, block); err != nil {
				t.held("%d MiB, then %v", written>>20, err)
				return
			}
		}
	}
	t.breach("took %d MiB where %d are allowed", size>>20, t.EphemeralMiB)
}

func descriptorFlood(t *Trial) {
	for count := range t.Descriptors + 2 {
		if _, err := unix.Open("/proc/self/stat", unix.O_RDONLY, 0); err != nil {
			t.held("%d files, then %v", count, err)
			return
		}
	}
	t.breach("opened %d files where %d are allowed", t.Descriptors+2, t.Descriptors)
}

// socketFlood opens sockets, and connections that are never accepted.
func socketFlood(t *Trial) {
	listener, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.held("%v", err)
		return
	}
	name := fmt.Sprintf("@%s-%d", mark, os.Getpid())
	unix.Bind(listener, &unix.SockaddrUnix{Name: name})
	unix.Listen(listener, 4096)
	for count := range t.Descriptors + 2 {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.held("%d sockets, then %v", count, err)
			return
		}
		unix.Connect(fd, &unix.SockaddrUnix{Name: name})
	}
	t.breach("opened %d sockets where %d are allowed", t.Descriptors+2, t.Descriptors)
}

// logFlood writes to its output until that takes no more, which is to be soon when nobody reads.
func logFlood(t *Trial) {
	const tooMuch = 64 << 20
	if err := unix.SetNonblock(1, true); err != nil {
		t.held("%v", err)
		return
	}
	defer unix.SetNonblock(1, false)
	unix.FcntlInt(1, unix.F_SETPIPE_SZ, 1<<20)
	line := make([]byte, 1<<16)
	for i := range line {
		line[i] = '.'
	}
	line[len(line)-1] = '\n'
	written, idle := 0, 0
	for written < tooMuch && idle < 30 {
		n, err := unix.Write(1, line)
		if err != nil {
			idle++
			unix.Nanosleep(&unix.Timespec{Nsec: int64(10 * time.Millisecond)}, nil)
			continue
		}
		written += n
	}
	if written >= tooMuch {
		t.breach("its output took %d MiB", written>>20)
	}
	t.held("its output took %d KiB", written>>10)
}

func deepDirectories(t *Trial) {
	if err := os.Chdir(t.directory("deep")); err != nil {
		t.held("%v", err)
		return
	}
	name, depth := string(make255()), 0
	for ; depth < 5000; depth++ {
		if unix.Mkdir(name, 0o700) != nil || unix.Chdir(name) != nil {
			break
		}
	}
	t.held("%d directories deep", depth)
}

func make255() []byte {
	name := make([]byte, 255)
	for i := range name {
		name[i] = 'd'
	}
	return name
}

func stoppedProcesses(t *Trial) {
	for range 8 {
		cmd := exec.Command("/proc/self/exe", "pause")
		cmd.Env = os.Environ()
		if err := cmd.Start(); err != nil {
			t.held("%v", err)
			return
		}
		cmd.Process.Signal(unix.SIGSTOP)
	}
	t.held("8 processes are stopped")
}
