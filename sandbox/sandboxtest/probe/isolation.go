package main

import (
	"bufio"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func isolationAttempts() map[string]attempt {
	return map[string]attempt{
		"hostfiles": hostFiles,
		"proc":      procEntries,
		"identity":  identity,
		"inherited": inherited,
		"mounts":    mountTable,
		"writes":    writesOutside,
		"devices":   deviceNodes,
		"setuid":    setuidBinary,
		"connect":   connects,
		"kill":      killAll,
	}
}

// hostFiles opens files that the host has, and looks for one, by its name, in everything that it can see.
func hostFiles(paths []string) (breaches []string) {
	for _, path := range append(paths, "/etc/shadow", "/root/.ssh", "/root/.bashrc", "/proc/1/root", "/proc/1/cwd/etc",
		"/proc/self/root/root/.bashrc", "/../../root/.bashrc", "/boot", "/sys/kernel", "/run/lambent", "/var/lib/dpkg", "/var/log") {
		if file, err := os.Open(path); err == nil {
			file.Close()
			breaches = append(breaches, "opened "+path)
		}
	}
	wanted := map[string]bool{}
	for _, path := range paths {
		wanted[filepath.Base(path)] = true
	}
	filepath.WalkDir("/", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && wanted[entry.Name()] {
			breaches = append(breaches, "found "+path)
		}
		if path == "/proc" || path == "/usr" {
			return fs.SkipDir
		}
		return nil
	})
	return breaches
}

// procEntries looks for processes other than its own family, and for what the kernel tells to root.
func procEntries([]string) (breaches []string) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil // no /proc is safe
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err == nil && pid != os.Getpid() {
			breaches = append(breaches, fmt.Sprintf("saw process %d", pid))
		}
	}
	for _, name := range []string{"environ", "maps", "mem", "root", "exe", "fd", "cmdline", "stack", "ns/net", "ns/user"} {
		if _, err := os.ReadFile("/proc/1/" + name); err == nil {
			breaches = append(breaches, "read /proc/1/"+name)
		}
		if _, err := os.Readlink("/proc/1/" + name); err == nil {
			breaches = append(breaches, "followed /proc/1/"+name)
		}
	}
	for _, name := range []string{"kcore", "kallsyms", "kmsg", "keys", "key-users", "cmdline", "config.gz", "iomem", "ioports",
		"modules", "mounts/../kcore", "timer_list", "slabinfo", "vmallocinfo", "partitions", "diskstats", "interrupts", "swaps",
		"sched_debug", "pagetypeinfo", "kpagecount", "cgroups", "locks"} {
		if text, err := os.ReadFile("/proc/" + name); err == nil && len(text) > 0 {
			breaches = append(breaches, "read /proc/"+name)
		}
	}
	filepath.WalkDir("/proc/sys", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			if file, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil {
				file.Close()
				breaches = append(breaches, "may write "+path)
			}
		}
		return nil
	})
	for _, name := range []string{"sysrq-trigger", "self/uid_map", "self/setgroups"} {
		if info, err := os.Stat("/proc/" + name); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			continue // it is hidden behind /dev/null
		}
		if err := os.WriteFile("/proc/"+name, []byte("0"), 0); err == nil {
			breaches = append(breaches, "wrote /proc/"+name)
		}
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1"), 0); err == nil {
		breaches = append(breaches, "made itself dearer to the host than others")
	}
	return breaches
}

// identity checks who it is and what it may. "unfiltered" says that the kernel which it sees has no filter of system calls.
func identity(args []string) (breaches []string) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		fail(err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		fields[name] = strings.Join(strings.Fields(value), " ")
	}
	filter := "2"
	if slices.Contains(args, "unfiltered") {
		filter = "0"
	}
	for name, want := range map[string]string{
		"CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000",
		"CapBnd": "0000000000000000", "CapAmb": "0000000000000000",
		"NoNewPrivs": "1", "Seccomp": filter, "Groups": "",
		"Uid": "993 993 993 993", "Gid": "990 990 990 990",
	} {
		if got := fields[name]; got != want {
			breaches = append(breaches, fmt.Sprintf("%s is %q instead of %q", name, got, want))
		}
	}
	if own, err := os.ReadFile("/proc/self/cgroup"); err == nil {
		for line := range strings.Lines(string(own)) {
			path := strings.TrimSpace(line[strings.LastIndex(line, ":")+1:])
			if path != "/" && !strings.HasPrefix(line, "1:name") && !strings.Contains(line, "name=") {
				breaches = append(breaches, "saw cgroup "+strings.TrimSpace(line))
			}
		}
	}
	var core, files unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_CORE, &core)
	unix.Getrlimit(unix.RLIMIT_NOFILE, &files)
	if core.Max != 0 {
		breaches = append(breaches, "may dump core")
	}
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files.Max + 1, Max: files.Max + 1}) == nil {
		breaches = append(breaches, "raised its limit of open files")
	}
	return breaches
}

// inherited checks that nothing but the given environment, the three standard descriptors and the arguments came along.
func inherited(want []string) (breaches []string) {
	if got := os.Environ(); !slices.Equal(got, want) {
		breaches = append(breaches, fmt.Sprintf("the environment is %q instead of %q", got, want))
	}
	for fd := range 4096 {
		path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
		switch {
		case err != nil, strings.HasPrefix(path, "anon_inode:["):
		case fd == 0 && path == "/dev/null", (fd == 1 || fd == 2) && strings.HasPrefix(path, "pipe:"):
		case strings.HasPrefix(path, "/proc/"), strings.HasPrefix(path, "/sys/fs/cgroup/"): // the Go runtime's own
		default:
			breaches = append(breaches, fmt.Sprintf("descriptor %d is %s", fd, path))
		}
	}
	return breaches
}

// mountTable checks the options of every mount, and that none of the host's is there.
func mountTable([]string) (breaches []string) {
	file, err := os.Open("/proc/self/mounts")
	if err != nil {
		return nil
	}
	defer file.Close()
	writable := []string{"/tmp", "/dev/shm", "/proc"}
	scanner := bufio.NewScanner(file)
	for scanner.Scan() {
		fields := strings.Fields(scanner.Text())
		point, options := fields[1], strings.Split(fields[3], ",")
		if !slices.Contains(writable, point) && !strings.HasPrefix(point, "/proc/") && !slices.Contains(options, "ro") {
			breaches = append(breaches, point+" is mounted writable")
		}
		if !slices.Contains(options, "nosuid") {
			breaches = append(breaches, point+" allows set-user-ID programs")
		}
		device := point == "/dev" || filepath.Dir(point) == "/dev" && slices.Contains(harmlessDevices(), filepath.Base(point))
		if !device && !strings.HasPrefix(point, "/proc/") && !slices.Contains(options, "nodev") {
			breaches = append(breaches, point+" allows devices")
		}
		if fields[2] == "sysfs" || fields[2] == "cgroup" || fields[2] == "cgroup2" || fields[2] == "debugfs" {
			breaches = append(breaches, point+" is a "+fields[2])
		}
	}
	return breaches
}

// writesOutside tries to change every directory but /tmp.
func writesOutside([]string) (breaches []string) {
	filepath.WalkDir("/", func(path string, entry fs.DirEntry, err error) error {
		if path == "/tmp" || path == "/dev/shm" || path == "/usr" && err != nil {
			return fs.SkipDir
		}
		if err != nil || !entry.IsDir() {
			return nil //nolint:nilerr // what cannot be read is not reached
		}
		if strings.HasPrefix(path, "/proc/") && strings.Count(path, "/") > 3 {
			return fs.SkipDir
		}
		name := filepath.Join(path, "written-by-probe")
		if file, err := os.Create(name); err == nil {
			file.Close()
			os.Remove(name)
			breaches = append(breaches, "wrote in "+path)
		}
		if unix.Access(path, unix.W_OK) == nil && !strings.HasPrefix(path, "/proc") {
			breaches = append(breaches, "may write in "+path)
		}
		if strings.HasPrefix(path, "/usr/") && strings.Count(path, "/") > 3 {
			return fs.SkipDir
		}
		return nil
	})
	executable, err := os.Executable()
	if err != nil {
		fail(err)
	}
	if file, err := os.OpenFile(executable, os.O_WRONLY, 0); err == nil {
		file.Close()
		breaches = append(breaches, "opened its code for writing")
	}
	if err := os.Chmod(executable, 0o777); err == nil {
		breaches = append(breaches, "changed its code's mode")
	}
	return breaches
}

// deviceNodes opens what it finds in /dev, and makes nodes of its own.
func deviceNodes([]string) (breaches []string) {
	harmless := append(harmlessDevices(), "tty", "fd", "stdin", "stdout", "stderr", "shm")
	entries, _ := os.ReadDir("/dev")
	for _, entry := range entries {
		if !slices.Contains(harmless, entry.Name()) {
			breaches = append(breaches, "found /dev/"+entry.Name())
		}
	}
	for name, device := range map[string][3]uint32{"mem": {unix.S_IFCHR, 1, 1}, "kmsg": {unix.S_IFCHR, 1, 11},
		"loop0": {unix.S_IFBLK, 7, 0}, "vda": {unix.S_IFBLK, 254, 0}, "tty": {unix.S_IFCHR, 5, 0}, "null": {unix.S_IFCHR, 1, 3}} {
		for _, directory := range []string{"/tmp", "/dev/shm"} {
			path := filepath.Join(directory, name)
			err := unix.Mknod(path, device[0]|0o666, int(unix.Mkdev(device[1], device[2])))
			if err == nil {
				breaches = append(breaches, "made device "+path)
			}
		}
	}
	for _, name := range harmlessDevices() {
		file, err := os.OpenFile("/dev/"+name, os.O_RDWR, 0)
		if err != nil {
			breaches = append(breaches, "lacks /dev/"+name+": "+err.Error())
			continue
		}
		file.Close()
	}
	return breaches
}

// harmlessDevices may be opened.
func harmlessDevices() []string { return []string{"null", "zero", "full", "random", "urandom"} }

// setuidBinary runs set-user-ID and set-group-ID copies of this program, which exit with 7 when they have become another.
func setuidBinary(paths []string) (breaches []string) {
	for _, path := range paths {
		cmd := exec.Command(path, "whoami")
		cmd.Env = os.Environ()
		out, err := cmd.CombinedOutput()
		if err != nil || string(out) != "993 993 990 990\nheld\n" {
			breaches = append(breaches, fmt.Sprintf("%s became %q (%v)", path, out, err))
		}
	}
	return breaches
}

// connects tries to reach every given address ("network address"), which listen outside of the sandbox.
func connects(addresses []string) (breaches []string) {
	for i := 0; i+1 < len(addresses); i += 2 {
		conn, err := net.DialTimeout(addresses[i], addresses[i+1], 300*time.Millisecond)
		if err != nil {
			continue
		}
		if addresses[i] == "udp" { // connecting UDP sends nothing: an answer is the breach
			conn.SetDeadline(time.Now().Add(300 * time.Millisecond))
			conn.Write([]byte("probe"))
			if _, err := conn.Read(make([]byte, 1)); err != nil {
				conn.Close()
				continue
			}
		}
		conn.Close()
		breaches = append(breaches, "reached "+addresses[i]+" "+addresses[i+1])
	}
	interfaces, _ := net.Interfaces()
	for _, i := range interfaces {
		if i.Name != "lo" {
			breaches = append(breaches, "saw interface "+i.Name)
		}
	}
	return breaches
}

// killAll signals everything that it can, the init first.
func killAll([]string) (breaches []string) {
	for _, signal := range []syscall.Signal{0, syscall.SIGTERM, syscall.SIGSTOP, syscall.SIGKILL} {
		if err := syscall.Kill(1, signal); err == nil {
			breaches = append(breaches, fmt.Sprintf("sent signal %d to the init", signal))
		}
	}
	syscall.Kill(-1, syscall.SIGKILL) // spares the caller
	return breaches
}
