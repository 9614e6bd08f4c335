// Package wire is what a microVM's host and the agent in it agree on, beside the calls of package remote.
package wire

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"lambent/sandbox"
)

// The names of the disks, which are their serial numbers in the guest.
const (
	DiskRoot  = "root"  // EROFS: the guest's root
	DiskState = "state" // ext4: the native driver's state directory, with /tmp as long as it has the usual size
	DiskTmp   = "tmp"   // ext4: in the place of DiskState, for another size of /tmp; has nothing until Specialise
	diskCode  = "code"  // EROFS: a mount of the specification; has nothing until Specialise
)

// CodeDisks is how many mounts a specification may have.
const CodeDisks = 10

// DiskCode is the name of the disk for a mount.
func DiskCode(n int) string { return diskCode + strconv.Itoa(n) }

// Port is the name of the serial port.
const Port = "lambent.agent"

// Driver and Box are the names of the driver in the guest, and of its one sandbox.
const (
	Driver = "native"
	Box    = "box"
)

// ReadyTmpMiB is the size of /tmp that needs no DiskTmp.
const ReadyTmpMiB = 512

// StateMiB is the size of DiskState or DiskTmp that a /tmp of a size fits on.
func StateMiB(ephemeralMiB int) int { return ephemeralMiB + ephemeralMiB/8 + 64 }

// ManifestName is the file in the root image that holds a Manifest, as JSON.
const ManifestName = "lambent.json"

// Manifest says what is in a root image.
type Manifest struct {
	// Base are mounts for the native driver; the sources are in the image.
	Base []sandbox.Mount
	// Program is run instead of the native driver, when it is set: its output goes to the host, and then a line with its exit
	// status.
	Program []string
	Env     []string
}

// Network is what a guest's interface is to be like. It comes with each greeting as JSON: machines that continue from one state have
// different ones.
type Network struct {
	Address      netip.Addr // its own; nobody else is on its link but the gateway
	Gateway      netip.Addr // also the name server
	MTU          int
	HardwareAddr net.HardwareAddr
}

// CodeSource names the content of a disk as the source of a mount. A file is one at the image's root; empty: the whole image.
func CodeSource(n int, file string) string { return DiskCode(n) + ":" + file }

// ParseCodeSource reads what CodeSource wrote.
func ParseCodeSource(source string) (disk, file string, err error) {
	disk, file, ok := strings.Cut(source, ":")
	digits, isCode := strings.CutPrefix(disk, diskCode)
	n, numberErr := strconv.Atoi(digits)
	if !ok || !isCode || numberErr != nil || n < 0 || n >= CodeDisks || strings.Contains(file, "/") || file == ".." {
		return "", "", fmt.Errorf("%q is the content of no disk", source)
	}
	return disk, file, nil
}
