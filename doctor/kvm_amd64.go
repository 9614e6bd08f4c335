package doctor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The requests of /dev/kvm and the layout of its structures, from the kernel's <linux/kvm.h> for x86-64.
const (
	kvmGetAPIVersion   = 0xae00
	kvmCreateVM        = 0xae01
	kvmGetMmapSize     = 0xae04
	kvmCreateVCPU      = 0xae41
	kvmSetMemoryRegion = 0x4020ae46
	kvmRun             = 0xae80
	kvmSetRegs         = 0x4090ae82
	kvmGetSregs        = 0x8138ae83
	kvmSetSregs        = 0x4138ae84

	kvmExitReasonAt = 8 // in struct kvm_run
	kvmExitIO       = 2
	kvmExitHalt     = 5
	sregsCSBase     = 0  // struct kvm_segment cs: base
	sregsCSSelector = 12 // and its selector
	sregsSize       = 312
)

type kvmMemoryRegion struct {
	slot, flags       uint32
	guestAddress      uint64
	size, hostAddress uint64
}

type kvmRegs struct {
	rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp uint64
	r8, r9, r10, r11, r12, r13, r14, r15   uint64
	rip, rflags                            uint64
}

// guestCode adds 2 and 2, writes the sum to a port and halts.
func guestCode() []byte {
	return []byte{0xb0, 2, 0x04, 2, 0xe6, 0x10, 0xf4} // mov al, 2; add al, 2; out 0x10, al; hlt
}

// ioctl calls the kernel and retries when a signal came.
func ioctl(fd int, request, argument uintptr) (int, error) {
	for {
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, argument)
		if errno != unix.EINTR {
			if errno != 0 {
				return 0, errno
			}
			return int(n), nil
		}
	}
}

// probeKVM runs a few instructions in a guest that has one page of memory.
func probeKVM(_ *doctor, _ context.Context) finding {
	runtime.LockOSThread() // a virtual processor belongs to a thread
	defer runtime.UnlockOSThread()
	kvm, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return missing("/dev/kvm: %v", err)
	}
	defer unix.Close(kvm)
	version, err := ioctl(kvm, kvmGetAPIVersion, 0)
	if err != nil {
		return missing("/dev/kvm is there and does not answer: %v", err)
	}
	if err := runGuest(kvm); err != nil {
		return missing("API version %d; %v", version, err)
	}
	return ok("API version %d: a guest added two numbers, and halted", version)
}

// runGuest makes a machine, runs guestCode in it and checks what it does.
func runGuest(kvm int) error {
	vm, err := ioctl(kvm, kvmCreateVM, 0)
	if err != nil {
		return fmt.Errorf("make a machine: %w", err)
	}
	defer unix.Close(vm)
	const pageSize, at = 4096, 0x1000
	page, err := unix.Mmap(-1, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	defer unix.Munmap(page) //nolint:errcheck // it is mapped
	copy(page, guestCode())
	region := kvmMemoryRegion{guestAddress: at, size: pageSize, hostAddress: uint64(uintptr(unsafe.Pointer(&page[0])))}
	if _, err := ioctl(vm, kvmSetMemoryRegion, uintptr(unsafe.Pointer(&region))); err != nil {
		return fmt.Errorf("give it memory: %w", err)
	}
	vcpu, err := ioctl(vm, kvmCreateVCPU, 0)
	if err != nil {
		return fmt.Errorf("make a processor: %w", err)
	}
	defer unix.Close(vcpu)
	size, err := ioctl(kvm, kvmGetMmapSize, 0)
	if err != nil {
		return err
	}
	state, err := unix.Mmap(vcpu, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Munmap(state) //nolint:errcheck // it is mapped
	var segments [sregsSize]byte
	if _, err := ioctl(vcpu, kvmGetSregs, uintptr(unsafe.Pointer(&segments))); err != nil {
		return fmt.Errorf("read its segments: %w", err)
	}
	clear(segments[sregsCSBase : sregsCSBase+8])
	clear(segments[sregsCSSelector : sregsCSSelector+2])
	if _, err := ioctl(vcpu, kvmSetSregs, uintptr(unsafe.Pointer(&segments))); err != nil {
		return fmt.Errorf("set its segments: %w", err)
	}
	registers := kvmRegs{rip: at, rflags: 2}
	if _, err := ioctl(vcpu, kvmSetRegs, uintptr(unsafe.Pointer(&registers))); err != nil {
		return fmt.Errorf("set its registers: %w", err)
	}
	return follow(vcpu, state)
}

// follow runs the processor until it halts.
func follow(vcpu int, state []byte) error {
	wrote := false
	for range 4 {
		if _, err := ioctl(vcpu, kvmRun, 0); err != nil {
			return fmt.Errorf("run it: %w", err)
		}
		switch reason := binary.NativeEndian.Uint32(state[kvmExitReasonAt:]); reason {
		case kvmExitIO:
			offset := binary.NativeEndian.Uint64(state[40:]) // struct kvm_run: io.data_offset
			if offset >= uint64(len(state)) || state[offset] != 4 {
				return errors.New("it ran, and added wrongly")
			}
			wrote = true
		case kvmExitHalt:
			if !wrote {
				return errors.New("it halted before it had run its instructions")
			}
			return nil
		default:
			return fmt.Errorf("it ended with reason %d of <linux/kvm.h>", reason)
		}
	}
	return errors.New("it does not halt")
}
