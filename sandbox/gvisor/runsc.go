package gvisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"lambent/sandbox/gvisor/initproc"
)

// bootTimeout bounds how long a Sentry may take to start. It takes a tenth of a second; a host that is overloaded may need many.
const bootTimeout = 60 * time.Second

// configName and logName are in a sandbox's directory.
const (
	configName = "config.json"
	logName    = "log"
)

// boot starts a Sentry by a command of runsc ("run", "restore" and their arguments), in the sandbox's cgroups, and waits for its init.
func (s *Sandbox) boot(ctx context.Context, command ...string) (*control, error) {
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	if err := s.attach(ctx); err != nil {
		return nil, err
	}
	if err := s.writeSpecification(); err != nil {
		return nil, err
	}
	listener, err := s.files.listen(initproc.Control, int(s.firstID))
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	s.boots++
	s.container = s.name + "-" + strconv.Itoa(s.boots)
	args := append(command[:1:1], "--detach", "--bundle="+s.files.path(""))
	args = append(append(args, command[1:]...), s.container)
	ended := make(chan error, 1)
	if err := s.launch(ended, args); err != nil {
		return nil, fmt.Errorf("start gVisor: %w", err)
	}
	conn, err := s.awaitInit(ctx, listener, ended)
	if err != nil {
		return nil, fmt.Errorf("start gVisor: %w", err)
	}
	return s.adopt(conn)
}

// writeSpecification writes the bundle.
func (s *Sandbox) writeSpecification() error {
	network := ""
	if s.netns != nil {
		network = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.netns.Fd())
	}
	spec, err := specification(s.firstID, s.files.path(strings.TrimPrefix(initproc.Exchange, "/")), network, s.driver.options.Base)
	if err != nil {
		return err
	}
	return s.files.home.root.WriteFile(path.Join(s.files.name, configName), spec, 0o600)
}

// launch starts runsc in the sandbox's cgroups and the driver's mount namespace. Its end is sent to ended.
func (s *Sandbox) launch(ended chan<- error, args []string) error {
	s.launchMu.Lock()
	defer s.launchMu.Unlock()
	if s.isEnding() {
		return os.ErrClosed
	}
	arguments := append([]string{initproc.LauncherName, s.driver.options.Runsc}, s.driver.flags(s.files.path(logName), s.netns != nil)...)
	process, err := s.driver.run(append(arguments, args...), s.group.Enter)
	if err != nil {
		return err
	}
	go func() {
		state, err := process.Wait()
		if err == nil && !state.Success() {
			err = fmt.Errorf("runsc: %s: %s", state, s.complaint())
		}
		ended <- err
	}()
	return nil
}

// run starts the launcher with arguments, lets place put the process where it belongs, and has it become its program.
func (d *Driver) run(arguments []string, place func(pid int) error) (*os.Process, error) {
	hold, let, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer hold.Close()
	defer let.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	var process *os.Process
	err = d.space.do(func() (err error) {
		process, err = os.StartProcess("/proc/self/fd/"+strconv.Itoa(int(d.launcher.Fd())), arguments, &os.ProcAttr{
			Dir: "/", Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, Files: []*os.File{null, null, null, hold}})
		return err
	})
	if err != nil {
		return nil, err
	}
	if err = place(process.Pid); err == nil {
		_, err = let.Write([]byte{1})
	}
	if err != nil {
		let.Close() // which ends it
		_, waiting := process.Wait()
		return nil, errors.Join(err, waiting)
	}
	return process, nil
}

// awaitInit returns the init's connection, when runsc has done its part as well.
func (s *Sandbox) awaitInit(ctx context.Context, listener *net.UnixListener, ended <-chan error) (conn net.Conn, err error) {
	type result struct {
		conn net.Conn
		err  error
	}
	accepted := make(chan result, 1)
	go func() {
		conn, err := listener.Accept()
		accepted <- result{conn, err}
	}()
	gone := s.endingChannel()
	for waiting := 2; waiting > 0 && err == nil; waiting-- {
		select {
		case r := <-accepted:
			conn, err = r.conn, r.err
			accepted = nil
		case err = <-ended:
			ended = nil
		case <-ctx.Done():
			err = fmt.Errorf("%w: %s", ctx.Err(), s.complaint())
		case <-gone:
			err = os.ErrClosed
		}
	}
	if err == nil {
		return conn, nil
	}
	listener.Close()
	if accepted != nil {
		if r := <-accepted; r.conn != nil {
			r.conn.Close()
		}
	} else if conn != nil {
		conn.Close()
	}
	return nil, errors.Join(err, s.killAll(context.WithoutCancel(ctx)))
}

// maxComplaint bounds how much of runsc's log is read.
const maxComplaint = 1 << 20

// complaint is the last error that runsc wrote down.
func (s *Sandbox) complaint() string {
	file, err := s.files.home.root.Open(path.Join(s.files.name, logName))
	if err != nil {
		return err.Error()
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxComplaint)) // a Sentry that was broken into may write anything
	if err != nil {
		return err.Error()
	}
	last := "it did not say why"
	for line := range bytes.Lines(text) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(line, &entry) == nil && (entry.Level == "error" || entry.Level == "fatal" || entry.Level == "warning") {
			last = entry.Msg
		}
	}
	return last
}

// adopt takes the connection of an init that says hello.
func (s *Sandbox) adopt(conn net.Conn) (*control, error) {
	c := newControl(conn, s.exited, s.lost)
	s.mu.Lock()
	s.control = c
	s.mu.Unlock()
	if _, err := c.ask(); err != nil {
		return nil, fmt.Errorf("the sandbox's init: %w", err)
	}
	return c, nil
}

// endPause bounds the pauses between two looks at whether processes have ended.
const (
	minEndPause = 200 * time.Microsecond
	maxEndPause = 20 * time.Millisecond
)

// killAll ends the Sentry and all that belongs to it, frozen or not, and returns when it is gone.
//
// It does not use cgroup.kill: kernels since 6.14 that start a process in a cgroup where that was ever used, from another cgroup,
// kill the new process too.
func (s *Sandbox) killAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	for pause := minEndPause; ; pause = min(2*pause, maxEndPause) {
		pids, err := s.group.Processes()
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("kill: %w", err)
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
				return fmt.Errorf("kill: %w", err)
			}
		}
		if err := s.group.Release(); err != nil && !errors.Is(err, os.ErrClosed) {
			return fmt.Errorf("kill: %w", err)
		}
		if len(pids) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("kill: %d processes of gVisor did not end: %w", len(pids), ctx.Err())
		case <-time.After(pause):
		}
	}
}

// reset forgets a Sentry that has been killed: its connection, and what runsc wrote down about it.
func (s *Sandbox) reset() error {
	s.mu.Lock()
	c := s.control
	s.mu.Unlock()
	if c != nil {
		c.close()
	}
	s.abandon()
	if s.container == "" {
		return nil
	}
	root := s.driver.home.root
	entries, err := fs.ReadDir(root.FS(), stateName)
	if err != nil {
		return fmt.Errorf("forget gVisor's sandbox: %w", err)
	}
	var all []error
	for _, entry := range entries {
		if belongs(entry.Name(), s.container) {
			all = append(all, root.RemoveAll(path.Join(stateName, entry.Name())))
		}
	}
	return errors.Join(all...)
}

// belongs tells whether a file of runsc's is about a container: its name holds the container's, and no digit after it.
func belongs(file, container string) bool {
	_, rest, found := strings.Cut(file, container)
	return found && (rest == "" || rest[0] < '0' || rest[0] > '9')
}
