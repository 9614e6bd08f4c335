package initproc

import (
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"lambent/sandbox/native/wire"
)

// initProcess is process 1 of a sandbox. Its main loop answers the driver; a second goroutine reaps.
type initProcess struct {
	conn   *wire.Conn
	family *family
}

// runInit serves the control socket until the driver closes it or dies. The kernel then ends all that is in the sandbox.
func runInit(conn *wire.Conn) int {
	p := &initProcess{conn: conn, family: newFamily(conn)}
	if err := p.protect(); err != nil {
		_ = reply(conn, nil, nil, err) // the exit status says it too
		return 1
	}
	return serve(conn, p.family, p.handle)
}

// protect makes the init itself unreachable from the sandbox.
func (p *initProcess) protect() error {
	if err := closeInherited(); err != nil {
		return err
	}
	return failed("set undumpable", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
}

// handle does what one message asks. The files of the answer are closed after it was sent.
func (p *initProcess) handle(parts []string, fds []int) (answer []string, files []int, err error) {
	switch name, args := parts[0], parts[1:]; {
	case name == wire.Setup && len(fds) == 1 && len(args) >= 3:
		listener, err := setup(fds[0], args[0], args[1], args[2], args[3:])
		if err != nil {
			return nil, nil, err
		}
		return nil, []int{listener}, nil
	case name == wire.Mount && len(args) == len(fds):
		return nil, nil, mountTrees(fds, args, false)
	case name == wire.Mount && len(args) == len(fds)+1 && args[0] == wire.Replace:
		return nil, nil, mountTrees(fds, args[1:], true)
	case name == wire.Hostname && len(args) == 1:
		return nil, nil, failed("set host name", unix.Sethostname([]byte(args[0])))
	case name == wire.Prepare && (len(fds) == 1 || len(fds) == 2):
		pid, err := p.spawn(fds[0], fds[1:])
		return []string{strconv.Itoa(pid)}, nil, err
	case name == wire.KillAll:
		return nil, nil, p.killAll()
	}
	return nil, nil, failed("understand the driver", syscall.EBADMSG)
}

// spawn starts a starter, which inherits the init's namespaces and user, in the cgroup that is given.
func (p *initProcess) spawn(socket int, cgroup []int) (int, error) {
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, failed("open /dev/null", err)
	}
	defer unix.Close(null)
	attributes := &syscall.SysProcAttr{Setsid: true}
	if len(cgroup) > 0 {
		attributes.UseCgroupFD, attributes.CgroupFD = true, cgroup[0]
	}
	return p.family.begin(func() (int, error) {
		pid, err := syscall.ForkExec("/proc/self/exe", []string{wire.StarterName}, &syscall.ProcAttr{
			Dir:   "/",
			Env:   []string{"GOMAXPROCS=1"},
			Files: []uintptr{uintptr(null), uintptr(null), uintptr(null), uintptr(socket)},
			Sys:   attributes,
		})
		return pid, failed("start a starter", err)
	})
}

// killAll ends every process of the sandbox but this one. The kernel walks all of them under the lock that a fork needs,
// so that nothing that forks gets away.
func (p *initProcess) killAll() error {
	if err := unix.Kill(-1, unix.SIGKILL); err != nil && err != unix.ESRCH {
		return failed("kill all", err)
	}
	p.family.awaitNone()
	return nil
}
