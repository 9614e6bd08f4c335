package initproc

import (
	"errors"
	"slices"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"lambent/sandbox/native/wire"
)

// initProcess is process 1 of a sandbox. It answers the driver, and reaps.
type initProcess struct {
	conn   *wire.Conn // questions
	events *wire.Conn
	ended  int // becomes readable when a child has ended
	begun  []int
	rights rights
	room   *room // of starters

	polled [2]unix.PollFd
	status int32
	event  [unsafe.Sizeof(unix.SignalfdSiginfo{})]byte
}

// runInit serves the control socket until the driver closes it or dies. The kernel then ends all that is in the sandbox.
func runInit(control, events int, starters *room) int {
	p := &initProcess{conn: wire.NewLonelyConn(wire.ControlFD), events: wire.NewLonelyConn(wire.EventsFD), room: starters}
	if p.begin(control, events) != nil {
		return 1 // the driver sees that this is gone
	}
	for {
		p.polled = [2]unix.PollFd{{Fd: wire.ControlFD, Events: unix.POLLIN}, {Fd: int32(p.ended), Events: unix.POLLIN}}
		if do(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&p.polled[0])), uintptr(len(p.polled)), 0, 0, 0) != nil {
			return 1
		}
		if p.polled[1].Revents != 0 && p.reapEnded() != nil {
			return 1
		}
		if p.polled[0].Revents != 0 && !p.serve() {
			return 0
		}
	}
}

// begin makes the init itself unreachable from the sandbox, and hears of its children's ends.
func (p *initProcess) begin(control, events int) error {
	setName("lambent-init")
	if err := keepOnly(control, events); err != nil {
		return err
	}
	if err := prctl(unix.PR_SET_DUMPABLE, 0); err != nil {
		return failed("set undumpable", err)
	}
	if err := do(unix.SYS_SETSID); err != nil {
		return failed("begin a session", err)
	}
	if err := defaultSignals(); err != nil {
		return err
	}
	ended := uint64(1) << (syscall.SIGCHLD - 1)
	if err := signalMask(ended); err != nil {
		return failed("block signals", err)
	}
	set := &ended
	fd, err := call(unix.SYS_SIGNALFD4, ^uintptr(0), uintptr(unsafe.Pointer(set)), signalSetBytes, unix.SFD_CLOEXEC)
	p.ended = fd
	return failed("hear of children", err)
}

// serve answers one message, and reports whether more may come.
func (p *initProcess) serve() bool {
	parts, fds, err := p.conn.Receive()
	if err != nil || parts == nil {
		return false
	}
	answer, files, err := p.handle(parts, fds)
	closeFiles(fds)
	if reply(p.conn, answer, files, err) != nil {
		return false
	}
	closeFiles(files)
	return true
}

// handle does what one message asks. The files of the answer are closed after it was sent.
func (p *initProcess) handle(parts []string, fds []int) (answer []string, files []int, err error) {
	switch name, args := parts[0], parts[1:]; {
	case name == wire.Setup && len(fds) == 1 && len(args) >= 6:
		listener, err := p.setup(fds[0], args)
		if err != nil {
			return nil, nil, err
		}
		return nil, []int{listener}, nil
	case name == wire.Mount && len(args) == len(fds):
		return nil, nil, mountTrees(fds, args, false)
	case name == wire.Mount && len(args) == len(fds)+1 && args[0] == wire.Replace:
		return nil, nil, mountTrees(fds, args[1:], true)
	case name == wire.Specialise && len(args) == len(fds)+1:
		return nil, nil, specialise(args[0], fds, args[1:])
	case name == wire.Prepare && len(args) == 0 && len(fds) >= 1:
		pid, err := p.prepare(fds[0], -1, fds[1:])
		return []string{strconv.Itoa(pid)}, nil, err
	case name == wire.Prepare && len(args) == 1 && args[0] == wire.Unified && len(fds) >= 2:
		pid, err := p.prepare(fds[0], fds[1], fds[2:])
		return []string{strconv.Itoa(pid)}, nil, err
	case name == wire.KillAll:
		return nil, nil, p.killAll()
	}
	return nil, nil, failed("understand the driver", syscall.EBADMSG)
}

// setup becomes root of the namespaces and turns them into a sandbox.
func (p *initProcess) setup(root int, args []string) (listener int, err error) {
	if err := changeUser(0, 0); err != nil {
		return 0, err
	}
	uid, okUID := decimal(args[3], 1<<16)
	gid, okGID := decimal(args[4], 1<<16)
	if !okUID || !okGID {
		return 0, failed("read the user", syscall.EINVAL)
	}
	p.rights = rights{uid: uid, gid: gid, filter: []byte(args[5])}
	return setup(root, args[0], args[1], args[2], args[6:])
}

// specialise names the sandbox, unless the name is empty, and mounts trees.
func specialise(hostname string, trees []int, targets []string) error {
	if hostname != "" {
		if err := setHostname(hostname); err != nil {
			return failed("set host name", err)
		}
	}
	return mountTrees(trees, targets, false)
}

// prepare forks a starter, which inherits the init's namespaces and user, into a cgroup of the unified tree, -1 for none.
func (p *initProcess) prepare(socket, unified int, cgroups []int) (int, error) {
	pid, pidFD, err := fork(0, unified)
	if err != nil {
		return 0, failed("start a starter", err)
	}
	if pid == 0 {
		exit(runStarter(socket, cgroups, p.rights, p.room))
	}
	closeFile(pidFD)
	p.begun = append(p.begun, pid)
	return pid, nil
}

// killAll ends every process of the sandbox but this one. The kernel walks all of them under the lock that a fork needs,
// so that nothing that forks gets away.
func (p *initProcess) killAll() error {
	if err := do(unix.SYS_KILL, ^uintptr(0), uintptr(syscall.SIGKILL)); err != nil && !errors.Is(err, unix.ESRCH) {
		return failed("kill all", err)
	}
	return p.reap(0)
}

// reapEnded reaps the children that have ended.
func (p *initProcess) reapEnded() error {
	if err := do(unix.SYS_READ, uintptr(p.ended), uintptr(unsafe.Pointer(&p.event)), unsafe.Sizeof(p.event)); err != nil {
		return err
	}
	return p.reap(unix.WNOHANG)
}

// reap waits for children, orphans that fell to the init included, until there is none; with WNOHANG, none that has ended. It
// tells the driver of those that were begun here.
func (p *initProcess) reap(options uintptr) error {
	for {
		pid, err := call(unix.SYS_WAIT4, ^uintptr(0), uintptr(unsafe.Pointer(&p.status)), options, 0)
		if errors.Is(err, unix.ECHILD) || err == nil && pid == 0 {
			return nil
		}
		if err != nil {
			return failed("wait for children", err)
		}
		at := slices.Index(p.begun, pid)
		if at < 0 {
			continue
		}
		p.begun = slices.Delete(p.begun, at, at+1)
		status := syscall.WaitStatus(p.status)
		code, signal := status.ExitStatus(), 0
		if status.Signaled() {
			code, signal = 0, int(status.Signal())
		}
		if err := p.events.Send(nil, wire.Exit, strconv.Itoa(pid), strconv.Itoa(code), strconv.Itoa(signal)); err != nil {
			return err
		}
	}
}

// reply answers a message.
func reply(conn *wire.Conn, answer []string, files []int, err error) error {
	if err == nil {
		return conn.Send(files, append([]string{wire.OK}, answer...)...)
	}
	errno := syscall.Errno(0)
	errors.As(err, &errno)
	return conn.Send(nil, wire.Failed, err.Error(), strconv.Itoa(int(errno)))
}
