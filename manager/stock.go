package manager

import (
	"math"
	"slices"
	"time"

	"lambent"
)

// stock is room on workers that placement has granted to a pool.
type stock []*holding

// holding is one grant. Each of its sandboxes is in use, or free for the next start.
type holding struct {
	grant lambent.Grant
	host  *host
	free  int
	inUse int
	since time.Time // when its free room last changed
}

// take takes room for one sandbox, nil when there is none.
func (s stock) take(now time.Time, avoid map[lambent.WorkerID]time.Time) *holding {
	for _, h := range s {
		if h.free > 0 && h.mayStart(now) && !now.Before(avoid[h.grant.Worker]) {
			h.free--
			h.inUse++
			return h
		}
	}
	return nil
}

func (h *holding) mayStart(now time.Time) bool {
	return now.Before(h.grant.Expires) && h.host.usable.Load() && !h.host.cordoned.Load()
}

// putBack makes room free that a sandbox took.
func (s stock) putBack(h *holding, now time.Time) {
	h.inUse--
	h.free++
	h.since = now
}

// release takes a sandbox's room out of a holding.
func (s *stock) release(h *holding) {
	h.inUse--
	s.prune()
}

// giveUp takes a sandbox's room and all that is free out of a holding, and returns how much was free.
func (s *stock) giveUp(h *holding) (free int) {
	h.inUse--
	free, h.free = h.free, 0
	s.prune()
	return free
}

// surplus is room that is given back to placement.
type surplus struct {
	grant lambent.GrantID
	count int
}

// shed takes out the free room of the holdings that match.
func (s *stock) shed(match func(*holding) bool) []surplus {
	var all []surplus
	for _, h := range *s {
		if h.free > 0 && match(h) {
			all = append(all, surplus{h.grant.ID, h.free})
			h.free = 0
		}
	}
	s.prune()
	return all
}

// prune forgets holdings that are empty.
func (s *stock) prune() {
	*s = slices.DeleteFunc(*s, func(h *holding) bool { return h.free == 0 && h.inUse == 0 })
}

const (
	heatHalfLife = 10 * time.Second
	maxAhead     = 16 // sandboxes that room is asked for beyond those that start
)

// heat is the number of starts lately: each counts half after heatHalfLife.
type heat struct {
	value float64
	at    time.Time
}

func (h heat) now(now time.Time) float64 {
	if h.value == 0 {
		return 0
	}
	return h.value * math.Exp2(-now.Sub(h.at).Seconds()/heatHalfLife.Seconds())
}

func (h *heat) add(now time.Time) { *h = heat{h.now(now) + 1, now} }

// ahead returns for how many more sandboxes to ask for room, so that the next starts need not ask: none for a first one, half
// as many as were started lately for those that follow.
func (h heat) ahead(now time.Time) int { return min(maxAhead, int(h.now(now)/2)) }
