package manager

import (
	"time"

	"lambent"
)

// rewatchAfter is how long to wait before the catalogue is watched again.
const rewatchAfter = 200 * time.Millisecond

// follow ends the sandboxes of what the catalogue says was changed or deleted.
func (m *Manager) follow() {
	for m.running.Err() == nil {
		events, err := m.options.Catalog.Watch(m.running)
		if err == nil {
			m.watch(events)
		} else if m.running.Err() == nil {
			m.log.Warn("the catalogue cannot be watched", "error", err)
		}
		select {
		case <-time.After(rewatchAfter):
		case <-m.running.Done():
		}
	}
}

// watch takes in the events of one watch, until it ends.
func (m *Manager) watch(events <-chan lambent.CatalogEvent) {
	delivery := newDelivery()
	for event := range events {
		switch event.Kind {
		case lambent.CatalogVersion:
			delivery.note(event.Version.Key)
			m.supersede(event.Version.Key)
		case lambent.CatalogDeleted:
			m.retireMatching(event.ID, func(key lambent.VersionKey) bool { return event.Deleted == "" || key.Version == event.Deleted })
		case lambent.CatalogReset:
			delivery = newDelivery()
		case lambent.CatalogSynced:
			m.retireMissing(delivery)
			delivery = nil
		}
	}
}

// delivery is what a full delivery of the catalogue has told of so far; nil when none is under way.
type delivery struct {
	began time.Time
	told  map[lambent.VersionKey]bool
}

func newDelivery() *delivery {
	return &delivery{began: time.Now(), told: make(map[lambent.VersionKey]bool)}
}

func (d *delivery) note(key lambent.VersionKey) {
	if d != nil {
		d.told[key] = true
	}
}

// supersede makes a revision the current one of its version, if the function has sandboxes.
func (m *Manager) supersede(key lambent.VersionKey) {
	m.mu.Lock()
	fn, ok := m.functions[key.Function]
	var older, current []*pool
	if ok {
		fn.current[key.Version] = key.Revision
		for other, p := range fn.pools {
			switch {
			case other.version == key:
				current = append(current, p)
			case other.version.Version == key.Version:
				older = append(older, p)
			}
		}
	}
	m.mu.Unlock()
	for _, p := range current {
		p.mu.Lock()
		p.retired = false
		p.mu.Unlock()
	}
	for _, p := range older {
		m.retire(p)
	}
}

// retireMatching retires pools of one function.
func (m *Manager) retireMatching(id lambent.FunctionID, match func(lambent.VersionKey) bool) {
	var found []*pool
	m.mu.Lock()
	if fn, ok := m.functions[id]; ok {
		for key, p := range fn.pools {
			if match(key.version) {
				found = append(found, p)
			}
		}
	}
	m.mu.Unlock()
	for _, p := range found {
		m.retire(p)
	}
}

// retireMissing retires the pools that a full delivery did not tell of. What is younger than the delivery may be missing in it.
func (m *Manager) retireMissing(d *delivery) {
	if d == nil {
		return
	}
	m.pools.each(func(key poolKey, p *pool) {
		if p.made.Before(d.began) && !d.told[key.version] {
			m.retire(p)
		}
	})
}

// retire ends what is idle in a pool, and lets what is busy end when it comes back.
func (m *Manager) retire(p *pool) {
	p.mu.Lock()
	p.retired = true
	ended := append([]*sandbox(nil), p.idle...)
	for _, s := range ended {
		p.dropLocked(s)
	}
	p.mu.Unlock()
	for _, s := range ended {
		m.discard(s, destroy)
	}
}
