package functions_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lambent"
	"lambent/functions"
	metamemory "lambent/meta/memory"
)

// view is what a front end knows: it is built from events alone, and checks that they keep their contract.
type view struct {
	synced   bool
	revision int64
	names    map[lambent.FunctionName]lambent.FunctionID
	versions map[lambent.FunctionID]map[string]*lambent.FunctionVersion
	aliases  map[lambent.FunctionID]map[string]*lambent.Alias
	settings map[lambent.FunctionID]*lambent.Settings
	resets   int
}

func newView() *view {
	v := &view{}
	v.clear()
	return v
}

func (v *view) clear() {
	v.synced = false
	v.names = map[lambent.FunctionName]lambent.FunctionID{}
	v.versions = map[lambent.FunctionID]map[string]*lambent.FunctionVersion{}
	v.aliases = map[lambent.FunctionID]map[string]*lambent.Alias{}
	v.settings = map[lambent.FunctionID]*lambent.Settings{}
}

// take applies an event; the error says how the event breaks the contract.
func (v *view) take(e lambent.CatalogEvent) error {
	if e.Revision < v.revision {
		return fmt.Errorf("revision %d after %d", e.Revision, v.revision)
	}
	v.revision = e.Revision
	set := 0
	for _, is := range []bool{e.Version != nil, e.Alias != nil, e.Settings != nil} {
		if is {
			set++
		}
	}
	switch e.Kind {
	case lambent.CatalogReset:
		v.clear()
		v.resets++
	case lambent.CatalogSynced:
		v.synced = true
	case lambent.CatalogDeleted:
		if e.Deleted == "" {
			delete(v.names, e.Function)
			delete(v.versions, e.ID)
			delete(v.aliases, e.ID)
			delete(v.settings, e.ID)
			break
		}
		delete(v.versions[e.ID], e.Deleted)
		delete(v.aliases[e.ID], e.Deleted)
	default:
		if set != 1 {
			return fmt.Errorf("event of kind %d sets %d members", e.Kind, set)
		}
		return v.put(e)
	}
	if set != 0 {
		return fmt.Errorf("event of kind %d sets %d members", e.Kind, set)
	}
	return nil
}

func (v *view) put(e lambent.CatalogEvent) error {
	if known, ok := v.names[e.Function]; ok && known != e.ID {
		return fmt.Errorf("%v is %s, and was %s, which was not deleted", e.Function, e.ID, known)
	}
	if _, ok := v.versions[e.ID]; !ok {
		v.versions[e.ID] = map[string]*lambent.FunctionVersion{}
		v.aliases[e.ID] = map[string]*lambent.Alias{}
	}
	v.names[e.Function] = e.ID
	switch e.Kind {
	case lambent.CatalogVersion:
		if key := e.Version.Key; key.Function != e.ID || e.Version.FunctionName != e.Function || key.Revision == "" {
			return fmt.Errorf("a version with the key %+v of %v", key, e.Function)
		}
		if v.settings[e.ID] == nil {
			return fmt.Errorf("a version of %v before its settings", e.Function)
		}
		v.versions[e.ID][e.Version.Key.Version] = e.Version
	case lambent.CatalogAlias:
		v.aliases[e.ID][e.Alias.Name] = e.Alias
	case lambent.CatalogSettings:
		v.settings[e.ID] = e.Settings
	}
	return nil
}

// follow applies events until the view has come as far as a revision.
func (v *view) follow(t *testing.T, events <-chan lambent.CatalogEvent, revision int64) {
	t.Helper()
	deadline := time.After(patience)
	for v.revision < revision || !v.synced {
		select {
		case e, ok := <-events:
			if !ok {
				t.Fatal("the watch ended")
			}
			if err := v.take(e); err != nil {
				t.Fatal(err)
			}
		case <-deadline:
			t.Fatalf("the watch is at %d, synced %v; want %d", v.revision, v.synced, revision)
		}
	}
}

// same compares views, but for how they came about.
func same(t *testing.T, got, want *view) {
	t.Helper()
	for _, diff := range []string{
		cmp.Diff(want.names, got.names), cmp.Diff(want.versions, got.versions),
		cmp.Diff(want.aliases, got.aliases), cmp.Diff(want.settings, got.settings),
	} {
		if diff != "" {
			t.Fatal(diff)
		}
	}
}

func watch(t *testing.T, ctx context.Context, catalog lambent.Catalog) <-chan lambent.CatalogEvent {
	t.Helper()
	events, err := catalog.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func (b *bench) at(t *testing.T) int64 {
	t.Helper()
	revision, err := b.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

// TestCatalogContents: the data plane sees what was asked for.
func TestCatalogContents(t *testing.T) {
	b := newBench(t)
	events := watch(t, t.Context(), b)
	v := newView()
	r := request(t, "f")
	r.Environment = &map[string]string{"A": "1"}
	r.MemoryMiB, r.EphemeralMiB, r.Timeout, r.Architectures = pointer(256), pointer(600), pointer(5*time.Second), []string{"arm64"}
	r.Logging = &functions.LoggingConfig{Format: "JSON"}
	created, err := b.CreateFunction(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	v.follow(t, events, b.at(t))
	if got := v.versions[created.ID]["$LATEST"]; got == nil {
		t.Fatal("the function is not there")
	}
	b.settle(t, ref("f", ""))
	b.publish(t, "f")
	if _, err := b.CreateAlias(t.Context(), functions.CreateAliasRequest{Function: name("f"), Name: "a", Version: "$LATEST"}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.PutFunctionConcurrency(t.Context(), name("f"), 7); err != nil {
		t.Fatal(err)
	}
	v.follow(t, events, b.at(t))
	latest := v.versions[created.ID]["$LATEST"]
	want := &lambent.FunctionVersion{
		FunctionName: name("f"), Key: lambent.VersionKey{Function: created.ID, Version: "$LATEST", Revision: latest.Key.Revision},
		ARN: arn("f"), Runtime: "python3.12", Architecture: "arm64", Handler: "index.handler", Role: role, MemoryMiB: 256, EphemeralMiB: 600,
		Timeout: 5 * time.Second, Environment: map[string]string{"A": "1"}, Code: created.Code, State: lambent.StateActive,
		Isolation: lambent.IsolationNative, Logging: lambent.Logging{Format: "JSON", ApplicationLevel: "INFO", SystemLevel: "INFO", Group: "/aws/lambda/f"},
	}
	if diff := cmp.Diff(want, latest); diff != "" {
		t.Error(diff)
	}
	want.Key.Version, want.Key.Revision = "1", v.versions[created.ID]["1"].Key.Revision
	if diff := cmp.Diff(want, v.versions[created.ID]["1"]); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(&lambent.Alias{Name: "a", Version: "$LATEST"}, v.aliases[created.ID]["a"]); diff != "" {
		t.Error(diff)
	}
	if reserved := v.settings[created.ID].Reserved; reserved == nil || *reserved != 7 {
		t.Errorf("reserved %v", reserved)
	}
	b.update(t, "f", functions.Settable{Description: pointer("changed")})
	v.follow(t, events, b.at(t))
	if v.versions[created.ID]["$LATEST"].Key.Revision == latest.Key.Revision {
		t.Error("a changed function has the key that it had")
	}
	if err := b.DeleteFunction(t.Context(), ref("f", "")); err != nil {
		t.Fatal(err)
	}
	v.follow(t, events, b.at(t))
	same(t, v, newView())
}

// mutate makes random changes of a few functions; refusals are part of it.
func (b *bench) mutate(t *testing.T, random *rand.Rand, rounds int) {
	t.Helper()
	ctx := t.Context()
	for range rounds {
		fn := fmt.Sprint("f", random.IntN(3))
		alias, number := fmt.Sprint("a", random.IntN(2)), fmt.Sprint(1+random.IntN(4))
		var err error
		switch random.IntN(11) {
		case 0, 1:
			r := request(t, fn)
			r.Publish = random.IntN(2) == 0
			_, err = b.CreateFunction(ctx, r)
		case 2:
			err = b.DeleteFunction(ctx, ref(fn, ""))
		case 3:
			err = b.DeleteFunction(ctx, ref(fn, number))
		case 4, 5:
			_, err = b.UpdateFunctionConfiguration(ctx, functions.UpdateFunctionConfigurationRequest{
				Function: name(fn), Settable: functions.Settable{Description: pointer(fmt.Sprint(random.IntN(100)))}})
		case 6:
			_, err = b.UpdateFunctionCode(ctx, functions.UpdateFunctionCodeRequest{
				Function: name(fn), Code: code(t, number), Publish: random.IntN(2) == 0})
		case 7:
			_, err = b.PublishVersion(ctx, functions.PublishVersionRequest{Function: name(fn)})
		case 8:
			_, err = b.CreateAlias(ctx, functions.CreateAliasRequest{Function: name(fn), Name: alias, Version: number})
		case 9:
			_, err = b.UpdateAlias(ctx, functions.UpdateAliasRequest{Function: name(fn), Name: alias, Version: &number})
		case 10:
			_, err = b.PutFunctionConcurrency(ctx, name(fn), random.IntN(500))
		}
		switch code := lambent.CodeOf(err); {
		case err == nil, code == lambent.NotFound, code == lambent.Conflict, code == lambent.InvalidParameter:
		default:
			t.Error(err)
		}
	}
}

// TestCatalogConformance: watchers that begin at any time, among random changes by many, all come to know the same, and
// that is what the operations answer.
func TestCatalogConformance(t *testing.T) {
	b := newBench(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var group sync.WaitGroup
	for worker := range 4 {
		group.Go(func() { b.mutate(t, rand.New(rand.NewPCG(seed, uint64(worker))), 100) })
	}
	early := watch(t, t.Context(), b)
	v := newView()
	v.follow(t, early, 0)
	group.Wait()
	page, err := b.ListFunctions(t.Context(), functions.ListFunctionsRequest{Account: account})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range page.Configurations {
		b.settle(t, lambent.FunctionRef{FunctionName: c.Function})
	}
	v.follow(t, early, b.at(t))
	late := newView()
	late.follow(t, watch(t, t.Context(), b), b.at(t))
	same(t, late, v)
	b.compare(t, v)
}

// compare checks a view against what the operations answer.
func (b *bench) compare(t *testing.T, v *view) {
	t.Helper()
	page, err := b.ListFunctions(t.Context(), functions.ListFunctionsRequest{Account: account})
	if err != nil || len(page.Configurations) != len(v.names) {
		t.Fatalf("%d functions, %v; the view has %d", len(page.Configurations), err, len(v.names))
	}
	for _, c := range page.Configurations {
		versions := b.versions(t, c.Function.Name)
		seen := slices.Sorted(maps.Keys(v.versions[c.ID]))
		if slices.Sort(versions); v.names[c.Function] != c.ID || !slices.Equal(versions, seen) {
			t.Errorf("%s: versions %v; the view has %v", c.Function.Name, versions, seen)
		}
		aliases, err := b.ListAliases(t.Context(), functions.ListAliasesRequest{Function: c.Function})
		if err != nil || len(aliases.Aliases) != len(v.aliases[c.ID]) {
			t.Errorf("%s: %d aliases, %v; the view has %d", c.Function.Name, len(aliases.Aliases), err, len(v.aliases[c.ID]))
		}
		for _, alias := range aliases.Aliases {
			if known := v.aliases[c.ID][alias.Name]; known == nil || known.Version != alias.Version {
				t.Errorf("alias %+v; the view has %+v", alias, known)
			}
		}
		reserved, err := b.GetFunctionConcurrency(t.Context(), c.Function)
		if err != nil || cmp.Diff(reserved, v.settings[c.ID].Reserved) != "" {
			t.Errorf("%s: reserved %v, %v", c.Function.Name, reserved, err)
		}
	}
}

// TestEveryRevisionIsAnnounced: after any change, a watch comes to the revision that the catalogue names, also when the change
// turned out to be none for the data plane.
func TestEveryRevisionIsAnnounced(t *testing.T) {
	b := newBench(t)
	events := watch(t, t.Context(), b)
	v := newView()
	random := rand.New(rand.NewPCG(3, 3))
	for range 150 {
		b.mutate(t, random, 1)
		v.follow(t, events, b.at(t))
	}
}

// TestSlowWatcher: a receiver that is too slow gets a reset and everything anew; the quick one and the changes go on.
func TestSlowWatcher(t *testing.T) {
	b := newBench(t)
	b.create(t, "f")
	slow, quick := watch(t, t.Context(), b), watch(t, t.Context(), b)
	seen := newView()
	for i := range 10_050 {
		if _, err := b.PutFunctionConcurrency(t.Context(), name("f"), i%2); err != nil {
			t.Fatal(err)
		}
		if i%1000 == 0 {
			seen.follow(t, quick, b.at(t))
		}
	}
	revision := b.at(t)
	v := newView()
	v.follow(t, slow, revision)
	if v.resets != 1 || seen.resets != 0 {
		t.Errorf("%d resets of the slow one, %d of the quick one", v.resets, seen.resets)
	}
	if reserved := v.settings[v.names[name("f")]].Reserved; reserved == nil || *reserved != 1 {
		t.Errorf("reserved %v", reserved)
	}
}

// TestStoreWatchLost: when the metadata store drops the catalogue's own watch, watchers still come to know everything.
func TestStoreWatchLost(t *testing.T) {
	store := metamemory.Open(metamemory.Options{History: 5})
	t.Cleanup(func() { store.Close() })
	b := &bench{meta: store, blobs: newBlobs()}
	b.Service = openService(t, functions.Options{Meta: b.meta, Blobs: b.blobs})
	events := watch(t, t.Context(), b)
	v := newView()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	var group sync.WaitGroup
	for worker := range 4 {
		group.Go(func() { b.mutate(t, rand.New(rand.NewPCG(seed, uint64(worker))), 60) })
	}
	group.Wait()
	b.create(t, "last")
	v.follow(t, events, b.at(t))
	b.compare(t, v)
}

func TestWatchEnds(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended, blocked := watch(t, ctx, b), watch(t, t.Context(), b)
	cancel()
	for range ended { // until it closes
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	for range blocked { // until it closes
	}
	if _, err := b.Watch(t.Context()); lambent.CodeOf(err) != lambent.Unavailable {
		t.Errorf("a watch of a closed service: %v", err)
	}
}
