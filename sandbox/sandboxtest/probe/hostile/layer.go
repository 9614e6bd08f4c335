package hostile

// The layers that attempts are meant to be stopped by.
const (
	CleanStart      Layer = "clean start"
	OwnRoot         Layer = "own root"
	PrivateDev      Layer = "private /dev"
	ProcMasks       Layer = "masked /proc"
	NoSysfs         Layer = "no /sys"
	PIDs            Layer = "pid namespace"
	NetNamespace    Layer = "network namespace"
	IPCNamespace    Layer = "ipc namespace"
	CgroupNamespace Layer = "cgroup namespace"
	NoNewPrivileges Layer = "no_new_privs"
	Capabilities    Layer = "no capabilities"
	Syscalls        Layer = "system call filter"
	MemoryLimit     Layer = "memory limit"
	ProcessLimit    Layer = "process limit"
	DescriptorLimit Layer = "descriptor limit"
	DiskLimit       Layer = "size of /tmp"
	BoundedOutput   Layer = "bounded output"
)

// inSentry says what a layer is under gVisor, whose kernel in user space, the Sentry, answers every system call. What is not
// named is the same as natively.
func inSentry(layer Layer) string {
	switch layer {
	case OwnRoot:
		return "own root, opened by gVisor's gofer"
	case PrivateDev, ProcMasks, NoSysfs:
		return "the Sentry's own files"
	case Capabilities:
		return "no capabilities that the Sentry knows of"
	case PIDs, IPCNamespace, CgroupNamespace, NoNewPrivileges:
		return "the Sentry's " + string(layer)
	case Syscalls:
		return "the Sentry"
	case MemoryLimit:
		return "memory limit, around the Sentry"
	}
	return string(layer)
}

// Stops says what stops an attempt under a driver of a kind, or why it need not.
func (a Attempt) Stops(kind string) string {
	if reason, ok := Granted(kind, a.Name); ok {
		return "nothing: " + reason
	}
	switch kind {
	case "gvisor":
		return inSentry(a.Layer)
	case "microvm":
		return string(a.Layer) + ", then the machine"
	}
	return string(a.Layer)
}
