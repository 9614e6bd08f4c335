// Package gvisor is the sandbox driver whose sandboxes have a kernel of their own in user space: gVisor's Sentry, run by runsc. A
// function's system calls are answered by the Sentry, a memory-safe program that is itself held by a system call filter, namespaces,
// user IDs of its own and cgroups; a hole in the host's kernel is out of a function's reach unless it finds one in the Sentry first.
//
//	host      Sentry + gofer (runsc), in one cgroup, as user IDs that nobody else has
//	inside    init (1) --- starter --> function
//
// The init builds the root out of what the gofer serves, starts the function's processes, carries their output, and carries the
// Runtime API's connections to a socket on the host. Code and /tmp are mounted by the driver in a directory of the sandbox, the
// exchange, when they are known, and appear inside: mounts propagate to the gofer. So a ready-made sandbox has its Sentry running.
//
// All of the driver's mounts and files but the images of /tmp are in a mount namespace and a tmpfs of its own, and are gone when its
// process is. What is left of a driver that was killed is cgroups with the processes in them, which Recover ends.
//
// Freeze stops the Sentry as well. Kill ends it with everything in it, as the host's kernel does when memory runs out. The next Start
// begins another one, on the same /tmp.
package gvisor
