package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"lambent/sandbox/cgroup"
)

// withGroup makes a cgroup as the drivers do, does something with it and a child, and removes both.
func (d *doctor) withGroup(ctx context.Context, name string, do func(group *cgroup.Group, pid int) error) (err error) {
	state := filepath.Join(d.dir, "cgroup-"+name)
	if err := os.MkdirAll(state, 0o700); err != nil {
		return err
	}
	tree, err := cgroup.OpenTree(state, cgroup.Find, d.logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tree.Close(context.WithoutCancel(ctx))) }()
	group, err := tree.Make(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, group.Remove(context.WithoutCancel(ctx))) }()
	cmd := child(ctx, 0, nil, "wait")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, endChild(group, cmd, stdin)) }()
	if err := group.Enter(cmd.Process.Pid); err != nil {
		return fmt.Errorf("move a process in: %w", err)
	}
	return do(group, cmd.Process.Pid)
}

// waitForEnd ends when its standard input does.
func waitForEnd([]string) (string, error) {
	_, err := io.Copy(io.Discard, os.Stdin)
	return "", err
}

// endChild ends a child that may be frozen.
func endChild(group *cgroup.Group, cmd *exec.Cmd, stdin io.Closer) error {
	killErr := cmd.Process.Kill()
	thawErr := errors.Join(group.Release(), group.ThawForGood())
	closeErr := stdin.Close()
	var exit *exec.ExitError
	waitErr := cmd.Wait()
	if errors.As(waitErr, &exit) {
		waitErr = nil
	}
	return errors.Join(killErr, thawErr, closeErr, waitErr)
}

// cgroupVersion says in words which versions carry the controllers.
func cgroupVersion(h cgroup.Hierarchy) string {
	switch {
	case h.Limits:
		return "version 2"
	case h.V2 != "":
		return "version 1, with a unified tree for freezing"
	}
	return "version 1"
}

func probeCgroups(d *doctor, ctx context.Context) finding {
	hierarchy, lacking, err := cgroup.Find()
	switch {
	case err != nil:
		return missing("%v", err)
	case len(lacking) > 0:
		return missing("%s without %s", cgroupVersion(hierarchy), strings.Join(lacking, ", "))
	case !d.root:
		return missing("%s; making groups needs root or delegation", cgroupVersion(hierarchy)).with("run it as root to see")
	}
	err = d.withGroup(ctx, "limits", func(group *cgroup.Group, pid int) error {
		for _, limit := range []struct {
			name string
			set  func() error
		}{
			{"memory", func() error { return group.SetMemory(64 << 20) }},
			{"cpu", func() error { return group.SetVCPU(0.5) }},
			{"pids", func() error { return group.SetProcesses(16) }},
		} {
			if err := limit.set(); err != nil {
				return fmt.Errorf("limit %s: %w", limit.name, err)
			}
		}
		inside, err := group.Processes()
		if err == nil && (len(inside) != 1 || inside[0] != pid) {
			err = fmt.Errorf("process %d was moved in, and %v are there", pid, inside)
		}
		return err
	})
	return tried(err, cgroupVersion(hierarchy)+": a group was made, limited in memory, cpu and pids, entered and removed")
}

func probeIOLimits(d *doctor, ctx context.Context) finding {
	if !d.root {
		return missing("it needs root").with("run it as root to see")
	}
	hierarchy, _, err := cgroup.Find()
	if err != nil {
		return missing("%v", err)
	}
	disk, onDisk := cgroup.DiskOf(d.dir)
	if !onDisk {
		return weak("%s is on no disk of its own", d.dir).with("put the data directory on a local disk")
	}
	if _, v1 := hierarchy.V1["blkio"]; !v1 && !strings.Contains(readText(filepath.Join(hierarchy.V2, "cgroup.controllers"))+" ", "io ") {
		return weak("the kernel or the mounts have no controller for disks").with("enable CONFIG_BLK_CGROUP and CONFIG_BLK_DEV_THROTTLING: without them sandboxes share the disk without limit")
	}
	err = d.withGroup(ctx, "io", func(group *cgroup.Group, _ int) error {
		return group.SetIO(disk, cgroup.IOLimits{ReadBytes: 1 << 20, WriteBytes: 1 << 20, ReadOperations: 100, WriteOperations: 100})
	})
	if err == nil && !hierarchy.Limits {
		return weak("disk %s was limited; with version 1 writes through the page cache are not", disk).with("boot with cgroups v2: systemd.unified_cgroup_hierarchy=1")
	}
	return tried(err, "disk "+string(disk)+" was limited in bytes and operations")
}

func probeFreezer(d *doctor, ctx context.Context) finding {
	if !d.root {
		return missing("it needs root or delegation").with("run it as root to see")
	}
	var froze, thawed time.Duration
	err := d.withGroup(ctx, "freezer", func(group *cgroup.Group, _ int) error {
		began := time.Now()
		if err := group.Freeze(); err != nil {
			return fmt.Errorf("freeze: %w", err)
		}
		froze = time.Since(began)
		began = time.Now()
		err := group.Thaw()
		thawed = time.Since(began)
		return err
	})
	return tried(err, fmt.Sprintf("a process was frozen in %v and thawed in %v", froze.Round(time.Microsecond), thawed.Round(time.Microsecond)))
}
