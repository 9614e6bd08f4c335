// Package hostile is what an attacker inside a sandbox tries, as one table of named attempts.
//
// An attempt is a few system calls that do something which a sandbox must not let happen. It reports what it got: nothing
// means that it was held. So that a slip in an attempt is not taken for a wall, each is also made where nothing holds it,
// by Prove, and has to report a breach there.
//
// Attempts run in sandboxes, in throw-away namespaces and in throw-away machines only. They judge by what they got, not by
// how they were refused, since a user-space kernel refuses in other words than Linux.
package hostile

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Attempt is one thing that hostile code tries.
type Attempt struct {
	Name  string
	Tries string // in words that complete "it tries to"
	Layer Layer  // what is meant to stop it
	Proof Proof  // where it is seen to succeed
	// Unproven says why Proof is Nowhere.
	Unproven string
	// Flood is set for those that use up something. They get a sandbox of their own, and being ended by it is being held.
	Flood bool
	// Unread is set for those whose output is not to be read while they run.
	Unread bool
	// Crash is set for those whose own process may be ended by the refusal, as that of a foreign system call may be.
	Crash bool

	try     func(*Trial)
	outside func(*outside) // changes how the attempt is started where nothing holds it
}

// Proof is the lowest place of proof in which an attempt succeeds.
type Proof string

// The places of proof.
const (
	// Namespace is a process with all capabilities in namespaces of its own, which on the machine is an unprivileged user.
	Namespace Proof = "namespace"
	// Guest is a process of root in a virtual machine.
	Guest Proof = "guest"
	// Nowhere is for what the kernels at hand do not have at all.
	Nowhere Proof = "nowhere"
)

// Layer is what is meant to stop an attempt.
type Layer string

// Scene is what the attacker is told about its surroundings, so that it need not guess.
type Scene struct {
	Victims  []Victim
	Listened []string // pairs of network and address that are served outside of the sandbox
	Files    []string // files outside of the sandbox that hold Secret, by their names there
	Secret   string
	Code     string // a directory that is read-only, with the probe in it
	Temp     string // a directory for the attacker's own files
	Shared   string // a tmpfs for the attacker's own files
	// ScoreFloor is how low oom_score_adj may get: where it started, or 0 when the host's root may not pin it there.
	ScoreFloor int

	MemoryMiB, Processes, Descriptors, EphemeralMiB, FilesMax int
}

// Victim is a process that the attacker has no business with.
type Victim struct {
	PID        int    // 0 when the attacker's PIDs are others
	Address    uint64 // where its memory holds Secret
	Descriptor int    // an open file of it that holds Secret
	Secret     string
	Sockets    []string // pairs of network and address
	Key        int      // of its System V shared memory, semaphores and messages
	Queue      string   // of its POSIX messages
	Files      []string // that hold Secret
}

// Trial is one attempt under way.
type Trial struct {
	Scene
	breaches []string
	answers  []string
	kept     []any
}

// Run makes an attempt and returns what it got, and how it was answered where it got nothing.
func (a Attempt) Run(scene Scene) (breaches, answers []string) {
	t := &Trial{Scene: scene}
	a.try(t)
	return t.breaches, t.answers
}

// Find returns an attempt by its name.
func Find(name string) (Attempt, bool) {
	for _, attempt := range Attempts() {
		if attempt.Name == name {
			return attempt, true
		}
	}
	return Attempt{}, false
}

// Group is a part of the table.
type Group struct {
	Title    string
	Attempts []Attempt
}

// Groups returns the table in the order in which it is described.
func Groups() []Group {
	return []Group{
		{"Files of the kernel", procfsAttempts()},
		{"Other processes", processAttempts()},
		{"Cgroups", cgroupAttempts()},
		{"Devices and terminals", deviceAttempts()},
		{"Mounts and roots", mountAttempts()},
		{"Files", fileAttempts()},
		{"Namespaces", namespaceAttempts()},
		{"Privileges", privilegeAttempts()},
		{"Parts of the kernel", kernelAttempts()},
		{"Foreign system calls", abiAttempts()},
		{"The host as a whole", hostAttempts()},
		{"Kinds of sockets", socketAttempts()},
		{"The network", networkAttempts()},
		{"Shared things", sharedAttempts()},
		{"Floods", floodAttempts()},
		{"Memory", memoryAttempts()},
	}
}

// Attempts returns all attempts of the table.
func Attempts() []Attempt {
	var all []Attempt
	for _, group := range Groups() {
		all = append(all, group.Attempts...)
	}
	return all
}

// got notes a success, or how it was refused. It returns whether it was a success.
func (t *Trial) got(err error, format string, args ...any) bool {
	what := fmt.Sprintf(format, args...)
	if err != nil {
		t.answers = append(t.answers, fmt.Sprintf("%s: %v", what, err))
		return false
	}
	t.breaches = append(t.breaches, what)
	return true
}

// breach notes what must not be.
func (t *Trial) breach(format string, args ...any) {
	t.breaches = append(t.breaches, fmt.Sprintf(format, args...))
}

// held notes an answer.
func (t *Trial) held(format string, args ...any) {
	t.answers = append(t.answers, fmt.Sprintf(format, args...))
}

// victim returns the process that can be named by a PID, if there is one.
func (t *Trial) victim() (Victim, bool) {
	for _, victim := range t.Victims {
		if victim.PID != 0 && !isOwn(victim.PID) {
			return victim, true
		}
	}
	t.held("no other process is known")
	return Victim{}, false
}

// isOwn tells whether a number that means a process of the host is that of a thread of this process here.
func isOwn(pid int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", pid))
	return err == nil
}

// call makes a system call.
func (t *Trial) call(what string, number uintptr, args ...uintptr) bool {
	_, err := raw(number, args...)
	return t.got(err, "%s", what)
}

// looked makes a system call with arguments that are in no way valid. Any error but a refusal means that the kernel went
// on to look at them, and would have done what valid ones ask for.
func (t *Trial) looked(what string, number uintptr, args ...uintptr) bool {
	_, err := raw(number, args...)
	if err != nil && !refused(err) {
		t.breach("%s was looked at: %v", what, err)
		return true
	}
	return t.got(err, "%s", what)
}

// refused tells whether a call was refused as one that the caller may not make, or that does not exist.
func refused(err error) bool {
	return errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EACCES)
}

// raw makes a system call.
func raw(number uintptr, args ...uintptr) (uintptr, error) {
	var six [6]uintptr
	copy(six[:], args)
	result, _, errno := unix.Syscall6(number, six[0], six[1], six[2], six[3], six[4], six[5])
	if errno != 0 {
		return result, errno
	}
	return result, nil
}

// text returns the address of a C string that lives as long as the trial.
func (t *Trial) text(s string) uintptr {
	b := append([]byte(s), 0)
	t.kept = append(t.kept, b)
	return uintptr(unsafe.Pointer(&b[0]))
}

// address returns the address of a value, which lives as long as the trial.
func address[T any](t *Trial, value *T) uintptr {
	t.kept = append(t.kept, value)
	return uintptr(unsafe.Pointer(value))
}

// Values that fit no argument, and the mark of everything that attempts make.
const (
	bad  = ^uintptr(0)
	here = ^uintptr(99) // AT_FDCWD
	mark = "lambent-hostile"
)
