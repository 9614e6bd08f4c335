package functions_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lambent"
	"lambent/functions"
)

func TestVersions(t *testing.T) {
	b := newBench(t)
	b.create(t, "f")
	latest := b.update(t, "f", functions.Settable{Description: pointer("First version :)")})
	first, err := b.PublishVersion(t.Context(), functions.PublishVersionRequest{
		Function: name("f"), CodeSHA256: latest.CodeSHA256(), RevisionID: latest.RevisionID, Description: pointer("First version description :)")})
	if err != nil {
		t.Fatal(err)
	}
	if first.Version != "1" || first.ARN != arn("f:1") || first.State != lambent.StateActive || first.LastUpdateStatus != functions.UpdateSuccessful ||
		first.Description != "First version description :)" || first.RevisionID == latest.RevisionID {
		t.Errorf("version 1: %+v", first)
	}
	if again := b.publish(t, "f"); again.Version != "1" || again.RevisionID != first.RevisionID || again.Description != first.Description {
		t.Errorf("published without a change: %+v", again)
	}
	b.update(t, "f", functions.Settable{Description: pointer("Second version :))")})
	second := b.publish(t, "f")
	if second.Version != "2" || second.Description != "Second version :))" {
		t.Errorf("version 2: %+v", second)
	}
	got, err := b.GetFunction(t.Context(), ref("f", "1"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, &got.Configuration); diff != "" {
		t.Errorf("version 1 is not what it was: %s", diff)
	}
	if versions := b.versions(t, "f"); fmt.Sprint(versions) != "[$LATEST 1 2]" {
		t.Errorf("versions %v", versions)
	}
	for range 2 { // the second time, there is none
		if err := b.DeleteFunction(t.Context(), ref("f", "1")); err != nil {
			t.Error(err)
		}
	}
	if versions := b.versions(t, "f"); fmt.Sprint(versions) != "[$LATEST 2]" {
		t.Errorf("versions %v", versions)
	}
	if err := b.DeleteFunction(t.Context(), ref("f", "2")); err != nil {
		t.Error(err)
	}
	if third := b.publish(t, "f"); third.Version != "3" {
		t.Errorf("a number was given twice: %+v", third)
	}
}

func (b *bench) versions(t *testing.T, text string) (numbers []string) {
	t.Helper()
	page, err := b.ListVersionsByFunction(t.Context(), functions.ListVersionsRequest{Function: name(text)})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range page.Configurations {
		if c.ARN != arn(text+":"+c.Version) || c.State != "" || c.LastUpdateStatus != "" || c.RuntimeVersionARN != "" || c.RevisionID == "" {
			t.Errorf("in a list: %+v", c)
		}
		numbers = append(numbers, c.Version)
	}
	return numbers
}

func TestVersionsRefused(t *testing.T) {
	b := newBench(t)
	latest := b.create(t, "f")
	b.publish(t, "f")
	_, err := b.PublishVersion(t.Context(), functions.PublishVersionRequest{Function: name("f"), CodeSHA256: "aaaa"})
	refuse(t, err, lambent.InvalidParameter, "CodeSHA256 (aaaa) is different from current CodeSHA256 in $LATEST ("+latest.CodeSHA256()+"). Please try again with the CodeSHA256 in $LATEST.")
	refuse(t, b.DeleteFunction(t.Context(), ref("f", "$LATEST")), lambent.InvalidParameter, "$LATEST version cannot be deleted without deleting the function.")
	refuse(t, b.DeleteFunction(t.Context(), ref("f", "alias")), lambent.InvalidParameter, "Deletion of aliases is not currently supported.")
	for _, alias := range []functions.CreateAliasRequest{
		{Name: "direct", Version: "1"},
		{Name: "weighted", Version: "2", Weights: map[string]float64{"1": 0.5}},
	} {
		if alias.Name == "weighted" {
			b.update(t, "f", functions.Settable{Description: pointer("2")})
			b.publish(t, "f")
		}
		alias.Function = name("f")
		if _, err := b.CreateAlias(t.Context(), alias); err != nil {
			t.Fatal(err)
		}
	}
	refuse(t, b.DeleteFunction(t.Context(), ref("f", "1")), lambent.Conflict, "Unable to delete version because the following aliases reference it: [direct, weighted]")
	refuse(t, b.DeleteFunction(t.Context(), ref("f", "2")), lambent.Conflict, "Unable to delete version because the following aliases reference it: [weighted]")
}

// TestCreateAndPublish: the answer is version 1 under the function's own ARN; both become usable.
func TestCreateAndPublish(t *testing.T) {
	b := newBench(t)
	r := request(t, "f")
	r.Publish = true
	created, err := b.CreateFunction(t.Context(), r)
	if err != nil || created.Version != "1" || created.ARN != arn("f") || created.State != lambent.StatePending {
		t.Fatalf("%+v, %v", created, err)
	}
	for _, qualifier := range []string{"", "1", "$LATEST"} {
		if c := b.settle(t, ref("f", qualifier)); c.State != lambent.StateActive || c.LastUpdateStatus != functions.UpdateSuccessful {
			t.Errorf("%q: %+v", qualifier, c)
		}
	}
	if c := b.publish(t, "f"); c.Version != "1" {
		t.Errorf("published again without a change: %+v", c)
	}
}

// TestConcurrentPublish: all publishers of one content get one version.
func TestConcurrentPublish(t *testing.T) {
	b := newBench(t)
	b.create(t, "f")
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			c, err := b.PublishVersion(t.Context(), functions.PublishVersionRequest{Function: name("f")})
			if err != nil || c.Version != "1" {
				t.Errorf("%+v, %v", c, err)
			}
		})
	}
	group.Wait()
	if versions := b.versions(t, "f"); fmt.Sprint(versions) != "[$LATEST 1]" {
		t.Errorf("versions %v", versions)
	}
}

func TestAliases(t *testing.T) {
	b := newBench(t)
	b.create(t, "f")
	b.publish(t, "f")
	b.update(t, "f", functions.Settable{Description: pointer("2")})
	b.publish(t, "f")
	ctx := t.Context()
	create := func(alias functions.CreateAliasRequest) *functions.Alias {
		t.Helper()
		alias.Function = name("f")
		created, err := b.CreateAlias(ctx, alias)
		if err != nil {
			t.Fatal(err)
		}
		return created
	}
	one := create(functions.CreateAliasRequest{Name: "one", Version: "1", Description: "d", Weights: map[string]float64{"2": 0.2}})
	want := &functions.Alias{ARN: arn("f:one"), Name: "one", Version: "1", Description: "d", Weights: map[string]float64{"2": 0.2}, RevisionID: one.RevisionID}
	if diff := cmp.Diff(want, one); diff != "" {
		t.Error(diff)
	}
	create(functions.CreateAliasRequest{Name: "two", Version: "2"})
	create(functions.CreateAliasRequest{Name: "latest", Version: "$LATEST"})
	if got, err := b.GetAlias(ctx, ref("f", "one")); err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("%+v, %v", got, err)
	}
	function, err := b.GetFunction(ctx, ref("f", "one"))
	if err != nil || function.Configuration.ARN != arn("f:one") || function.Configuration.Version != "1" {
		t.Errorf("%+v, %v", function, err)
	}
	updated, err := b.UpdateAlias(ctx, functions.UpdateAliasRequest{Function: name("f"), Name: "one", RevisionID: one.RevisionID, Weights: &map[string]float64{}})
	if err != nil || updated.Weights != nil || updated.RevisionID == one.RevisionID || updated.Description != "d" || updated.Version != "1" {
		t.Errorf("%+v, %v", updated, err)
	}
	if got := b.aliases(t, functions.ListAliasesRequest{}); fmt.Sprint(got) != "[latest one two]" {
		t.Errorf("aliases %v", got)
	}
	if got := b.aliases(t, functions.ListAliasesRequest{Version: "1"}); fmt.Sprint(got) != "[one]" {
		t.Errorf("aliases of version 1: %v", got)
	}
	for range 2 {
		if err := b.DeleteAlias(ctx, ref("f", "one")); err != nil {
			t.Error(err)
		}
	}
	if got := b.aliases(t, functions.ListAliasesRequest{}); fmt.Sprint(got) != "[latest two]" {
		t.Errorf("aliases %v", got)
	}
}

func (b *bench) aliases(t *testing.T, req functions.ListAliasesRequest) (names []string) {
	t.Helper()
	req.Function = name("f")
	page, err := b.ListAliases(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	for _, alias := range page.Aliases {
		names = append(names, alias.Name)
	}
	return names
}

func TestAliasesRefused(t *testing.T) {
	b := newBench(t)
	b.create(t, "f")
	b.publish(t, "f")
	b.update(t, "f", functions.Settable{Description: pointer("2")})
	b.publish(t, "f")
	if _, err := b.CreateAlias(t.Context(), functions.CreateAliasRequest{Function: name("f"), Name: "taken", Version: "1"}); err != nil {
		t.Fatal(err)
	}
	const weights = "routingConfig.additionalVersionWeights"
	cases := []struct {
		alias   functions.CreateAliasRequest
		code    lambent.Code
		message string
	}{
		{functions.CreateAliasRequest{Name: "taken", Version: "1"}, lambent.Conflict, "Alias already exists: " + arn("f:taken")},
		{functions.CreateAliasRequest{Name: "12", Version: "1"}, lambent.Validation, "1 validation error detected: Value '12' at 'name' failed to satisfy constraint: Member must satisfy regular expression pattern: (?!^[0-9]+$)([a-zA-Z0-9-_]+)"},
		{functions.CreateAliasRequest{Name: "a", Version: "42"}, lambent.NotFound, "Function not found: " + arn("f:42")},
		{functions.CreateAliasRequest{Name: "a", Version: "1", Weights: map[string]float64{"42": 0.5}}, lambent.NotFound, "Function not found: " + arn("f:42")},
		{functions.CreateAliasRequest{Name: "a", Version: "1", Weights: map[string]float64{"2": 0.5, "3": 0.1}}, lambent.InvalidParameter, "Number of items in AdditionalVersionWeights cannot be greater than 1"},
		{functions.CreateAliasRequest{Name: "a", Version: "1", Weights: map[string]float64{"1": 0.5}}, lambent.InvalidParameter, "Invalid function version 1. Function version 1 is already included in routing configuration."},
		{functions.CreateAliasRequest{Name: "a", Version: "$LATEST", Weights: map[string]float64{"1": 0.5}}, lambent.InvalidParameter, "$LATEST is not supported for an alias pointing to more than 1 version"},
		{functions.CreateAliasRequest{Name: "a", Version: "1", Weights: map[string]float64{"2": 1.5}}, lambent.Validation, "1 validation error detected: Value '{2=1.5}' at '" + weights + "' failed to satisfy constraint: Map value must satisfy constraint: [Member must have value less than or equal to 1.0, Member must have value greater than or equal to 0.0, Member must not be null]"},
		{functions.CreateAliasRequest{Name: "a", Version: "1", Weights: map[string]float64{"$LATEST": 0.5}}, lambent.Validation, "1 validation error detected: Value '{$LATEST=0.5}' at '" + weights + "' failed to satisfy constraint: Map keys must satisfy constraint: [Member must have length less than or equal to 1024, Member must have length greater than or equal to 1, Member must satisfy regular expression pattern: [0-9]+, Member must not be null]"},
	}
	for _, c := range cases {
		c.alias.Function = name("f")
		_, err := b.CreateAlias(t.Context(), c.alias)
		refuse(t, err, c.code, c.message)
	}
	_, err := b.UpdateAlias(t.Context(), functions.UpdateAliasRequest{Function: name("f"), Name: "taken", Version: pointer("42")})
	refuse(t, err, lambent.NotFound, "Function not found: "+arn("f:42"))
}

// TestAliasAgainstDelete: an alias and the end of its version, at once: never both succeed.
func TestAliasAgainstDelete(t *testing.T) {
	b := newBench(t)
	b.create(t, "f")
	for i := range 20 {
		b.update(t, "f", functions.Settable{Description: pointer(fmt.Sprint(i))})
		version := b.publish(t, "f").Version
		alias := fmt.Sprint("a", i)
		var group sync.WaitGroup
		var aliasError, deleteError error
		group.Go(func() {
			_, aliasError = b.CreateAlias(t.Context(), functions.CreateAliasRequest{Function: name("f"), Name: alias, Version: version})
		})
		group.Go(func() { deleteError = b.DeleteFunction(t.Context(), ref("f", version)) })
		group.Wait()
		if (aliasError == nil) == (deleteError == nil) {
			t.Fatalf("alias: %v; delete: %v", aliasError, deleteError)
		}
	}
}
