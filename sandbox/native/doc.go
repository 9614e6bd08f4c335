// Package native is the sandbox driver that isolates with what Linux itself offers: namespaces, cgroups, a root of its own,
// no privileges, and a system call filter.
//
//	lambent (root)                                sandbox: own user, pid, mount, net, ipc, uts, cgroup namespaces
//	  |-- spawner, a small process that forks inits
//	  |-- control socket ---------------------------> init (process 1): builds root and network, reaps, kills
//	  |-- one socket per starter -------------------> starter: unprivileged, filtered, waits, then becomes by exec ...
//	  |                                                 `--> the function's process and its children
//	  |-- serves the Runtime API's socket, which the init opened inside
//	  |-- reads the output pipe
//	  `-- writes cgroup files: limits, freeze, kill
//
// Create does all that needs privilege or time ahead of need, including one starter, which has already given up its
// rights and is in its cgroups. What is left for a cold start is to set limits, mount the code, and one exec.
//
// The init is trusted code in an untrusted place: its messages are bounded in size and time, and none of them names
// anything of the host. It ends when the driver's process does, because it reads the end of the control socket, and with
// it the kernel ends everything else in the sandbox.
package native
