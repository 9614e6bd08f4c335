package worker

import (
	"math"
	"time"

	"lambent"
)

// How ready-made sandboxes follow the load.
const (
	poolWindow  = 10 * time.Second // over which creations are counted
	classIdle   = 5 * time.Minute  // after which nothing is kept for a class
	poolHistory = 1024             // creations that are remembered of a class
)

// class is what ready-made sandboxes are interchangeable in.
type class struct {
	isolation lambent.Isolation
	runtime   string // the runtime's class; "": made before any was asked for
	memoryMiB int    // of the template; 0: for any function
	warm      bool   // the runtime runs already
}

// sizeClasses are the memory sizes of sandboxes that have memory of their own from the beginning. The last is Lambda's largest
// function.
func sizeClasses() []int { return []int{512, 1024, 3072, 10240} }

// sizeClass returns the size that a ready-made sandbox for a function of that memory has, 0 where it need not be known.
func sizeClass(isolation lambent.Isolation, memoryMiB int) int {
	if isolation != lambent.IsolationMicroVM {
		return 0
	}
	sizes := sizeClasses()
	for _, size := range sizes {
		if memoryMiB <= size {
			return size
		}
	}
	return sizes[len(sizes)-1]
}

// leastMiB is what an unused sandbox takes of the host's memory at least, whatever its meters say: part of it is outside of them.
func leastMiB(isolation lambent.Isolation) float64 {
	switch isolation {
	case lambent.IsolationMicroVM:
		return 128
	case lambent.IsolationGVisor:
		return 32
	default:
		return 1
	}
}

// waitsFrozen tells whether a ready-made sandbox is frozen while it waits: a machine whose clock ticks keeps a processor of its host
// busy, the more so where it is emulated.
func waitsFrozen(isolation lambent.Isolation) bool { return isolation == lambent.IsolationMicroVM }

// poolTarget is how many sandboxes should be ready, by Little's law: as many as are taken while one is being made, at the rate
// of the last second or of the window, whichever is higher. Twice that, because load comes in bursts, beside the minimum.
func poolTarget(taken []time.Time, now time.Time, cost time.Duration, minimum, maximum int) int {
	second, window := 0, 0
	for _, at := range taken {
		if age := now.Sub(at); age < time.Second {
			second++
			window++
		} else if age < poolWindow {
			window++
		}
	}
	rate := max(float64(second), float64(window)/poolWindow.Seconds())
	return min(maximum, minimum+int(math.Ceil(2*rate*cost.Seconds())))
}

// wish is how many sandboxes of a class should be ready, and what each takes.
type wish struct {
	count   int
	sizeMiB float64
}

// apportion grants the wishes as far as the memory goes: of those that are not granted yet, the one of which the smallest share
// is comes next, and the first among equals. No wish could get one more.
func apportion(wishes []wish, budgetMiB float64) []int {
	granted := make([]int, len(wishes))
	for {
		next := -1
		for i, w := range wishes {
			if granted[i] >= w.count || w.sizeMiB > budgetMiB {
				continue
			}
			if next < 0 || granted[i]*wishes[next].count < granted[next]*w.count {
				next = i
			}
		}
		if next < 0 {
			return granted
		}
		granted[next]++
		budgetMiB -= wishes[next].sizeMiB
	}
}
