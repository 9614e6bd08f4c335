package functions

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"lambent"
	"lambent/meta"
)

// maxBacklog is how many events a watcher may fall behind before it gets everything anew.
const maxBacklog = 10_000

// catalog is the image of all functions in memory, fed by one watch of the metadata store, and the fan-out of its changes.
// Events that it hands out are shared: nobody writes to what they point at.
type catalog struct {
	region    string
	isolation isolationPolicy

	mu        sync.Mutex
	revision  int64 // of the store; what happened up to there is in functions
	functions map[lambent.FunctionID]*entry
	names     map[lambent.FunctionName]lambent.FunctionID
	watchers  map[*watcher]struct{}
	moved     chan struct{} // closes when revision moves
}

// entry is a function in the catalogue.
type entry struct {
	name     lambent.FunctionName
	under    lambent.Isolation
	latest   *lambent.FunctionVersion
	settings *lambent.Settings
	versions map[string]*lambent.FunctionVersion
	aliases  map[string]*lambent.Alias
}

// watcher is a receiver's backlog.
type watcher struct {
	events []lambent.CatalogEvent // guarded by catalog.mu
	behind bool                   // the backlog was dropped; guarded by catalog.mu
	wake   chan struct{}          // of capacity 1
}

func newCatalog(region string, policy isolationPolicy) *catalog {
	return &catalog{
		region:    region,
		isolation: policy,
		functions: make(map[lambent.FunctionID]*entry),
		names:     make(map[lambent.FunctionName]lambent.FunctionID),
		watchers:  make(map[*watcher]struct{}),
		moved:     make(chan struct{}),
	}
}

// replace sets the catalogue to what a listing of the store says, and returns the functions that wait to be settled. All
// watchers get everything anew.
func (c *catalog) replace(items []meta.Item, revision int64) (unsettled []lambent.FunctionName, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.functions)
	clear(c.names)
	changes := make([]meta.Change, len(items))
	for i, item := range items {
		changes[i] = meta.Change{Item: item}
	}
	_, unsettled, err = c.digestLocked(changes)
	for w := range c.watchers {
		w.dropLocked()
	}
	c.moveLocked(revision)
	return unsettled, err
}

// apply takes one commit of the store in, and returns the functions that wait to be settled since.
func (c *catalog) apply(changes []meta.Change) (unsettled []lambent.FunctionName, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	events, unsettled, err := c.digestLocked(changes)
	if len(events) == 0 {
		events = c.announceLocked(changes)
	}
	// Only the last event of a commit carries its revision: a receiver that has seen a revision has seen all of it.
	revision := changes[0].Revision
	for i := range events {
		events[i].Revision = revision - 1
		if i == len(events)-1 {
			events[i].Revision = revision
		}
	}
	for w := range c.watchers {
		w.addLocked(events)
	}
	c.moveLocked(revision)
	return unsettled, err
}

// announceLocked says again what a changed function is, for a commit that moved the catalogue's revision and turned out to
// change nothing in it: a receiver waits for an event of that revision.
func (c *catalog) announceLocked(changes []meta.Change) []lambent.CatalogEvent {
	if !slices.ContainsFunc(changes, func(change meta.Change) bool { return change.Key == sequenceKey }) {
		return nil
	}
	var events []lambent.CatalogEvent
	for _, change := range changes {
		name := splitHeadKey(change.Key)
		if e, ok := c.functions[c.names[name]]; ok && strings.HasPrefix(change.Key, headPrefix) {
			events = append(events, lambent.CatalogEvent{Kind: lambent.CatalogVersion, Function: name, ID: c.names[name], Version: e.latest})
		}
	}
	return events
}

func (c *catalog) moveLocked(revision int64) {
	c.revision = revision
	close(c.moved)
	c.moved = make(chan struct{})
}

// digestLocked changes the image and returns what a watcher is told. Heads go first: versions and aliases belong to one. A
// record that cannot be read is left out, and reported.
func (c *catalog) digestLocked(changes []meta.Change) (events []lambent.CatalogEvent, unsettled []lambent.FunctionName, err error) {
	note := func(more []lambent.CatalogEvent, failed error) {
		events = append(events, more...)
		if failed != nil {
			err = failed
		}
	}
	for _, change := range changes {
		if !strings.HasPrefix(change.Key, headPrefix) {
			continue
		}
		more, waits, failed := c.headLocked(change)
		note(more, failed)
		if waits {
			unsettled = append(unsettled, splitHeadKey(change.Key))
		}
	}
	for _, change := range changes {
		if strings.HasPrefix(change.Key, versionPrefix) {
			note(c.versionLocked(change))
		}
	}
	for _, change := range changes {
		if strings.HasPrefix(change.Key, aliasPrefix) {
			note(c.aliasLocked(change))
		}
	}
	return events, unsettled, err
}

func (c *catalog) headLocked(change meta.Change) (events []lambent.CatalogEvent, unsettled bool, err error) {
	name := splitHeadKey(change.Key)
	if change.Deleted {
		return c.forgetLocked(name), false, nil
	}
	var h head
	if err := decode(change.Item, &h); err != nil {
		return nil, false, err
	}
	if known, ok := c.names[name]; ok && known != h.ID {
		events = c.forgetLocked(name)
	}
	e, ok := c.functions[h.ID]
	if !ok {
		e = &entry{name: name, versions: make(map[string]*lambent.FunctionVersion), aliases: make(map[string]*lambent.Alias)}
		c.functions[h.ID], c.names[name] = e, h.ID
	}
	// The limits come before what they limit.
	if e.settings == nil || !sameReservation(e.settings.Reserved, h.Reserved) {
		e.settings = &lambent.Settings{Reserved: h.Reserved}
		events = append(events, lambent.CatalogEvent{Kind: lambent.CatalogSettings, Function: name, ID: h.ID, Settings: e.settings})
	}
	events = append(events, e.isolate(h.ID, c.isolation.of(h.Tags))...)
	if latest := dataPlane(name, h.ID, c.region, e.under, h.Latest); e.latest == nil || e.latest.Key != latest.Key || e.latest.State != latest.State {
		e.latest = latest
		events = append(events, lambent.CatalogEvent{Kind: lambent.CatalogVersion, Function: name, ID: h.ID, Version: e.latest})
	}
	return events, h.Latest.inFlux() || len(h.Settling) > 0, nil
}

// isolate moves a function's published versions to another isolation. $LATEST is its caller's.
func (e *entry) isolate(id lambent.FunctionID, isolation lambent.Isolation) (events []lambent.CatalogEvent) {
	if e.under == isolation {
		return nil
	}
	e.under = isolation
	for _, number := range slices.Sorted(maps.Keys(e.versions)) {
		e.versions[number] = under(isolation, e.versions[number])
		events = append(events, lambent.CatalogEvent{Kind: lambent.CatalogVersion, Function: e.name, ID: id, Version: e.versions[number]})
	}
	return events
}

func sameReservation(a, b *int) bool {
	return (a == nil) == (b == nil) && (a == nil || *a == *b)
}

// forgetLocked removes a function with all that belongs to it.
func (c *catalog) forgetLocked(name lambent.FunctionName) []lambent.CatalogEvent {
	id, ok := c.names[name]
	if !ok {
		return nil
	}
	delete(c.names, name)
	delete(c.functions, id)
	return []lambent.CatalogEvent{{Kind: lambent.CatalogDeleted, Function: name, ID: id}}
}

func (c *catalog) versionLocked(change meta.Change) ([]lambent.CatalogEvent, error) {
	id, number := splitKey(versionPrefix, change.Key)
	e, ok := c.functions[id]
	if !ok {
		return nil, nil // what is left of a deleted function
	}
	if change.Deleted {
		delete(e.versions, number)
		return []lambent.CatalogEvent{{Kind: lambent.CatalogDeleted, Function: e.name, ID: id, Deleted: number}}, nil
	}
	var v version
	if err := decode(change.Item, &v); err != nil {
		return nil, err
	}
	if known := e.versions[number]; known != nil && known.State == v.State {
		return nil, nil
	}
	e.versions[number] = dataPlane(e.name, id, c.region, e.under, v)
	return []lambent.CatalogEvent{{Kind: lambent.CatalogVersion, Function: e.name, ID: id, Version: e.versions[number]}}, nil
}

func (c *catalog) aliasLocked(change meta.Change) ([]lambent.CatalogEvent, error) {
	id, name := splitKey(aliasPrefix, change.Key)
	e, ok := c.functions[id]
	if !ok {
		return nil, nil
	}
	if change.Deleted {
		delete(e.aliases, name)
		return []lambent.CatalogEvent{{Kind: lambent.CatalogDeleted, Function: e.name, ID: id, Deleted: name}}, nil
	}
	var record aliasRecord
	if err := decode(change.Item, &record); err != nil {
		return nil, err
	}
	e.aliases[name] = &lambent.Alias{Name: name, Version: record.Version, Weights: record.Weights}
	return []lambent.CatalogEvent{{Kind: lambent.CatalogAlias, Function: e.name, ID: id, Alias: e.aliases[name]}}, nil
}

// everythingLocked returns the events that tell of all that exists. Their revisions are below the catalogue's, but not
// below least; the last one, CatalogSynced, has the catalogue's.
func (c *catalog) everythingLocked(least int64) []lambent.CatalogEvent {
	var events []lambent.CatalogEvent
	for id, e := range c.functions {
		about := lambent.CatalogEvent{Revision: max(c.revision-1, least), Function: e.name, ID: id}
		settings := about
		settings.Kind, settings.Settings = lambent.CatalogSettings, e.settings
		events = append(events, settings)
		latest := about
		latest.Kind, latest.Version = lambent.CatalogVersion, e.latest
		events = append(events, latest)
		for _, number := range slices.Sorted(maps.Keys(e.versions)) {
			published := about
			published.Kind, published.Version = lambent.CatalogVersion, e.versions[number]
			events = append(events, published)
		}
		for _, name := range slices.Sorted(maps.Keys(e.aliases)) {
			alias := about
			alias.Kind, alias.Alias = lambent.CatalogAlias, e.aliases[name]
			events = append(events, alias)
		}
	}
	return append(events, lambent.CatalogEvent{Kind: lambent.CatalogSynced, Revision: c.revision})
}

// watch delivers to a channel until ctx ends; then it closes the channel.
func (c *catalog) watch(ctx context.Context, out chan<- lambent.CatalogEvent) {
	defer close(out)
	w := &watcher{wake: make(chan struct{}, 1)}
	c.mu.Lock()
	events := c.everythingLocked(0)
	c.watchers[w] = struct{}{}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.watchers, w)
	}()
	var sent int64
	for {
		for _, event := range events {
			select {
			case out <- event:
				sent = event.Revision
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-w.wake:
			events = c.take(w, sent)
		case <-ctx.Done():
			return
		}
	}
}

// take returns what a watcher has not been told yet, who was told up to the revision sent.
func (c *catalog) take(w *watcher, sent int64) []lambent.CatalogEvent {
	c.mu.Lock()
	defer c.mu.Unlock()
	events := w.events
	w.events = nil
	if w.behind {
		w.behind = false
		reset := lambent.CatalogEvent{Kind: lambent.CatalogReset, Revision: max(c.revision-1, sent)}
		events = append([]lambent.CatalogEvent{reset}, c.everythingLocked(sent)...)
	}
	return events
}

func (w *watcher) addLocked(events []lambent.CatalogEvent) {
	if len(events) == 0 || w.behind {
		return
	}
	if len(w.events)+len(events) > maxBacklog {
		w.dropLocked()
		return
	}
	w.events = append(w.events, events...)
	w.signal()
}

func (w *watcher) dropLocked() {
	w.events, w.behind = nil, true
	w.signal()
}

func (w *watcher) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// reached waits until the image has come as far as a revision.
func (c *catalog) reached(ctx context.Context, revision int64) error {
	for {
		c.mu.Lock()
		at, moved := c.revision, c.moved
		c.mu.Unlock()
		if at >= revision {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// maxLag bounds how long an answer waits for the catalogue to show what it tells.
const maxLag = 100 * time.Millisecond

// shown waits, within reason, until watchers have been handed what happened up to a revision: a caller who has read that a
// function is active, or changed, should not meet a data plane that has not heard of it. Over more than one process this
// remains a matter of time.
func (c *catalog) shown(ctx context.Context, revision int64) {
	c.mu.Lock()
	at := c.revision
	c.mu.Unlock()
	if at >= revision {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, maxLag)
	defer cancel()
	_ = c.reached(ctx, revision) // the answer is right all the same
}

// usage returns how many functions an account has, and how many bytes of code.
func (c *catalog) usage(account string) (count, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.functions {
		if e.name.Account != account {
			continue
		}
		count++
		bytes += e.latest.Code.Size
		for _, v := range e.versions {
			bytes += v.Code.Size
		}
	}
	return count, bytes
}
