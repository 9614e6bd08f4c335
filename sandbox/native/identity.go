package native

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Every living sandbox of a host has user and group IDs of its own, so that no permission, signal or limit of the kernel
// ever takes two sandboxes for one. The host's IDs from firstID on are cut into blocks, one per driver, and a block into
// ranges, one per sandbox.
const (
	firstID     = 0x70000000 // nothing else on Linux hands out IDs from here to 0x7fffffff
	rangeIDs    = 1024       // IDs of one sandbox: what is inside 0 to 1,023
	blockRanges = 4096       // sandboxes of one driver
	blockIDs    = rangeIDs * blockRanges
	blocks      = 63
)

// IDs inside.
const (
	functionUID = 993 // sbx_user1051 on Lambda
	functionGID = 990
)

// identities hands out the ranges of one block. The block belongs to this process as long as it lives: a lock on a file
// says so to the other drivers of the host.
type identities struct {
	lock  *os.File
	first uint32

	mu   sync.Mutex
	next int // where to look first: a range is used again as late as possible
	used [blockRanges]bool
}

// takeBlock locks a block that no living driver has and whose IDs no process of the host has.
func takeBlock(directory string) (*identities, error) {
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return nil, fmt.Errorf("take user IDs: %w", err)
	}
	busy, err := busyBlocks("/proc")
	if err != nil {
		return nil, fmt.Errorf("take user IDs: %w", err)
	}
	for block := range blocks {
		if busy[block] {
			continue
		}
		path := filepath.Join(directory, strconv.Itoa(block))
		lock, err := lockFile(path)
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("take user IDs: %w", err)
		}
		return &identities{lock: lock, first: firstID + uint32(block)*blockIDs}, nil
	}
	return nil, fmt.Errorf("take user IDs: all %d blocks of %d sandboxes are taken on this host", blocks, blockRanges)
}

// lockFile creates a file and locks it; EWOULDBLOCK when another process has it.
func lockFile(path string) (*os.File, error) {
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
func busyBlocks(proc string) (map[int]bool, error) {
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
		if unix.Stat(filepath.Join(proc, entry.Name()), &stat) == nil && stat.Uid >= firstID {
			busy[int(stat.Uid-firstID)/blockIDs] = true
		}
	}
	return busy, nil
}

// take returns the first ID of a range that no sandbox has.
func (i *identities) take() (uint32, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for range blockRanges {
		slot := i.next
		i.next = (i.next + 1) % blockRanges
		if !i.used[slot] {
			i.used[slot] = true
			return i.first + uint32(slot)*rangeIDs, nil
		}
	}
	return 0, fmt.Errorf("all %d user ID ranges are in use", blockRanges)
}

// release gives a range back.
func (i *identities) release(first uint32) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.used[(first-i.first)/rangeIDs] = false
}

// close gives the block back. The file stays: its name is the block's number.
func (i *identities) close() error { return i.lock.Close() }
