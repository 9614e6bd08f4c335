// Package identity hands out user and group IDs to sandboxes. Every living sandbox of a host has IDs of its own, so that no
// permission, signal or limit of the kernel ever takes two sandboxes for one. The host's IDs from First on are cut into blocks,
// one per driver, and a block into ranges, one per sandbox.
package identity

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

// What is handed out.
const (
	First       = 0x70000000 // nothing else on Linux hands out IDs from here to 0x7fffffff
	RangeIDs    = 1024       // IDs of one sandbox: what is inside 0 to 1,023
	blockRanges = 4096       // sandboxes of one driver
	BlockIDs    = RangeIDs * blockRanges
	blocks      = 63
)

// ServiceID is the user and group ID, on the host, of the process that serves what sandboxes say. It is no sandbox's.
const ServiceID = First - 1

// The function's IDs inside.
const (
	FunctionUID = 993 // sbx_user1051 on Lambda
	FunctionGID = 990
)

// Block hands out the ranges of one block, and is safe for use by many goroutines. The block belongs to this process as long as it lives: a lock on a file
// says so to the other drivers of the host.
type Block struct {
	lock  *os.File
	first uint32

	mu   sync.Mutex
	next int // where to look first: a range is used again as late as possible
	used [blockRanges]bool
}

// Open locks, in a directory that all drivers of the host share, a block that no living driver has and whose IDs no process of the host has.
func Open(directory string) (*Block, error) {
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
		lock, err := LockFile(path)
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("take user IDs: %w", err)
		}
		return &Block{lock: lock, first: First + uint32(block)*BlockIDs}, nil
	}
	return nil, fmt.Errorf("take user IDs: all %d blocks of %d sandboxes are taken on this host", blocks, blockRanges)
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
		if unix.Stat(filepath.Join(proc, entry.Name()), &stat) == nil && stat.Uid >= First {
			busy[int(stat.Uid-First)/BlockIDs] = true
		}
	}
	return busy, nil
}

// First returns the first ID of the block.
func (i *Block) First() uint32 { return i.first }

// Take returns the first ID of a range that no sandbox has.
func (i *Block) Take() (uint32, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for range blockRanges {
		slot := i.next
		i.next = (i.next + 1) % blockRanges
		if !i.used[slot] {
			i.used[slot] = true
			return i.first + uint32(slot)*RangeIDs, nil
		}
	}
	return 0, fmt.Errorf("all %d user ID ranges are in use", blockRanges)
}

// Release gives a range back.
func (i *Block) Release(first uint32) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.used[(first-i.first)/RangeIDs] = false
}

// Close gives the block back. The file stays: its name is the block's number.
func (i *Block) Close() error { return i.lock.Close() }
