// Package rpc carries the interfaces of the root package between hosts: per service a client and a handler. These are the only
// wire types of a region.
//
// A call is one POST over HTTP/1.1 inside TLS 1.3, on a connection that is kept and that no other call is on: its body is JSON,
// or a stream. Both sides show a certificate (package pki), and one table says which role may call what.
//
//	methods.go     the table: each method, the roles that may call it, the sizes of its messages
//	wire.go        messages, errors, deadlines
//	peer.go        the client's side of a call
//	server.go      the server's side, its health and its end
//	catalog.go manager.go placement.go worker.go blobs.go join.go    one service each
//
// What crosses the hop: an error's code, message, reason and advice when to try again, but not its cause, which is for the logs
// of the host that has it; the time that is left, as a duration, because hosts do not agree on the time of day; the end of the
// caller's context, as the end of the connection. A connection that fails is Unavailable, and HostLost for an invoke of which a
// byte may have reached the worker.
//
// Nothing is sent twice, except what is idempotent and says so: Manager.Return.
package rpc
