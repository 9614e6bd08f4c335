package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// IOLimits bound what a group may do to one disk. Zero is no limit.
type IOLimits struct {
	ReadBytes, WriteBytes           int64 // per second
	ReadOperations, WriteOperations int64 // per second
}

// SetIO limits the function's operations on a disk. Where the kernel has no controller for it, it does nothing. With version 1
// writes that go through the page cache are written by the kernel later, for nobody in particular, and are not limited.
func (g *Group) SetIO(disk Disk, limits IOLimits) error {
	values := []struct {
		v1, v2 string
		value  int64
	}{
		{"read_bps", "rbps", limits.ReadBytes}, {"write_bps", "wbps", limits.WriteBytes},
		{"read_iops", "riops", limits.ReadOperations}, {"write_iops", "wiops", limits.WriteOperations},
	}
	if g.function.Limits {
		line := string(disk)
		for _, v := range values {
			if v.value > 0 {
				line += fmt.Sprintf(" %s=%d", v.v2, v.value)
			}
		}
		err := writeControl(filepath.Join(g.function.V2, "io.max"), line)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	dir, ok := g.function.V1[ioV1]
	if !ok {
		return nil
	}
	for _, v := range values {
		if v.value == 0 {
			continue
		}
		file := filepath.Join(dir, "blkio.throttle."+v.v1+"_device")
		err := writeControl(file, string(disk)+" "+strconv.FormatInt(v.value, 10))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Disk is a block device as the kernel's controllers name it: "MAJOR:MINOR".
type Disk string

// DiskOf returns the disk that a file or directory is on, and whether it is on one: network, memory and stacked file systems are not.
func DiskOf(path string) (Disk, bool) {
	var stat unix.Stat_t
	if unix.Stat(path, &stat) != nil || unix.Major(stat.Dev) == 0 {
		return "", false
	}
	return wholeDisk("/sys/dev/block", fmt.Sprintf("%d:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev)))
}

// wholeDisk returns the disk of a partition, or of a disk: limits are the disk's.
func wholeDisk(sys, device string) (Disk, bool) {
	place, err := filepath.EvalSymlinks(filepath.Join(sys, device))
	if err != nil {
		return "", false
	}
	if _, err := os.Stat(filepath.Join(place, "partition")); err != nil {
		return Disk(device), true
	}
	text, err := os.ReadFile(filepath.Join(filepath.Dir(place), "dev"))
	if err != nil {
		return "", false
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(string(text), "%d:%d", &major, &minor); err != nil {
		return "", false
	}
	return Disk(fmt.Sprintf("%d:%d", major, minor)), true
}
