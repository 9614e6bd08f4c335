package firecracker

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
)

// Jail says how the jailer shuts a Firecracker in.
type Jail struct {
	Jailer      string // its path
	Firecracker string // the path of what it runs
	ID          string // of the machine: letters, digits and hyphens, at most 64
	UID, GID    uint32
	ChrootBase  string // the directory of all jails
	NetNS       string // the path of a network namespace; may be empty
	// CgroupVersion is 1 or 2, and ParentCgroup the group, relative to the root of the hierarchies, that the machine's is made in.
	CgroupVersion int
	ParentCgroup  string
	// Cgroups are settings "FILE=VALUE".
	Cgroups []string
	// MaxFileBytes bounds the files that it writes; 0: nothing does.
	MaxFileBytes int64
	MaxFiles     int
}

// idPattern is what the jailer takes for an ID.
var idPattern = regexp.MustCompile(`^[a-zA-Z0-9-]{1,64}$`)

// Root is the directory that is Firecracker's root. Files for it are put there before it is started.
func (j Jail) Root() string {
	return filepath.Join(j.ChrootBase, filepath.Base(j.Firecracker), j.ID, "root")
}

// Socket is where Firecracker listens.
func (j Jail) Socket() string { return filepath.Join(j.Root(), "run", "firecracker.socket") }

// Args returns the arguments of the jailer, its name first.
func (j Jail) Args() ([]string, error) {
	switch {
	case !idPattern.MatchString(j.ID):
		return nil, fmt.Errorf("the jailer takes no ID like %q", j.ID)
	case j.UID == 0 || j.GID == 0:
		return nil, errors.New("a virtual machine's monitor is not run as root")
	case j.CgroupVersion != 1 && j.CgroupVersion != 2:
		return nil, fmt.Errorf("there are no cgroups of version %d", j.CgroupVersion)
	}
	args := []string{j.Jailer, "--id", j.ID, "--exec-file", j.Firecracker, "--uid", strconv.FormatUint(uint64(j.UID), 10),
		"--gid", strconv.FormatUint(uint64(j.GID), 10), "--chroot-base-dir", j.ChrootBase, "--cgroup-version", strconv.Itoa(j.CgroupVersion),
		"--new-pid-ns"}
	if j.ParentCgroup != "" {
		args = append(args, "--parent-cgroup", j.ParentCgroup)
	}
	for _, setting := range j.Cgroups {
		args = append(args, "--cgroup", setting)
	}
	if j.NetNS != "" {
		args = append(args, "--netns", j.NetNS)
	}
	if j.MaxFileBytes > 0 {
		args = append(args, "--resource-limit", "fsize="+strconv.FormatInt(j.MaxFileBytes, 10))
	}
	if j.MaxFiles > 0 {
		args = append(args, "--resource-limit", "no-file="+strconv.Itoa(j.MaxFiles))
	}
	return append(args, "--", "--api-sock", "/run/firecracker.socket"), nil
}
