package gvisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"lambent/sandbox"
	"lambent/sandbox/gvisor/initproc"
)

// What is in the directory of a snapshot: gVisor's image, the content of /tmp, and what the driver knows.
const (
	imageName = "image"
	tmpName   = "tmp.tar"
	savedName = "sandbox.json"
)

// saved is what a snapshot's directory says of its sandbox.
type saved struct {
	Spec        sandbox.Spec
	TmpName     string // in the exchange
	Overhead    int64
	Last        int   // the last process number
	Processes   []int // numbers of those that live, in the order in which they were started
	Descriptors int
	Limit       int
}

// Snapshot implements sandbox.Snapshotter. Connections to the Runtime API are closed by it. The sandbox stands still while gVisor
// writes its memory down and /tmp is copied.
func (d *Driver) Snapshot(ctx context.Context, box sandbox.Sandbox, dir string) error {
	s, ok := box.(*Sandbox)
	if !ok || s.driver != d {
		return errors.New("snapshot: the sandbox is another driver's")
	}
	if err := s.snapshot(ctx, dir); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	return nil
}

func (s *Sandbox) snapshot(ctx context.Context, dir string) error {
	if s.spec.MemoryMiB == 0 {
		return errors.New("the sandbox is not specialised")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	image := filepath.Join(dir, imageName)
	if err := os.Mkdir(image, 0o700); err != nil {
		return err
	}
	listener, err := s.files.listen(initproc.Control, int(s.firstID))
	if err != nil {
		return err
	}
	defer listener.Close()
	numbers, err := s.quiesce()
	if err != nil {
		return err
	}
	failure := s.writeSnapshot(ctx, dir, image, numbers)
	ended := make(chan error, 1)
	ended <- nil // nothing of runsc's is to be waited for
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTimeout)
	defer cancel()
	conn, err := s.awaitInit(ctx, listener, ended)
	if err == nil {
		_, err = s.adopt(conn)
	}
	if err != nil { // then the Sentry has been killed
		s.abandon()
	}
	return errors.Join(failure, err)
}

// quiesce has the init close what leads outside, and returns the numbers of the processes that live.
func (s *Sandbox) quiesce() ([]int, error) {
	s.mu.Lock()
	c := s.control
	s.mu.Unlock()
	if c == nil {
		return nil, errors.New("the sandbox has no process")
	}
	c.leave.Store(true) // its end is no end of processes
	if _, err := c.ask(initproc.Save); err != nil {
		c.leave.Store(false)
		return nil, err
	}
	c.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.processes)), nil
}

// writeSnapshot fills the directory while the sandbox stands still.
func (s *Sandbox) writeSnapshot(ctx context.Context, dir, image string, numbers []int) error {
	if err := s.runsc(ctx, "pause", s.container); err != nil {
		return err
	}
	err := s.runsc(ctx, "checkpoint", "--image-path="+image, "--leave-running", s.container)
	if err == nil {
		err = s.saveTmp(filepath.Join(dir, tmpName))
	}
	if err = errors.Join(err, s.runsc(context.WithoutCancel(ctx), "resume", s.container)); err != nil {
		return err
	}
	text, err := json.Marshal(saved{Spec: s.spec, TmpName: s.tmpName(), Overhead: s.overhead, Last: s.last, Processes: numbers,
		Descriptors: s.setting.descriptors, Limit: s.setting.processes})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, savedName), text, 0o600)
}

// runsc runs a command of runsc that does not stay.
func (s *Sandbox) runsc(ctx context.Context, command ...string) error {
	arguments := append([]string{initproc.LauncherName, s.driver.options.Runsc}, s.driver.flags(s.files.path(logName), s.netns != nil)...)
	process, err := s.driver.run(append(arguments, command...), func(int) error { return nil })
	if err != nil {
		return fmt.Errorf("runsc %s: %w", command[0], err)
	}
	stop := context.AfterFunc(ctx, func() { _ = process.Kill() }) // it may have ended
	defer stop()
	state, err := process.Wait()
	if err == nil && !state.Success() {
		err = fmt.Errorf("%s: %s", state, s.complaint())
	}
	if err != nil {
		return fmt.Errorf("runsc %s: %w", command[0], err)
	}
	return nil
}

// tmpName is the name of /tmp in the exchange.
func (s *Sandbox) tmpName() string {
	for triples := s.setting.mounts; len(triples) >= 3; triples = triples[3:] {
		if triples[1] == "/tmp" {
			return triples[0]
		}
	}
	return ""
}

// saveTmp writes the content of /tmp to a new file.
func (s *Sandbox) saveTmp(path string) (err error) {
	root, err := os.OpenRoot(s.files.address(s.tmpName()))
	if err != nil {
		return fmt.Errorf("save /tmp: %w", err)
	}
	defer root.Close()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("save /tmp: %w", err)
	}
	if err := errors.Join(pack(file, root, s.firstID), file.Close()); err != nil {
		return fmt.Errorf("save /tmp: %w", err)
	}
	return nil
}

// Restore implements sandbox.Snapshotter.
func (d *Driver) Restore(ctx context.Context, id, dir string) (sandbox.Sandbox, []sandbox.Process, error) {
	var processes []sandbox.Process
	s, err := d.begin(ctx, id, func(s *Sandbox) (err error) {
		processes, err = s.restore(ctx, dir)
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("restore sandbox: %w", err)
	}
	return s, processes, nil
}

func (s *Sandbox) restore(ctx context.Context, dir string) ([]sandbox.Process, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(dir, savedName))
	if err != nil {
		return nil, err
	}
	var was saved
	if err := json.Unmarshal(text, &was); err != nil {
		return nil, fmt.Errorf("read %s: %w", savedName, err)
	}
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	if err := s.rebuild(was, filepath.Join(dir, tmpName)); err != nil {
		return nil, err
	}
	if err := s.limits((startMemoryMiB+int64(was.Spec.MemoryMiB))<<20, was.Spec.Processes, max(readyVCPU, was.Spec.VCPU)); err != nil {
		return nil, err
	}
	processes, err := s.expect(was)
	if err != nil {
		return nil, err
	}
	if _, err := s.boot(ctx, "restore", "--image-path="+filepath.Join(dir, imageName)); err != nil {
		return nil, err
	}
	s.closeStale()
	return processes, s.meter(was.Spec, was.Overhead)
}

// rebuild shows the code and /tmp where the saved sandbox had them.
func (s *Sandbox) rebuild(was saved, tmp string) error {
	fresh, err := s.showCode(was.Spec)
	if err != nil {
		return err
	}
	mounted, err := s.giveTmp(was.TmpName, was.Spec.EphemeralMiB)
	if err != nil {
		return err
	}
	s.setting = setting{mounts: append(fresh, mounted...), hostname: was.Spec.Hostname, descriptors: was.Descriptors, processes: was.Limit}
	s.spec, s.sentry = was.Spec, was.Overhead
	file, err := os.Open(tmp)
	if err != nil {
		return fmt.Errorf("restore /tmp: %w", err)
	}
	defer file.Close()
	root, err := os.OpenRoot(s.files.address(was.TmpName))
	if err != nil {
		return fmt.Errorf("restore /tmp: %w", err)
	}
	defer root.Close()
	if err := unpack(root, file, s.firstID); err != nil {
		return fmt.Errorf("restore /tmp: %w", err)
	}
	return nil
}

// expect makes the outputs of the processes that are about to be there, and returns the processes. The pipes of those that have ended
// may be held by their children: they are there too, and nobody reads them.
func (s *Sandbox) expect(was saved) ([]sandbox.Process, error) {
	kills, err := s.group.OOMKills()
	if err != nil {
		return nil, err
	}
	living := map[int]bool{}
	for _, number := range was.Processes {
		living[number] = true
	}
	var processes []sandbox.Process
	for s.last < was.Last {
		s.last++
		p, err := s.newProcess(s.last, kills)
		if err != nil {
			return nil, err
		}
		if !living[s.last] {
			s.stale = append(s.stale, p.output)
			continue
		}
		s.mu.Lock()
		s.processes[s.last] = p
		s.mu.Unlock()
		processes = append(processes, p)
	}
	return processes, nil
}
