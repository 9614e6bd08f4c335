package frontend

import (
	"context"

	"lambent"
)

// maxClaims bounds how often a request that no function has seen is given another sandbox.
const maxClaims = 4

// Invoke implements lambent.FrontEnd. When ctx ends while the function runs, the invoke lasts until the function has ended, as
// on Lambda: until then it counts against the concurrency.
func (f *FrontEnd) Invoke(ctx context.Context, req lambent.InvokeRequest) (lambent.InvokeResponse, error) {
	if err := f.admit(&req); err != nil {
		return lambent.InvokeResponse{}, err
	}
	target, err := f.resolve(ctx, req.Function) // what
	if err != nil {
		return lambent.InvokeResponse{}, err
	}
	if err := checkTenant(target.version, req.TenantID); err != nil {
		return lambent.InvokeResponse{}, err
	}
	if req.Type == lambent.DryRun {
		return lambent.InvokeResponse{ExecutedVersion: target.version.Key.Version}, nil
	}
	if req.Payload, err = checkPayload(req.Payload); err != nil {
		return lambent.InvokeResponse{}, err
	}
	slot, err := f.options.Counter.Acquire(ctx, target.version.FunctionName, target.version.Key.Function) // may it run?
	if err != nil {
		return lambent.InvokeResponse{}, err
	}
	defer slot.Release()
	manager := f.options.Managers(target.version.Key.Function)
	if manager == nil {
		return lambent.InvokeResponse{}, lambent.Errorf(lambent.Unavailable, "No worker manager owns the function now. Please try again.")
	}
	return f.run(ctx, manager, target, req)
}

// run claims a sandbox and runs the request in it. A claim that turns out to be void before anything was run is replaced by
// another; nothing is run twice (invariant 4).
func (f *FrontEnd) run(ctx context.Context, manager lambent.Manager, target target, req lambent.InvokeRequest) (lambent.InvokeResponse, error) {
	var void error
	for range maxClaims {
		claim, err := manager.Claim(ctx, lambent.ClaimRequest{Version: target.version, Tenant: req.TenantID, RequestID: req.RequestID}) // where
		if err != nil {
			return lambent.InvokeResponse{}, err
		}
		result, err := f.runClaimed(ctx, manager, lambent.WorkerInvoke{
			Claim: claim, Key: target.version.Key, Request: req, InvokedARN: target.arn,
		})
		switch {
		case err == nil:
			result.Response.ExecutedVersion = target.version.Key.Version
			return result.Response, nil
		case !wasVoid(err):
			return lambent.InvokeResponse{}, err
		}
		void = err
	}
	return lambent.InvokeResponse{}, lambent.Wrap(lambent.Unavailable, void, "No execution environment could take the request. Please try again.")
}

// wasVoid says whether an error of a worker means that nothing of the request was run.
func wasVoid(err error) bool {
	code := lambent.CodeOf(err)
	return code == lambent.SandboxGone || code == lambent.StaleEpoch
}

// runClaimed runs the request under a claim, and returns the claim, whatever happens. A sandbox of which nothing is known after
// that is not used again.
func (f *FrontEnd) runClaimed(ctx context.Context, manager lambent.Manager, invoke lambent.WorkerInvoke) (lambent.WorkerResult, error) {
	outcome := lambent.OutcomeGone
	defer func() { manager.Return(invoke.Claim, outcome) }()
	worker, ok := f.options.Workers(invoke.Claim.Worker)
	if !ok {
		return lambent.WorkerResult{}, lambent.Errorf(lambent.SandboxGone, "The worker %s is not known any more.", invoke.Claim.Worker)
	}
	result, err := worker.Invoke(context.WithoutCancel(ctx), invoke) // run
	if err != nil {
		return lambent.WorkerResult{}, err
	}
	outcome = result.Outcome
	if f.options.Observe != nil {
		f.options.Observe(invoke.Key, invoke.Request.TenantID, result)
	}
	return result, nil
}

// admit checks what needs no function: the request's size and kind, and whether the caller may call across accounts.
func (f *FrontEnd) admit(req *lambent.InvokeRequest) error {
	switch req.Type {
	case "", lambent.RequestResponse, lambent.DryRun:
	case lambent.Event:
		return lambent.Errorf(lambent.NotImplemented, "The invocation type Event is not supported yet. Use RequestResponse.")
	default:
		return lambent.Errorf(lambent.InvalidParameter, "The invocation type %q is not known. Use RequestResponse, Event or DryRun.", req.Type)
	}
	if len(req.Payload) > lambent.MaxRequestBytes {
		return lambent.Errorf(lambent.TooLarge, "Request must be smaller than %d bytes for the InvokeFunction operation", lambent.MaxRequestBytes)
	}
	if req.Caller.Account != req.Function.Account {
		return lambent.Errorf(lambent.AccessDenied,
			"User: %s is not authorized to perform: lambda:InvokeFunction on resource: %s because no resource-based policy allows the lambda:InvokeFunction action",
			req.Caller.ARN, f.arn(req.Function))
	}
	return nil
}

// checkTenant refuses a request without a tenant to a function that isolates tenants, and one with a tenant to any other.
func checkTenant(version *lambent.FunctionVersion, tenant string) error {
	switch {
	case version.PerTenant && tenant == "":
		return lambent.Errorf(lambent.InvalidParameter,
			"The invoked function is enabled with tenancy configuration. Add a valid tenant ID in your request and try again.")
	case !version.PerTenant && tenant != "":
		return lambent.Errorf(lambent.InvalidParameter,
			"The invoked function is not enabled with tenancy configuration. Remove the tenant ID from your request and try again.")
	}
	return nil
}
