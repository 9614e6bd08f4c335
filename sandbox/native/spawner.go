package native

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"lambent/sandbox/identity"
	"lambent/sandbox/native/wire"
)

// spawner starts inits. It is a small process of its own: to start a process in a user namespace Go forks, and a fork of
// this process would copy the tables of all its memory, and make the next write to each page of it slow.
type spawner struct {
	process *os.Process
	control *control
}

// initHandle is a started init.
type initHandle struct {
	pid  int
	file *os.File // a pidfd
}

// startSpawner starts the executable as a spawner.
func startSpawner(executable *os.File) (*spawner, error) {
	// The ends of inits are seen by their pidfds, so that there are no events but the spawner's own end.
	control, asked, events, err := newControl("spawner", func(exit) {})
	if err != nil {
		return nil, err
	}
	defer closeFiles([]*os.File{asked, events})
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		control.close()
		return nil, err
	}
	defer null.Close()
	path := "/proc/self/fd/" + strconv.Itoa(int(executable.Fd()))
	process, err := os.StartProcess(path, []string{wire.SpawnerName}, &os.ProcAttr{
		Dir:   "/",
		Env:   []string{"GOMAXPROCS=1"},
		Files: []*os.File{null, null, null, asked, events},
	})
	if err != nil {
		control.close()
		return nil, fmt.Errorf("start the spawner: %w", err)
	}
	return &spawner{process: process, control: control}, nil
}

// spawn starts an init with its IDs and its ends of the sockets, in a cgroup of the unified tree if there is one.
func (s *spawner) spawn(users, groups []identity.Mapping, asked, events, cgroup *os.File) (*initHandle, error) {
	answer, err := s.control.ask(descriptors([]*os.File{asked, events, cgroup}), wire.Spawn, mappingText(users), mappingText(groups))
	if err != nil {
		return nil, fmt.Errorf("start the init: %w", err)
	}
	if len(answer.files) != 1 || len(answer.parts) != 2 {
		wire.CloseAll(answer.files)
		return nil, fmt.Errorf("start the init: %w", wire.ErrMalformed)
	}
	pid, err := strconv.Atoi(answer.parts[1])
	if err != nil {
		wire.CloseAll(answer.files)
		return nil, fmt.Errorf("start the init: %w", wire.ErrMalformed)
	}
	if err := unix.SetNonblock(answer.files[0], true); err != nil { // so that waiting takes no thread
		wire.CloseAll(answer.files)
		return nil, fmt.Errorf("start the init: %w", err)
	}
	return &initHandle{pid: pid, file: os.NewFile(uintptr(answer.files[0]), "pidfd")}, nil
}

// mappingText writes a map as wire.Spawn has it.
func mappingText(all []identity.Mapping) string {
	var text strings.Builder
	for _, m := range all {
		fmt.Fprintf(&text, "%d %d %d\n", m.Inside, m.Outside, m.Count)
	}
	return text.String()
}

// close ends the spawner.
func (s *spawner) close() error {
	s.control.close()
	if _, err := s.process.Wait(); err != nil {
		return fmt.Errorf("end the spawner: %w", err)
	}
	return nil
}

// kill ends the init. It is no error when that has ended already.
func (h *initHandle) kill() error {
	raw, err := h.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("kill the init: %w", err)
	}
	var signal error
	err = errors.Join(raw.Control(func(fd uintptr) { signal = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) }), signal)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill the init: %w", err)
	}
	return nil
}

// lives reports whether the init has not ended yet.
func (h *initHandle) lives() bool {
	raw, err := h.file.SyscallConn()
	if err != nil {
		return false
	}
	ended := true
	err = raw.Control(func(fd uintptr) {
		ended = unix.PidfdSendSignal(int(fd), 0, nil, 0) != nil
	})
	return err == nil && !ended
}

// wait returns when the init has ended, and with it every process of its namespace.
func (h *initHandle) wait() error {
	raw, err := h.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("wait for the init: %w", err)
	}
	var failure error
	err = raw.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if err != nil && err != unix.EINTR {
			failure = err
		}
		return n > 0 || failure != nil
	})
	if err = errors.Join(err, failure); err != nil {
		return fmt.Errorf("wait for the init: %w", err)
	}
	return nil
}

// spawnInit starts an init, and a new spawner first when there is none or it has ended.
func (d *Driver) spawnInit(firstID uint32, asked, events, cgroup *os.File) (*initHandle, error) {
	s, err := d.livingSpawner()
	if err != nil {
		return nil, err
	}
	users, groups := d.ids.Mappings(firstID)
	return s.spawn(users, groups, asked, events, cgroup)
}

// livingSpawner returns the spawner.
func (d *Driver) livingSpawner() (*spawner, error) {
	d.spawnMu.Lock()
	defer d.spawnMu.Unlock()
	if d.spawner != nil {
		select {
		case <-d.spawner.control.gone:
			d.logger.Error("the spawner of sandboxes has ended; starting another")
			if err := d.spawner.close(); err != nil {
				return nil, err
			}
		default:
			return d.spawner, nil
		}
	}
	var err error
	d.spawner, err = startSpawner(d.executable)
	return d.spawner, err
}
