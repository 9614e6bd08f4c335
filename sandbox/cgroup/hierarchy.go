package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Hierarchy says where the cgroups of a driver are: one directory per controller with v1, one in all with v2. Hosts in
// hybrid mode have both; then v1 limits and v2 freezes and kills, because v2 does that twenty times faster.
type Hierarchy struct {
	// V1 maps a controller to the driver's directory in its tree. Controllers that are mounted together share one.
	V1 map[string]string
	// V2 is the driver's directory in the unified tree, empty where none is mounted.
	V2 string
	// Limits is true when the unified tree carries the controllers, and V1 is empty.
	Limits bool
}

// The controllers that the driver needs. Each list is of alternatives for one purpose.
var (
	controllersV1 = []string{"memory", "cpu", "cpuacct", "pids", "devices"}
	controllersV2 = []string{"memory", "cpu", "pids"}
)

// The controllers of disk operations, which are used where they are.
const (
	ioV1 = "blkio"
	ioV2 = "io"
)

// cgroupMount is a mounted cgroup tree: what of it is visible, and where.
type cgroupMount struct {
	root, point string
	controllers []string // none: the unified tree
}

// parseCgroupMounts reads the cgroup mounts from the text of /proc/self/mountinfo.
func parseCgroupMounts(mountinfo string) []cgroupMount {
	var mounts []cgroupMount
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(strings.TrimSpace(line), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 6 || len(right) < 3 {
			continue
		}
		mount := cgroupMount{root: left[3], point: left[4]}
		switch right[0] {
		case "cgroup2":
		case "cgroup":
			mount.controllers = strings.Split(right[2], ",")
		default:
			continue
		}
		mounts = append(mounts, mount)
	}
	return mounts
}

// parseOwnCgroups reads /proc/self/cgroup: the path by controller, that of the unified tree under "".
func parseOwnCgroups(text string) map[string]string {
	paths := map[string]string{}
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimRight(line, "\n"), ":", 3)
		if len(fields) != 3 {
			continue
		}
		for controller := range strings.SplitSeq(fields[1], ",") {
			paths[controller] = fields[2]
		}
	}
	return paths
}

// directory returns where a path of the tree is visible: the mount itself when the path lies outside of what is mounted.
func (m cgroupMount) directory(path string) string {
	inside, ok := strings.CutPrefix(path, strings.TrimSuffix(m.root, "/"))
	if !ok || strings.HasPrefix(path, "/..") || inside != "" && !strings.HasPrefix(inside, "/") {
		return m.point
	}
	return filepath.Join(m.point, inside)
}

// chooseHierarchy decides from the mounts, the own paths and the controllers of the unified tree's directories which trees
// to use. v2Controllers reads a directory's list. missing names the controllers that no tree has.
func chooseHierarchy(mounts []cgroupMount, own map[string]string, v2Controllers func(dir string) []string) (h Hierarchy, missing []string) {
	h.V1 = map[string]string{}
	for _, mount := range mounts {
		if mount.controllers == nil {
			if h.V2 == "" {
				h.V2 = mount.directory(strings.TrimSuffix(own[""], "/"+hostLeaf))
			}
			continue
		}
		for _, controller := range mount.controllers {
			if _, seen := h.V1[controller]; !seen {
				h.V1[controller] = mount.directory(own[controller])
			}
		}
	}
	if h.V2 != "" {
		offered := v2Controllers(h.V2)
		h.Limits = !slices.ContainsFunc(controllersV2, func(c string) bool { return !slices.Contains(offered, c) })
	}
	if h.Limits {
		h.V1 = nil
		return h, nil
	}
	used := map[string]string{}
	for _, controller := range controllersV1 {
		if dir, ok := h.V1[controller]; ok {
			used[controller] = dir
		} else {
			missing = append(missing, controller)
		}
	}
	if dir, ok := h.V1[ioV1]; ok {
		used[ioV1] = dir
	}
	if dir, ok := h.V1["freezer"]; h.V2 == "" && ok {
		used["freezer"] = dir
	} else if h.V2 == "" {
		missing = append(missing, "freezer")
	}
	h.V1 = used
	return h, missing
}

// Find looks at this host. The directories of the result are the process's own cgroups. missing names the controllers that
// no tree has.
func Find() (h Hierarchy, missing []string, err error) {
	return find(func(cgroupMount) bool { return true })
}

// FindV1 is Find on a host that has no unified tree, or as if it had none.
func FindV1() (h Hierarchy, missing []string, err error) {
	return find(func(m cgroupMount) bool { return m.controllers != nil })
}

func find(wanted func(cgroupMount) bool) (Hierarchy, []string, error) {
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return Hierarchy{}, nil, err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return Hierarchy{}, nil, err
	}
	mounts := slices.DeleteFunc(parseCgroupMounts(string(mountinfo)), func(m cgroupMount) bool { return !wanted(m) })
	h, missing := chooseHierarchy(mounts, parseOwnCgroups(string(own)), func(dir string) []string {
		text, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
		if err != nil {
			return nil
		}
		return strings.Fields(string(text))
	})
	return h, missing, nil
}

// directories returns every directory of the hierarchy once, sorted.
func (h Hierarchy) directories() []string {
	var dirs []string
	for _, dir := range h.V1 {
		dirs = append(dirs, dir)
	}
	if h.V2 != "" {
		dirs = append(dirs, h.V2)
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// below returns the hierarchy one name further down.
func (h Hierarchy) below(name string) Hierarchy {
	down := Hierarchy{V1: map[string]string{}, Limits: h.Limits}
	for controller, dir := range h.V1 {
		down.V1[controller] = filepath.Join(dir, name)
	}
	if h.V2 != "" {
		down.V2 = filepath.Join(h.V2, name)
	}
	return down
}

// make creates the directories; those that exist are fine.
func (h Hierarchy) make() error {
	for _, dir := range h.directories() {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make cgroup: %w", err)
		}
	}
	return nil
}

// delegate lets the children of a v2 cgroup have controllers. A cgroup that has processes of its own cannot give any to its
// children, so this process moves to a leaf first, when it is alone there.
func (h Hierarchy) delegate(leaf string) error {
	if !h.Limits {
		return nil
	}
	enable := "+" + strings.Join(controllersV2, " +")
	if h.Offers(ioV2) {
		enable += " +" + ioV2
	}
	control := filepath.Join(h.V2, "cgroup.subtree_control")
	err := writeControl(control, enable)
	if err == nil || leaf == "" {
		return err
	}
	members, readErr := readNumbers(filepath.Join(h.V2, "cgroup.procs"))
	if readErr != nil {
		return readErr
	}
	if !slices.Equal(members, []int64{int64(os.Getpid())}) {
		return fmt.Errorf("cgroup %s has processes other than this one, so that it cannot give controllers to sandboxes: "+
			"start lambent as a service with Delegate=yes, or in a cgroup of its own: %w", h.V2, err)
	}
	home := filepath.Join(h.V2, leaf)
	if err := os.Mkdir(home, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make cgroup: %w", err)
	}
	if err := writeControl(filepath.Join(home, "cgroup.procs"), "0"); err != nil {
		return err
	}
	return writeControl(control, enable)
}

// Occupy has this process's cgroup of version 2 give controllers to those below it. The process moves to one below for that, where
// those that it starts will be too.
func (h Hierarchy) Occupy() error { return h.delegate(hostLeaf) }

// Offers tells whether a controller of version 2 is there for this process's cgroup.
func (h Hierarchy) Offers(controller string) bool {
	text, err := os.ReadFile(filepath.Join(h.V2, "cgroup.controllers"))
	return h.Limits && err == nil && slices.Contains(strings.Fields(string(text)), controller)
}

// writeControl writes a value to a control file in one write, as the kernel wants it. Package os would make more system calls of it,
// and a sandbox takes dozens of writes.
func writeControl(path, value string) error {
	fd, err := openControl(path, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := writeOpen(fd, value); err != nil {
		return fmt.Errorf("cgroup: write %q to %s: %w", value, path, err)
	}
	return nil
}

// writeOpen writes a value to an open control file, again if a signal interrupts that.
func writeOpen(fd int, value string) error {
	for {
		if _, err := unix.Pwrite(fd, []byte(value), 0); err != unix.EINTR {
			return err
		}
	}
}

// openControl opens a file or directory of a cgroup.
func openControl(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1, fmt.Errorf("cgroup: open %s: %w", path, err)
		}
		return fd, nil
	}
}

// openControlFile is openControl for a file that is kept.
func openControlFile(path string, flags int) (*os.File, error) {
	fd, err := openControl(path, flags)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// readNumbers reads a control file that is a list of numbers.
func readNumbers(path string) ([]int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	var numbers []int64
	for field := range strings.FieldsSeq(string(text)) {
		var n int64
		if _, err := fmt.Sscan(field, &n); err != nil {
			return nil, fmt.Errorf("cgroup: %s: unexpected %q", path, field)
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}

// readValues reads a control file of lines "name value".
func readValues(path string) (map[string]int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	return parseValues(string(text)), nil
}

// parseValues reads lines "name value" and leaves out what is not one.
func parseValues(text string) map[string]int64 {
	values := map[string]int64{}
	scanner := bufio.NewScanner(strings.NewReader(text))
	for scanner.Scan() {
		name, value, ok := strings.Cut(scanner.Text(), " ")
		if n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64); ok && err == nil {
			values[name] = n
		}
	}
	return values
}
