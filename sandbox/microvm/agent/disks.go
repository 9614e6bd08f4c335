package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"lambent/sandbox"
	"lambent/sandbox/microvm/agent/wire"
)

// disks is the native driver, with mounts that come from disks.
type disks struct{ sandbox.Driver }

// Create implements sandbox.Driver.
func (d *disks) Create(ctx context.Context, id string, template sandbox.Template) (sandbox.Sandbox, error) {
	inner, err := d.Driver.Create(ctx, id, template)
	if err != nil {
		return nil, err
	}
	return &box{inner}, nil
}

type box struct{ sandbox.Sandbox }

// Specialise mounts the disks that the host filled.
func (b *box) Specialise(ctx context.Context, spec sandbox.Spec) error {
	spec.Mounts = slices.Clone(spec.Mounts)
	for i := range spec.Mounts {
		disk, file, err := wire.ParseCodeSource(spec.Mounts[i].Source)
		if err != nil {
			return err
		}
		target := filepath.Join("/run", disk)
		if err := mountFilled(disk, target, "erofs", unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID); err != nil {
			return err
		}
		spec.Mounts[i].Source = filepath.Join(target, file)
	}
	if spec.EphemeralMiB != wire.ReadyTmpMiB {
		// The native driver makes /tmp in its state directory, which the larger or smaller disk covers from now on.
		if err := mountFilled(wire.DiskTmp, "/state", "ext4", unix.MS_NODEV|unix.MS_NOSUID); err != nil {
			return err
		}
	}
	return b.Sandbox.Specialise(ctx, spec)
}

// mountFilled mounts a disk that had nothing when the guest first saw it. The kernel looks at its size again when the driver is
// bound to it anew.
func mountFilled(name, target, kind string, flags uintptr) error {
	device, err := diskNamed(name)
	if err != nil {
		return err
	}
	path, err := filepath.EvalSymlinks(filepath.Join("/sys/block", device, "device"))
	if err != nil {
		return fmt.Errorf("find disk %s: %w", name, err)
	}
	const driver = "/sys/bus/virtio/drivers/virtio_blk/"
	for _, action := range []string{"unbind", "bind"} {
		if err := os.WriteFile(driver+action, []byte(filepath.Base(path)), 0); err != nil {
			return fmt.Errorf("%s disk %s: %w", action, name, err)
		}
	}
	if device, err = diskNamed(name); err != nil {
		return err
	}
	err = (mount{"/dev/" + device, target, kind, flags, ""}).do()
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("disk %s holds no %s file system: %w", name, kind, err)
	}
	return err
}
