package initproc

import (
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"lambent/sandbox/native/wire"
)

// initProcess is process 1 of a sandbox. Its main loop answers the driver; others reap, and carry the Runtime API.
type initProcess struct {
	relay       *relay
	spare       *starter // ready to become a process; nil: none
	descriptors string
	processes   string

	mu      sync.Mutex
	control net.Conn // to the driver; nil while gVisor saves the sandbox
	unsaid  [][]string

	startMu sync.Mutex     // held over a start, so that an exit is not told before it
	numbers map[int]string // of the started processes, by process ID
}

// starter is a process that waits to become a function's.
type starter struct {
	conn *wire.Conn
	pid  int
}

// runInit sets the sandbox up and serves the driver until it is gone. gVisor then ends all that is in the sandbox. The arguments are
// the address of the Runtime API and the targets of the base.
func runInit(args []string) int {
	p := &initProcess{descriptors: "1024", processes: "1024", numbers: map[int]string{}}
	if err := p.setUp(args); err != nil {
		println(err.Error())
		return 1
	}
	go p.reap()
	for {
		again, err := p.serve()
		if !again {
			if err != nil {
				println(err.Error())
			}
			return 1
		}
	}
}

// setUp builds the root and the network.
func (p *initProcess) setUp(args []string) error {
	if len(args) == 0 {
		return failed("read the arguments", syscall.EINVAL)
	}
	if err := failed("set undumpable", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)); err != nil {
		return err
	}
	if err := buildRoot(args[1:]); err != nil {
		return err
	}
	var err error
	p.relay, err = newRelay(args[0])
	return err
}

// serve connects to the driver and answers it to the end. again says that the connection is to be made anew.
func (p *initProcess) serve() (again bool, err error) {
	conn, err := net.Dial("unix", inExchange(Control))
	if err != nil {
		return false, failed("reach the driver", err)
	}
	defer conn.Close()
	p.mu.Lock()
	p.control = conn
	unsaid := p.unsaid
	p.unsaid = nil
	p.mu.Unlock()
	for _, message := range append([][]string{{OK}}, unsaid...) {
		if err := p.say(message...); err != nil {
			return false, err
		}
	}
	for {
		parts, err := ReadMessage(conn, wire.MaxMessage)
		if err != nil {
			return false, failed("hear the driver", err)
		}
		if parts[0] == Save {
			if err := p.save(conn); err != nil {
				return false, err
			}
			return true, nil
		}
		if err := p.answer(parts); err != nil {
			return false, err
		}
	}
}

// answer does what one message asks, and answers it.
func (p *initProcess) answer(parts []string) error {
	p.startMu.Lock()
	defer p.startMu.Unlock()
	if err := p.handleLocked(parts); err != nil {
		return p.say(failure(err)...)
	}
	return p.say(OK)
}

// say sends a message to the driver, or keeps it until there is a connection again.
func (p *initProcess) say(parts ...string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.control == nil {
		p.unsaid = append(p.unsaid, parts)
		return nil
	}
	return WriteMessage(p.control, parts...)
}

// handleLocked does what one message asks.
func (p *initProcess) handleLocked(parts []string) error {
	switch name, args := parts[0], parts[1:]; {
	case name == Mount && len(args)%3 == 0:
		return mountLate(args)
	case name == Hostname && len(args) == 1:
		return failed("set host name", unix.Sethostname([]byte(args[0])))
	case name == Limit && len(args) == 2:
		p.descriptors, p.processes = args[0], args[1]
		return p.prepare()
	case name == Start && len(args) >= 5:
		pid, err := p.start(args[1:])
		if err == nil {
			p.numbers[pid] = args[0]
		}
		return err
	}
	return failed("understand the driver", syscall.EBADMSG)
}

// prepare makes sure that there is a spare starter.
func (p *initProcess) prepare() error {
	if p.spare != nil {
		return nil
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return failed("make a socket", err)
	}
	defer unix.Close(pair[1])
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Close(pair[0])
		return failed("open /dev/null", err)
	}
	defer unix.Close(null)
	pid, err := syscall.ForkExec("/proc/self/exe", []string{StarterName}, &syscall.ProcAttr{
		Dir: "/", Env: []string{"GOMAXPROCS=1"},
		Files: []uintptr{uintptr(null), uintptr(null), uintptr(null), uintptr(pair[1])},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		unix.Close(pair[0])
		return failed("start a starter", err)
	}
	p.spare = &starter{conn: wire.NewConn(pair[0]), pid: pid}
	if parts, _, err := p.spare.conn.Receive(); err != nil || len(parts) != 1 || parts[0] != wire.Ready {
		unix.Close(pair[0])
		p.spare = nil
		return failed("start a starter", syscall.EPROTO)
	}
	return nil
}

// start turns a starter into the process of a Start message's arguments.
func (p *initProcess) start(args []string) (int, error) {
	if err := p.prepare(); err != nil {
		return 0, err
	}
	ready := p.spare
	p.spare = nil
	defer unix.Close(ready.conn.FD())
	output, err := openOutput(args[0])
	if err != nil {
		return 0, err
	}
	parts := append([]string{Start, p.descriptors, p.processes, args[0]}, args[1:]...)
	err = ready.conn.Send([]int{output}, parts...)
	unix.Close(output)
	if err != nil {
		return 0, failed("command a starter", err)
	}
	answer, _, err := ready.conn.Receive()
	switch {
	case err != nil:
		return 0, failed("hear a starter", err)
	case answer == nil: // closed by the exec
		return ready.pid, nil
	case len(answer) != 3 || answer[0] != Failed:
		return 0, failed("hear a starter", syscall.EPROTO)
	}
	number, _ := strconv.Atoi(answer[2]) // 0 is no known error either
	return 0, &stepError{answer[1], syscall.Errno(number)}
}

// reap tells of every child's end.
func (p *initProcess) reap() {
	children := make(chan os.Signal, 1)
	notifyChildren(children)
	for range children {
		for {
			var status syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
			if err == syscall.EINTR {
				continue
			}
			if err != nil || pid <= 0 {
				break
			}
			p.tell(pid, status)
		}
	}
}

// tell tells the driver of the end of a process that it started.
func (p *initProcess) tell(pid int, status syscall.WaitStatus) {
	p.startMu.Lock()
	number, known := p.numbers[pid]
	delete(p.numbers, pid)
	p.startMu.Unlock()
	if !known {
		return
	}
	code, signal := status.ExitStatus(), 0
	if status.Signaled() {
		code, signal = 0, int(status.Signal())
	}
	_ = p.say(Exit, number, strconv.Itoa(code), strconv.Itoa(signal)) // the main loop sees a driver that is gone
}

// checkpointFile is gVisor's: who reads it waits for the end of the next saving or restoring.
const checkpointFile = "/proc/gvisor/checkpoint"

// save closes all that leads outside, tells the driver so, and waits for the end of the saving.
func (p *initProcess) save(conn net.Conn) error {
	file, err := os.Open(checkpointFile)
	if err != nil {
		return failed("open gVisor's checkpoint file", p.say(failure(failed("open gVisor's checkpoint file", err))...))
	}
	defer file.Close()
	p.relay.pause()
	p.mu.Lock()
	err = WriteMessage(p.control, OK)
	p.control = nil
	p.mu.Unlock()
	conn.Close()
	if err != nil {
		return failed("answer the driver", err)
	}
	if _, err := file.Read(make([]byte, 16)); err != nil {
		return failed("wait for gVisor's checkpoint", err)
	}
	return p.relay.resume()
}
