package manager

import (
	"math"
	"time"

	"lambent"
)

// memoryPerVCPU is how many MiB of memory come with one processor, as on Lambda.
const memoryPerVCPU = 1769

// What a sandbox is expected to use while nothing is learnt of it: a runtime and a fraction of the memory that it may use, as
// most functions wait for others most of the time. The deviation is small, because that of copies adds up: what is expected of
// a new function is not to keep a host empty that has room for it. A wrong expectation is found out soon, by the memory that
// workers report to be in use and by what is learnt.
const (
	priorMemoryMiB          = 48
	priorMemoryShare        = 0.1
	priorMemoryDeviationMiB = 2
	priorVCPU               = 0.1
	priorVCPUDeviation      = 0.02
)

const (
	learnWeight = 0.05 // of the newest invoke in the moving averages
	learnFrom   = 20   // invokes, before what was learnt counts
)

// estimate is what is learnt of the use of a function version's sandboxes: moving averages and variances over its invokes.
type estimate struct {
	invokes              int
	memory, memorySpread float64 // MiB; variance
	vcpu, vcpuSpread     float64
}

// learn takes in what one invoke used.
func (e *estimate) learn(memory, vcpu float64) {
	e.invokes++
	weight := max(learnWeight, 1/float64(e.invokes))
	average := func(mean, spread *float64, x float64) {
		difference := x - *mean
		*mean += weight * difference
		*spread = (1 - weight) * (*spread + weight*difference*difference)
	}
	average(&e.memory, &e.memorySpread, memory)
	average(&e.vcpu, &e.vcpuSpread, vcpu)
}

// demand returns what to tell placement of a sandbox that may use so much memory.
func (e *estimate) demand(memoryMiB int) lambent.Demand {
	memory, vcpu := float64(memoryMiB), float64(memoryMiB)/memoryPerVCPU
	if e.invokes < learnFrom {
		return lambent.Demand{
			MemoryMiB: min(memory, priorMemoryMiB+priorMemoryShare*memory), MemoryDeviation: priorMemoryDeviationMiB,
			VCPU: priorVCPU * vcpu, VCPUDeviation: priorVCPUDeviation * vcpu,
		}
	}
	return lambent.Demand{
		MemoryMiB: min(e.memory, memory), MemoryDeviation: math.Sqrt(e.memorySpread),
		VCPU: min(e.vcpu, vcpu), VCPUDeviation: math.Sqrt(e.vcpuSpread),
	}
}

// Observe learns what an invoke used, for the demand that placement is told of. It is cheap enough for every invoke. Versions
// that have no sandbox are ignored.
func (m *Manager) Observe(key lambent.VersionKey, tenant string, result lambent.WorkerResult) {
	p, ok := m.pools.load(poolKey{key, tenant})
	if !ok || result.MaxMemoryMiB <= 0 {
		return
	}
	vcpu := float64(result.CPU) / float64(max(result.Duration, time.Millisecond))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.learnt.learn(float64(result.MaxMemoryMiB), vcpu)
}
