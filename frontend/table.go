package frontend

import (
	"hash/maphash"
	"maps"
	"sync/atomic"

	"lambent"
)

// function is what the catalogue says of one function. Once it is in a table it does not change.
type function struct {
	id       lambent.FunctionID
	versions map[string]*lambent.FunctionVersion // "$LATEST" and numbers
	aliases  map[string]*lambent.Alias
}

func newFunction(id lambent.FunctionID) *function {
	return &function{id, make(map[string]*lambent.FunctionVersion), make(map[string]*lambent.Alias)}
}

func (f *function) clone() *function {
	return &function{f.id, maps.Clone(f.versions), maps.Clone(f.aliases)}
}

// apply changes a function that nobody reads yet.
func (f *function) apply(event lambent.CatalogEvent) {
	switch event.Kind {
	case lambent.CatalogVersion:
		f.versions[event.Version.Key.Version] = event.Version
	case lambent.CatalogAlias:
		f.aliases[event.Alias.Name] = event.Alias
	case lambent.CatalogDeleted:
		delete(f.versions, event.Deleted)
		delete(f.aliases, event.Deleted)
	}
}

// concerns says whether an event changes what the table holds.
func concerns(event lambent.CatalogEvent) bool {
	return event.Kind == lambent.CatalogVersion || event.Kind == lambent.CatalogAlias || event.Kind == lambent.CatalogDeleted
}

// draft is a table that a full delivery is filling. One goroutine uses it.
type draft map[lambent.FunctionName]*function

func (d draft) apply(event lambent.CatalogEvent) {
	if !concerns(event) {
		return
	}
	fn, ok := d[event.Function]
	switch {
	case event.Kind == lambent.CatalogDeleted && event.Deleted == "":
		if ok && fn.id == event.ID {
			delete(d, event.Function)
		}
		return
	case !ok || fn.id != event.ID:
		fn = newFunction(event.ID)
		d[event.Function] = fn
	}
	fn.apply(event)
}

// table holds all functions by name. Readers take no lock: a change replaces the part that holds the function. One goroutine
// writes.
type table struct {
	seed  maphash.Seed
	parts [512]atomic.Pointer[map[lambent.FunctionName]*function]
}

func newTable(d draft) *table {
	t := &table{seed: maphash.MakeSeed()}
	parts := make([]map[lambent.FunctionName]*function, len(t.parts))
	for name, fn := range d {
		i := t.part(name)
		if parts[i] == nil {
			parts[i] = make(map[lambent.FunctionName]*function)
		}
		parts[i][name] = fn
	}
	for i := range parts {
		t.parts[i].Store(&parts[i])
	}
	return t
}

func (t *table) part(name lambent.FunctionName) int {
	return int(maphash.Comparable(t.seed, name) % uint64(len(t.parts)))
}

func (t *table) find(name lambent.FunctionName) *function {
	return (*t.parts[t.part(name)].Load())[name]
}

func (t *table) apply(event lambent.CatalogEvent) {
	if !concerns(event) {
		return
	}
	part := &t.parts[t.part(event.Function)]
	next := maps.Clone(*part.Load())
	if next == nil {
		next = make(map[lambent.FunctionName]*function)
	}
	if fn, ok := next[event.Function]; ok && fn.id == event.ID {
		next[event.Function] = fn.clone() // the old one is being read
	}
	draft(next).apply(event)
	part.Store(&next)
}
