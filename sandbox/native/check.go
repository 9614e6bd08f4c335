package native

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"lambent/sandbox/cgroup"
	"lambent/sandbox/native/initproc"
)

// MaybeInit becomes the init or a starter of a sandbox when this process was started as one, and returns otherwise. Every
// program that opens a driver without the embedded init calls it before anything else.
func MaybeInit() {
	if status, known := initproc.Main(); known {
		os.Exit(status)
	}
}

// MissingError says what a host lacks to run sandboxes of this driver.
type MissingError struct {
	// Missing has one sentence for each thing, for the operator.
	Missing []string
}

// Error joins the sentences.
func (e *MissingError) Error() string {
	return "this host cannot run native sandboxes: " + strings.Join(e.Missing, "; ")
}

// Check returns what this process and host lack to run sandboxes, one sentence for each, and nothing when all is there.
func Check() []string {
	var missing []string
	if os.Geteuid() != 0 {
		missing = append(missing, "it needs to run as root")
	}
	if kernel := kernelVersion(); kernel != [2]int{} && slices.Compare(kernel[:], []int{5, 14}) < 0 {
		missing = append(missing, fmt.Sprintf("it needs Linux 5.14 or later, and this is %d.%d", kernel[0], kernel[1]))
	}
	if _, err := os.Stat("/proc/self/ns/user"); err != nil {
		missing = append(missing, "the kernel has no user namespaces (CONFIG_USER_NS)")
	}
	if text, err := os.ReadFile("/proc/sys/user/max_user_namespaces"); err == nil && strings.TrimSpace(string(text)) == "0" {
		missing = append(missing, "user namespaces are switched off: set sysctl user.max_user_namespaces to 10000 or more")
	}
	_, controllers, err := cgroup.Find()
	if err != nil {
		missing = append(missing, "the cgroups cannot be read: "+err.Error())
	}
	if len(controllers) > 0 {
		missing = append(missing, (&cgroup.MissingError{Controllers: controllers}).Error())
	}
	return missing
}

// kernelVersion returns the kernel's major and minor number, zeros when it cannot tell.
func kernelVersion() [2]int {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return [2]int{}
	}
	release := string(name.Release[:bytes.IndexByte(name.Release[:], 0)])
	return parseKernelVersion(release)
}

// parseKernelVersion reads "6.18.44-name".
func parseKernelVersion(release string) (version [2]int) {
	fields := strings.SplitN(release, ".", 3)
	if len(fields) < 2 {
		return version
	}
	for i := range version {
		digits := fields[i]
		if end := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
			digits = digits[:end]
		}
		n, err := strconv.Atoi(digits)
		if err != nil {
			return [2]int{}
		}
		version[i] = n
	}
	return version
}

// visibleProc are the entries of /proc, beside those of processes, that functions see. The rest is hidden, so that what a
// later kernel adds is hidden as well.
var visibleProc = []string{"cpuinfo", "filesystems", "loadavg", "meminfo", "mounts", "net", "self", "stat", "sys",
	"thread-self", "uptime", "version", "vmstat"}

// procMasks returns what the init does to the entries of the sandbox's /proc, as wire.Setup has it.
func procMasks(proc string) ([]string, error) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, fmt.Errorf("read /proc: %w", err)
	}
	masks := []string{"lock sys"}
	for _, entry := range entries {
		name := entry.Name()
		if strings.Trim(name, "0123456789") == "" || slices.Contains(visibleProc, name) || entry.Type()&os.ModeSymlink != 0 {
			continue
		}
		masks = append(masks, "hide "+name)
	}
	return masks, nil
}
