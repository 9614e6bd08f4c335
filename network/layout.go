package network

import (
	"fmt"
	"net/netip"
	"slices"
)

// blockBits is the size of the block of addresses that one network takes: 16,384.
const blockBits = 18

// Where things are in the block. The first four addresses are the link between host and router.
const (
	hostOffset     = 1
	routerOffset   = 2
	resolverOffset = 4
	firstSlot      = 8
	lastSlot       = 1<<(32-blockBits) - 2
)

// layout says which address is whose.
type layout struct{ block netip.Prefix }

func (l layout) host() netip.Addr            { return offset(l.block.Addr(), hostOffset) }
func (l layout) router() netip.Addr          { return offset(l.block.Addr(), routerOffset) }
func (l layout) resolver() netip.Addr        { return offset(l.block.Addr(), resolverOffset) }
func (l layout) sandbox(slot int) netip.Addr { return offset(l.block.Addr(), uint32(slot)) }

func offset(base netip.Addr, by uint32) netip.Addr { return fromNumber(toNumber(base) + by) }

// freeBlocks lists the blocks within the prefixes that overlap nothing of what is taken, in the order of the prefixes. Within
// a prefix it begins at a place that the seed chooses, so that hosts and drivers differ.
func freeBlocks(prefixes, taken []netip.Prefix, seed uint32) []netip.Prefix {
	var free []netip.Prefix
	for _, prefix := range prefixes {
		if !prefix.Addr().Is4() || prefix.Bits() > blockBits {
			continue
		}
		count := uint32(1) << (blockBits - prefix.Bits())
		for i := range count {
			at := (seed%count + i) % count
			block := netip.PrefixFrom(offset(prefix.Masked().Addr(), at<<(32-blockBits)), blockBits)
			if !slices.ContainsFunc(taken, block.Overlaps) {
				free = append(free, block)
			}
		}
	}
	return free
}

// slots hands out the numbers of sandboxes in a block, each as late as possible after it was given back. Its owner guards it.
type slots struct {
	free []int
	next int // those from here on were never handed out
}

func newSlots() slots { return slots{next: firstSlot} }

func (s *slots) take() (int, error) {
	if s.next <= lastSlot {
		s.next++
		return s.next - 1, nil
	}
	if len(s.free) == 0 {
		return 0, fmt.Errorf("all %d addresses of the network are in use", lastSlot-firstSlot+1)
	}
	slot := s.free[0]
	s.free = s.free[1:]
	return slot, nil
}

func (s *slots) giveBack(given []int) { s.free = append(s.free, given...) }
