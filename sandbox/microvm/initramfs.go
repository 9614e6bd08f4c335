package microvm

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"lambent/sandbox/microvm/agent"
	"lambent/sandbox/microvm/kernel"
)

// guestModules are what the agent needs of the kernel, in the order of their use.
func guestModules() []string {
	return []string{"virtio_mmio", "virtio_blk", "virtio_console", "virtio_net", "erofs", "overlay", "loop", "ext4"}
}

// writeInitramfs writes the archive that the kernel unpacks into its first root: the agent, and the modules that it loads.
func writeInitramfs(w io.Writer, agentBinary []byte, modules string) error {
	buffered := bufio.NewWriter(w)
	archive := &archive{w: buffered}
	for _, directory := range []string{"dev", "proc", "sys", "modules"} {
		archive.add(directory, directoryMode|0o755, nil)
	}
	archive.addDevice("dev/console", 0o600, 5, 1)
	archive.add("init", fileMode|0o755, agentBinary)
	files, err := kernel.Order(modules, guestModules())
	if err != nil {
		return err
	}
	var order strings.Builder
	for _, path := range files {
		content, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read a module: %w", err)
		}
		archive.add("modules/"+filepath.Base(path), fileMode|0o600, content)
		fmt.Fprintf(&order, "/modules/%s\n", filepath.Base(path))
	}
	archive.add(strings.TrimPrefix(agent.ModulesOrder, "/"), fileMode|0o600, []byte(order.String()))
	archive.add("TRAILER!!!", 0, nil)
	if archive.err != nil {
		return fmt.Errorf("write the initramfs: %w", archive.err)
	}
	return buffered.Flush()
}

// archive writes the format that the kernel reads: cpio, "newc". It keeps the first error.
type archive struct {
	w    io.Writer
	next int
	err  error
}

const (
	directoryMode = 0o040000
	fileMode      = 0o100000
	deviceMode    = 0o020000
)

func (a *archive) add(name string, mode int, content []byte) { a.entry(name, mode, 0, 0, content) }

func (a *archive) addDevice(name string, mode, major, minor int) {
	a.entry(name, deviceMode|mode, major, minor, nil)
}

func (a *archive) entry(name string, mode, major, minor int, content []byte) {
	a.next++
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.next, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name)+1, 0)
	a.padded([]byte(header + name + "\x00"))
	a.padded(content)
}

// padded writes up to a multiple of four bytes.
func (a *archive) padded(content []byte) {
	for _, part := range [][]byte{content, make([]byte, -len(content)&3)} {
		if a.err == nil && len(part) > 0 {
			_, a.err = a.w.Write(part)
		}
	}
}
