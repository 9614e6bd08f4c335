package functions_test

import (
	"maps"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lambent"
	"lambent/functions"
)

const tooMuch = "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below its minimum value of [100]."

func TestConcurrencySettings(t *testing.T) {
	b := newBench(t)
	b.create(t, "f")
	b.create(t, "g")
	ctx := t.Context()
	put := func(fn string, n int) error { _, err := b.PutFunctionConcurrency(ctx, name(fn), n); return err }
	steps := []struct {
		name       string
		do         func() error
		refused    bool
		unreserved int
	}{
		{"nothing", func() error { return nil }, false, 1000},
		{"one", func() error { return put("f", 1) }, false, 999},
		{"the same again", func() error { return put("f", 1) }, false, 999},
		{"zero", func() error { return put("f", 0) }, false, 1000},
		{"all that may be", func() error { return put("f", 900) }, false, 100},
		{"one more", func() error { return put("f", 901) }, true, 100},
		{"one more elsewhere", func() error { return put("g", 1) }, true, 100},
		{"zero elsewhere", func() error { return put("g", 0) }, false, 100},
		{"less", func() error { return put("f", 899) }, false, 101},
		{"the rest", func() error { return put("g", 1) }, false, 100},
		{"removed", func() error { return b.DeleteFunctionConcurrency(ctx, name("f")) }, false, 999},
		{"removed again", func() error { return b.DeleteFunctionConcurrency(ctx, name("f")) }, false, 999},
		{"function deleted", func() error { return b.DeleteFunction(ctx, ref("g", "")) }, false, 1000},
	}
	for _, step := range steps {
		err := step.do()
		if step.refused {
			refuse(t, err, lambent.InvalidParameter, tooMuch)
		} else if err != nil {
			t.Errorf("%s: %v", step.name, err)
		}
		settings, err := b.GetAccountSettings(ctx, account)
		if err != nil || settings.UnreservedConcurrency != step.unreserved || settings.ConcurrencyLimit != 1000 {
			t.Errorf("%s: %+v, %v; want %d unreserved", step.name, settings, err, step.unreserved)
		}
	}
	if reserved, err := b.GetFunctionConcurrency(ctx, name("f")); err != nil || reserved != nil {
		t.Errorf("%v, %v", reserved, err)
	}
	if err := put("f", 0); err != nil {
		t.Fatal(err)
	}
	function, err := b.GetFunction(ctx, ref("f", ""))
	if err != nil || function.Reserved == nil || *function.Reserved != 0 {
		t.Errorf("%+v, %v", function, err)
	}
}

// TestReservationsConcurrently: whoever reserves at once, at least 100 units stay unreserved, and the sum is exact.
func TestReservationsConcurrently(t *testing.T) {
	b := newBench(t)
	names := []string{"a", "b", "c", "d"}
	for _, text := range names {
		b.create(t, text)
	}
	var group sync.WaitGroup
	for worker, text := range names {
		random := rand.New(rand.NewPCG(1, uint64(worker)))
		group.Go(func() {
			for range 30 {
				var err error
				if random.IntN(4) == 0 {
					err = b.DeleteFunctionConcurrency(t.Context(), name(text))
				} else {
					_, err = b.PutFunctionConcurrency(t.Context(), name(text), random.IntN(500))
				}
				if err != nil && lambent.CodeOf(err) != lambent.InvalidParameter {
					t.Error(err)
				}
				settings, err := b.GetAccountSettings(t.Context(), account)
				if err != nil || settings.UnreservedConcurrency < functions.MinUnreserved {
					t.Errorf("%+v, %v", settings, err)
				}
			}
		})
	}
	group.Wait()
	sum := 0
	for _, text := range names {
		if reserved, err := b.GetFunctionConcurrency(t.Context(), name(text)); err != nil {
			t.Error(err)
		} else if reserved != nil {
			sum += *reserved
		}
	}
	if settings, err := b.GetAccountSettings(t.Context(), account); err != nil || settings.UnreservedConcurrency != 1000-sum {
		t.Errorf("%+v, %v; %d are reserved", settings, err, sum)
	}
}

func TestAccountSettings(t *testing.T) {
	b := newBench(t)
	one := b.create(t, "a")
	two := b.create(t, "b")
	b.publish(t, "b")
	got, err := b.GetAccountSettings(t.Context(), account)
	want := functions.AccountSettings{
		TotalCodeLimit: 80_530_636_800, CodeUnzippedLimit: 262_144_000, CodeZippedLimit: 52_428_800, ConcurrencyLimit: 1000,
		UnreservedConcurrency: 1000, TotalCodeUsed: one.Code.Size + 2*two.Code.Size, FunctionCount: 2,
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	if other, err := b.GetAccountSettings(t.Context(), "222222222222"); err != nil || other.FunctionCount != 0 || other.TotalCodeUsed != 0 {
		t.Errorf("%+v, %v", other, err)
	}
}

func TestTags(t *testing.T) {
	b := newBench(t)
	r := request(t, "f")
	r.Tags = map[string]string{"key_a": "value_a"}
	if _, err := b.CreateFunction(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	before := b.settle(t, ref("f", ""))
	ctx := t.Context()
	set := func(tags map[string]string) func() error {
		return func() error { return b.TagResource(ctx, ref("f", ""), tags) }
	}
	unset := func(keys ...string) func() error {
		return func() error { return b.UntagResource(ctx, ref("f", ""), keys) }
	}
	many := tags(50)
	steps := []struct {
		do   func() error
		want map[string]string
	}{
		{func() error { return nil }, map[string]string{"key_a": "value_a"}},
		{set(map[string]string{"key_b": "value_b", "key_c": "value_c"}), map[string]string{"key_a": "value_a", "key_b": "value_b", "key_c": "value_c"}},
		{set(map[string]string{"key_c": "value_x"}), map[string]string{"key_a": "value_a", "key_b": "value_b", "key_c": "value_x"}},
		{unset("key_c", "none"), map[string]string{"key_a": "value_a", "key_b": "value_b"}},
		{unset("key_a", "key_b"), map[string]string{}},
		{set(many), many},
	}
	for i, step := range steps {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		listed, err := b.ListTags(ctx, ref("f", ""))
		if err != nil || listed == nil || !maps.Equal(listed, step.want) {
			t.Errorf("step %d: %v, %v", i, listed, err)
		}
		function, err := b.GetFunction(ctx, ref("f", ""))
		if err != nil || !maps.Equal(function.Tags, step.want) || (function.Tags == nil) != (len(step.want) == 0) {
			t.Errorf("step %d: %v, %v", i, function.Tags, err)
		}
		if i > 0 && function.Configuration.RevisionID == before.RevisionID {
			t.Errorf("step %d: the revision did not change", i)
		}
		before = &function.Configuration
	}
	refuse(t, set(map[string]string{"one": "more"})(), lambent.InvalidParameter, "Number of tags exceeds resource tag limit.")
	const qualified = "Tags on function aliases and versions are not supported. Please specify a function ARN."
	for _, qualifier := range []string{"$LATEST", "1", "alias"} {
		refuse(t, b.TagResource(ctx, ref("f", qualifier), tags(1)), lambent.InvalidParameter, qualified)
	}
	if err := b.DeleteFunction(ctx, ref("f", "")); err != nil {
		t.Fatal(err)
	}
	_, err := b.ListTags(ctx, ref("f", ""))
	refuse(t, err, lambent.NotFound, "Function not found: "+arn("f"))
}
