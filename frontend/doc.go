// Package frontend is Front End Invoke: it runs one invoke from the caller's request to the function's answer.
//
// invoke.go reads from top to bottom. What a name means is resolved in a watched copy of the function catalogue, in memory
// (catalogue.go, table.go, resolve.go), so that an invoke touches no disk and no database, and known functions go on when the
// metadata store is away. payload.go checks that the request is JSON.
package frontend
