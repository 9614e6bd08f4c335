package initproc

import (
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"lambent/sandbox/native/wire"
)

// spawnsPerCollection is after how many forks the spawner collects its garbage, some kilobytes of each.
const spawnsPerCollection = 512

// runSpawner forks inits until the driver closes the control socket or dies. The inits end by themselves then. In an init it
// never returns.
func runSpawner(conn *wire.Conn) int {
	runtime.LockOSThread()
	// Nobody asks how an init ended: the driver has a pidfd, and the kernel needs no parent to reap.
	if closeInherited() != nil || prctl(unix.PR_SET_DUMPABLE, 0) != nil || setAction(uintptr(syscall.SIGCHLD), ignoreAction) != nil {
		return 1
	}
	starters, err := newRoom()
	if err != nil {
		return 1
	}
	for count := 1; ; count++ {
		parts, fds, err := conn.Receive()
		if err != nil || parts == nil {
			return 0
		}
		answer, files, err := spawn(parts, fds, starters)
		wire.CloseAll(fds)
		if reply(conn, answer, files, err) != nil {
			return 1
		}
		wire.CloseAll(files)
		if count%spawnsPerCollection == 0 {
			runtime.GC()
		}
	}
}

// spawn answers a Spawn.
func spawn(parts []string, fds []int, starters *room) (answer []string, files []int, err error) {
	if parts[0] != wire.Spawn || len(parts) != 3 || len(fds) != 2 && len(fds) != 3 {
		return nil, nil, failed("understand the driver", syscall.EBADMSG)
	}
	if !validMapping(parts[1]) || !validMapping(parts[2]) {
		return nil, nil, failed("read the user IDs", syscall.EINVAL)
	}
	cgroup := -1
	if len(fds) == 3 {
		cgroup = fds[2]
	}
	const namespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	pid, pidFD, err := fork(namespaces, cgroup)
	if err != nil {
		return nil, nil, failed("start an init", err)
	}
	if pid == 0 {
		exit(runInit(fds[0], fds[1], starters))
	}
	if err := introduce(pid, parts[1], parts[2]); err != nil {
		_ = unix.PidfdSendSignal(pidFD, unix.SIGKILL, nil, 0) // it fails when the init has ended already
		unix.Close(pidFD)
		return nil, nil, err
	}
	return []string{strconv.Itoa(pid)}, []int{pidFD}, nil
}

// introduce gives an init, which waits for its first message, its user IDs, and has it and all its children be the first to go when
// the host runs out of memory. Written with CAP_SYS_RESOURCE the latter cannot be undone.
func introduce(pid int, users, groups string) error {
	for _, file := range [][2]string{{"uid_map", users}, {"gid_map", groups}, {"oom_score_adj", "1000"}} {
		if err := writeFile("/proc/"+strconv.Itoa(pid)+"/"+file[0], file[1]); err != nil {
			return failed("set "+file[0], err)
		}
	}
	return nil
}

func writeFile(path, text string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, []byte(text))
	unix.Close(fd)
	return err
}

// validMapping checks lines "inside outside count", at least one. None shows root of the outside.
func validMapping(text string) bool {
	for rest := text; rest != ""; {
		var line string
		line, rest, _ = strings.Cut(rest, "\n")
		insideText, numbers, _ := strings.Cut(line, " ")
		outsideText, countText, _ := strings.Cut(numbers, " ")
		_, okInside := decimal(insideText, 1<<31-1)
		outside, okOutside := decimal(outsideText, 1<<31-1)
		count, okCount := decimal(countText, 1<<16)
		if !okInside || !okOutside || !okCount || outside == 0 || count == 0 {
			return false
		}
	}
	return text != ""
}
