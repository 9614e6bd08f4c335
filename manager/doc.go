// Package manager is the Worker Manager of a share of the functions: it owns the state of their sandboxes, and claims one for
// each invoke.
//
//	              Start                    Claim
//	(nothing) ------------> starting --.  ,------> busy
//	     ^                             |  |         |
//	     |                             v  |         | Return
//	     `------------ gone <-------- idle <--------'
//	                    ^     Stop                  |
//	                    `---------------------------'  lost, superseded, or its lease at its end
//
// claim.go reads from top to bottom: what a claim does, warm and cold. start.go gets room and starts sandboxes, hosts.go
// follows the health of workers and adopts what they already run, reap.go gives up what is not used, catalogue.go what was
// changed or deleted. All of them change a pool: the sandboxes of one function version.
//
// No lock is shared by all claims, and none is held during a call to another host.
package manager
