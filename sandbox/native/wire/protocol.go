package wire

// The messages to the init, on its descriptor ControlFD. Each is answered by OK or Failed, in their order. The first part is the
// name.
const (
	// Setup: the files are [root tree]; the parts are host name, listen address, size of /dev/shm in MiB, the user ID, the group
	// ID and the system call filter, as struct sock_filter, of processes, then the entries of /proc to hide ("hide NAME") or
	// to make read-only ("lock NAME"). OK carries the listening socket.
	Setup = "setup"
	// Mount: the files are mount trees; the parts are their targets. A part Replace before the targets says that what is
	// mounted there goes first.
	Mount   = "mount"
	Replace = "replace"
	// Specialise: the files are mount trees; the parts are the new host name, empty for none, and the trees' targets.
	Specialise = "specialise"
	// Prepare: the files are the socket of a new starter, with a part Unified the cgroup of the unified tree to begin in, then
	// those that a thread enters v1 cgroups by. OK carries the starter's process ID inside.
	Prepare = "prepare"
	Unified = "unified"
	// KillAll ends every process of the sandbox but the init, and answers when they are reaped.
	KillAll = "killall"

	// OK answers a message.
	OK = "ok"
	// Failed answers a message; the parts are the step that failed and the number of the error.
	Failed = "failed"
	// Exit tells, on EventsFD, that a child ended: process ID inside, exit code, signal.
	Exit = "exit"
)

// The messages of a starter, on its descriptor ControlFD.
const (
	// Ready is the starter's first message: it is in its cgroups, and has given up everything. Failed comes in its place.
	Ready = "ready"
	// Exec: the file is the write end of the output; the parts are the limit of open files, the path, the directory, the
	// number of arguments, the arguments, the environment. The socket closes when it has succeeded, else Failed answers.
	Exec = "exec"
)

// The message to the spawner, on its descriptor ControlFD. It is answered as an init answers.
const (
	// Spawn starts an init in new namespaces: the files are the init's two sockets and, where there is a unified tree, the
	// cgroup to begin in; the parts are the maps of its users and of its groups, in lines "inside outside count". OK carries
	// the init's process ID on the host, and a pidfd.
	Spawn = "spawn"
)

// ControlFD is the descriptor of the control socket in spawners, inits and starters, and EventsFD that of the socket by which
// spawners and inits say what nobody asked for.
const (
	ControlFD = 3
	EventsFD  = 4
)

// SpawnerName is Args[0] of a spawner. A program that can be one looks at Args[0] before it does anything else.
const SpawnerName = "lambent-spawner"
