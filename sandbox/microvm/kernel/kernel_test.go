package kernel

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// write makes files below a root.
func write(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFind(t *testing.T) {
	root := t.TempDir()
	needed := []string{"virtio_blk", "erofs"}
	if _, _, err := Find(root, needed); err == nil || !strings.Contains(err.Error(), Packages) {
		t.Errorf("with nothing there: %v", err)
	}
	write(t, root, map[string]string{
		"boot/vmlinuz-6.8.0-1-generic":                             "",
		"lib/modules/6.8.0-1-generic/modules.builtin":              "kernel/drivers/block/virtio_blk.ko\n",
		"lib/modules/6.8.0-1-generic/kernel/fs/erofs/erofs.ko.zst": "",
		"boot/vmlinuz-6.8.0-2-generic":                             "",
		"lib/modules/6.8.0-2-generic/modules.builtin":              "kernel/drivers/block/virtio_blk.ko\n",
	})
	image, modules, err := Find(root, needed)
	if err != nil || image != root+"/boot/vmlinuz-6.8.0-1-generic" || modules != root+"/lib/modules/6.8.0-1-generic" {
		t.Errorf("%q, %q, %v", image, modules, err)
	}
	_, _, err = Find(root, append(needed, "overlay"))
	if err == nil || !strings.Contains(err.Error(), "6.8.0-1-generic has no overlay") || !strings.Contains(err.Error(), "6.8.0-2-generic has no erofs, overlay") {
		t.Errorf("with too little: %v", err)
	}
	write(t, root, map[string]string{
		"boot/vmlinuz-6.1.0-1-cloud-amd64":                                   "",
		"lib/modules/6.1.0-1-cloud-amd64/kernel/fs/erofs/erofs.ko":           "",
		"lib/modules/6.1.0-1-cloud-amd64/kernel/drivers/block/virtio-blk.ko": "",
	})
	if image, _, err := Find(root, needed); err != nil || filepath.Base(image) != "vmlinuz-6.1.0-1-cloud-amd64" {
		t.Errorf("with one for clouds: %q, %v", image, err)
	}
}

func TestCompareImages(t *testing.T) {
	names := []string{"vmlinuz-6.14.0-9-generic", "vmlinuz-6.1.0-56-cloud-amd64", "vmlinuz-6.12.9-cloud-amd64", "vmlinuz-6.1.0-9-cloud-amd64", "vmlinuz-6.12.10-cloud-amd64"}
	slices.SortFunc(names, compareImages)
	want := []string{"vmlinuz-6.14.0-9-generic", "vmlinuz-6.1.0-9-cloud-amd64", "vmlinuz-6.1.0-56-cloud-amd64", "vmlinuz-6.12.9-cloud-amd64", "vmlinuz-6.12.10-cloud-amd64"}
	if !slices.Equal(names, want) {
		t.Errorf("the order is %q", names)
	}
}

func TestModuleOrder(t *testing.T) {
	directory := t.TempDir()
	for _, name := range []string{"kernel/fs/a-b.ko", "kernel/lib/c.ko.xz", "kernel/d.ko"} {
		path := filepath.Join(directory, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	listed := "kernel/fs/a-b.ko: kernel/lib/c.ko.xz kernel/d.ko\nkernel/lib/c.ko.xz: kernel/d.ko\nkernel/d.ko:\n"
	if err := os.WriteFile(filepath.Join(directory, "modules.dep"), []byte(listed), 0o644); err != nil {
		t.Fatal(err)
	}
	files, err := Order(directory, []string{"a_b", "builtin"})
	var names []string
	for _, path := range files {
		names = append(names, filepath.Base(path))
	}
	if err != nil || !slices.Equal(names, []string{"d.ko", "c.ko.xz", "a-b.ko"}) {
		t.Errorf("%q, %v", names, err)
	}
}
