package guest

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMissingParts(t *testing.T) {
	for name, options := range map[string]Options{
		"emulator": {QEMU: "no-such-emulator", Kernel: os.Args[0]},
		"kernel":   {QEMU: os.Args[0], Kernel: filepath.Join(t.TempDir(), "vmlinuz-none")},
	} {
		if _, err := Run(t.Context(), os.Args[0], options); !errors.Is(err, ErrMissing) {
			t.Errorf("without the %s: %v", name, err)
		}
	}
}

// TestRoot checks the archive's shape: headers of 110 characters at multiples of 4, the modules in the order asked for.
func TestRoot(t *testing.T) {
	modules, program := t.TempDir(), filepath.Join(t.TempDir(), "program")
	for path, content := range map[string]string{"kernel/fs/a-b.ko": "first", "kernel/net/c.ko.xz": "second", "kernel/d.ko": "unwanted"} {
		path = filepath.Join(modules, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(program, []byte("odd"), 0o755); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := writeRoot(&out, program, Options{Modules: modules, Load: []string{"c", "built_in", "a_b"}}); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	if !strings.Contains(text, "/modules/c.ko.xz\n/modules/a-b.ko\n") || strings.Contains(text, "unwanted") {
		t.Errorf("the modules are not those asked for, in their order:\n%q", text)
	}
	for _, want := range []string{"init\x00", "probe\x00", "odd\x00", "TRAILER!!!\x00"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in the archive", want)
		}
	}
	for at := strings.Index(text, "070701"); at >= 0; {
		if at%4 != 0 {
			t.Fatalf("a header is at %d", at)
		}
		next := strings.Index(text[at+110:], "070701")
		if next < 0 {
			break
		}
		at += 110 + next
	}
}
