package rootless

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	osuser "os/user"
	"slices"
	"strconv"
	"strings"

	"lambent/sandbox/identity"
)

// user is whom the files of subordinate IDs speak of, by name or by number.
type user struct {
	name     string
	uid, gid int
}

func currentUser() (user, error) {
	u := user{uid: os.Getuid(), gid: os.Getgid()}
	if u.uid != os.Geteuid() || u.gid != os.Getegid() {
		return u, errors.New("this process has the rights of two users; start it without set-user-ID")
	}
	u.name = strconv.Itoa(u.uid)
	if known, err := osuser.LookupId(u.name); err == nil {
		u.name = known.Username
	}
	return u, nil
}

// idRange is a line of /etc/subuid or /etc/subgid.
type idRange struct{ first, count int }

// readRanges reads the ranges that a file gives to a user.
func readRanges(path string, u user) ([]idRange, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read subordinate IDs: %w", err)
	}
	return parseRanges(string(text), u), nil
}

// parseRanges reads lines "NAME:FIRST:COUNT" and leaves out what is not one, as newuidmap does.
func parseRanges(text string, u user) []idRange {
	var ranges []idRange
	for line := range strings.Lines(text) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) != 3 || fields[0] != u.name && fields[0] != strconv.Itoa(u.uid) {
			continue
		}
		first, errFirst := strconv.ParseUint(fields[1], 10, 32)
		count, errCount := strconv.ParseUint(fields[2], 10, 32)
		if errFirst == nil && errCount == nil && first > 0 && count > 0 {
			ranges = append(ranges, idRange{int(first), int(count)})
		}
	}
	return ranges
}

func total(ranges []idRange) int {
	sum := 0
	for _, r := range ranges {
		sum += r.count
	}
	return sum
}

// mapArguments are those of newuidmap or newgidmap for a process: the user is root inside, and the ranges follow one another from
// identity.ServiceID on.
func mapArguments(pid, own int, ranges []idRange) []string {
	args := []string{strconv.Itoa(pid), "0", strconv.Itoa(own), "1"}
	next := identity.ServiceID
	for _, r := range ranges {
		count := min(r.count, lastID-next)
		if count <= 0 {
			break
		}
		args = append(args, strconv.Itoa(next), strconv.Itoa(r.first), strconv.Itoa(count))
		next += count
	}
	return args
}

// lastID is above what any Linux program takes for a user ID.
const lastID = 1<<31 - 1

// giveIDs maps the IDs of the user in the user namespace of a process.
func giveIDs(pid int, u user) error {
	for _, kind := range []struct {
		program, file string
		own           int
	}{{"newuidmap", "/etc/subuid", u.uid}, {"newgidmap", "/etc/subgid", u.gid}} {
		ranges, err := readRanges(kind.file, u)
		if err != nil {
			return err
		}
		out, err := exec.Command(kind.program, mapArguments(pid, kind.own, ranges)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", kind.program, err, strings.Join(slices.Collect(strings.Lines(strings.TrimSpace(string(out)))), " "))
		}
	}
	return nil
}
