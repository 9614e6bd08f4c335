package placement

import (
	"math"
	"slices"
	"time"

	"lambent"
)

// resources are an amount of what sandboxes use.
type resources struct {
	memory float64 // MiB
	vcpu   float64
}

func (r resources) plus(o resources) resources {
	return resources{r.memory + o.memory, r.vcpu + o.vcpu}
}

func (r resources) times(n float64) resources { return resources{r.memory * n, r.vcpu * n} }

// atLeastZero hides the rounding errors of sums that were added to and subtracted from.
func (r resources) atLeastZero() resources { return resources{max(0, r.memory), max(0, r.vcpu)} }

func (r resources) square() resources { return resources{r.memory * r.memory, r.vcpu * r.vcpu} }

// demand is what one sandbox is expected to use.
type demand struct{ mean, deviation resources }

// demandOf takes a demand from outside. What is not a sensible number counts as nothing.
func demandOf(d lambent.Demand) demand {
	sane := func(x float64) float64 {
		if math.IsNaN(x) || math.IsInf(x, 0) || x < 0 {
			return 0
		}
		return x
	}
	return demand{
		mean:      resources{sane(d.MemoryMiB), sane(d.VCPU)},
		deviation: resources{sane(d.MemoryDeviation), sane(d.VCPUDeviation)},
	}
}

// bound is what one sandbox alone stays below with a probability of 99.99 %.
func (d demand) bound() resources { return d.mean.plus(d.deviation.times(uncontended)) }

// differs says whether a demand is so far from an older one that it changes what fits.
func (d demand) differs(older demand) bool {
	const material = 0.1 // of the larger one
	far := func(a, b float64) bool { return math.Abs(a-b) > material*max(a, b) }
	now, then := d.bound(), older.bound()
	return far(now.memory, then.memory) || far(now.vcpu, then.vcpu)
}

// snapshot is all that a choice depends on. It is kept up to date sandbox by sandbox, so that a choice copies nothing.
//
// Invariants: a host is in its zone's open list exactly while it is usable, and index is its place there; a host's mean and
// variance are the sums over its functions; a zone's copies are the sums over all of its hosts.
type snapshot struct {
	zones  []*zone             // in the order in which they were first seen
	shared []lambent.Isolation // that hold between accounts
}

type zone struct {
	name   string
	open   []*host // that may get new sandboxes, in no order
	copies map[lambent.FunctionID]int
}

// host is the load of one worker.
type host struct {
	id       lambent.WorkerID
	zone     *zone
	capacity resources
	resident float64   // MiB that its sandboxes really use, by its last heartbeat
	leaseEnd time.Time // it gets nothing new from then on

	mean      resources
	variance  resources
	functions map[lambent.FunctionID]share
	tenancy   tenancy

	index int // in zone.open, -1 when it is not there
}

// share is what all sandboxes of one function are expected to use on one worker.
type share struct {
	copies          int
	mean, deviation resources
}

// zone returns the zone of a name.
func (s *snapshot) zone(name string) *zone {
	for _, z := range s.zones {
		if z.name == name {
			return z
		}
	}
	z := &zone{name: name, copies: make(map[lambent.FunctionID]int)}
	s.zones = append(s.zones, z)
	return z
}

// newHost makes a host without load, and not open.
func (s *snapshot) newHost(id lambent.WorkerID, zone string) *host {
	return &host{id: id, zone: s.zone(zone), functions: make(map[lambent.FunctionID]share), tenancy: newTenancy(s.shared), index: -1}
}

// setOpen says whether the host may get new sandboxes.
func (h *host) setOpen(open bool) {
	z := h.zone
	switch {
	case open && h.index < 0:
		h.index = len(z.open)
		z.open = append(z.open, h)
	case !open && h.index >= 0:
		last := z.open[len(z.open)-1]
		z.open[h.index], last.index = last, h.index
		z.open = slices.Delete(z.open, len(z.open)-1, len(z.open))
		h.index = -1
	}
}

// add changes the host's load by n sandboxes of a function. n may be negative.
func (h *host) add(fn lambent.FunctionID, d demand, n int) {
	before := h.functions[fn]
	after := share{
		copies:    before.copies + n,
		mean:      before.mean.plus(d.mean.times(float64(n))).atLeastZero(),
		deviation: before.deviation.plus(d.deviation.times(float64(n))).atLeastZero(),
	}
	if after.copies <= 0 {
		after = share{}
		delete(h.functions, fn)
	} else {
		h.functions[fn] = after
	}
	h.mean = h.mean.plus(after.mean).plus(before.mean.times(-1)).atLeastZero()
	h.variance = h.variance.plus(after.deviation.square()).plus(before.deviation.square().times(-1)).atLeastZero()
	if len(h.functions) == 0 {
		h.mean, h.variance = resources{}, resources{}
	}
	h.zone.copies[fn] += after.copies - before.copies
	if h.zone.copies[fn] <= 0 {
		delete(h.zone.copies, fn)
	}
}

// clear removes the host's whole load.
func (h *host) clear() {
	for fn, s := range h.functions {
		h.zone.copies[fn] -= s.copies
		if h.zone.copies[fn] <= 0 {
			delete(h.zone.copies, fn)
		}
	}
	clear(h.functions)
	h.tenancy.clear()
	h.mean, h.variance = resources{}, resources{}
}

// with returns what the host's load would be with n more sandboxes of a function: its mean, and the bound that it stays
// below with a probability of 99.99 %. Memory that is really in use counts where it is more than was expected.
func (h *host) with(fn lambent.FunctionID, d demand, n int) (mean, bound resources) {
	before := h.functions[fn].deviation
	after := before.plus(d.deviation.times(float64(n)))
	variance := h.variance.plus(after.square()).plus(before.square().times(-1)).atLeastZero()
	mean = resources{max(h.mean.memory, h.resident), h.mean.vcpu}.plus(d.mean.times(float64(n)))
	return mean, mean.plus(resources{math.Sqrt(variance.memory), math.Sqrt(variance.vcpu)}.times(uncontended))
}
