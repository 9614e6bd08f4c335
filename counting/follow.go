package counting

import (
	"context"
	"time"

	"lambent"
)

// follow tells the replicas of reservations as the catalogue tells of them.
func (s *Service) follow(ctx context.Context) {
	defer close(s.follows)
	for ctx.Err() == nil {
		events, err := s.options.Catalog.Watch(ctx)
		if err == nil {
			s.consume(events)
			continue
		}
		s.options.Logger.Warn("the catalogue cannot be watched", "error", err)
		retry := time.NewTimer(time.Second)
		select {
		case <-ctx.Done():
		case <-retry.C:
		}
		retry.Stop()
	}
}

func (s *Service) consume(events <-chan lambent.CatalogEvent) {
	synced := false
	known := map[lambent.FunctionID]Limit{}
	revision := int64(0)
	for e := range events {
		revision = max(revision, e.Revision)
		changed := false
		switch e.Kind {
		case lambent.CatalogReset:
			clear(known)
			synced = false
		case lambent.CatalogSynced:
			synced, changed = true, true
		case lambent.CatalogSettings:
			changed = learn(known, e)
		case lambent.CatalogDeleted:
			if _, ok := known[e.ID]; ok && e.Deleted == "" {
				delete(known, e.ID)
				changed = true
			}
		}
		if changed && synced {
			s.spread(revision, known)
		}
	}
}

// spread hands each group its accounts' limits.
func (s *Service) spread(revision int64, known map[lambent.FunctionID]Limit) {
	views := make([]*limitView, len(s.groups))
	for i := range views {
		views[i] = &limitView{revision: revision, limits: map[lambent.FunctionID]Limit{}}
	}
	for id, limit := range known {
		views[shardOf(limit.Pool.Account, len(views))].limits[id] = limit
	}
	for i, g := range s.groups {
		g.observe(views[i])
	}
}

// learn notes a function's settings and tells whether its limit has changed.
func learn(known map[lambent.FunctionID]Limit, e lambent.CatalogEvent) bool {
	old, had := known[e.ID]
	if e.Settings.Reserved == nil {
		delete(known, e.ID)
		return had
	}
	limit := Limit{Pool: Pool{Account: e.Function.Account, Function: e.ID}, Reserved: *e.Settings.Reserved}
	known[e.ID] = limit
	return !had || old != limit
}
