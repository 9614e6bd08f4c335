package ext4

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestCheck has e2fsck judge images of many sizes. The absence of lost+found is intended.
func TestCheck(t *testing.T) {
	fsck, err := exec.LookPath("e2fsck")
	if err != nil {
		t.Skip("this machine has no e2fsck")
	}
	for _, size := range []int{1, 64, 124, 125, 126, 127, 128, 250, 512, 1000, 10240} {
		path := filepath.Join(t.TempDir(), "image")
		file, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := Format(file, Layout{CapacityMiB: size, UID: 0x70000000 + 993, GID: 990}); err != nil {
			t.Fatal(err)
		}
		file.Close()
		out, _ := exec.Command(fsck, "-f", "-n", path).CombinedOutput()
		rest := string(out)
		for line := range strings.Lines(string(out)) {
			if strings.HasPrefix(line, "/lost+found not found") || strings.HasPrefix(line, "Pass ") ||
				strings.HasPrefix(line, "e2fsck ") || strings.Contains(line, "non-contiguous") ||
				strings.Contains(line, "WARNING: Filesystem still has errors") || strings.TrimSpace(line) == "" {
				rest = strings.Replace(rest, line, "", 1)
			}
		}
		if rest != "" {
			t.Errorf("%d MiB: %s", size, out)
		}
	}
}

// TestMeasure checks that every capacity up to Lambda's largest has a geometry that adds up.
func TestMeasure(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		capacity := rapid.IntRange(1, 10240).Draw(t, "capacity")
		g, err := measure(capacity)
		if err != nil {
			t.Fatal(err)
		}
		free := 0
		for group := range g.groups {
			used, total := g.usage(group)
			if used > total || total > blocksPerGroup {
				t.Fatalf("group %d of %d uses %d of %d blocks", group, g.groups, used, total)
			}
			free += total - used
		}
		usable := free - min(g.blocks/reservedShare, maxReserved)
		if usable < capacity*blocksPerMiB {
			t.Fatalf("%d MiB have %d usable blocks", capacity, usable)
		}
		if spare := usable - capacity*blocksPerMiB; spare > 3*blocksPerMiB {
			t.Fatalf("%d MiB have %d blocks too many", capacity, spare)
		}
	})
}

func TestMeasureRefuses(t *testing.T) {
	for _, capacity := range []int{-1, 0, 1 << 20} {
		if _, err := measure(capacity); err == nil {
			t.Errorf("%d MiB were accepted", capacity)
		}
	}
}
