// Package remote is a sandbox.Driver on the other side of a connection: a Server beside the drivers, a Client where their sandboxes
// are used.
//
//	the service, which has no rights            the privileged part
//	  Client -- SOCK_SEQPACKET, SCM_RIGHTS -->  Server -> native, gvisor, microvm
//	                                                                          |
//	                                              Client -- virtio-serial or vsock --> Server in the guest -> native
//
// What goes over the connection is calls, their answers, and the ends of processes: JSON of bounded size. Files travel with
// answers: the Runtime API's listening socket, the pipes of processes' output, the control files that freeze and meter a sandbox.
// Between processes of one host they are descriptors; between a guest and its host each is a stream of the same connection.
// So nothing of an invoke passes through the server: the client's process talks to the sandbox by itself.
package remote
