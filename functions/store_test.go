package functions_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lambent"
	"lambent/functions"
	"lambent/meta"
	metamemory "lambent/meta/memory"
)

// faulty fails where it is told to.
type faulty struct {
	meta.Store
	reads   atomic.Bool // reads fail
	commits atomic.Bool // commits happen, and their answers are lost
}

var errLost = errors.New("the answer was lost")

func (f *faulty) Get(ctx context.Context, key string) (meta.Item, bool, error) {
	if f.reads.Load() {
		return meta.Item{}, false, errLost
	}
	return f.Store.Get(ctx, key)
}

func (f *faulty) Commit(ctx context.Context, conditions []meta.Condition, ops []meta.Op) (int64, error) {
	revision, err := f.Store.Commit(ctx, conditions, ops)
	if err == nil && f.commits.Load() {
		return 0, errLost
	}
	return revision, err
}

func newFaulty(t *testing.T) (*bench, *faulty) {
	t.Helper()
	store := metamemory.Open(metamemory.Options{})
	t.Cleanup(func() { store.Close() })
	f := &faulty{Store: store}
	b := &bench{meta: f, blobs: newBlobs()}
	b.Service = openService(t, functions.Options{Meta: f, Blobs: b.blobs})
	return b, f
}

// TestStoreAway: an error of the store is Unavailable, and shows nothing of the store to the caller.
func TestStoreAway(t *testing.T) {
	b, f := newFaulty(t)
	b.create(t, "f")
	f.reads.Store(true)
	_, get := b.GetFunction(t.Context(), ref("f", ""))
	_, create := b.CreateFunction(t.Context(), request(t, "g"))
	_, revision := b.Revision(t.Context())
	_, settings := b.GetAccountSettings(t.Context(), account)
	for name, err := range map[string]error{"get": get, "create": create, "delete": b.DeleteFunction(t.Context(), ref("f", "")), "revision": revision, "settings": settings} {
		var e *lambent.Error
		if !errors.As(err, &e) || e.Code != lambent.Unavailable || strings.Contains(e.Message, "lost") || !errors.Is(err, errLost) {
			t.Errorf("%s: %v", name, err)
		}
	}
	f.reads.Store(false)
	if _, err := b.GetFunction(t.Context(), ref("f", "")); err != nil {
		t.Errorf("when the store is back: %v", err)
	}
}

// TestLostAnswer: when it is not known whether a function was created, its code is kept.
func TestLostAnswer(t *testing.T) {
	b, f := newFaulty(t)
	f.commits.Store(true)
	if _, err := b.CreateFunction(t.Context(), request(t, "f")); lambent.CodeOf(err) != lambent.Unavailable {
		t.Fatal(err)
	}
	f.commits.Store(false)
	c := b.settle(t, ref("f", ""))
	if err := b.DeleteFunction(t.Context(), ref("f", "")); err != nil {
		t.Fatal(err)
	}
	// Nothing refers to the code now, but for the request whose end nobody knows.
	if err := b.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	reader, err := b.OpenCode(t.Context(), c.Code)
	if err != nil {
		t.Fatal("the code was collected")
	}
	reader.Close()
}

// TestContextEnded: nothing is done for a caller who has gone.
func TestContextEnded(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.CreateFunction(ctx, request(t, "f")); lambent.CodeOf(err) != lambent.Unavailable {
		t.Errorf("%v", err)
	}
	if page, err := b.ListFunctions(t.Context(), functions.ListFunctionsRequest{Account: account}); err != nil || len(page.Configurations) != 0 {
		t.Errorf("%+v, %v", page, err)
	}
}

// record is how a function was stored by the first release: what is stored must stay readable.
const record = `{"ID":"id-1","Latest":{"Function":{"Account":"111111111111","Name":"old"},"ID":"id-1","ARN":"","Version":"$LATEST",` +
	`"Runtime":"python3.12","Role":"r","Handler":"h","Description":"d","Architectures":["arm64"],"PackageType":"Zip","Timeout":3000000000,` +
	`"MemoryMiB":128,"EphemeralMiB":512,"Environment":{"A":"1"},"KMSKeyARN":"","VpcConfig":{"SubnetIDs":["s"],"SecurityGroupIDs":[],"IPv6Allowed":true,"VpcID":""},` +
	`"DeadLetter":{"TargetARN":"q"},"TracingMode":"Active","SnapStart":{"ApplyOn":"None","Optimization":"Off"},` +
	`"Logging":{"Format":"Text","ApplicationLevel":"","SystemLevel":"","Group":"g"},"RuntimeVersionARN":"","Code":{"SHA256":"ab","Size":7},` +
	`"LastModified":"2026-11-23T09:47:00.123Z","RevisionID":"rev","State":"Active","StateReason":"","StateReasonCode":"",` +
	`"LastUpdateStatus":"Successful","LastUpdateStatusReason":"","LastUpdateStatusReasonCode":"","Content":"content"},` +
	`"Next":3,"Tags":{"k":"v"},"Reserved":5,"Newest":"2","Published":"fingerprint","Settling":null}`

func TestStoredFormat(t *testing.T) {
	b := newBench(t)
	ops := []meta.Op{
		{Key: "functions/head/111111111111/old", Value: []byte(record)},
		{Key: "functions/alias/id-1/a", Value: []byte(`{"Name":"a","Version":"$LATEST","Description":"d","Weights":{"1":0.5},"RevisionID":"x"}`)},
	}
	if _, err := b.meta.Commit(t.Context(), nil, ops); err != nil {
		t.Fatal(err)
	}
	function, err := b.GetFunction(t.Context(), ref("old", "a"))
	if err != nil {
		t.Fatal(err)
	}
	want := functions.Configuration{
		Function: name("old"), ID: "id-1", ARN: arn("old:a"), Version: "$LATEST", Runtime: "python3.12", Role: "r", Handler: "h", Description: "d",
		Architectures: []string{"arm64"}, PackageType: "Zip", Timeout: 3 * time.Second, MemoryMiB: 128, EphemeralMiB: 512,
		Environment: map[string]string{"A": "1"}, VpcConfig: &functions.VpcConfig{SubnetIDs: []string{"s"}, SecurityGroupIDs: []string{}, IPv6Allowed: true},
		DeadLetter: &functions.DeadLetter{TargetARN: "q"}, TracingMode: "Active", SnapStart: functions.SnapStart{ApplyOn: "None", Optimization: "Off"},
		Logging: lambent.Logging{Format: "Text", Group: "g"}, RuntimeVersionARN: function.Configuration.RuntimeVersionARN,
		Code: lambent.CodeRef{SHA256: "ab", Size: 7}, LastModified: time.Date(2026, 11, 23, 9, 47, 0, 123e6, time.UTC), RevisionID: "rev",
		State: lambent.StateActive, LastUpdateStatus: functions.UpdateSuccessful,
	}
	if diff := cmp.Diff(want, function.Configuration); diff != "" {
		t.Error(diff)
	}
	if function.Tags["k"] != "v" || function.Reserved == nil || *function.Reserved != 5 {
		t.Errorf("%+v", function)
	}
	alias, err := b.GetAlias(t.Context(), ref("old", "a"))
	if diff := cmp.Diff(&functions.Alias{ARN: arn("old:a"), Name: "a", Version: "$LATEST", Description: "d", Weights: map[string]float64{"1": 0.5}, RevisionID: "x"}, alias); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
}

// TestDamagedRecord: one record that cannot be read hides one function, not the others.
func TestDamagedRecord(t *testing.T) {
	b := newBench(t)
	b.create(t, "good")
	if _, err := b.meta.Commit(t.Context(), nil, []meta.Op{{Key: "functions/head/" + account + "/bad", Value: []byte("{")}}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.GetFunction(t.Context(), ref("bad", "")); lambent.CodeOf(err) != lambent.Internal {
		t.Errorf("%v", err)
	}
	again := openService(t, functions.Options{Meta: b.meta, Blobs: b.blobs})
	v := newView()
	v.follow(t, watch(t, t.Context(), again), b.at(t))
	if _, ok := v.names[name("good")]; !ok {
		t.Error("the good function is not in the catalogue")
	}
	if err := b.Collect(t.Context()); err == nil {
		t.Error("collected without knowing all references")
	}
}
