package functions_test

import (
	"strings"
	"testing"

	"lambent"
	blobmemory "lambent/blob/memory"
	"lambent/functions"
	metamemory "lambent/meta/memory"
)

func isolated(isolation string) map[string]string {
	return map[string]string{lambent.IsolationTag: isolation}
}

// A function's tag decides what all of its versions run under, under a new key each time; published versions stay what they are.
func TestIsolationByTag(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	created := b.create(t, "f")
	if _, err := b.PublishVersion(ctx, functions.PublishVersionRequest{Function: name("f")}); err != nil {
		t.Fatal(err)
	}
	events, v := watch(t, ctx, b), newView()
	seen := map[string]map[lambent.VersionKey]lambent.Isolation{"$LATEST": {}, "1": {}}
	expect := func(when string, want lambent.Isolation) {
		t.Helper()
		v.follow(t, events, b.at(t))
		for _, number := range []string{"$LATEST", "1"} {
			got := v.versions[created.ID][number]
			if got.Isolation != want || got.Key.Version != number {
				t.Errorf("%s: version %s runs under %q, want %q", when, number, got.Isolation, want)
			}
			if before, ok := seen[number][got.Key]; ok && before != got.Isolation {
				t.Errorf("%s: the key %+v meant %s before", when, got.Key, before)
			}
			seen[number][got.Key] = got.Isolation
		}
	}
	expect("without a tag", lambent.IsolationNative)
	sha := v.versions[created.ID]["1"].Code
	for _, isolation := range []lambent.Isolation{lambent.IsolationMicroVM, lambent.IsolationGVisor, lambent.IsolationNative, lambent.IsolationMicroVM} {
		if err := b.TagResource(ctx, ref("f", ""), isolated(string(isolation))); err != nil {
			t.Fatal(err)
		}
		expect("tagged", isolation)
	}
	if err := b.TagResource(ctx, ref("f", ""), map[string]string{"team": "a"}); err != nil {
		t.Fatal(err)
	}
	expect("tagged with something else", lambent.IsolationMicroVM)
	if err := b.UntagResource(ctx, ref("f", ""), []string{lambent.IsolationTag}); err != nil {
		t.Fatal(err)
	}
	expect("untagged", lambent.IsolationNative)
	if len(seen["1"]) != 3 || v.versions[created.ID]["1"].Code != sha {
		t.Errorf("version 1 had %d keys under three isolations", len(seen["1"]))
	}
	fresh := newView()
	fresh.follow(t, watch(t, ctx, b), b.at(t))
	same(t, fresh, v)
}

// What is weaker than the region's least is refused, and nothing ever runs under less than it asked for.
func TestIsolationPolicy(t *testing.T) {
	store := metamemory.Open(metamemory.Options{})
	t.Cleanup(func() { store.Close() })
	blobs := &blobmemory.Store{}
	run := func(t *testing.T, usual, least lambent.Isolation) *bench {
		t.Helper()
		return &bench{Service: openService(t, functions.Options{Meta: store, Blobs: blobs, Isolation: usual, LeastIsolation: least}), meta: store, blobs: blobs}
	}
	under := func(t *testing.T, b *bench, function string) lambent.Isolation {
		t.Helper()
		v := newView()
		v.follow(t, watch(t, t.Context(), b), b.at(t))
		return v.versions[v.names[name(function)]]["$LATEST"].Isolation
	}
	const weak = "The value of the tag lambent:isolation is not valid: native isolates less than gvisor, which is the least that this region allows."
	const unknown = "The value of the tag lambent:isolation is not valid: \"docker\" is not an isolation that is known. Use one of: native, gvisor, microvm."
	t.Run("gvisor at least", func(t *testing.T) {
		b := run(t, lambent.IsolationGVisor, "")
		for tag, message := range map[string]string{"native": weak, "docker": unknown, "": strings.Replace(unknown, "docker", "", 1)} {
			req := request(t, "refused")
			req.Tags = isolated(tag)
			_, err := b.CreateFunction(t.Context(), req)
			refuse(t, err, lambent.InvalidParameter, message)
		}
		b.create(t, "f")
		refuse(t, b.TagResource(t.Context(), ref("f", ""), isolated("native")), lambent.InvalidParameter, weak)
		if got := under(t, b, "f"); got != lambent.IsolationGVisor {
			t.Errorf("by default: %s", got)
		}
		if err := b.TagResource(t.Context(), ref("f", ""), isolated("microvm")); err != nil || under(t, b, "f") != lambent.IsolationMicroVM {
			t.Errorf("stronger than the default: %v", err)
		}
		req := request(t, "g")
		req.Tags = isolated("gvisor")
		if _, err := b.CreateFunction(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("native is allowed", func(t *testing.T) {
		b := run(t, lambent.IsolationGVisor, lambent.IsolationNative)
		if err := b.TagResource(t.Context(), ref("g", ""), isolated("native")); err != nil || under(t, b, "g") != lambent.IsolationNative {
			t.Errorf("weaker than the default, which the region allows: %v", err)
		}
	})
	t.Run("the least was raised", func(t *testing.T) {
		b := run(t, lambent.IsolationGVisor, "")
		if got := under(t, b, "g"); got != lambent.IsolationGVisor {
			t.Errorf("what had asked for less runs under %s", got)
		}
		if err := b.TagResource(t.Context(), ref("g", ""), map[string]string{"team": "a"}); err != nil {
			t.Errorf("another tag: %v", err)
		}
	})
	for _, options := range []functions.Options{{Isolation: "docker"}, {LeastIsolation: "docker"}, {LeastIsolation: lambent.IsolationMicroVM}} {
		options.Region, options.Meta, options.Blobs = region, store, blobs
		if s, err := functions.Open(t.Context(), options); err == nil {
			t.Errorf("%+v: opened", options)
			s.Close()
		}
	}
}

// Tenant isolation is chosen at creation, and kept through updates and in versions.
func TestTenantIsolation(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	req := request(t, "f")
	req.TenantIsolation = "PER_TENANT"
	created, err := b.CreateFunction(ctx, req)
	if err != nil || created.TenantIsolation != "PER_TENANT" {
		t.Fatalf("%+v, %v", created, err)
	}
	b.settle(t, ref("f", ""))
	if _, err := b.UpdateFunctionConfiguration(ctx, functions.UpdateFunctionConfigurationRequest{Function: name("f"),
		Settable: functions.Settable{Description: pointer("d")}}); err != nil {
		t.Fatal(err)
	}
	b.settle(t, ref("f", ""))
	published, err := b.PublishVersion(ctx, functions.PublishVersionRequest{Function: name("f")})
	if err != nil || published.TenantIsolation != "PER_TENANT" {
		t.Fatalf("%+v, %v", published, err)
	}
	v := newView()
	v.follow(t, watch(t, ctx, b), b.at(t))
	for number, version := range v.versions[created.ID] {
		if !version.PerTenant {
			t.Errorf("version %s is shared between tenants", number)
		}
	}
	snap := functions.Settable{Runtime: pointer("python3.12"), SnapStart: pointer("PublishedVersions")}
	_, err = b.UpdateFunctionConfiguration(ctx, functions.UpdateFunctionConfigurationRequest{Function: name("f"), Settable: snap})
	refuse(t, err, lambent.InvalidParameter, "SnapStart is not supported for functions with tenant isolation.")
	req = request(t, "g")
	req.TenantIsolation = "PER_USER"
	_, err = b.CreateFunction(ctx, req)
	refuse(t, err, lambent.Validation, "1 validation error detected: Value 'PER_USER' at 'tenancyConfig.tenantIsolationMode' "+
		"failed to satisfy constraint: Member must satisfy enum value set: [PER_TENANT]")
}

// What no host of the region offers cannot be asked for; a function that asked for it before keeps it, and is run under nothing else.
func TestIsolationNotOffered(t *testing.T) {
	store, blobs := metamemory.Open(metamemory.Options{}), &blobmemory.Store{}
	t.Cleanup(func() { store.Close() })
	all := openService(t, functions.Options{Meta: store, Blobs: blobs})
	before := request(t, "before")
	before.Tags = isolated("gvisor")
	if _, err := all.CreateFunction(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	if err := all.Close(); err != nil {
		t.Fatal(err)
	}
	b := &bench{meta: store, blobs: blobs, Service: openService(t, functions.Options{Meta: store, Blobs: blobs,
		OfferedIsolations: []lambent.Isolation{lambent.IsolationNative, lambent.IsolationMicroVM}})}
	const message = `The value of the tag lambent:isolation is not valid: no host of this region offers gvisor. On a host, "lambent doctor" says what that needs.`
	refused := request(t, "refused")
	refused.Tags = isolated("gvisor")
	_, err := b.CreateFunction(t.Context(), refused)
	refuse(t, err, lambent.InvalidParameter, message)
	b.create(t, "f")
	refuse(t, b.TagResource(t.Context(), ref("f", ""), isolated("gvisor")), lambent.InvalidParameter, message)
	if err := b.TagResource(t.Context(), ref("f", ""), isolated("microvm")); err != nil {
		t.Error(err)
	}
	v := newView()
	v.follow(t, watch(t, t.Context(), b), b.at(t))
	if got := v.versions[v.names[name("before")]]["$LATEST"].Isolation; got != lambent.IsolationGVisor {
		t.Errorf("a function of before is run under %s", got)
	}
}
