package frontend

import (
	"context"

	"lambent"
)

// target is what a reference means for one invoke.
type target struct {
	version *lambent.FunctionVersion
	arn     string // as the caller named it, with its qualifier
}

// resolve finds the version that a reference means now. A name that the catalog does not hold yet may be younger than the
// watch: then it waits until the watch has come as far as the store was when it asked.
func (f *FrontEnd) resolve(ctx context.Context, ref lambent.FunctionRef) (target, error) {
	if err := f.catalog.ready(ctx); err != nil {
		return target{}, lambent.Wrap(lambent.Unavailable, err, "The function catalog is not loaded yet. Try again.")
	}
	arn := ref.ARN(f.options.Region)
	if ref.Qualifier != "" {
		arn += ":" + ref.Qualifier
	}
	version := f.lookup(ref)
	if version == nil {
		if err := f.catalog.catchUp(ctx); err != nil {
			return target{}, lambent.Wrap(lambent.Unavailable, err, "The metadata store cannot say whether the function exists. Try again.")
		}
		version = f.lookup(ref)
	}
	if version == nil {
		return target{}, lambent.Errorf(lambent.NotFound, "Function not found: %s", arn)
	}
	return target{version, arn}, nil
}

func (f *FrontEnd) lookup(ref lambent.FunctionRef) *lambent.FunctionVersion {
	e := f.catalog.entry(ref.FunctionName)
	if e == nil {
		return nil
	}
	if lambent.IsLatest(ref.Qualifier) {
		return e.versions[lambent.Latest]
	}
	if alias, ok := e.aliases[ref.Qualifier]; ok {
		return e.versions[route(alias, f.options.Rand)]
	}
	return e.versions[ref.Qualifier]
}

// route picks the version of one invoke by an alias's weights.
func route(alias *lambent.Alias, random func() float64) string {
	if len(alias.Weights) == 0 {
		return alias.Version
	}
	drawn := random()
	for version, weight := range alias.Weights { // at most one
		if drawn < weight {
			return version
		}
	}
	return alias.Version
}
