package placement

import (
	"time"

	"lambent"
)

// vital is what a worker's health is judged by.
type vital struct {
	silence            time.Duration // since the last heartbeat
	lease              time.Duration // that is left
	cordoned, draining bool
}

// health judges a worker. It is pure. The worst state that applies wins.
func health(v vital, suspect, dead time.Duration) lambent.WorkerHealth {
	switch {
	case v.silence > dead:
		return lambent.WorkerDead
	case v.silence > suspect:
		return lambent.WorkerSuspect
	case v.draining || v.lease <= 0:
		return lambent.WorkerDraining
	case v.cordoned:
		return lambent.WorkerCordoned
	}
	return lambent.WorkerHealthy
}
