// Package identity hands out user and group IDs to sandboxes. Every living sandbox of a host has IDs of its own, so that no
// permission, signal or limit of the kernel ever takes two sandboxes for one. The host's IDs from First on are cut into blocks,
// one per driver, and a block into ranges, one per sandbox.
//
// Root of the host has all of these IDs. A user without rights has a few thousand: there a range is two IDs, root of the sandbox
// and its function, and what this package calls First is where those few are mapped to (see package rootless).
package identity

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// What is handed out.
const (
	First       = 0x70000000 // nothing else on Linux hands out IDs from here to 0x7fffffff
	RangeIDs    = 1024       // IDs of one sandbox: what is inside 0 to 1,023
	blockRanges = 4096       // sandboxes of one driver
	blocks      = 63
)

// What is handed out where fewer IDs are mapped: two for each sandbox.
const (
	packedIDs    = 2
	packedBlocks = 16
	// LeastIDs are the fewest, with the service's, that are cut into blocks: 31 sandboxes for each driver.
	LeastIDs = 1024
)

// ServiceID is the user and group ID, on the host, of the process that serves what sandboxes say. It is no sandbox's.
const ServiceID = First - 1

// The function's IDs inside.
const (
	FunctionUID = 993 // sbx_user1051 on Lambda
	FunctionGID = 990
)

// layout says how the IDs from First on are cut.
type layout struct {
	blocks int
	ranges int // of a block
	ids    int // of a range
}

func (l layout) blockIDs() int { return l.ranges * l.ids }

// wide is the layout where all IDs are there.
func wide() layout { return layout{blocks: blocks, ranges: blockRanges, ids: RangeIDs} }

// layoutOf returns the layout for a number of IDs from First on.
func layoutOf(ids int) layout {
	if w := wide(); ids >= w.blocks*w.blockIDs() {
		return w
	}
	return layout{blocks: packedBlocks, ranges: min(blockRanges, ids/packedIDs/packedBlocks), ids: packedIDs}
}

// Mapping shows IDs inside a user namespace as others outside, as a line of /proc/self/uid_map does.
type Mapping struct{ Inside, Outside, Count int }

// Block hands out the ranges of one block, and is safe for use by many goroutines. The block belongs to this process as long as it lives: a lock on a file
// says so to the other drivers of the host.
type Block struct {
	lock   *os.File
	first  uint32
	layout layout

	mu   sync.Mutex
	next int // where to look first: a range is used again as late as possible
	used []bool
}

// Missing says, for the operator, what the host lacks for Open to succeed; "" when it lacks nothing.
func Missing() string {
	if layoutOf(mappedIDs()) == wide() {
		return ""
	}
	return fmt.Sprintf("this process's user namespace has not all user and group IDs from %d to %d", First, First+blocks*blockRanges*RangeIDs-1)
}

// Open locks, in a directory that all drivers of the host share, a block that no living driver has and whose IDs no process of the
// host has. Its ranges have RangeIDs.
func Open(directory string) (*Block, error) {
	if missing := Missing(); missing != "" {
		return nil, errors.New("take user IDs: " + missing)
	}
	return open(directory, wide())
}

// OpenMapped is Open also in a user namespace that has fewer IDs. Only Mappings and what goes with it tell about those of a range.
func OpenMapped(directory string) (*Block, error) {
	ids := mappedIDs()
	if ids+1 < LeastIDs {
		return nil, fmt.Errorf("take user IDs: this user namespace has %d from %d on, and %d are needed", ids, First, LeastIDs-1)
	}
	return open(directory, layoutOf(ids))
}

func open(directory string, l layout) (*Block, error) {
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return nil, fmt.Errorf("take user IDs: %w", err)
	}
	busy, err := busyBlocks("/proc", l)
	if err != nil {
		return nil, fmt.Errorf("take user IDs: %w", err)
	}
	for block := range l.blocks {
		if busy[block] {
			continue
		}
		path := filepath.Join(directory, strconv.Itoa(block))
		lock, err := LockFile(path)
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("take user IDs: %w", err)
		}
		return &Block{lock: lock, first: First + uint32(block*l.blockIDs()), layout: l, used: make([]bool, l.ranges)}, nil
	}
	return nil, fmt.Errorf("take user IDs: all %d blocks of %d sandboxes are taken on this host", l.blocks, l.ranges)
}

// LockFile creates a file and locks it; EWOULDBLOCK when another process has it.
func LockFile(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// busyBlocks returns the blocks of which some process has an ID: what is left of a driver that was killed.
func busyBlocks(proc string, l layout) (map[int]bool, error) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, err
	}
	busy := map[int]bool{}
	for _, entry := range entries {
		if strings.Trim(entry.Name(), "0123456789") != "" {
			continue
		}
		var stat unix.Stat_t
		if unix.Stat(filepath.Join(proc, entry.Name()), &stat) == nil && stat.Uid >= First {
			busy[int(stat.Uid-First)/l.blockIDs()] = true
		}
	}
	return busy, nil
}

// Restricted tells whether this process is in a user namespace that is not the host's: root there has no rights over what is the
// host's own, such as devices and the host's network.
func Restricted() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && !slices.Equal(strings.Fields(string(text)), []string{"0", "0", "4294967295"})
}

// mappedIDs counts the IDs from First on, without a gap, that this process's user namespace has, of users and of groups.
func mappedIDs() int {
	least := -1
	for _, name := range []string{"/proc/self/uid_map", "/proc/self/gid_map"} {
		text, err := os.ReadFile(name)
		if err != nil {
			return 0
		}
		if n := mappedIn(string(text)); least < 0 || n < least {
			least = n
		}
	}
	return least
}

// mappedIn counts the IDs from First on in the text of a map.
func mappedIn(text string) int {
	end := First
	for found := true; found; {
		found = false
		for line := range strings.Lines(text) {
			var m Mapping
			if _, err := fmt.Sscan(line, &m.Inside, &m.Outside, &m.Count); err == nil && m.Inside <= end && end < m.Inside+m.Count {
				end, found = m.Inside+m.Count, true
			}
		}
	}
	return end - First
}

// First returns the first ID of the block.
func (i *Block) First() uint32 { return i.first }

// IDs returns how many IDs the block has.
func (i *Block) IDs() int { return i.layout.blockIDs() }

// Mappings are the maps, for users and for groups, of the user namespace of a sandbox whose range begins with first.
func (i *Block) Mappings(first uint32) (users, groups []Mapping) {
	if i.layout.ids >= RangeIDs {
		all := []Mapping{{Inside: 0, Outside: int(first), Count: i.layout.ids}}
		return all, all
	}
	pair := func(function int) []Mapping {
		return []Mapping{{Inside: 0, Outside: int(first), Count: 1}, {Inside: function, Outside: int(first) + 1, Count: 1}}
	}
	return pair(FunctionUID), pair(FunctionGID)
}

// Function returns the function's user and group outside of a sandbox whose range begins with first.
func (i *Block) Function(first uint32) (uid, gid uint32) {
	if i.layout.ids >= RangeIDs {
		return first + FunctionUID, first + FunctionGID
	}
	return first + 1, first + 1
}

// Take returns the first ID of a range that no sandbox has.
func (i *Block) Take() (uint32, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for range i.layout.ranges {
		slot := i.next
		i.next = (i.next + 1) % i.layout.ranges
		if !i.used[slot] {
			i.used[slot] = true
			return i.first + uint32(slot*i.layout.ids), nil
		}
	}
	return 0, fmt.Errorf("all %d user ID ranges are in use", i.layout.ranges)
}

// Release gives a range back.
func (i *Block) Release(first uint32) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.used[int(first-i.first)/i.layout.ids] = false
}

// Close gives the block back. The file stays: its name is the block's number.
func (i *Block) Close() error { return i.lock.Close() }
