package microvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"lambent/sandbox"
)

// Snapshot implements sandbox.Snapshotter.
func (d *Driver) Snapshot(ctx context.Context, box sandbox.Sandbox, dir string) error {
	s, ok := box.(*Sandbox)
	if !ok || s.driver != d {
		return errors.New("snapshot: the sandbox is another driver's")
	}
	return s.snapshot(ctx, dir)
}

// Restore implements sandbox.Snapshotter. The directory has to stay while the sandbox lives: it reads its code from there.
func (d *Driver) Restore(ctx context.Context, id, dir string) (sandbox.Sandbox, []sandbox.Process, error) {
	if err := d.prepare(ctx); err != nil {
		return nil, nil, fmt.Errorf("restore sandbox: %w", err)
	}
	description, err := readSaved(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("restore sandbox: %w", err)
	}
	if err := d.fits(description); err != nil {
		return nil, nil, fmt.Errorf("restore sandbox: %w", err)
	}
	s, err := d.admit(id, description.MemoryMiB)
	if err != nil {
		return nil, nil, fmt.Errorf("restore sandbox: %w", err)
	}
	defer d.creating.Done()
	s.processors = description.Processors
	if err := s.create(ctx, dir); err != nil {
		return nil, nil, fmt.Errorf("restore sandbox: %w", errors.Join(err, s.Destroy(context.WithoutCancel(ctx))))
	}
	started := s.started
	s.started = nil // the caller's
	return s, started, nil
}

// fits says whether what was saved can go on here.
func (d *Driver) fits(description saved) error {
	switch hasNetwork := d.options.Network != nil; {
	case description.Monitor != d.monitor:
		return fmt.Errorf("it was saved under %s, and this is %s", description.Monitor, d.monitor)
	case description.Network && !hasNetwork:
		return errors.New("it was saved with a network, and here is none")
	case hasNetwork && !description.Network:
		return errors.New("it was saved without a network, and here is one")
	}
	return nil
}

// snapshot saves the sandbox, which goes on afterwards as it was. The function's processes stand still in what is saved, so that none
// of them runs before a copy has its time, its random numbers and its address.
func (s *Sandbox) snapshot(ctx context.Context, dir string) (err error) {
	s.freezing.Lock()
	defer s.freezing.Unlock()
	frozen := s.paused
	if err := s.continueLocked(); err != nil { // the agent has to answer
		return fmt.Errorf("snapshot: %w", err)
	}
	err = s.ask(ctx, func(context.Context) error { return s.inner.Freeze() })
	if err == nil {
		err = s.saveMachine(ctx, dir)
	}
	err = errors.Join(err, s.ask(context.WithoutCancel(ctx), func(context.Context) error { return s.inner.Thaw() }))
	if frozen {
		err = errors.Join(err, s.machine.Pause(context.WithoutCancel(ctx)))
		s.paused = true
	}
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	return nil
}

// saveMachine saves the machine, which goes on afterwards.
func (s *Sandbox) saveMachine(ctx context.Context, dir string) error {
	if err := s.stream.Hold(ctx); err != nil {
		return err
	}
	if err := s.machine.Pause(ctx); err != nil {
		return errors.Join(err, s.stream.Resume())
	}
	err := s.save(ctx, dir)
	return errors.Join(err, s.machine.Resume(context.WithoutCancel(ctx)), s.stream.Resume())
}

// save writes the state of the paused machine and of its disks.
func (s *Sandbox) save(ctx context.Context, dir string) error {
	state, err := os.OpenFile(filepath.Join(dir, stateName), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(s.machine.Save(ctx, state), state.Close()); err != nil {
		return err
	}
	description := saved{MemoryMiB: s.memoryMiB, Processors: s.processors, Network: s.wiring != nil, Monitor: s.driver.monitor}
	for _, d := range s.disks {
		target := filepath.Join(dir, d.Name)
		// Images never change, so another name for the same is as good as a copy.
		if d.Writable || os.Link(d.Path, target) != nil {
			if err := copyFile(target, d.Path); err != nil {
				return err
			}
		}
		description.Disks = append(description.Disks, diskFile{d.Name, d.Name, d.Writable})
	}
	text, err := json.Marshal(description)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, savedName), text, 0o600)
}

// copyFile copies a disk's file.
func copyFile(target, source string) error {
	from, err := os.Open(source)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(target, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(copySparse(to, from), to.Close())
}
