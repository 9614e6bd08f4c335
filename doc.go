// Package lambent is a self-hosted function service that speaks the AWS Lambda API and re-creates Lambda's architecture.
// "AWS Lambda" is named to say what Lambent is compatible with.
//
// This package is the vocabulary: the types and the service interfaces that every other package shares. It imports the
// standard library only. Reading it gives the whole design.
//
// # The services
//
//	           client (AWS CLI, SDK, Terraform)
//	                         |
//	                api: SigV4, routes, shapes
//	            /                             \
//	functions (control plane)        frontend (Front End Invoke)
//	    |        \ watch                 |        |          \
//	  meta, blob  `----> frontend's    counting  manager      \
//	                     cache                     |           \
//	                                            placement     worker
//	                                               \___lease___/  |
//	                                                           sandbox
//
// Front End Invoke resolves a name from a watched in-memory cache, takes a concurrency slot from the Counting Service,
// claims a sandbox from the Worker Manager, sends the payload directly to the worker, and gives slot and claim back. It
// touches no disk, no database and no global lock.
//
// # Invariants
//
//  1. Slots in use per function and per account never exceed the limit.
//  2. A sandbox runs one invoke at a time and has at most one claim; claims carry an epoch, and workers refuse stale ones.
//  3. A sandbox never changes function version, account or tenant. It is destroyed, never recycled to another.
//  4. Once a byte of a request has reached a function, the platform never silently runs it again.
//  5. An acknowledged asynchronous event is run at least once, or ends in its dead-letter queue or destination.
//  6. A worker that holds no valid lease starts nothing new; what runs there drains.
//  7. Losing any one host or any one zone loses no acknowledged write and no acknowledged event.
//
// # The house
//
// One package per service. The five data-plane services (frontend, counting, manager, placement, worker) import this
// package and never each other; cmd/lambent wires them. Everything that passes through an interface of this package is a
// value that could cross a wire.
package lambent
