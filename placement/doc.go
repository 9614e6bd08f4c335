// Package placement is the Placement Service: it chooses the worker that gets the next sandbox, grants capacity to managers,
// leases workers, and watches their health.
//
// Which worker is chosen is a pure function of what is known of the workers (choose.go), and so is what is thought of a
// worker's health (health.go). Service is the shell around them: it takes in heartbeats, keeps the sums that a choice reads
// up to date, and hands out grants and leases.
//
// # What a worker's load is
//
// The demand of one sandbox has a mean and a deviation, of memory and of processors. Copies of one function are busy at the
// same time, different functions are not: with n copies of each function, of mean m and deviation s, a worker's load has the
// mean sum(n*m) and the variance sum((n*s)^2). A sandbox goes where mean + 3.72 deviations stay below the capacity: then the
// load fits with a probability of 99.99 %. Many different functions on a worker therefore pack more densely than many copies
// of few.
//
// # Whose sandboxes a worker holds
//
// A worker gets only sandboxes of isolations that it has drivers for, and those of different accounts only under isolations that
// hold between accounts (tenancy.go). What nobody offers is InvalidRuntime, Lambda's answer for a function that cannot be run as it
// is configured: waiting would not help, and another isolation would not be what was asked for. What somebody offers who has no
// room, or has another account's sandboxes, is Unavailable.
package placement
