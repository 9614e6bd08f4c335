package worker

import (
	"sync"
	"time"

	"lambent"
)

const (
	withdrawAfter = 3                // failures in a row
	withdrawFor   = 30 * time.Second // after the last one
)

// faults counts what failed through the host, by driver. When the usual driver fails, placement learns of it and may keep the
// whole worker out of use. Another one that fails again and again is withdrawn for a while, and the worker goes on without it:
// whoever may choose a function's isolation cannot take the worker from those who use the usual one.
type faults struct {
	usual lambent.Isolation

	mu     sync.Mutex
	total  int // of the usual driver
	streak map[lambent.Isolation]streak
}

// streak are a driver's failures since it last did what it should.
type streak struct {
	length int
	last   time.Time
}

func newFaults(usual lambent.Isolation) *faults {
	return &faults{usual: usual, streak: make(map[lambent.Isolation]streak)}
}

// failed notes a failure of a driver.
func (f *faults) failed(isolation lambent.Isolation, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if isolation == f.usual {
		f.total++
		return
	}
	f.streak[isolation] = streak{f.streak[isolation].length + 1, now}
}

// worked notes that a driver has done what it should.
func (f *faults) worked(isolation lambent.Isolation) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.streak, isolation)
}

// count is how often the usual driver has failed.
func (f *faults) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.total
}

// withdrawn tells whether a driver is not to be used now. It is tried again later: if it fails again, it is withdrawn again.
func (f *faults) withdrawn(isolation lambent.Isolation, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.streak[isolation]
	return s.length >= withdrawAfter && now.Sub(s.last) < withdrawFor
}
