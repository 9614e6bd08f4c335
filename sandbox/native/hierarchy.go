package native

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// hierarchy says where the cgroups of a driver are: one directory per controller with v1, one in all with v2. Hosts in
// hybrid mode have both; then v1 limits and v2 freezes and kills, because v2 does that twenty times faster.
type hierarchy struct {
	// v1 maps a controller to the driver's directory in its tree. Controllers that are mounted together share one.
	v1 map[string]string
	// v2 is the driver's directory in the unified tree, empty where none is mounted.
	v2 string
	// limits is true when the unified tree carries the controllers, and v1 is empty.
	limits bool
}

// The controllers that the driver needs. Each list is of alternatives for one purpose.
var (
	controllersV1 = []string{"memory", "cpu", "cpuacct", "pids", "devices"}
	controllersV2 = []string{"memory", "cpu", "pids"}
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
func chooseHierarchy(mounts []cgroupMount, own map[string]string, v2Controllers func(dir string) []string) (h hierarchy, missing []string) {
	h.v1 = map[string]string{}
	for _, mount := range mounts {
		if mount.controllers == nil {
			if h.v2 == "" {
				h.v2 = mount.directory(strings.TrimSuffix(own[""], "/"+hostLeaf))
			}
			continue
		}
		for _, controller := range mount.controllers {
			if _, seen := h.v1[controller]; !seen {
				h.v1[controller] = mount.directory(own[controller])
			}
		}
	}
	if h.v2 != "" {
		offered := v2Controllers(h.v2)
		h.limits = !slices.ContainsFunc(controllersV2, func(c string) bool { return !slices.Contains(offered, c) })
	}
	if h.limits {
		h.v1 = nil
		return h, nil
	}
	used := map[string]string{}
	for _, controller := range controllersV1 {
		if dir, ok := h.v1[controller]; ok {
			used[controller] = dir
		} else {
			missing = append(missing, controller)
		}
	}
	if dir, ok := h.v1["freezer"]; h.v2 == "" && ok {
		used["freezer"] = dir
	} else if h.v2 == "" {
		missing = append(missing, "freezer")
	}
	h.v1 = used
	return h, missing
}

// findHierarchy looks at this host. The directories of the result are the process's own cgroups.
func findHierarchy() (hierarchy, []string, error) {
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return hierarchy{}, nil, err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return hierarchy{}, nil, err
	}
	h, missing := chooseHierarchy(parseCgroupMounts(string(mountinfo)), parseOwnCgroups(string(own)), func(dir string) []string {
		text, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
		if err != nil {
			return nil
		}
		return strings.Fields(string(text))
	})
	return h, missing, nil
}

// directories returns every directory of the hierarchy once, sorted.
func (h hierarchy) directories() []string {
	var dirs []string
	for _, dir := range h.v1 {
		dirs = append(dirs, dir)
	}
	if h.v2 != "" {
		dirs = append(dirs, h.v2)
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// below returns the hierarchy one name further down.
func (h hierarchy) below(name string) hierarchy {
	down := hierarchy{v1: map[string]string{}, limits: h.limits}
	for controller, dir := range h.v1 {
		down.v1[controller] = filepath.Join(dir, name)
	}
	if h.v2 != "" {
		down.v2 = filepath.Join(h.v2, name)
	}
	return down
}

// make creates the directories; those that exist are fine.
func (h hierarchy) make() error {
	for _, dir := range h.directories() {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make cgroup: %w", err)
		}
	}
	return nil
}

// delegate lets the children of a v2 cgroup have controllers. A cgroup that has processes of its own cannot give any to its
// children, so this process moves to a leaf first, when it is alone there.
func (h hierarchy) delegate(leaf string) error {
	if !h.limits {
		return nil
	}
	enable := "+" + strings.Join(controllersV2, " +")
	control := filepath.Join(h.v2, "cgroup.subtree_control")
	err := writeControl(control, enable)
	if err == nil || leaf == "" {
		return err
	}
	members, readErr := readNumbers(filepath.Join(h.v2, "cgroup.procs"))
	if readErr != nil {
		return readErr
	}
	if !slices.Equal(members, []int64{int64(os.Getpid())}) {
		return fmt.Errorf("cgroup %s has processes other than this one, so that it cannot give controllers to sandboxes: "+
			"start lambent as a service with Delegate=yes, or in a cgroup of its own: %w", h.v2, err)
	}
	home := filepath.Join(h.v2, leaf)
	if err := os.Mkdir(home, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make cgroup: %w", err)
	}
	if err := writeControl(filepath.Join(home, "cgroup.procs"), "0"); err != nil {
		return err
	}
	return writeControl(control, enable)
}

// writeControl writes a value to a control file in one write, as the kernel wants it.
func writeControl(path, value string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	_, err = file.WriteString(value)
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("cgroup: write %q: %w", value, err)
	}
	return nil
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
		var n int64
		if _, err := fmt.Sscan(value, &n); ok && err == nil {
			values[name] = n
		}
	}
	return values
}
