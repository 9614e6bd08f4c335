// Package counting is the Counting Service: a region-wide, exact view of the concurrency in use.
//
// An account's limit is divided into pools: one for each function with reserved concurrency, and one for all others. Front
// ends hold credits of the pools under a session, and admit invokes from them without a message. How many credits exist is
// decided by a group of replicas, of which a majority has to live.
//
//	slot.go      what an invoke meets: a credit at hand, or a question and its verdict
//	purse.go     the credits of one pool that a session holds
//	lease.go     all of them, and the limits, for as long as the session is not lost
//	part.go      the front end's side of the protocol, with one shard
//	session.go   a front end's session, with all shards
//	message.go   the protocol
//	ledger.go    the state machine of the group: who holds what, and who may have more
//	limits.go    its limits, and its snapshots
//	member.go    a replica: Raft, the ledger, and the leader's clock
//	commit.go    what it does with what Raft has decided
//	replica.go   the goroutine around a member
//	follow.go    where the limits come from
//	group.go     the replicas of a shard, in one process
//	service.go   all of it, in one process
//
// The part, the ledger and the member are pure state machines: the time and messages in, messages out. A simulation drives
// them through partitions, crashes, pauses and clocks that run wrong.
package counting
