// Package rootless lets a user without rights run sandboxes of the native driver: it starts the program anew as root of a user
// namespace and a mount namespace of its own.
//
// Inside, the user is 0, and the first of the user's subordinate IDs is identity.ServiceID, the next identity.First and so on: the
// drivers find their IDs where they always are, only fewer of them. Outside, no process has any right that the user has not been
// given by /etc/subuid, /etc/subgid and the delegation of a cgroup.
//
//	lambent up                the user's process: looks at what there is (Check), moves into a leaf of its cgroup,
//	 |                        starts the next in new namespaces, and stays to pass on signals and the exit status (Run)
//	 |-- newuidmap, newgidmap give that its IDs: programs of the distribution with the right to
//	 `-- lambent up           waits for its IDs, and executes itself to become root by them (Continue)
package rootless

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"lambent/sandbox/cgroup"
	"lambent/sandbox/identity"
)

// MissingError says what a user lacks.
type MissingError struct {
	// Missing has one sentence for each thing, with what to do about it.
	Missing []string
}

// Error joins the sentences, a line each.
func (e *MissingError) Error() string {
	return "without root, sandboxes need what this user has not been given:\n  - " + strings.Join(e.Missing, "\n  - ")
}

// Check returns what the calling user lacks, and nothing when all is there.
func Check() []string {
	return slices.Concat(CheckIDs(), CheckNamespaces(), CheckCgroup())
}

// CheckIDs returns what is missing of the user's subordinate IDs and of the programs that hand them out.
func CheckIDs() []string {
	user, err := currentUser()
	if err != nil {
		return []string{err.Error()}
	}
	var missing []string
	for _, file := range []struct{ path, flag string }{{"/etc/subuid", "--add-subuids"}, {"/etc/subgid", "--add-subgids"}} {
		ranges, err := readRanges(file.path, user)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			missing = append(missing, err.Error())
			continue
		}
		if n := total(ranges); n < identity.LeastIDs {
			missing = append(missing, fmt.Sprintf("%s gives %s %d IDs, and %d or more are needed; as root: usermod %s 100000-165535 %s (a range that "+
				"nobody else has)", file.path, user.name, n, identity.LeastIDs, file.flag, user.name))
		}
	}
	for _, program := range []string{"newuidmap", "newgidmap"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, program+" is not installed (Debian: apt-get install uidmap)")
		}
	}
	return missing
}

// CheckNamespaces returns which of the kernel's settings keep users from making user namespaces.
func CheckNamespaces() []string {
	var missing []string
	for _, setting := range []struct{ name, off, do string }{
		{"user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=10000"},
		{"kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"},
		{"kernel/apparmor_restrict_unprivileged_userns", "1", "give the program an AppArmor profile with \"userns,\", or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"},
	} {
		text, err := os.ReadFile("/proc/sys/" + setting.name)
		if err == nil && strings.TrimSpace(string(text)) == setting.off {
			missing = append(missing, fmt.Sprintf("users may not make user namespaces (/proc/sys/%s is %s); as root: %s", setting.name, setting.off, setting.do))
		}
	}
	return missing
}

// delegate is how to get a cgroup.
const delegate = "start it with: systemd-run --user --scope -p Delegate=yes -- lambent up (or as a service with User= and Delegate=yes)"

// CheckCgroup returns why the process cannot make cgroups below its own.
func CheckCgroup() []string {
	hierarchy, lacking, err := cgroup.Find()
	switch {
	case err != nil:
		return []string{"the cgroups cannot be read: " + err.Error()}
	case !hierarchy.Limits && len(lacking) == 0, hierarchy.V2 == "":
		return []string{"the controllers are those of cgroups version 1, which cannot be given to users; boot with systemd.unified_cgroup_hierarchy=1"}
	}
	for _, name := range []string{".", "cgroup.procs", "cgroup.subtree_control"} {
		if err := unix.Access(filepath.Join(hierarchy.V2, name), unix.W_OK); err != nil {
			return []string{fmt.Sprintf("the cgroup %s has not been delegated to this user (%v); %s", hierarchy.V2, err, delegate)}
		}
	}
	if !hierarchy.Limits {
		return []string{fmt.Sprintf("the cgroup %s lacks one of the controllers memory, cpu and pids; as root: systemctl edit user@.service, with [Service] "+
			"Delegate=memory cpu pids io, then log in anew", hierarchy.V2)}
	}
	return nil
}

// Weaker says in one sentence each what is weaker than under root, or not there. It is for a process that Continue has returned
// Inside for. See docs/isolation.md#rootless.
func Weaker() []string {
	weaker := []string{
		"functions reach no network",
		"/tmp is memory: a function may use the sum of both sizes as either",
		"no gvisor and no microvm",
		"the user's other programs can reach into sandboxes and data, and its containers may share their IDs",
		"the user's limits of processes and the like are for all sandboxes together",
		"functions decide themselves whether they are the first to be ended when the host is out of memory",
	}
	if hierarchy, _, err := cgroup.Find(); err == nil && !hierarchy.Offers("io") {
		weaker = append(weaker, "disks are not limited, for the controller io is not delegated")
	}
	return weaker
}

// LockDirectory is where the drivers of one user agree on IDs: in the user's runtime directory, else in its state directory.
func LockDirectory(getenv func(string) string) (string, error) {
	if runtime := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(runtime) {
		return filepath.Join(runtime, "lambent", "ids"), nil
	}
	if home := getenv("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "state", "lambent", "ids"), nil
	}
	return "", errors.New("neither XDG_RUNTIME_DIR nor HOME is set: there is no place where this user's regions can agree on IDs")
}
