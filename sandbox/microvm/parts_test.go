package microvm

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lambent/sandbox/microvm/agent/wire"
)

func TestEmulatedCommandLine(t *testing.T) {
	for cpuinfo, want := range map[string]string{
		"processor\t: 0\ncpu MHz\t\t: 2596.134\n": "tsc_early_khz=2596134 ",
		"cpu MHz : many\n":                        "tsc_early_khz=1000000 ",
		"":                                        "tsc_early_khz=1000000 ",
	} {
		if got := emulatedCommandLine(cpuinfo); !strings.Contains(got, want) {
			t.Errorf("of %q: %s", cpuinfo, got)
		}
	}
}

func TestArchive(t *testing.T) {
	var out bytes.Buffer
	archive := &archive{w: &out}
	archive.add("a", fileMode|0o644, []byte("hello"))
	archive.add("TRAILER!!!", 0, nil)
	text := out.String()
	if archive.err != nil || len(text)%4 != 0 || !strings.HasPrefix(text, "070701") || !strings.Contains(text, "a\x00hello\x00\x00\x00070701") {
		t.Errorf("%v %q", archive.err, text)
	}
}

func TestCodeSource(t *testing.T) {
	disk, file, err := wire.ParseCodeSource(wire.CodeSource(3, "content"))
	if disk != "code3" || file != "content" || err != nil {
		t.Error(disk, file, err)
	}
	for _, bad := range []string{"", "code", "code:", "code99:", "code-1:", "root:", "code1:../a", "code1:..", "/etc"} {
		if _, _, err := wire.ParseCodeSource(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestCopySparse(t *testing.T) {
	directory := t.TempDir()
	source, err := os.Create(filepath.Join(directory, "a"))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	for _, at := range []int64{0, 5 << 20, 9<<20 + 17} {
		if _, err := source.WriteAt([]byte("content"), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := source.Truncate(20 << 20); err != nil {
		t.Fatal(err)
	}
	if err := copyFile(filepath.Join(directory, "b"), source.Name()); err != nil {
		t.Fatal(err)
	}
	a, _ := os.ReadFile(source.Name())
	b, _ := os.ReadFile(filepath.Join(directory, "b"))
	if !bytes.Equal(a, b) {
		t.Error("the copy differs")
	}
}

func FuzzQMP(f *testing.F) {
	f.Add([]byte(`{"return": {}}`))
	f.Add([]byte(`{"error": {"class": "a", "desc": "b"}}`))
	f.Fuzz(func(_ *testing.T, line []byte) { _, _ = parseQMP(line) }) // it must not panic
}

// TestFits checks that a state is not given to what cannot go on with it.
func TestFits(t *testing.T) {
	d := &Driver{monitor: "a"}
	for problem, description := range map[string]saved{
		"saved under b":    {Monitor: "b"},
		"here is none":     {Monitor: "a", Network: true},
		"":                 {Monitor: "a"},
		"saved under , an": {},
	} {
		err := d.fits(description)
		if (err == nil) != (problem == "") || err != nil && !strings.Contains(err.Error(), problem) {
			t.Errorf("%+v: %v", description, err)
		}
	}
}
