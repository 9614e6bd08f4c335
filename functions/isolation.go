package functions

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"lambent"
)

// isolationPolicy decides what functions run under. Nothing in it is ever silently weaker than what a function asks for.
type isolationPolicy struct {
	usual lambent.Isolation // of functions that ask for nothing
	least lambent.Isolation // that a function may ask for
	// offered are those that some host of the region can run; nil: all of them.
	offered []lambent.Isolation
}

func newIsolationPolicy(usual, least lambent.Isolation) (isolationPolicy, error) {
	p := isolationPolicy{usual: cmp.Or(usual, lambent.IsolationNative)}
	p.least = cmp.Or(least, p.usual)
	for _, i := range []lambent.Isolation{p.usual, p.least} {
		if _, err := lambent.ParseIsolation(string(i)); err != nil {
			return p, fmt.Errorf("functions: %w", err)
		}
	}
	if p.usual.WeakerThan(p.least) {
		return p, errors.New("functions: Isolation is weaker than LeastIsolation")
	}
	return p, nil
}

// check judges the isolation that the tags of a request ask for, if they ask for one.
func (p isolationPolicy) check(tags map[string]string) error {
	asked, ok := tags[lambent.IsolationTag]
	if !ok {
		return nil
	}
	isolation, err := lambent.ParseIsolation(asked)
	if err != nil {
		return invalid("The value of the tag %s is not valid: %s", lambent.IsolationTag, err)
	}
	if isolation.WeakerThan(p.least) {
		return invalid("The value of the tag %s is not valid: %s isolates less than %s, which is the least that this region allows.",
			lambent.IsolationTag, isolation, p.least)
	}
	if p.offered != nil && !slices.Contains(p.offered, isolation) {
		return invalid("The value of the tag %s is not valid: no host of this region offers %s. On a host, \"lambent doctor\" says what that needs.",
			lambent.IsolationTag, isolation)
	}
	return nil
}

// of returns what a function with these tags runs under. Its tags were good when they were set, maybe under another policy: what
// is weaker than the least of today becomes that, and what cannot be read is taken for the strongest.
func (p isolationPolicy) of(tags map[string]string) lambent.Isolation {
	asked, ok := tags[lambent.IsolationTag]
	if !ok {
		return p.usual
	}
	isolation, err := lambent.ParseIsolation(asked)
	switch all := lambent.Isolations(); {
	case err != nil:
		return all[len(all)-1]
	case isolation.WeakerThan(p.least):
		return p.least
	}
	return isolation
}

// revision is the VersionKey.Revision of a content that is run under an isolation: another isolation is another revision, so
// that no sandbox is used under one that it was not made for.
func revision(content string, isolation lambent.Isolation) string {
	return content + "/" + string(isolation)
}

// under returns a version as it is under another isolation.
func under(isolation lambent.Isolation, v *lambent.FunctionVersion) *lambent.FunctionVersion {
	changed := *v
	content, _, _ := strings.Cut(v.Key.Revision, "/")
	changed.Isolation, changed.Key.Revision = isolation, revision(content, isolation)
	return &changed
}
