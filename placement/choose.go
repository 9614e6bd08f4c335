package placement

import (
	"math/rand/v2"
	"slices"
	"time"

	"lambent"
)

const (
	// uncontended is how many deviations above its mean a load stays with a probability of 99.99 %.
	uncontended = 3.72
	// sampled is how many workers of a zone a choice looks at. The best of 64 is among the best 5 % with a probability of
	// 96 %, and looking at 64 costs microseconds however large the region is.
	sampled = 64
	// apart is how much more than its own size a copy of a function weighs against a worker that has copies of it. Above 1,
	// copies spread over workers that differ in nothing else; too far above, they spread over all.
	apart = 1.5
)

// fit says how strictly a sandbox must fit. A choice tries one after the other.
type fit int

const (
	fitsWithSpare fit = iota // below the capacity less the spare share
	fitsWhole                // below the capacity
	fitsMemory               // the memory fits, the processors are contended: better slow than refused
)

// wanted is what a choice is asked for.
type wanted struct {
	function lambent.FunctionID
	who      lambent.Resident // whose sandboxes, and under what
	demand   demand
	count    int // sandboxes, at least 1
	avoid    []lambent.WorkerID
	spare    float64 // share of each worker's capacity that is used only when nothing else is left
}

// choose picks the worker for up to want.count sandboxes of one function, and says how many of them may go there; nil when
// not even one fits anywhere. It is a pure function of its arguments.
//
// The zone with the fewest copies of the function comes first, so that the loss of a zone costs as few of them as possible.
// In a zone the worker is chosen that ends up fullest, and that has few copies of the function already.
func choose(region *snapshot, want wanted, now time.Time, random *rand.Rand) (*host, int) {
	zones := slices.Clone(region.zones)
	random.Shuffle(len(zones), func(i, j int) { zones[i], zones[j] = zones[j], zones[i] })
	slices.SortStableFunc(zones, func(a, b *zone) int { return a.copies[want.function] - b.copies[want.function] })
	for _, how := range []fit{fitsWithSpare, fitsWhole, fitsMemory} {
		for _, z := range zones {
			if h := best(z.open, want, how, now, random); h != nil {
				return h, extent(h, want, how)
			}
		}
	}
	return nil, 0
}

// best returns the best of the workers that fit, nil if none does. Of many it looks at a sample first.
func best(hosts []*host, want wanted, how fit, now time.Time, random *rand.Rand) *host {
	var found *host
	var highest float64
	consider := func(h *host) {
		if !h.leaseEnd.After(now) || !h.tenancy.accepts(want.who) || slices.Contains(want.avoid, h.id) {
			return
		}
		mean, bound := h.with(want.function, want.demand, 1)
		if !h.fits(bound, how, want.spare) {
			return
		}
		if s := h.score(want, mean, bound, how); found == nil || s > highest {
			found, highest = h, s
		}
	}
	if len(hosts) > sampled {
		for range sampled {
			consider(hosts[random.IntN(len(hosts))])
		}
		if found != nil {
			return found
		}
	}
	for _, h := range hosts {
		consider(h)
	}
	return found
}

// fits says whether a load with this bound fits the worker.
func (h *host) fits(bound resources, how fit, spare float64) bool {
	switch how {
	case fitsWithSpare:
		return bound.memory <= h.capacity.memory*(1-spare) && bound.vcpu <= h.capacity.vcpu*(1-spare)
	case fitsWhole:
		return bound.memory <= h.capacity.memory && bound.vcpu <= h.capacity.vcpu
	default:
		return bound.memory <= h.capacity.memory
	}
}

// score says how good a worker is for one more sandbox. Where the processors are contended anyway, the least contended is
// the best.
func (h *host) score(want wanted, mean, bound resources, how fit) float64 {
	if how == fitsMemory {
		return -ratio(bound.vcpu, h.capacity.vcpu)
	}
	own := h.functions[want.function].mean.plus(want.demand.mean)
	return h.fullness(mean) - apart*h.fullness(own)
}

// fullness is the share of the worker's scarcer resource that an amount takes.
func (h *host) fullness(r resources) float64 {
	return max(ratio(r.memory, h.capacity.memory), ratio(r.vcpu, h.capacity.vcpu))
}

func ratio(part, whole float64) float64 {
	if whole <= 0 {
		return 0
	}
	return part / whole
}

// extent returns how many of the sandboxes fit the chosen worker as well as the first one does.
func extent(h *host, want wanted, how fit) int {
	low, high := 1, max(1, want.count) // low fits
	for low < high {
		middle := (low + high + 1) / 2
		if _, bound := h.with(want.function, want.demand, middle); h.fits(bound, how, want.spare) {
			low = middle
		} else {
			high = middle - 1
		}
	}
	return low
}

// closest returns the usable worker that lacks least for one sandbox of the function, and could hold it when it is empty; nil if
// no worker could. A worker that lacks memory lacks less than one that another account has to leave.
func closest(region *snapshot, want wanted) *host {
	var found *host
	var least float64
	var leastTaken bool
	for _, z := range region.zones {
		for _, h := range z.open {
			if want.demand.bound().memory > h.capacity.memory || !slices.Contains(h.tenancy.offers, want.who.Isolation) {
				continue
			}
			_, bound := h.with(want.function, want.demand, 1)
			lacks, taken := bound.memory-h.capacity.memory, !h.tenancy.beside(want.who)
			if found == nil || leastTaken && !taken || taken == leastTaken && lacks < least {
				found, least, leastTaken = h, lacks, taken
			}
		}
	}
	return found
}
