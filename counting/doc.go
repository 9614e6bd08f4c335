// Package counting is the Counting Service: a region-wide, exact view of the concurrency in use. slot.go is the front end's
// side, which admits from credits at hand; ledger.go is the pure state machine that hands credits out; replica.go keeps it in
// a Raft group whose log lives in memory; service.go runs a group in one process.
package counting
