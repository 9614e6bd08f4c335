package placement

import (
	"time"

	"lambent"
)

// vitals are what is known of a worker's health.
type vitals struct {
	seen     time.Time // when it last sent a heartbeat
	leaseEnd time.Time
	draining bool // it says so itself, or an operator wants it, or it has to become empty before it may be used again
	cordoned bool // an operator wants it
	bad      bool // too many of its sandbox starts failed
}

// health judges a worker. Late heartbeats weigh most: what a worker said before it fell silent may not be true any more.
func health(v vitals, now time.Time, suspectAfter, deadAfter time.Duration) lambent.WorkerHealth {
	silent := now.Sub(v.seen)
	switch {
	case silent >= deadAfter || !now.Before(v.leaseEnd):
		return lambent.WorkerDead
	case silent >= suspectAfter:
		return lambent.WorkerSuspect
	case v.draining:
		return lambent.WorkerDraining
	case v.cordoned || v.bad:
		return lambent.WorkerCordoned
	}
	return lambent.WorkerHealthy
}

// failure is a number of sandbox starts that failed through a fault of the host, as one heartbeat told.
type failure struct {
	at    time.Time
	count int
}

const (
	badFailures = 5               // so many failures
	badWindow   = time.Minute     // within this time make a worker bad,
	badFor      = 5 * time.Minute // for so long after the last one
	badShare    = 3               // at most one worker in so many is kept away: when all of them fail, it is not the hosts' fault
)

// isBad says whether a worker's recent failures are a reason to keep new sandboxes away from it. The failures are ordered by
// time.
func isBad(failures []failure, now time.Time) bool {
	for i, last := range failures {
		if now.Sub(last.at) >= badFor {
			continue
		}
		count := 0
		for _, f := range failures[:i+1] {
			if last.at.Sub(f.at) < badWindow {
				count += f.count
			}
		}
		if count >= badFailures {
			return true
		}
	}
	return false
}

// recentFailures drops failures that cannot make a worker bad any more.
func recentFailures(failures []failure, now time.Time) []failure {
	for len(failures) > 0 && now.Sub(failures[0].at) >= badFor+badWindow {
		failures = failures[1:]
	}
	return failures
}
