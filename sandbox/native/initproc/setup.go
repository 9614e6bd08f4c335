package initproc

import (
	"errors"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// setup turns the new namespaces into a sandbox: its root instead of the host's, its own /proc and /dev/shm, the loopback
// interface, a host name. It returns the socket that listens at address.
func setup(root int, hostname, address, shmMiB string, masks []string) (listener int, err error) {
	if err := enterRoot(root, shmMiB, masks); err != nil {
		return 0, err
	}
	if err := failed("set host name", setHostname(hostname)); err != nil {
		return 0, err
	}
	host, port, err := parseAddress(address)
	if err != nil {
		return 0, err
	}
	if err := raiseLoopback(host); err != nil {
		return 0, err
	}
	if listener, err = listen(host, port); err != nil {
		return 0, err
	}
	if err := openNull(); err != nil {
		return 0, err
	}
	return listener, dropInit()
}

// openNull replaces the first three descriptors, which are files of the host that a function must not inherit.
func openNull() error {
	name := []byte("/dev/null\x00")
	null, err := call(unix.SYS_OPENAT, at, uintptr(unsafe.Pointer(&name[0])), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return failed("open /dev/null", err)
	}
	defer closeFile(null)
	for to := range uintptr(3) {
		if err := do(unix.SYS_DUP3, uintptr(null), to, 0); err != nil {
			return failed("open /dev/null", err)
		}
	}
	return nil
}

// enterRoot mounts the tree over the host's root, completes it, and lets go of the host's. The new proc has to be mounted
// while the host's is still there: the kernel gives a user namespace no more of proc than it can already see.
func enterRoot(root int, shmMiB string, masks []string) error {
	const sealed = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return failed("make mounts private", err)
	}
	if err := moveMount(root, "/"); err != nil {
		return failed("mount the root", err)
	}
	if err := do(unix.SYS_FCHDIR, uintptr(root)); err != nil {
		return failed("enter the root", err)
	}
	if err := mount("proc", "proc", "proc", sealed, "hidepid=invisible"); err != nil {
		return failed("mount /proc", err)
	}
	if err := maskProc(masks); err != nil {
		return err
	}
	if err := mount("shm", "dev/shm", "tmpfs", sealed, "mode=1777,nr_inodes=4096,size="+shmMiB+"m"); err != nil {
		return failed("mount /dev/shm", err)
	}
	if err := pivotRoot(); err != nil {
		return failed("pivot to the root", err)
	}
	if err := unmount("."); err != nil {
		return failed("unmount the host's root", err)
	}
	return failed("enter the root", named(unix.SYS_CHDIR, "/", 0))
}

// maskProc hides entries of the new proc behind /dev/null or an empty directory, or makes them read-only.
func maskProc(masks []string) error {
	const readOnly = unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, mask := range masks {
		action, name, _ := strings.Cut(mask, " ")
		path := "proc/" + name
		directory, err := isDirectory(path)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return failed("look at "+path, err)
		}
		source := path
		if action == "hide" {
			source = "dev/null"
			if directory {
				source = "mnt"
			}
		}
		if err := mount(source, path, "", unix.MS_BIND, ""); err != nil {
			return failed("mask "+path, err)
		}
		if action == "hide" {
			continue
		}
		if err := mount("", path, "", readOnly, ""); err != nil {
			return failed("make read-only "+path, err)
		}
	}
	return nil
}

// mountTrees attaches trees at their targets, which exist in the root.
func mountTrees(trees []int, targets []string, replace bool) error {
	for i, tree := range trees {
		if replace {
			if err := unmount(targets[i]); err != nil {
				return failed("unmount "+targets[i], err)
			}
		}
		if err := moveMount(tree, targets[i]); err != nil {
			return failed("mount "+targets[i], err)
		}
	}
	return nil
}

// parseAddress reads "a.b.c.d:port".
func parseAddress(address string) (host [4]byte, port int, err error) {
	rest := address
	for i := range host {
		end := strings.IndexAny(rest, ".:")
		if end < 1 || (rest[end] == ':') != (i == len(host)-1) {
			return host, 0, failed("read address "+address, syscall.EINVAL)
		}
		n, ok := decimal(rest[:end], 255)
		if !ok {
			return host, 0, failed("read address "+address, syscall.EINVAL)
		}
		host[i], rest = byte(n), rest[end+1:]
	}
	port, ok := decimal(rest, 65535)
	if !ok {
		return host, 0, failed("read address "+address, syscall.EINVAL)
	}
	return host, port, nil
}

// decimal reads a number of at most limit.
func decimal(text string, limit int) (n int, ok bool) {
	for i := range len(text) {
		if text[i] < '0' || text[i] > '9' {
			return 0, false
		}
		if n = 10*n + int(text[i]-'0'); n > limit {
			return 0, false
		}
	}
	return n, text != ""
}

// raiseLoopback brings lo up, which gives it 127.0.0.1, and adds host to it.
func raiseLoopback(host [4]byte) error {
	socket, err := call(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return failed("open a socket", err)
	}
	defer closeFile(socket)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return failed("name the loopback interface", err)
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := do(unix.SYS_IOCTL, uintptr(socket), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(request))); err != nil {
		return failed("raise the loopback interface", err)
	}
	for _, set := range []struct {
		ioctl   uintptr
		address [4]byte
	}{
		{unix.SIOCSIFADDR, host},
		{unix.SIOCSIFNETMASK, [4]byte{255, 255, 255, 255}},
	} {
		request, err := unix.NewIfreq("lo:1") // a second address needs a label
		if err != nil {
			return failed("name the loopback interface", err)
		}
		if err := request.SetInet4Addr(set.address[:]); err != nil {
			return failed("set the address", err)
		}
		if err := do(unix.SYS_IOCTL, uintptr(socket), set.ioctl, uintptr(unsafe.Pointer(request))); err != nil {
			return failed("set the address", err)
		}
	}
	return nil
}

// listen opens the socket of the Runtime API. The driver serves it from outside of the namespace.
func listen(host [4]byte, port int) (int, error) {
	socket, err := call(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, failed("open a socket", err)
	}
	place := &unix.RawSockaddrInet4{Family: unix.AF_INET, Port: uint16(port)<<8 | uint16(port)>>8, Addr: host}
	if err = do(unix.SYS_BIND, uintptr(socket), uintptr(unsafe.Pointer(place)), unix.SizeofSockaddrInet4); err == nil {
		err = do(unix.SYS_LISTEN, uintptr(socket), 128)
	}
	if err != nil {
		closeFile(socket)
		return 0, failed("listen", err)
	}
	return socket, nil
}
