package functions

import (
	"testing"

	"pgregory.net/rapid"

	"lambent"
)

// Whatever the policy, and whatever the tags: nothing runs under less than it asks for or than the region allows, and what the
// policy accepts is what is run.
func TestNeverWeaker(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom(append(lambent.Isolations(), ""))
		p, err := newIsolationPolicy(kind.Draw(t, "usual"), kind.Draw(t, "least"))
		if err != nil {
			t.Skip(err)
		}
		tags := map[string]string{}
		asked := rapid.SampledFrom([]string{"none", "native", "gvisor", "microvm", "docker", ""}).Draw(t, "asked")
		if asked != "none" {
			tags[lambent.IsolationTag] = asked
		}
		got := p.of(tags)
		if !got.Known() || got.WeakerThan(p.least) || got.WeakerThan(lambent.Isolation(asked)) {
			t.Fatalf("%+v: %s for %q", p, got, asked)
		}
		if asked == "none" && got != p.usual {
			t.Fatalf("%+v: %s by default", p, got)
		}
		if asked != "none" && p.check(tags) == nil && got != lambent.Isolation(asked) {
			t.Fatalf("%+v: %s for %q, which was accepted", p, got, asked)
		}
	})
}
