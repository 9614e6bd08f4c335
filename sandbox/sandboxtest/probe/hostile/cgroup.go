package hostile

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func cgroupAttempts() []Attempt {
	return []Attempt{
		{Name: "mount-cgroup2", Tries: "mount the tree of cgroups and make groups in it", Layer: Syscalls, Proof: Namespace,
			try: mountsType("cgroup", "cgroup2", "")},
		{Name: "release-agent", Tries: "have the host start a program of the attacker when a cgroup of version 1 becomes empty",
			Layer: Syscalls, Proof: Guest, try: releaseAgent},
		{Name: "leave-cgroup", Tries: "move itself into another cgroup", Layer: NoSysfs, Proof: Guest, try: leaveCgroup},
		{Name: "raise-limits", Tries: "raise the limits of its own cgroup", Layer: NoSysfs, Proof: Guest, try: raiseLimits},
		{Name: "clone-into-cgroup", Tries: "start a process in another cgroup, by clone3", Layer: Syscalls, Proof: Guest, try: cloneIntoCgroup},
		{Name: "see-cgroups", Tries: "learn where in the host's tree of cgroups it is", Layer: CgroupNamespace, Proof: Guest, try: seeCgroups,
			outside: func(o *outside) { o.inCgroup = true }},
	}
}

func releaseAgent(t *Trial) {
	directory := t.directory("v1")
	for _, options := range []string{"none,name=" + mark, "rdma", "memory", "devices"} {
		err := unix.Mount("cgroup", directory, "cgroup", 0, options)
		if !t.got(err, "mounted cgroups of version 1 with %s", options) {
			continue
		}
		err = os.WriteFile(filepath.Join(directory, "release_agent"), []byte("/tmp/"+mark), 0)
		t.got(err, "set the release agent")
		unix.Unmount(directory, unix.MNT_DETACH)
	}
	walkCgroups(func(path string) {
		if filepath.Base(path) == "release_agent" || filepath.Base(path) == "notify_on_release" {
			t.got(unix.Access(path, unix.W_OK), "may write %s", path)
		}
	})
}

// walkCgroups calls f with each file of the cgroups that are visible.
func walkCgroups(f func(path string)) {
	filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			f(path)
		}
		return nil
	})
}

func leaveCgroup(t *Trial) {
	groups := 0
	walkCgroups(func(path string) {
		if name := filepath.Base(path); name == "cgroup.procs" || name == "tasks" {
			groups++
			t.got(os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())), 0), "moved itself to %s", filepath.Dir(path))
		}
	})
	if groups == 0 {
		t.held("no cgroup is visible")
	}
}

func raiseLimits(t *Trial) {
	limits := 0
	made := "/sys/fs/cgroup/" + mark
	t.got(os.Mkdir(made, 0o755), "made a cgroup")
	walkCgroups(func(path string) {
		switch filepath.Base(path) {
		case "memory.max", "pids.max", "cpu.max", "memory.limit_in_bytes", "cpu.cfs_quota_us", "devices.allow":
			limits++
			t.got(unix.Access(path, unix.W_OK), "may write %s", path)
		}
	})
	os.Remove(made)
	if limits == 0 {
		t.held("no limit is visible")
	}
}

func cloneIntoCgroup(t *Trial) {
	fd, err := unix.Open("/sys/fs/cgroup", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.held("open /sys/fs/cgroup: %v", err)
		fd = 3
	} else {
		defer unix.Close(fd)
	}
	const cloneIntoCgroup = 0x200000000
	err = clone3(t, cloneArguments{flags: cloneIntoCgroup, exitSignal: uint64(unix.SIGCHLD), cgroup: uint64(fd)})
	t.got(err, "started a process in /sys/fs/cgroup")
}

func seeCgroups(t *Trial) {
	for _, line := range ownCgroups() {
		path := line[strings.LastIndex(line, ":")+1:]
		if path != "/" && path != "" && !strings.Contains(line, "name=") {
			t.breach("saw %s", line)
		}
	}
	t.held("/proc/self/cgroup is %q", ownCgroups())
}
