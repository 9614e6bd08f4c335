package placement

import (
	"math"
	"math/rand/v2"
	"time"

	"lambent"
)

// deviations is z: a worker may be loaded so far that its load stays below its capacity 99.99 % of the time.
const deviations = 3.72

// fullEnough is how close to the fullest a candidate may be for chance to choose between them, as a share of capacity.
const fullEnough = 0.02

// candidate is a worker as choose sees it.
type candidate struct {
	id        lambent.WorkerID
	zone      string
	health    lambent.WorkerHealth
	expiry    time.Time // of its lease
	memoryMiB float64
	vcpu      float64
	load      load
	copies    int // of the same function
}

// load is the expected use of a worker: independent functions add their variances, copies of one function move together
// and add their deviations.
type load struct {
	memory, memoryVariance float64
	vcpu, vcpuVariance     float64
}

// with returns the load after n more copies of a function that has `copies` there already.
func (l load) with(d lambent.Demand, copies, n int) load {
	before, after := float64(copies), float64(copies+n)
	grown := after*after - before*before
	return load{
		memory:         l.memory + float64(n)*d.MemoryMiB,
		memoryVariance: l.memoryVariance + grown*d.MemoryDeviation*d.MemoryDeviation,
		vcpu:           l.vcpu + float64(n)*d.VCPU,
		vcpuVariance:   l.vcpuVariance + grown*d.VCPUDeviation*d.VCPUDeviation,
	}
}

// fill is the share of the worker's capacity that the load reaches at the edge of its deviations; above 1 it does not fit.
func (l load) fill(memoryMiB, vcpu float64) float64 {
	memory := (l.memory + deviations*math.Sqrt(max(l.memoryVariance, 0))) / memoryMiB
	cpu := (l.vcpu + deviations*math.Sqrt(max(l.vcpuVariance, 0))) / vcpu
	return max(memory, cpu)
}

// choose picks a worker for up to n sandboxes and tells how many of them fit: the fullest worker that still holds one, away
// from those with many copies of the function, which weigh as if the worker were fuller than it is empty. It is pure.
func choose(candidates []candidate, d lambent.Demand, n int, avoid map[lambent.WorkerID]bool, now time.Time, random *rand.Rand) (lambent.WorkerID, int) {
	best, bestScore, found := 0, 0.0, false
	for i, c := range candidates {
		if c.health != lambent.WorkerHealthy || avoid[c.id] || !c.expiry.After(now) {
			continue
		}
		after := c.load.with(d, c.copies, 1).fill(c.memoryMiB, c.vcpu)
		if after > 1 {
			continue
		}
		score := after - crowding(c.copies) + random.Float64()*fullEnough
		if !found || score > bestScore {
			best, bestScore, found = i, score, true
		}
	}
	if !found {
		return "", 0
	}
	c := candidates[best]
	for n > 1 && c.load.with(d, c.copies, n).fill(c.memoryMiB, c.vcpu) > 1 {
		n /= 2
	}
	return c.id, n
}

// crowding is what the copies that a worker holds already take from its score: the more there are, the more correlated its
// load is.
func crowding(copies int) float64 { return 1 - 1/(1+float64(copies)/16) }
