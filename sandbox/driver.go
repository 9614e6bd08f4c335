// Package sandbox defines what isolates one function's processes from the host and from each other. A driver decides how;
// package sandboxtest holds the suite that every driver passes.
//
//	         Create                Specialise               Start
//	(none) ---------> ready-made ------------> specialised -------> running <---> frozen
//	                       |                        |                  |  ^ Start    |
//	                       |                        |             Kill |  |          |
//	                       |                        |                  v  |          |
//	                       `------------------------+---- Destroy --- stopped -------'
//
// A ready-made sandbox has its namespaces, cgroups, network and root, and belongs to nobody. Specialise gives it to one
// function version for the rest of its life: limits, code, /tmp, environment. Start runs the function's process tree in it,
// Kill ends that tree and keeps /tmp (Lambda's reset after a crash or timeout), Destroy leaves nothing behind.
package sandbox

import (
	"context"
	"net"
	"net/netip"
	"os"
	"time"
)

// Driver makes sandboxes of one kind. It is safe for use by many goroutines.
type Driver interface {
	// Create makes a ready-made sandbox. It is done ahead of need. The id is unique among the driver's living sandboxes, and
	// a file name.
	Create(ctx context.Context, id string, template Template) (Sandbox, error)
	// Recover destroys whatever an earlier process of this driver's state directory left behind: processes, cgroups,
	// mounts, network interfaces. It is called once, before the first Create.
	Recover(ctx context.Context) error
	// Close destroys all sandboxes and releases the driver's own resources.
	Close() error
}

// Template says what a ready-made sandbox is made for, while its function is not known.
type Template struct {
	// Class is the runtime class: sandboxes of one class are interchangeable until they are specialised. Drivers treat it as
	// text. A runtime that can start before its function is known is started in a sandbox of its class with Start, before
	// Specialise.
	Class string
	// MemoryMiB is the most that Specialise may ask for, 0 for Lambda's largest function. Drivers whose sandboxes have memory
	// of their own from the beginning need it; until Specialise, processes may use no more than a small part of it.
	MemoryMiB int
}

// Snapshotter is a Driver that can save sandboxes in the midst of their run and make new ones from that.
type Snapshotter interface {
	Driver
	// Snapshot saves a specialised sandbox, with its processes and the content of /tmp, in dir, an empty directory of the
	// caller's. Its processes hold no connection to the Runtime API meanwhile, or find it closed afterwards, in the sandbox
	// and in those that are restored. The sandbox goes on as it was.
	Snapshot(ctx context.Context, box Sandbox, dir string) error
	// Restore makes a sandbox in the state that was saved, its processes in the order in which they were started. The
	// directory is only read, and may be restored from many times, at the same time too.
	Restore(ctx context.Context, id, dir string) (Sandbox, []Process, error)
}

// Network connects sandboxes to the outside, as far as its policy allows. It is safe for use by many goroutines.
type Network interface {
	// Attach gives a network namespace an interface, an address and a route. The namespace stays the caller's; the id is a
	// sandbox's. Detach takes it all back; it is idempotent, and also called when the namespace is gone.
	Attach(ctx context.Context, id string, namespace *os.File) (Attachment, error)
}

// Attachment is a sandbox's connection to a Network.
type Attachment interface {
	// Resolver is the address of the name server that the sandbox is to use.
	Resolver() netip.Addr
	Detach() error
}

// Sandbox is one isolated environment. Its methods are called by one owner, one at a time, but for Usage, Freeze and
// Thaw, which may be called at any time, and Destroy, which may be called at any time and ends the others.
type Sandbox interface {
	// Specialise binds the sandbox to a function version. It is called once.
	Specialise(ctx context.Context, spec Spec) error
	// RuntimeAPI listens where processes in the sandbox reach RuntimeAPIAddress. It is the same listener for the sandbox's
	// whole life, serves the sandbox only, and is valid after Create. Destroy closes it. It has a method File, as listeners of
	// package net have, so that it can be served by a process that has no rights.
	RuntimeAPI() net.Listener
	// Start runs a process in the sandbox as its unprivileged user. Stdout and stderr are read from its Output.
	Start(ctx context.Context, cmd Command) (Process, error)
	// Freeze stops every process in the sandbox until Thaw. Both are idempotent and return when they are in force.
	Freeze() error
	Thaw() error
	// Kill ends every process that Start began, and all their children, frozen or not, and returns when they are gone. The
	// file system stays.
	Kill(ctx context.Context) error
	// SetVCPU changes the CPU share that Specialise set: Lambda gives more of it while a function initialises.
	SetVCPU(vcpu float64) error
	// Usage reads the sandbox's meters.
	Usage() (Usage, error)
	// Destroy ends the sandbox and removes every trace of it from the host. It is idempotent.
	Destroy(ctx context.Context) error
}

// RuntimeAPIAddress is where the Runtime API is reached from inside: AWS_LAMBDA_RUNTIME_API, as on Lambda.
const RuntimeAPIAddress = "169.254.100.1:9001"

// Spec is what Specialise gives to a sandbox. Paths on the host are absolute, and their content does not change while
// the sandbox lives.
type Spec struct {
	MemoryMiB    int     // hard limit of the process tree; no swap
	VCPU         float64 // CPU share: memory/1769
	Processes    int     // limit of processes and threads: 1,024
	Descriptors  int     // limit of open files per process: 1,024
	EphemeralMiB int     // size of /tmp
	Mounts       []Mount
	Hostname     string
}

// Mount shows a directory or file of the host inside, read-only, nosuid and nodev.
type Mount struct {
	Source string // on the host
	Target string // inside
}

// Command is a process to start.
type Command struct {
	Path string   // inside
	Args []string // Args[0] is the name
	Env  []string // the whole environment
	Dir  string   // inside
}

// Process is a started process. Its Output is the read end of a pipe that carries stdout and stderr in the order of the
// writes; the caller reads it to its end and closes it.
type Process interface {
	Output() *os.File
	// Wait returns when the process itself has ended; its children may live on. It may be called by many.
	Wait(ctx context.Context) (Exit, error)
}

// Exit is how a process ended.
type Exit struct {
	Code      int  // exit status, when Signal is 0
	Signal    int  // the signal that ended it
	OOMKilled bool // the memory limit ended it or one of its children
}

// Usage are a sandbox's meters since it was specialised.
type Usage struct {
	MemoryBytes     int64 // now
	PeakMemoryBytes int64
	CPU             time.Duration
	OOMKills        int64
	Processes       int
}
