package hostile

import (
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

func deviceAttempts() []Attempt {
	return []Attempt{
		{Name: "mknod-character", Tries: "make device nodes for the machine's memory, ports and log, and open them", Layer: Capabilities,
			Proof: Guest, try: makeNodes(unix.S_IFCHR, [][2]uint32{{1, 1}, {1, 4}, {1, 11}, {10, 200}})},
		{Name: "mknod-block", Tries: "make device nodes for the host's disks, and open them", Layer: Capabilities, Proof: Guest,
			try: makeNodes(unix.S_IFBLK, [][2]uint32{{7, 0}, {8, 0}, {253, 0}, {254, 0}, {259, 0}})},
		{Name: "open-dev-mem", Tries: "open the machine's memory and ports", Layer: PrivateDev, Proof: Guest,
			try: opens("/dev/mem", "/dev/port", "/dev/kmem")},
		{Name: "open-disks", Tries: "open the host's disks and make loop devices", Layer: PrivateDev, Proof: Guest,
			try: opens("/dev/loop-control", "/dev/loop0", "/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/mapper/control")},
		{Name: "open-dev-kvm", Tries: "make virtual machines, and reach the host's kernel by vhost", Layer: PrivateDev, Proof: Guest,
			try: opens("/dev/kvm", "/dev/vhost-net", "/dev/vhost-vsock", "/dev/vfio/vfio")},
		{Name: "open-dev-fuse", Tries: "serve a file system to the kernel", Layer: PrivateDev, Proof: Guest, try: opens("/dev/fuse", "/dev/cuse")},
		{Name: "open-dev-tun", Tries: "make a network interface of its own", Layer: PrivateDev, Proof: Guest, try: opens("/dev/net/tun")},
		{Name: "open-console", Tries: "write to the host's console and terminals", Layer: PrivateDev, Proof: Guest,
			try: opens("/dev/console", "/dev/tty0", "/dev/ttyS0", "/dev/ptmx")},
		{Name: "type-into-terminal", Tries: "type into the terminal that it was started from (TIOCSTI)", Layer: Syscalls, Proof: Guest,
			try: typeInto, outside: func(o *outside) { o.terminal = true }},
	}
}

// makeNodes makes device nodes in every directory that may be written, and opens them. A node that cannot be opened is
// but a name.
func makeNodes(kind uint32, devices [][2]uint32) func(*Trial) {
	return func(t *Trial) {
		for _, directory := range []string{t.Temp, t.Shared} {
			for _, device := range devices {
				path := filepath.Join(directory, mark+"-node")
				err := unix.Mknod(path, kind|0o666, int(unix.Mkdev(device[0], device[1])))
				if err != nil {
					t.held("mknod in %s: %v", directory, err)
					continue
				}
				fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
				if t.got(err, "opened device %d:%d in %s", device[0], device[1], directory) {
					unix.Close(fd)
				}
				unix.Unlink(path)
			}
		}
	}
}

func opens(paths ...string) func(*Trial) {
	return func(t *Trial) {
		for _, path := range paths {
			fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
			if t.got(err, "opened %s", path) {
				unix.Close(fd)
			}
		}
	}
}

// typeInto pushes a character into every descriptor that it was given, and into its controlling terminal. The upper half
// of the request is ignored by the kernel, and must not deceive a filter.
func typeInto(t *Trial) {
	character := new(byte)
	*character = '\n'
	descriptors := []int{0, 1, 2}
	if fd, err := unix.Open("/dev/tty", unix.O_RDWR|unix.O_NONBLOCK, 0); err == nil {
		descriptors = append(descriptors, fd)
	}
	for _, fd := range descriptors {
		for _, request := range []uintptr{unix.TIOCSTI, 1<<32 | unix.TIOCSTI} {
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(character)))
			if errno != 0 {
				t.held("ioctl %#x of descriptor %d: %v", request, fd, errno)
				continue
			}
			t.breach("typed into descriptor %d", fd)
		}
	}
}
