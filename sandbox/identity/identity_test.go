package identity

import (
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"
)

// TestRangesAreNotShared takes and releases ranges at random: no two holders ever have the same, and a range that was
// released is not the next to be taken while others are free.
func TestRangesAreNotShared(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := rapid.SampledFrom([]layout{wide(), layoutOf(65535), layoutOf(LeastIDs - 1)}).Draw(t, "layout")
		ids := &Block{first: First, layout: l, used: make([]bool, l.ranges)}
		held := map[uint32]bool{}
		var released uint32
		for _, take := range rapid.SliceOfN(rapid.Bool(), 1, 200).Draw(t, "takes") {
			if take {
				first, err := ids.Take()
				if len(held) == l.ranges && err != nil {
					continue
				}
				if err != nil || held[first] || first < First || int(first-First)%l.ids != 0 {
					t.Fatalf("took %d, %v", first, err)
				}
				if first == released && first != 0 && len(held) < l.ranges-1 {
					t.Fatalf("%d was used again at once", first)
				}
				held[first] = true
				continue
			}
			for first := range held {
				ids.Release(first)
				delete(held, first)
				released = first
				break
			}
		}
	})
}

func TestRangesEnd(t *testing.T) {
	for _, l := range []layout{wide(), layoutOf(65535), layoutOf(LeastIDs - 1)} {
		ids := &Block{first: First, layout: l, used: make([]bool, l.ranges)}
		var last uint32
		for range l.ranges {
			first, err := ids.Take()
			if err != nil {
				t.Fatal(err)
			}
			last = first
		}
		if int(last)+l.ids > First+ids.IDs() {
			t.Errorf("%+v: the last range begins at %d, outside of the block", l, last)
		}
		if _, err := ids.Take(); err == nil {
			t.Errorf("%+v: one range too many was given out", l)
		}
		ids.Release(last)
		if again, err := ids.Take(); err != nil || again != last {
			t.Errorf("%+v: took %d, %v instead of %d", l, again, err, last)
		}
	}
}

// TestBlocksAreNotShared opens blocks as several drivers of a host do.
func TestBlocksAreNotShared(t *testing.T) {
	directory := t.TempDir()
	one, err := Open(directory)
	if err != nil {
		t.Fatal(err)
	}
	two, err := Open(directory)
	if err != nil {
		t.Fatal(err)
	}
	defer two.Close()
	if one.first == two.first {
		t.Fatalf("both have %d", one.first)
	}
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	three, err := Open(directory)
	if err != nil {
		t.Fatal(err)
	}
	defer three.Close()
	if three.first != one.first {
		t.Errorf("a free block was left alone: %d", three.first)
	}
	if end := uint64(First) + uint64(blocks*wide().blockIDs()); end > 0x7fffffff {
		t.Errorf("the IDs go up to %#x", end)
	}
}

func TestBusyBlocks(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("changing owners needs root")
	}
	proc := t.TempDir()
	for name, uid := range map[string]int{"1": 0, "17": First + 3*wide().blockIDs() + 993, "self": First, "18": 1000} {
		path := filepath.Join(proc, name)
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	busy, err := busyBlocks(proc, wide())
	if err != nil || len(busy) != 1 || !busy[3] {
		t.Errorf("busy are %v, %v", busy, err)
	}
}

// TestFewIDs cuts what an unprivileged user has: nothing of it lies outside, and each sandbox has two of its own.
func TestFewIDs(t *testing.T) {
	for text, want := range map[string]int{
		"0 0 4294967295":                           4294967295 - First,
		"0 1000 1\n1879048191 100000 65536\n":      65535,
		"0 1000 1\n1879048191 100000 1":            0,
		"1879048292 1 50\n1879048191 100000 101\n": 150, // two ranges, one after the other
		"1879048300 1 50\n1879048191 100000 101\n": 100, // with a gap
		"": 0,
	} {
		if got := mappedIn(text); got != want {
			t.Errorf("%q has %d IDs, and %d are counted", text, want, got)
		}
	}
	for _, ids := range []int{LeastIDs - 1, 65535, 1 << 20} {
		l := layoutOf(ids)
		if l.ranges < 1 || l.blocks*l.blockIDs() > ids {
			t.Errorf("%d IDs are cut into %+v", ids, l)
		}
		block := &Block{first: First, layout: l, used: make([]bool, l.ranges)}
		first, err := block.Take()
		if err != nil {
			t.Fatal(err)
		}
		users, groups := block.Mappings(first)
		uid, gid := block.Function(first)
		if outside(users, 0) != int(first) || outside(users, FunctionUID) != int(uid) || outside(groups, 0) != int(first) ||
			outside(groups, FunctionGID) != int(gid) || uid >= first+uint32(l.ids) || gid >= first+uint32(l.ids) {
			t.Errorf("%d IDs: users %v, groups %v, function %d and %d", ids, users, groups, uid, gid)
		}
	}
}

// outside returns what an ID inside is outside, -1 for nobody.
func outside(mappings []Mapping, id int) int {
	for _, m := range mappings {
		if id >= m.Inside && id < m.Inside+m.Count {
			return m.Outside + id - m.Inside
		}
	}
	return -1
}
