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
		ids := &Block{first: First}
		held := map[uint32]bool{}
		var released uint32
		for _, take := range rapid.SliceOfN(rapid.Bool(), 1, 200).Draw(t, "takes") {
			if take {
				first, err := ids.Take()
				if err != nil || held[first] || first < First || (first-First)%RangeIDs != 0 {
					t.Fatalf("took %d, %v", first, err)
				}
				if first == released && first != 0 {
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
	ids := &Block{first: First}
	var last uint32
	for range blockRanges {
		first, err := ids.Take()
		if err != nil {
			t.Fatal(err)
		}
		last = first
	}
	if last+RangeIDs > First+BlockIDs {
		t.Errorf("the last range begins at %d, outside of the block", last)
	}
	if _, err := ids.Take(); err == nil {
		t.Error("one range too many was given out")
	}
	ids.Release(last)
	if again, err := ids.Take(); err != nil || again != last {
		t.Errorf("took %d, %v instead of %d", again, err, last)
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
	if end := uint64(First) + uint64(blocks)*BlockIDs; end > 0x7fffffff {
		t.Errorf("the IDs go up to %#x", end)
	}
}

func TestBusyBlocks(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("changing owners needs root")
	}
	proc := t.TempDir()
	for name, uid := range map[string]int{"1": 0, "17": First + 3*BlockIDs + 993, "self": First, "18": 1000} {
		path := filepath.Join(proc, name)
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	busy, err := busyBlocks(proc)
	if err != nil || len(busy) != 1 || !busy[3] {
		t.Errorf("busy are %v, %v", busy, err)
	}
}
