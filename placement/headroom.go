package placement

// Headroom says how much room a region has left.
type Headroom struct {
	CapacityMiB float64 // memory of all healthy workers
	ExpectedMiB float64 // memory that the sandboxes on them are expected to use
	// ZoneLossMiB is what would be left free in the other zones if the most loaded zone were lost and its sandboxes were
	// started anew there; negative: they would not fit. A region of one zone cannot move anything, and has 0.
	ZoneLossMiB float64
}

// Headroom returns how much room the region has left. Operators add workers before ZoneLossMiB becomes negative.
func (s *Service) Headroom() Headroom {
	s.mu.Lock()
	defer s.mu.Unlock()
	return headroom(&s.region)
}

func headroom(region *snapshot) Headroom {
	var all Headroom
	type load struct{ capacity, expected float64 }
	var zones []load
	for _, z := range region.zones {
		var l load
		for _, h := range z.open {
			l.capacity += h.capacity.memory
			l.expected += max(h.mean.memory, h.resident)
		}
		if l.capacity == 0 {
			continue
		}
		all.CapacityMiB += l.capacity
		all.ExpectedMiB += l.expected
		zones = append(zones, l)
	}
	if len(zones) < 2 {
		return all
	}
	// Without a zone, the capacity is less by its own, and the load stays the same.
	for i, l := range zones {
		if left := all.CapacityMiB - l.capacity - all.ExpectedMiB; i == 0 || left < all.ZoneLossMiB {
			all.ZoneLossMiB = left
		}
	}
	return all
}
