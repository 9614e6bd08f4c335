package frontendtest

import (
	"context"
	"slices"

	"lambent"
)

// Function is a version of a function in the account 123456789012 with so much as the data plane needs. Its FunctionID is its
// name.
func Function(name, version string) *lambent.FunctionVersion {
	fn := lambent.FunctionName{Account: Account, Name: name}
	return &lambent.FunctionVersion{
		FunctionName: fn, Key: lambent.VersionKey{Function: lambent.FunctionID(name), Version: version, Revision: "r"},
		ARN: fn.ARN(Name), MemoryMiB: 128, State: lambent.StateActive,
	}
}

// What the region of the tests is called.
const (
	Account = "123456789012" // that functions and callers belong to
	Name    = "test-1"       // of the region
)

// Put creates or changes versions.
func (r *Region) Put(versions ...*lambent.FunctionVersion) {
	for _, v := range versions {
		r.change(lambent.CatalogEvent{Kind: lambent.CatalogVersion, Function: v.FunctionName, ID: v.Key.Function, Version: v})
	}
}

// PutAlias creates or changes an alias of the function of that name.
func (r *Region) PutAlias(function string, alias *lambent.Alias) {
	v := Function(function, lambent.Latest)
	r.change(lambent.CatalogEvent{Kind: lambent.CatalogAlias, Function: v.FunctionName, ID: v.Key.Function, Alias: alias})
}

// Delete deletes a version or alias of a function; empty: the function.
func (r *Region) Delete(v *lambent.FunctionVersion, what string) {
	r.change(lambent.CatalogEvent{Kind: lambent.CatalogDeleted, Function: v.FunctionName, ID: v.Key.Function, Deleted: what})
}

// HoldBack stops the delivery of changes until it is called with false.
func (r *Region) HoldBack(held bool) {
	r.set(func() {
		r.held = held
		for _, wake := range r.watchers {
			signal(wake)
		}
	})
}

// Reset makes all watches deliver everything anew.
func (r *Region) Reset() {
	r.change(lambent.CatalogEvent{Kind: lambent.CatalogReset})
}

// BreakWatches ends all watches.
func (r *Region) BreakWatches() {
	r.set(func() {
		for out, wake := range r.watchers {
			delete(r.watchers, out)
			close(wake)
		}
	})
}

func (r *Region) change(event lambent.CatalogEvent) {
	r.set(func() {
		r.revision++
		event.Revision = r.revision
		r.events = append(r.events, event)
		for _, wake := range r.watchers {
			signal(wake)
		}
	})
}

func signal(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// Revision implements lambent.Catalog.
func (r *Region) Revision(ctx context.Context) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	if r.away {
		return 0, lambent.Errorf(lambent.Unavailable, "The metadata store is away.")
	}
	return r.revision, nil
}

// Watch implements lambent.Catalog. It delivers all events so far as what exists: their order makes that right.
func (r *Region) Watch(ctx context.Context) (<-chan lambent.CatalogEvent, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away {
		return nil, lambent.Errorf(lambent.Unavailable, "The metadata store is away.")
	}
	out, wake := make(chan lambent.CatalogEvent), make(chan struct{}, 1)
	r.watchers[out] = wake
	signal(wake)
	go r.deliver(ctx, out, wake)
	return out, nil
}

func (r *Region) deliver(ctx context.Context, out chan lambent.CatalogEvent, wake chan struct{}) {
	defer close(out)
	defer r.set(func() { delete(r.watchers, out) })
	sent, synced := 0, false
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-wake:
			if !ok {
				return
			}
		}
		for _, event := range r.undelivered(&sent, &synced) {
			select {
			case out <- event:
			case <-ctx.Done():
				return
			}
		}
	}
}

// undelivered returns what a watch has not delivered yet.
func (r *Region) undelivered(sent *int, synced *bool) []lambent.CatalogEvent {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held {
		return nil
	}
	fresh := slices.Clone(r.events[*sent:])
	if i := slices.IndexFunc(fresh, func(e lambent.CatalogEvent) bool { return e.Kind == lambent.CatalogReset }); i >= 0 || !*synced {
		fresh = slices.DeleteFunc(slices.Clone(r.events), func(e lambent.CatalogEvent) bool { return e.Kind == lambent.CatalogReset })
		for i := range fresh {
			fresh[i].Revision = 0
		}
		fresh = append(fresh, lambent.CatalogEvent{Kind: lambent.CatalogSynced, Revision: r.revision})
		if *synced {
			fresh = slices.Insert(fresh, 0, lambent.CatalogEvent{Kind: lambent.CatalogReset})
		}
	}
	*sent, *synced = len(r.events), true
	return fresh
}
