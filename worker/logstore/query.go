package logstore

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"lambent"
)

// defaultLimit is how many events a query returns that names no limit.
const defaultLimit = 10_000

// Query returns the events that a query selects, oldest first, those included that have not been written yet.
func (s *Store) Query(ctx context.Context, query lambent.LogQuery) ([]lambent.LogEvent, error) {
	q, err := s.compile(query)
	if err != nil {
		return nil, err
	}
	if err := s.awaitLoaded(ctx); err != nil {
		return nil, lambent.Wrap(lambent.Unavailable, err, "The logs are not available")
	}
	blocks, fresh, release := s.plan(q)
	defer release()
	for _, b := range blocks {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if q.enough(b.ref.first) {
			break
		}
		if err := q.readBlock(b); err != nil {
			return nil, fmt.Errorf("read logs: %w", err)
		}
	}
	for _, e := range fresh {
		q.visit(e.sequence, e.time, groupKey{e.stream.account, e.stream.group}, e.stream.name, e.message)
	}
	return q.sorted(), nil
}

// search is a query in work.
type search struct {
	lambent.LogQuery
	owner      uint32
	after      int64
	start, end int64
	found      []found
}

type found struct {
	sequence int64
	event    lambent.LogEvent
}

// compile checks a query. The ID of another store's event stands for its time.
func (s *Store) compile(query lambent.LogQuery) (*search, error) {
	q := &search{LogQuery: query, owner: s.owner, start: -1 << 63, end: 1<<63 - 1, after: -1 << 63}
	if q.Limit <= 0 {
		q.Limit = defaultLimit
	}
	if !q.Start.IsZero() {
		q.start = q.Start.UnixNano()
	}
	if !q.End.IsZero() {
		q.end = q.End.UnixNano()
	}
	if q.After == "" {
		return q, nil
	}
	sequence, owner, err := parseID(q.After)
	if err != nil {
		return nil, lambent.Errorf(lambent.InvalidParameter, "The event ID %.40q is not valid", q.After)
	}
	q.after = sequence
	if owner > s.owner { // this store's events of that instant come before it; a lower owner's come after
		return q, nil
	}
	if owner < s.owner {
		q.after = sequence - 1
	}
	return q, nil
}

func formatID(sequence int64, owner uint32) string { return fmt.Sprintf("%016x%08x", sequence, owner) }

func parseID(id string) (sequence int64, owner uint32, err error) {
	if len(id) != 24 {
		return 0, 0, strconv.ErrSyntax
	}
	sequence, err = strconv.ParseInt(id[:16], 16, 64)
	if err != nil {
		return 0, 0, err
	}
	low, err := strconv.ParseUint(id[16:], 16, 32)
	return sequence, uint32(low), err
}

func (q *search) selects(key groupKey) bool {
	return (q.Account == "" || q.Account == key.account) && (q.Group == "" || q.Group == key.group)
}

// planned is a block that may hold what is looked for.
type planned struct {
	segment *segment
	key     groupKey
	ref     blockRef
}

// plan returns, as of one moment, the blocks to read in the order of their first events, and the events that are not in a file.
func (s *Store) plan(q *search) (blocks []planned, fresh []event, release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	horizon := s.next(time.Now())
	fresh = slices.Clone(s.inFlight)
	for st := range s.streams {
		if q.selects(groupKey{st.account, st.group}) {
			fresh = st.snapshot(fresh, horizon)
		}
	}
	var used []*segment
	for _, g := range s.segments {
		if g.last <= q.after {
			continue
		}
		g.retain()
		used = append(used, g)
		for key, refs := range g.groups {
			if !q.selects(key) {
				continue
			}
			// The last block that begins before is the first that may hold later events.
			from, _ := slices.BinarySearchFunc(refs, q.after, func(r blockRef, after int64) int {
				if r.first <= after {
					return -1
				}
				return 1
			})
			for _, ref := range refs[max(0, from-1):] {
				blocks = append(blocks, planned{g, key, ref})
			}
		}
	}
	slices.SortFunc(blocks, func(a, b planned) int {
		switch {
		case a.ref.first < b.ref.first:
			return -1
		case a.ref.first > b.ref.first:
			return 1
		}
		return 0
	})
	return blocks, fresh, func() {
		for _, g := range used {
			g.release()
		}
	}
}

// readBlock reads a block's events.
func (q *search) readBlock(b planned) error {
	data := make([]byte, blockPrefix+int(b.ref.length))
	if _, err := b.segment.file.ReadAt(data, int64(b.ref.offset)); err != nil {
		return err
	}
	sum, _, err := parsePrefix(data)
	if err != nil {
		return err
	}
	if err := checkPayload(data[blockPrefix:], sum); err != nil {
		return err
	}
	return decodeBlock(data[blockPrefix:], func(sequence, time int64, stream string, message []byte) bool {
		q.visit(sequence, time, b.key, stream, message)
		return true
	})
}

// visit keeps an event if it is selected.
func (q *search) visit(sequence, nanos int64, key groupKey, stream string, message []byte) {
	if sequence <= q.after || nanos < q.start || nanos >= q.end || !q.selects(key) || q.Stream != "" && q.Stream != stream {
		return
	}
	q.found = append(q.found, found{sequence, lambent.LogEvent{ID: formatID(sequence, q.owner), Account: key.account, Group: key.group,
		Stream: stream, Time: time.Unix(0, nanos).UTC(), Message: string(message)}})
	if len(q.found) >= 2*q.Limit {
		q.trim()
	}
}

// trim keeps the oldest events, as many as were asked for.
func (q *search) trim() {
	slices.SortFunc(q.found, func(a, b found) int {
		switch {
		case a.sequence < b.sequence:
			return -1
		case a.sequence > b.sequence:
			return 1
		}
		return 0
	})
	if len(q.found) > q.Limit {
		clear(q.found[q.Limit:])
		q.found = q.found[:q.Limit]
	}
}

// enough tells whether no event from first on can be among those that are asked for.
func (q *search) enough(first int64) bool {
	if len(q.found) < q.Limit {
		return false
	}
	q.trim()
	return q.found[len(q.found)-1].sequence < first
}

func (q *search) sorted() []lambent.LogEvent {
	q.trim()
	events := make([]lambent.LogEvent, len(q.found))
	for i := range q.found {
		events[i] = q.found[i].event
	}
	return events
}
