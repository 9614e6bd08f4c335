//go:build !amd64

package doctor

import (
	"context"

	"golang.org/x/sys/unix"
)

// probeKVM only makes a machine: the instructions of a minimal guest are known for amd64.
func probeKVM(_ *doctor, _ context.Context) finding {
	kvm, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return missing("/dev/kvm: %v", err)
	}
	defer unix.Close(kvm)
	const createVM = 0xae01
	vm, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(kvm), createVM, 0)
	if errno != 0 {
		return missing("make a machine: %v", errno)
	}
	unix.Close(int(vm))
	return weak("a machine was made; no minimal guest is known for this architecture").with("see whether the Linux guest boots")
}
