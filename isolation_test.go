package lambent_test

import (
	"testing"

	"lambent"
)

func TestIsolation(t *testing.T) {
	all := lambent.Isolations()
	for i, weaker := range all {
		if parsed, err := lambent.ParseIsolation(string(weaker)); err != nil || parsed != weaker {
			t.Errorf("%s is read as %q, error %v", weaker, parsed, err)
		}
		for j, stronger := range all {
			if got := weaker.WeakerThan(stronger); got != (i < j) {
				t.Errorf("%s is weaker than %s: %v", weaker, stronger, got)
			}
		}
		if !lambent.Isolation("").WeakerThan(weaker) || !lambent.Isolation("docker").WeakerThan(weaker) || weaker.WeakerThan("docker") {
			t.Errorf("what is not known counts for as much as %s", weaker)
		}
	}
	for _, name := range []string{"", "Native", "docker", "native "} {
		if _, err := lambent.ParseIsolation(name); lambent.CodeOf(err) != lambent.InvalidParameter {
			t.Errorf("%q: %v", name, err)
		}
	}
}
