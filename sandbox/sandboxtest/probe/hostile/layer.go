package hostile

// The layers, in the order of the way out.
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
	Output          Layer = "bounded output"
)
