// Package nativetest looks at a host for what native sandboxes leave behind.
package nativetest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"lambent/sandbox/cgroup"
	"lambent/sandbox/sandboxtest"
)

// Leftovers lists the processes, cgroups, mounts and loop devices that exist because of a state directory.
func Leftovers(stateDir string) []string {
	var left []string
	filepath.WalkDir("/sys/fs/cgroup", func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.IsDir() || !strings.Contains(path, cgroup.Name(stateDir)) {
			return nil //nolint:nilerr // cgroups of others come and go during the walk
		}
		if filepath.Base(path) == cgroup.Name(stateDir) {
			left = append(left, sandboxtest.OwnMark+"cgroup "+path)
		} else {
			left = append(left, "cgroup "+path)
		}
		return nil
	})
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, stateDir) {
			left = append(left, "mount "+line)
		}
	}
	names, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, name := range names {
		if text, err := os.ReadFile(name); err == nil && strings.Contains(string(text), stateDir) {
			left = append(left, "loop device "+name)
		}
	}
	return append(left, inits(stateDir)...)
}

// inits lists the processes of sandboxes: those that have user IDs of a block which this process does not hold open.
func inits(stateDir string) []string {
	var left []string
	block, err := os.ReadFile(filepath.Join(stateDir, "block"))
	if err != nil {
		return nil
	}
	var first, ids uint32
	fmt.Sscan(string(block), &first, &ids)
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, path := range processes {
		var stat unix.Stat_t
		if unix.Stat(path, &stat) == nil && stat.Uid >= first && stat.Uid < first+ids && !ended(path) {
			left = append(left, "process "+path)
		}
	}
	return left
}

// ended tells whether a process is a zombie, which whoever inherited it has not reaped yet.
func ended(process string) bool {
	text, err := os.ReadFile(process + "/status")
	return err != nil || strings.Contains(string(text), "State:\tZ")
}
