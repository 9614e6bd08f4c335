// Package microvm is the sandbox driver that gives each sandbox a kernel of its own, in a virtual machine.
//
//	lambent (root)                       host                        | guest, a machine of one sandbox
//	  |-- jail: own user, root, network,     ------------------------+------------------------------------
//	  |   processes, cgroups                                         |
//	  |     `-- QEMU -M microvm -------------------------------------|-- kernel
//	  |           |-- disk root:  EROFS, the Base --------------------|--> / below a writable layer in memory
//	  |           |-- disk state: ext4, sparse -----------------------|--> /state, where /tmp is a file of its exact size
//	  |           |-- disks code0...: EROFS, from Specialise on -----|--> the specification's mounts
//	  |           |-- network: a tap device <--- frames ---> eth0 of the function, with a sandbox's address
//	  |           `-- serial port <-- package stream --> process 1, the agent
//	  |-- QMP: fill disks, pause, save                                     `-- package native, with one sandbox
//	  `-- package remote: the calls, processes' output, the Runtime API <-------'
//
// So a function is confined twice: by the native driver in the guest, on cgroups of version 2, and by the machine. What of the host
// a function that broke the guest's kernel could speak to is QEMU, which has a user, a root file system, a network namespace and
// cgroups of its own, no rights, and a filter of system calls; it opens no file by itself, but is given descriptors.
//
// The first sandbox of a size boots, and is saved as soon as its agent answers: the others continue from there. A greeting sets the
// clock of such a copy, stirs its random numbers and tells it its address. The same is Snapshot and Restore of specialised sandboxes,
// whose directories hold the machine's memory and its disks.
//
// Without KVM the machines are emulated, correctly and slowly: that is for tests. Package firecracker has a client for the other
// monitor of microVMs, which needs KVM; the driver does not start it yet.
package microvm
