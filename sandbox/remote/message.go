package remote

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"

	"lambent/sandbox"
	"lambent/sandbox/cgroup"
)

// maxMessage is the largest message in bytes.
const maxMessage = 128 << 10

// Link carries messages, each with files. Send may be called by many goroutines; the files stay the caller's. Receive is called by
// one; its files belong to the caller. Both fail when the other end is gone or Close was called.
type Link interface {
	Send(message []byte, files []*os.File) error
	Receive() (message []byte, files []*os.File, err error)
	// Descriptors says whether files arrive as what they are. Otherwise only pipes and listening sockets can be sent.
	Descriptors() bool
	Close() error
}

// The methods of calls, and the names of what else is sent.
const (
	methodCreate     = "create"
	methodRecover    = "recover"
	methodSpecialise = "specialise"
	methodStart      = "start"
	methodFreeze     = "freeze"
	methodThaw       = "thaw"
	methodKill       = "kill"
	methodVCPU       = "vcpu"
	methodUsage      = "usage"
	methodDestroy    = "destroy"
	methodAttach     = "attach" // to a sandbox that exists: after a restore of the server's process
	methodSnapshot   = "snapshot"
	methodRestore    = "restore"

	kindCancel = "cancel" // of the call ID
	kindAnswer = "answer" // to the call ID
	kindExit   = "exit"   // of the process Process of a sandbox
)

// message is all that is ever sent. Which members are set follows from Kind, which is a method or another kind.
type message struct {
	Kind    string
	ID      uint64 `json:",omitempty"` // of the call, chosen by the client
	Driver  string `json:",omitempty"`
	Sandbox string `json:",omitempty"`

	// Calls.
	Template *sandbox.Template `json:",omitempty"`
	Spec     *sandbox.Spec     `json:",omitempty"`
	Command  *command          `json:",omitempty"`
	Process  uint64            `json:",omitempty"` // chosen by the client
	VCPU     float64           `json:",omitempty"`
	Dir      string            `json:",omitempty"`

	// Answers.
	Error     string         `json:",omitempty"`
	Errno     uint32         `json:",omitempty"` // of the system call behind Error
	Closed    bool           `json:",omitempty"` // Error is an os.ErrClosed
	Usage     *sandbox.Usage `json:",omitempty"`
	Handle    *cgroup.Layout `json:",omitempty"`
	Processes []uint64       `json:",omitempty"` // of Attach and Restore, one output file for each

	Exit *sandbox.Exit `json:",omitempty"`
}

// command is a sandbox.Command whose strings need not be UTF-8, which JSON's have to be.
type command struct {
	Path, Dir []byte
	Args, Env [][]byte
}

func encodeCommand(c sandbox.Command) *command {
	return &command{Path: []byte(c.Path), Dir: []byte(c.Dir), Args: bytesOf(c.Args), Env: bytesOf(c.Env)}
}

func (c *command) decode() sandbox.Command {
	return sandbox.Command{Path: string(c.Path), Dir: string(c.Dir), Args: stringsOf(c.Args), Env: stringsOf(c.Env)}
}

func bytesOf(list []string) [][]byte {
	var all [][]byte
	for _, s := range list {
		all = append(all, []byte(s))
	}
	return all
}

func stringsOf(list [][]byte) []string {
	var all []string
	for _, s := range list {
		all = append(all, string(s))
	}
	return all
}

// send encodes and sends.
func send(link Link, m *message, files []*os.File) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(text) > maxMessage {
		return fmt.Errorf("a message of %d bytes is too large", len(text))
	}
	return link.Send(text, files)
}

// receive receives and decodes. The files are the caller's also when there is an error.
func receive(link Link) (*message, []*os.File, error) {
	text, files, err := link.Receive()
	if err != nil {
		return nil, files, err
	}
	m := &message{}
	if err := json.Unmarshal(text, m); err != nil {
		return nil, files, fmt.Errorf("malformed message: %w", err)
	}
	return m, files, nil
}

// remoteError is an error that happened on the other side.
type remoteError struct {
	text  string
	cause error // what is known of it here; may be nil
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.cause }

// setError puts an error into an answer.
func (m *message) setError(err error) {
	if err == nil {
		return
	}
	m.Error = err.Error()
	if len(m.Error) > 4096 {
		m.Error = m.Error[:4096]
	}
	m.Closed = errors.Is(err, os.ErrClosed)
	var errno syscall.Errno
	if errors.As(err, &errno) {
		m.Errno = uint32(errno)
	}
}

// err takes it out again.
func (m *message) err() error {
	switch {
	case m.Error == "":
		return nil
	case m.Errno != 0 && m.Errno < 4096:
		return &remoteError{m.Error, syscall.Errno(m.Errno)}
	case m.Closed:
		return &remoteError{m.Error, os.ErrClosed}
	}
	return &remoteError{m.Error, nil}
}

// closeFiles closes those of the files that are not nil.
func closeFiles(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
