package lambent

import (
	"slices"
	"strings"
)

// Isolation names a kind of sandbox driver: what stands between a function and the host. It has three strengths, and a
// function is never run under a weaker one than it asked for.
type Isolation string

// The isolations, the weakest first.
const (
	IsolationNative  Isolation = "native"  // namespaces, cgroups and seccomp; the host's kernel
	IsolationGVisor  Isolation = "gvisor"  // the same, under gVisor's kernel in user space
	IsolationMicroVM Isolation = "microvm" // the same, inside a guest kernel under a hypervisor
)

// IsolationTag is the tag of a function that says under which Isolation it is to run.
const IsolationTag = "lambent:isolation"

// Isolations returns all isolations, the weakest first.
func Isolations() []Isolation {
	return []Isolation{IsolationNative, IsolationGVisor, IsolationMicroVM}
}

// ParseIsolation reads an isolation's name. The error is InvalidParameter, and names those that there are.
func ParseIsolation(name string) (Isolation, error) {
	if i := Isolation(name); i.Known() {
		return i, nil
	}
	var names []string
	for _, i := range Isolations() {
		names = append(names, string(i))
	}
	return "", Errorf(InvalidParameter, "%q is not an isolation that is known. Use one of: %s.", name, strings.Join(names, ", "))
}

// Known tells whether i is one of the isolations.
func (i Isolation) Known() bool { return slices.Contains(Isolations(), i) }

// WeakerThan tells whether i isolates less than another. What is not known is weaker than all that is.
func (i Isolation) WeakerThan(other Isolation) bool {
	return slices.Index(Isolations(), i) < slices.Index(Isolations(), other)
}

// MayShareHost tells whether sandboxes of different accounts may be on one host at the same time, one under a and the other
// under b. shared are the isolations that hold between accounts.
func MayShareHost(a, b Isolation, shared []Isolation) bool {
	return slices.Contains(shared, a) && slices.Contains(shared, b)
}

// DefaultSharedHosts are the isolations under which different accounts share hosts where a region says nothing: all but the
// one that leaves them a kernel in common.
func DefaultSharedHosts() []Isolation { return []Isolation{IsolationGVisor, IsolationMicroVM} }

// Resident tells that a host has sandboxes of an account under an isolation.
type Resident struct {
	Account   string
	Isolation Isolation
}
