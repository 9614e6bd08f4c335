package cgroup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSetIO(t *testing.T) {
	limits := IOLimits{ReadBytes: 1000, WriteBytes: 2000, WriteOperations: 30}
	v2 := fakeTree(t, map[string]string{"io.max": ""})
	g := &Group{function: Hierarchy{V2: v2, Limits: true}}
	if err := g.SetIO("8:0", limits); err != nil {
		t.Fatal(err)
	}
	if got := content(t, v2)["io.max"]; got != "8:0 rbps=1000 wbps=2000 wiops=30" {
		t.Errorf("wrote %q", got)
	}
	v1 := fakeTree(t, map[string]string{"blkio.throttle.read_bps_device": "", "blkio.throttle.write_bps_device": "",
		"blkio.throttle.read_iops_device": "", "blkio.throttle.write_iops_device": ""})
	g = &Group{function: Hierarchy{V1: map[string]string{"blkio": v1}}}
	if err := g.SetIO("8:0", limits); err != nil {
		t.Fatal(err)
	}
	got := content(t, v1)
	if got["blkio.throttle.read_bps_device"] != "8:0 1000" || got["blkio.throttle.write_iops_device"] != "8:0 30" || got["blkio.throttle.read_iops_device"] != "" {
		t.Errorf("wrote %q", got)
	}
	for _, function := range []Hierarchy{{V2: t.TempDir(), Limits: true}, {V1: map[string]string{}}} {
		if err := (&Group{function: function}).SetIO("8:0", limits); err != nil {
			t.Errorf("without a controller: %v", err)
		}
	}
}

func TestWholeDisk(t *testing.T) {
	sys := t.TempDir()
	disk := filepath.Join(sys, "devices", "sda")
	for name, text := range map[string]string{"dev": "8:0\n", "sda1/dev": "8:1\n", "sda1/partition": "1\n"} {
		path := filepath.Join(disk, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"8:0": disk, "8:1": disk + "/sda1"} {
		if err := os.Symlink(target, filepath.Join(sys, name)); err != nil {
			t.Fatal(err)
		}
		if got, ok := wholeDisk(sys, name); !ok || got != "8:0" {
			t.Errorf("the disk of %s is %s, %v", name, got, ok)
		}
	}
	if _, ok := wholeDisk(sys, "9:9"); ok {
		t.Error("a device that is not there has a disk")
	}
	if _, ok := DiskOf("/proc"); ok {
		t.Error("/proc is on a disk")
	}
}

// TestDelegateIO checks that disks are delegated where the kernel has the controller, and only there.
func TestDelegateIO(t *testing.T) {
	dir := fakeTree(t, map[string]string{"cgroup.subtree_control": "", "cgroup.controllers": "cpuset cpu io memory pids\n"})
	if err := (Hierarchy{V2: dir, Limits: true}).delegate(""); err != nil {
		t.Fatal(err)
	}
	if got := content(t, dir)["cgroup.subtree_control"]; !strings.HasSuffix(got, " +io") {
		t.Errorf("wrote %q", got)
	}
}
