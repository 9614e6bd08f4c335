// Package worker is one host of a region: it makes, reuses, freezes and destroys sandboxes, and runs invokes in them.
//
// A warm invoke is read in invoke.go from top to bottom; a cold start begins in start.go. An environment (environment.go) is
// one sandbox bound to one function version. Its processes are started in boot.go; what Lambda says about how they end is in
// outcome.go, and how it writes that down in report.go. Sandboxes come from a pool of ready-made ones (pool.go; plan.go says how
// many of which), in which the runtime may run already (warm.go). Which drivers there are, and which accounts may be side by
// side, is in isolation.go; what happens to a driver that fails, in faults.go. What the processes write is read in output.go and
// kept by package logstore; their code comes from package codecache; what they talk to is package runtimeapi. The right to start
// anything is in lease.go.
package worker
