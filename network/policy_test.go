package network

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// prefixOf draws prefixes that often meet one another.
func prefixOf(t *rapid.T) netip.Prefix {
	base := rapid.SampledFrom([]string{"0.0.0.0", "10.0.0.0", "10.1.2.3", "100.64.0.0", "127.0.0.1", "169.254.169.254", "192.168.1.1", "8.8.8.8", "255.255.255.255"}).Draw(t, "base")
	return netip.PrefixFrom(netip.MustParseAddr(base), rapid.IntRange(0, 32).Draw(t, "bits"))
}

func TestRefusedIsWhatThePolicySays(t *testing.T) {
	block := netip.MustParsePrefix("100.112.0.0/18")
	contains := func(in []netip.Prefix, address netip.Addr) bool {
		return slices.ContainsFunc(in, func(p netip.Prefix) bool { return p.Contains(address) })
	}
	rapid.Check(t, func(t *rapid.T) {
		policy := rapid.SampledFrom([]Policy{Internet, All}).Draw(t, "policy")
		allow := rapid.SliceOfN(rapid.Custom(prefixOf), 0, 4).Draw(t, "allow")
		deny := rapid.SliceOfN(rapid.Custom(prefixOf), 0, 4).Draw(t, "deny")
		closed := refused(policy, allow, deny, block)
		for i := range closed {
			if closed[i].first > closed[i].last || i > 0 && uint64(closed[i].first) <= uint64(closed[i-1].last)+1 {
				t.Fatalf("ranges %v: not in order, or touching", closed)
			}
		}
		near := []uint32{rapid.Uint32().Draw(t, "address")}
		for _, one := range closed {
			near = append(near, one.first-1, one.first, one.last, one.last+1)
		}
		for _, prefix := range slices.Concat(allow, deny, never, private) {
			first := toNumber(prefix.Masked().Addr())
			near = append(near, first-1, first, first+1)
		}
		for _, number := range near {
			address := fromNumber(number)
			want := contains(never, address) || block.Contains(address) || contains(deny, address) ||
				policy == Internet && contains(private, address) && !contains(allow, address)
			got := slices.ContainsFunc(closed, func(r addressRange) bool { return r.first <= number && number <= r.last })
			if got != want {
				t.Fatalf("%s under %s, allow %v, deny %v: refused is %v", address, policy, allow, deny, got)
			}
		}
	})
}

func TestFreeBlocksTouchNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		taken := rapid.SliceOfN(rapid.Custom(prefixOf), 0, 5).Draw(t, "taken")
		from := prefixes("10.0.0.0/12", "100.112.0.0/13")
		blocks := freeBlocks(from, taken, rapid.Uint32().Draw(t, "seed"))
		seen := make(map[netip.Prefix]bool)
		for _, block := range blocks {
			if seen[block] || block != block.Masked() || slices.ContainsFunc(taken, block.Overlaps) || !from[0].Overlaps(block) && !from[1].Overlaps(block) {
				t.Fatalf("block %s, taken %v", block, taken)
			}
			seen[block] = true
		}
		if len(taken) == 0 && len(blocks) != 64+32 {
			t.Fatalf("%d blocks of a free /12 and /13", len(blocks))
		}
	})
}

func TestSlotsAreUsedAgainAsLateAsPossible(t *testing.T) {
	s := newSlots()
	first, _ := s.take()
	second, _ := s.take()
	s.giveBack([]int{second})
	s.giveBack([]int{first})
	taken := 2
	for ; ; taken++ {
		slot, err := s.take()
		if err != nil {
			t.Fatal(err)
		}
		if slot == second {
			break
		}
	}
	if want := lastSlot - firstSlot + 1; taken != want {
		t.Errorf("an address was used again after %d others, want %d", taken, want)
	}
	if slot, err := s.take(); slot != first || err != nil {
		t.Errorf("then %d, %v", slot, err)
	}
	if _, err := s.take(); err == nil {
		t.Error("there are more addresses than there are")
	}
}

func TestParsePolicy(t *testing.T) {
	for text, ok := range map[string]bool{"none": true, "internet": true, "all": true, "": false, "Internet": false} {
		if _, err := ParsePolicy(text); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}
