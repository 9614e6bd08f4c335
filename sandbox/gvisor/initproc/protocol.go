// Package initproc is what runs on behalf of the gvisor driver beside a function. The launcher, on the host, waits until it is in
// its cgroups and becomes runsc. The init is process 1 inside: it builds the root out of what gVisor's gofer serves, starts and
// reaps processes, and carries the Runtime API's connections to the host. The starter gives up every right and then becomes the
// function's process by exec.
//
// The init is inside, so that the driver trusts nothing that it says: whoever breaks into gVisor's kernel speaks for it.
package initproc

import (
	"encoding/binary"
	"io"
	"path"

	"lambent/sandbox/native/wire"
)

// What Args[0] says that a program is to be. One that can be any of them looks at Args[0] before it does anything else.
const (
	LauncherName = "lambent-gvisor-launcher"
	InitName     = InitPath // runsc takes the program from there
	StarterName  = "lambent-gvisor-starter"
)

// What the root file system that gVisor is given holds, and what is in the directory Exchange of it, which the host changes
// while the sandbox runs. The function does not see it.
const (
	InitPath = "/lambent-init"
	BaseDir  = "/base" // BaseDir/N is the tree for the init's Nth argument
	Exchange = "/exchange"
	NewRoot  = "/new"
	Control  = "control" // the socket that the init speaks to the driver through
	API      = "api"     // the socket of the Runtime API
)

// hidden is where the exchange is in the function's root, for the init only.
const hidden = "/.lambent"

// inExchange is the path of something in the exchange once the root is built.
func inExchange(name string) string { return path.Join(hidden, path.Base(name)) }

// The messages to the init. Each is answered by OK or Failed before the next is sent; Exit comes at any time. The first part is the
// name.
const (
	// Mount: the parts are triples of a name in the exchange, a target, and ReadOnly or Writable.
	Mount    = "mount"
	ReadOnly = "ro"
	Writable = "rw"
	// Hostname: the part is the new host name.
	Hostname = "hostname"
	// Limit: the parts are the limits of open files of a process, and of processes.
	Limit = "limit"
	// Start: the parts are a number that Exit is to say, the name of a pipe in the exchange, the path, the directory, the number of
	// arguments, the arguments, the environment.
	Start = "start"
	// Save closes what leads outside, answers, closes the control connection, and opens it again when gVisor has saved the
	// sandbox, there and where it is restored.
	Save = "save"

	// OK answers a message.
	OK = wire.OK
	// Failed answers a message; the parts are the step that failed and the number of the error.
	Failed = wire.Failed
	// Exit tells that a process ended: its number, exit code, signal.
	Exit = wire.Exit
)

// WriteMessage writes a message to a stream: the length of its packet in four little-endian bytes, and the packet.
func WriteMessage(w io.Writer, parts ...string) error {
	packet, err := wire.Encode(parts...)
	if err != nil {
		return err
	}
	_, err = w.Write(append(binary.LittleEndian.AppendUint32(make([]byte, 0, 4+len(packet)), uint32(len(packet))), packet...))
	return err
}

// ReadMessage reads a message of at most limit bytes. It fails on anything that WriteMessage does not write; io.EOF is the end of
// the stream between messages.
func ReadMessage(r io.Reader, limit int) ([]string, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	size := binary.LittleEndian.Uint32(head[:])
	if uint64(size) > uint64(limit) {
		return nil, wire.ErrTooLarge
	}
	packet := make([]byte, size)
	if _, err := io.ReadFull(r, packet); err != nil {
		return nil, err
	}
	return wire.Decode(packet)
}
