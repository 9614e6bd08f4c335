package initproc

import (
	"errors"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"lambent/sandbox/native/wire"
)

// initProcess is process 1 of a sandbox. Its main loop answers the driver; a second goroutine reaps.
type initProcess struct {
	conn *wire.Conn

	mu       sync.Mutex
	children *sync.Cond // something may be there to reap, or nothing is left
	spawned  int        // starters begun
	starters map[int]bool
	idle     bool // the reaper found no child
}

// runInit serves the control socket until the driver closes it or dies. The kernel then ends all that is in the sandbox.
func runInit(conn *wire.Conn) int {
	p := &initProcess{conn: conn, starters: map[int]bool{}}
	p.children = sync.NewCond(&p.mu)
	if err := p.protect(); err != nil {
		p.reply(nil, nil, err)
		return 1
	}
	go p.reap()
	for {
		parts, fds, err := conn.Receive()
		if err != nil || parts == nil {
			return 0
		}
		answer, files, err := p.handle(parts, fds)
		wire.CloseAll(fds)
		if err = p.reply(answer, files, err); err != nil {
			return 1
		}
		wire.CloseAll(files)
	}
}

// protect makes the init itself unreachable from the sandbox.
func (p *initProcess) protect() error {
	if err := closeInherited(); err != nil {
		return err
	}
	return failed("set undumpable", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
}

func (p *initProcess) reply(answer []string, files []int, err error) error {
	if err == nil {
		return p.conn.Send(files, append([]string{wire.OK}, answer...)...)
	}
	step, errno := err.Error(), syscall.Errno(0)
	errors.As(err, &errno)
	return p.conn.Send(nil, wire.Failed, step, strconv.Itoa(int(errno)))
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
	p.mu.Lock()
	defer p.mu.Unlock()
	pid, err := syscall.ForkExec("/proc/self/exe", []string{wire.StarterName}, &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{"GOMAXPROCS=1"},
		Files: []uintptr{uintptr(null), uintptr(null), uintptr(null), uintptr(socket)},
		Sys:   attributes,
	})
	if err != nil {
		return 0, failed("start a starter", err)
	}
	p.spawned++
	p.starters[pid] = true
	p.idle = false
	p.children.Broadcast()
	return pid, nil
}

// killAll ends every process of the sandbox but this one. The kernel walks all of them under the lock that a fork needs,
// so that nothing that forks gets away.
func (p *initProcess) killAll() error {
	if err := unix.Kill(-1, unix.SIGKILL); err != nil && err != unix.ESRCH {
		return failed("kill all", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.idle {
		p.children.Wait()
	}
	return nil
}

// reap waits for every child, orphans of the function included, and tells the driver of those that it knows.
func (p *initProcess) reap() {
	seen := 0
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.ECHILD:
			p.mu.Lock()
			if p.spawned == seen {
				p.idle = true
				p.children.Broadcast()
			}
			for p.spawned == seen {
				p.children.Wait()
			}
			seen = p.spawned
			p.mu.Unlock()
		case err == nil && (status.Exited() || status.Signaled()):
			if p.report(pid, status) != nil {
				return
			}
		}
	}
}

// report tells the driver of the end of a process that was a starter.
func (p *initProcess) report(pid int, status syscall.WaitStatus) error {
	p.mu.Lock()
	known := p.starters[pid]
	delete(p.starters, pid)
	p.mu.Unlock()
	if !known {
		return nil
	}
	code, signal := status.ExitStatus(), 0
	if status.Signaled() {
		code, signal = 0, int(status.Signal())
	}
	return p.conn.Send(nil, wire.Exit, strconv.Itoa(pid), strconv.Itoa(code), strconv.Itoa(signal))
}
