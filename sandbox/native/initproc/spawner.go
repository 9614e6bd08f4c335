package initproc

import (
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"lambent/sandbox/native/wire"
)

// runSpawner starts inits until the driver closes the control socket or dies. The inits end by themselves then.
func runSpawner(conn *wire.Conn) int {
	if closeInherited() != nil || unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) != nil {
		return 1
	}
	inits := newFamily(conn)
	return serve(conn, inits, func(parts []string, fds []int) ([]string, []int, error) {
		if parts[0] != wire.Spawn || len(parts) != 3 || len(fds) != 1 && len(fds) != 2 {
			return nil, nil, failed("understand the driver", syscall.EBADMSG)
		}
		pid, pidfd, err := spawnInit(inits, parts[1], parts[2], fds[0], fds[1:])
		if err != nil {
			return nil, nil, err
		}
		return []string{strconv.Itoa(pid)}, []int{pidfd}, nil
	})
}

// spawnInit starts an init, as root of a new user namespace, in the cgroup that is given.
func spawnInit(inits *family, userText, groupText string, socket int, cgroup []int) (pid, pidfd int, err error) {
	users, okUsers := parseMappings(userText)
	groups, okGroups := parseMappings(groupText)
	if !okUsers || !okGroups {
		return 0, 0, failed("read the user IDs", syscall.EINVAL)
	}
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, 0, failed("open /dev/null", err)
	}
	defer unix.Close(null)
	attributes := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC |
			unix.CLONE_NEWUTS,
		UidMappings:                users,
		GidMappings:                groups,
		GidMappingsEnableSetgroups: true,
		Credential:                 &syscall.Credential{Uid: 0, Gid: 0},
		Setsid:                     true,
		PidFD:                      &pidfd,
	}
	if len(cgroup) > 0 {
		attributes.UseCgroupFD, attributes.CgroupFD = true, cgroup[0]
	}
	pid, err = inits.begin(func() (int, error) {
		pid, err := syscall.ForkExec("/proc/self/exe", []string{wire.InitName}, &syscall.ProcAttr{
			Dir:   "/",
			Env:   []string{"GOMAXPROCS=1"},
			Files: []uintptr{uintptr(null), uintptr(null), uintptr(null), uintptr(socket)},
			Sys:   attributes,
		})
		return pid, failed("start an init", err)
	})
	return pid, pidfd, err
}

// parseMappings reads lines "inside outside count". None shows root of the outside.
func parseMappings(text string) (all []syscall.SysProcIDMap, ok bool) {
	for text != "" {
		var line string
		line, text, _ = strings.Cut(text, "\n")
		insideText, rest, _ := strings.Cut(line, " ")
		outsideText, countText, _ := strings.Cut(rest, " ")
		inside, okInside := decimal(insideText, 1<<31-1)
		outside, okOutside := decimal(outsideText, 1<<31-1)
		count, okCount := decimal(countText, 1<<16)
		if !okInside || !okOutside || !okCount || outside == 0 || count == 0 {
			return nil, false
		}
		all = append(all, syscall.SysProcIDMap{ContainerID: inside, HostID: outside, Size: count})
	}
	return all, len(all) > 0
}
