package functions_test

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"lambent"
	"lambent/functions"
)

func TestListFunctions(t *testing.T) {
	b := newBench(t)
	for _, text := range []string{"a", "b-2", "b", "c"} {
		b.create(t, text)
	}
	b.publish(t, "b")
	list := func(req functions.ListFunctionsRequest) []string {
		t.Helper()
		req.Account = account
		page, err := b.ListFunctions(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		var arns []string
		for _, c := range page.Configurations {
			if c.State != "" || c.StateReason != "" || c.LastUpdateStatus != "" || c.RuntimeVersionARN != "" {
				t.Errorf("in a list: %+v", c)
			}
			arns = append(arns, c.ARN)
		}
		return arns
	}
	if got, want := list(functions.ListFunctionsRequest{}), []string{arn("a"), arn("b"), arn("b-2"), arn("c")}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := list(functions.ListFunctionsRequest{AllVersions: true}), []string{
		arn("a:$LATEST"), arn("b:$LATEST"), arn("b:1"), arn("b-2:$LATEST"), arn("c:$LATEST")}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := list(functions.ListFunctionsRequest{MasterRegion: "us-east-1"}); len(got) != 0 {
		t.Errorf("of another region: %q", got)
	}
	if page, err := b.ListFunctions(t.Context(), functions.ListFunctionsRequest{Account: "222222222222"}); err != nil || len(page.Configurations) != 0 {
		t.Errorf("of another account: %+v, %v", page, err)
	}
	_, err := b.ListFunctions(t.Context(), functions.ListFunctionsRequest{Account: account, Marker: "***"})
	if lambent.CodeOf(err) != lambent.InvalidParameter {
		t.Errorf("a marker of nobody: %v", err)
	}
}

// TestPages: whatever the size of the pages, together they hold everything, once and in order.
func TestPages(t *testing.T) {
	b := newBench(t)
	var plain, all []string
	for i := range 5 {
		text := fmt.Sprint("f", i)
		b.create(t, text)
		plain, all = append(plain, arn(text)), append(all, arn(text+":$LATEST"))
		for v := range 12 * (i % 2) {
			b.update(t, text, functions.Settable{Description: pointer(fmt.Sprint(v))})
			all = append(all, arn(text+":"+b.publish(t, text).Version))
		}
	}
	rapid.Check(t, func(r *rapid.T) {
		req := functions.ListFunctionsRequest{Account: account, MaxItems: rapid.IntRange(1, 60).Draw(r, "size"), AllVersions: rapid.Bool().Draw(r, "all")}
		want := plain
		if req.AllVersions {
			want = all
		}
		var got []string
		for pages := 0; pages <= len(want); pages++ {
			page, err := b.ListFunctions(t.Context(), req)
			if err != nil {
				r.Fatal(err)
			}
			if n := len(page.Configurations); n > req.MaxItems || (n == 0 && len(want) > 0) {
				r.Fatalf("a page of %d, of at most %d", n, req.MaxItems)
			}
			for _, c := range page.Configurations {
				got = append(got, c.ARN)
			}
			if req.Marker = page.NextMarker; req.Marker == "" {
				break
			}
		}
		if !slices.Equal(got, want) {
			r.Fatalf("%q, want %q", got, want)
		}
	})
	var versions []string
	for req := (functions.ListVersionsRequest{Function: name("f1"), MaxItems: 4}); ; {
		page, err := b.ListVersionsByFunction(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range page.Configurations {
			versions = append(versions, c.Version)
		}
		if req.Marker = page.NextMarker; req.Marker == "" {
			break
		}
	}
	if fmt.Sprint(versions) != "[$LATEST 1 2 3 4 5 6 7 8 9 10 11 12]" {
		t.Errorf("versions %v", versions)
	}
}

// TestAliasPages walks the aliases of a function two by two.
func TestAliasPages(t *testing.T) {
	b := newBench(t)
	b.create(t, "f")
	for _, alias := range []string{"c", "a", "e", "b", "d"} {
		if _, err := b.CreateAlias(t.Context(), functions.CreateAliasRequest{Function: name("f"), Name: alias, Version: "$LATEST"}); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	for req := (functions.ListAliasesRequest{Function: name("f"), MaxItems: 2}); ; {
		page, err := b.ListAliases(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, alias := range page.Aliases {
			names = append(names, alias.Name)
		}
		if req.Marker = page.NextMarker; req.Marker == "" {
			break
		}
	}
	if fmt.Sprint(names) != "[a b c d e]" {
		t.Errorf("aliases %v", names)
	}
}
