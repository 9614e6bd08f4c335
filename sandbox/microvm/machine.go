package microvm

import (
	"context"
	"io"
	"net"
	"os"
)

// machine is a virtual machine that runs or is paused. Its methods are called by one goroutine at a time, but for End.
type machine interface {
	// Port returns the byte stream to the agent; always the same one.
	Port() io.ReadWriteCloser
	// Fill gives a disk, which had nothing, its content. The file stays the caller's.
	Fill(ctx context.Context, disk string, file *os.File) error
	// Limit sets a disk's rate.
	Limit(ctx context.Context, disk string, rate Rate) error
	// Pause stops the machine, Resume lets it go on.
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	// Save writes the state of a paused machine, without its disks, to an empty file.
	Save(ctx context.Context, file *os.File) error
	// Said returns the last that the monitor and the guest's kernel wrote.
	Said() string
	// End ends the machine and waits until it is gone.
	End() error
}

// machinePlan says what a new machine is.
type machinePlan struct {
	kernel, initramfs string // paths
	commandLine       string
	memoryMiB         int
	processors        int
	disks             []disk
	tap               *os.File         // the network device's other end; nil: no such device
	hardwareAddr      net.HardwareAddr // of that device
	state             *os.File         // to continue from; nil: it boots
}

// disk is a disk of a machine. Without a file it has nothing yet, until Fill.
type disk struct {
	name     string // its serial number in the guest
	file     *os.File
	writable bool
}
