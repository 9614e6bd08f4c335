// Package ext4 writes empty ext4 file systems, for the /tmp of sandboxes. It needs no program of the host, and writes a
// few kilobytes whatever the size: the rest of the image is a hole, and reads as the zeros that it should.
//
// The file systems are for one short life: no journal, no checksums, no backups of the superblock, no lost+found.
package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Layout describes an empty file system.
type Layout struct {
	// CapacityMiB is what an unprivileged user can write at least, in one file, before ENOSPC.
	CapacityMiB int
	// UID and GID own the root directory, on the host. Nobody else may enter it.
	UID, GID uint32
}

// Target takes an image. *os.File is one.
type Target interface {
	io.WriterAt
	Truncate(size int64) error
}

// InodesPerMiB is how many files the file system holds for each MiB of its size, roughly.
const InodesPerMiB = 64

// Geometry, in blocks unless the name says otherwise.
const (
	blockBytes      = 4096
	blocksPerMiB    = 1 << 20 / blockBytes
	blocksPerGroup  = 8 * blockBytes // what a bitmap of one block covers: 128 MiB
	inodeBytes      = 256
	inodesPerGroup  = blocksPerGroup / blocksPerMiB * InodesPerMiB
	inodeTable      = inodesPerGroup * inodeBytes / blockBytes
	groupOverhead   = 2 + inodeTable // two bitmaps and the inode table
	descriptorBytes = 32
	maxGroups       = blockBytes / descriptorBytes // whose descriptors fit a block: 16 GiB
	firstOverhead   = 2                            // superblock and descriptors, in the first group only
	rootBlock       = firstOverhead + groupOverhead
	usedInodes      = 10 // reserved; the second is the root directory

	// The kernel keeps 2 % for itself, at most maxReserved; slack is for the maps of large files.
	reservedShare = 50
	maxReserved   = 4096
	slack         = blocksPerMiB
)

// geometry is the size of an image.
type geometry struct{ blocks, groups int }

// measure returns the smallest geometry that has room for capacityMiB.
func measure(capacityMiB int) (geometry, error) {
	if capacityMiB < 1 {
		return geometry{}, errors.New("ext4: the capacity is not positive")
	}
	data := capacityMiB*blocksPerMiB + slack + 1 // the root directory
	for groups := 1; groups <= maxGroups; groups++ {
		blocks := data + firstOverhead + groups*groupOverhead
		blocks += min(blocks/(reservedShare-1)+1, maxReserved)
		if blocks <= (groups-1)*blocksPerGroup+groupOverhead {
			blocks = (groups-1)*blocksPerGroup + groupOverhead + 1 // the last group must hold its own tables
		}
		if blocks <= groups*blocksPerGroup {
			return geometry{blocks, groups}, nil
		}
	}
	return geometry{}, fmt.Errorf("ext4: %d MiB are too many", capacityMiB)
}

// Size returns the size in bytes of the image with a capacity.
func Size(capacityMiB int) (int64, error) {
	g, err := measure(capacityMiB)
	return int64(g.blocks) * blockBytes, err
}

// Format writes an empty file system to target, which must be empty.
func Format(target Target, layout Layout) error {
	g, err := measure(layout.CapacityMiB)
	if err != nil {
		return err
	}
	if err := target.Truncate(int64(g.blocks) * blockBytes); err != nil {
		return fmt.Errorf("ext4: %w", err)
	}
	head, freeBlocks := make([]byte, firstOverhead*blockBytes), 0
	for group := range g.groups {
		used, total := g.usage(group)
		freeBlocks += total - used
		describeGroup(head[blockBytes+group*descriptorBytes:], group, total-used)
		bitmaps := groupBitmaps(group, used, total)
		if _, err := target.WriteAt(bitmaps, int64(bitmapBlock(group))*blockBytes); err != nil {
			return fmt.Errorf("ext4: %w", err)
		}
	}
	superblock(head[1024:2048], g, freeBlocks)
	for _, part := range []struct {
		at    int64
		bytes []byte
	}{
		{0, head},
		{int64(bitmapBlock(0)+2)*blockBytes + inodeBytes, rootInode(layout)},
		{rootBlock * blockBytes, rootDirectory()},
	} {
		if _, err := target.WriteAt(part.bytes, part.at); err != nil {
			return fmt.Errorf("ext4: %w", err)
		}
	}
	return nil
}

// usage returns how many blocks a group has, and how many of them, from its first on, are used.
func (g geometry) usage(group int) (used, total int) {
	total = min(blocksPerGroup, g.blocks-group*blocksPerGroup)
	if group == 0 {
		return rootBlock + 1, total
	}
	return groupOverhead, total
}

// bitmapBlock returns where a group's block bitmap is; its inode bitmap and inode table follow.
func bitmapBlock(group int) int {
	if group == 0 {
		return firstOverhead
	}
	return group * blocksPerGroup
}

// describeGroup fills in a group's descriptor.
func describeGroup(descriptor []byte, group, freeBlocks int) {
	bitmap, freeInodes, directories := uint32(bitmapBlock(group)), inodesPerGroup, 0
	if group == 0 {
		freeInodes, directories = inodesPerGroup-usedInodes, 1
	}
	put32(descriptor, 0x0, bitmap)
	put32(descriptor, 0x4, bitmap+1)
	put32(descriptor, 0x8, bitmap+2)
	put16(descriptor, 0xc, uint16(freeBlocks))
	put16(descriptor, 0xe, uint16(freeInodes))
	put16(descriptor, 0x10, uint16(directories))
}

// groupBitmaps returns the block bitmap and the inode bitmap of a group. What does not exist counts as used.
func groupBitmaps(group, used, total int) []byte {
	bitmaps := make([]byte, 2*blockBytes)
	setBits(bitmaps[:blockBytes], 0, used)
	setBits(bitmaps[:blockBytes], total, blocksPerGroup)
	if group == 0 {
		setBits(bitmaps[blockBytes:], 0, usedInodes)
	}
	setBits(bitmaps[blockBytes:], inodesPerGroup, 8*blockBytes)
	return bitmaps
}

func setBits(bitmap []byte, from, to int) {
	for bit := from; bit < to; bit++ {
		if bit%8 == 0 && to-bit >= 8 {
			bitmap[bit/8] = 0xff
			bit += 7
			continue
		}
		bitmap[bit/8] |= 1 << (bit % 8)
	}
}

// superblock fills in the superblock.
func superblock(s []byte, g geometry, freeBlocks int) {
	const (
		compatible   = 0x20 /* dir_index */ | 0x200                                             /* sparse_super2: backups as listed, and none are */
		incompatible = 0x2 /* filetype */ | 0x40                                                /* extents */
		readOnly     = 0x2 /* large_file */ | 0x8 /* huge_file */ | 0x20 /* dir_nlink */ | 0x40 /* extra_isize */
	)
	put32(s, 0x0, uint32(g.groups*inodesPerGroup))
	put32(s, 0x4, uint32(g.blocks))
	put32(s, 0xc, uint32(freeBlocks))
	put32(s, 0x10, uint32(g.groups*inodesPerGroup-usedInodes))
	put32(s, 0x18, 2) // block size 1024 << 2
	put32(s, 0x1c, 2)
	put32(s, 0x20, blocksPerGroup)
	put32(s, 0x24, blocksPerGroup)
	put32(s, 0x28, inodesPerGroup)
	put16(s, 0x36, 0xffff) // mounts until a check: never
	put16(s, 0x38, 0xef53)
	put16(s, 0x3a, 1) // clean
	put16(s, 0x3c, 1) // go on after errors
	put32(s, 0x4c, 1) // revision with features
	put32(s, 0x54, usedInodes+1)
	put16(s, 0x58, inodeBytes)
	put32(s, 0x5c, compatible)
	put32(s, 0x60, incompatible)
	put32(s, 0x64, readOnly)
	s[0xfc] = 1 // hashes of names: half MD4
	put16(s, 0x15c, 32)
	put16(s, 0x15e, 32)
	put32(s, 0x160, 2) // unsigned hashes
}

// rootInode returns the inode of the root directory.
func rootInode(layout Layout) []byte {
	inode := make([]byte, inodeBytes)
	put16(inode, 0x0, 0o040700)
	put16(inode, 0x2, uint16(layout.UID))
	put32(inode, 0x4, blockBytes)
	put16(inode, 0x18, uint16(layout.GID))
	put16(inode, 0x1a, 2)
	put32(inode, 0x1c, blockBytes/512)
	put32(inode, 0x20, 0x80000) // mapped by extents
	extents := inode[0x28:]
	put16(extents, 0, 0xf30a)
	put16(extents, 2, 1) // used
	put16(extents, 4, 4) // of
	put16(extents, 16, 1)
	put32(extents, 20, rootBlock)
	put16(inode, 0x78, uint16(layout.UID>>16))
	put16(inode, 0x7a, uint16(layout.GID>>16))
	put16(inode, 0x80, 32)
	return inode
}

// rootDirectory returns the block of an empty directory.
func rootDirectory() []byte {
	block := make([]byte, blockBytes)
	for _, entry := range []struct {
		at, length uint16
		name       string
	}{{0, 12, "."}, {12, blockBytes - 12, ".."}} {
		put32(block, int(entry.at), 2)
		put16(block, int(entry.at)+4, entry.length)
		block[entry.at+6] = byte(len(entry.name))
		block[entry.at+7] = 2 // a directory
		copy(block[entry.at+8:], entry.name)
	}
	return block
}

func put16(b []byte, at int, value uint16) { binary.LittleEndian.PutUint16(b[at:], value) }
func put32(b []byte, at int, value uint32) { binary.LittleEndian.PutUint32(b[at:], value) }
