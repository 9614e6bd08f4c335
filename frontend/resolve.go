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

// resolve finds the version that a reference means now, and checks that it can be invoked. A name that the copy of the
// catalogue does not hold, or a function that is Pending there, may have moved on since: then it is looked up again when the
// copy has caught up with the store.
func (f *FrontEnd) resolve(ctx context.Context, ref lambent.FunctionRef) (target, error) {
	if err := f.catalogue.firstDelivery(ctx); err != nil {
		return target{}, err
	}
	drawn := 0.0 // once for the whole request: a second look does not favour one of an alias's versions
	if ref.Qualifier != "" {
		drawn = f.options.Rand()
	}
	version := f.lookup(ref, drawn)
	if version == nil || version.State == lambent.StatePending {
		if err := f.catalogue.catchUp(ctx); err != nil && version == nil {
			return target{}, err // nobody can say whether it exists
		}
		version = f.lookup(ref, drawn)
	}
	if version == nil {
		return target{}, lambent.Errorf(lambent.NotFound, "Function not found: %s", f.arn(ref))
	}
	if version.State != lambent.StateActive && version.State != lambent.StateInactive {
		return target{}, lambent.Errorf(lambent.Conflict,
			"The operation cannot be performed at this time. The function is currently in the following state: %s", version.State)
	}
	arn := version.ARN
	if ref.Qualifier != "" || arn == "" {
		arn = f.arn(ref)
	}
	return target{version, arn}, nil
}

// lookup finds a reference in the copy of the catalogue, nil if it is not there. What was drawn decides between the versions of a
// weighted alias.
func (f *FrontEnd) lookup(ref lambent.FunctionRef, drawn float64) *lambent.FunctionVersion {
	fn := f.catalogue.find(ref.FunctionName)
	if fn == nil {
		return nil
	}
	if lambent.IsLatest(ref.Qualifier) {
		return fn.versions[lambent.Latest]
	}
	if alias, ok := fn.aliases[ref.Qualifier]; ok {
		return fn.versions[route(alias, drawn)]
	}
	return fn.versions[ref.Qualifier]
}

// route picks the version of one invoke by an alias's weights and a number that was drawn from [0, 1).
func route(alias *lambent.Alias, drawn float64) string {
	for version, weight := range alias.Weights { // at most one
		if drawn < weight {
			return version
		}
	}
	return alias.Version
}

// arn is a function's ARN as the caller named it.
func (f *FrontEnd) arn(ref lambent.FunctionRef) string {
	arn := ref.ARN(f.options.Region)
	if ref.Qualifier != "" {
		arn += ":" + ref.Qualifier
	}
	return arn
}
