package frontend

import (
	"context"
	"encoding/json"

	"lambent"
)

// maxClaims bounds how often an invoke that no function has seen yet is given another sandbox.
const maxClaims = 4

// Invoke runs one request. See lambent.FrontEnd.
//
// It goes on when ctx ends while the function runs, as Lambda does: the function's concurrency counts until it has ended.
func (f *FrontEnd) Invoke(ctx context.Context, req lambent.InvokeRequest) (lambent.InvokeResponse, error) {
	if err := admissible(&req); err != nil {
		return lambent.InvokeResponse{}, err
	}
	target, err := f.resolve(ctx, req.Function)
	if err != nil {
		return lambent.InvokeResponse{}, err
	}
	if err := invocable(target.version); err != nil {
		return lambent.InvokeResponse{}, err
	}
	if req.Type == lambent.DryRun {
		return lambent.InvokeResponse{ExecutedVersion: target.version.Key.Version}, nil
	}
	slot, err := f.options.Counter.Acquire(ctx, target.version.FunctionName, target.version.Key.Function)
	if err != nil {
		return lambent.InvokeResponse{}, err
	}
	defer slot.Release()
	return f.run(ctx, target, req)
}

// run claims a sandbox and runs the request in it. A claim that turns out to be void before anything was run is replaced;
// nothing is run twice.
func (f *FrontEnd) run(ctx context.Context, target target, req lambent.InvokeRequest) (lambent.InvokeResponse, error) {
	manager := f.options.Managers(target.version.Key.Function)
	var last error
	for range maxClaims {
		claim, err := manager.Claim(ctx, lambent.ClaimRequest{Version: target.version, Tenant: req.TenantID, RequestID: req.RequestID})
		if err != nil {
			return lambent.InvokeResponse{}, err
		}
		worker, ok := f.options.Workers(claim.Worker)
		if !ok {
			manager.Return(claim, lambent.OutcomeGone)
			last = lambent.Errorf(lambent.Unavailable, "Worker %s is not known any more.", claim.Worker)
			continue
		}
		result, err := invokeClaimed(ctx, manager, worker, claim, lambent.WorkerInvoke{
			Claim: claim, Key: target.version.Key, Request: req, InvokedARN: target.arn,
		})
		switch code := lambent.CodeOf(err); {
		case err == nil:
			result.Response.ExecutedVersion = target.version.Key.Version
			return result.Response, nil
		case code == lambent.SandboxGone || code == lambent.StaleEpoch:
			last = err
		default:
			return lambent.InvokeResponse{}, err
		}
	}
	return lambent.InvokeResponse{}, lambent.Wrap(lambent.Unavailable, last, "No sandbox could be claimed for the function. Try again.")
}

// invokeClaimed runs the request under a claim and returns the claim, whatever happens.
func invokeClaimed(ctx context.Context, manager lambent.Manager, worker lambent.Worker, claim lambent.Claim, req lambent.WorkerInvoke) (result lambent.WorkerResult, err error) {
	outcome := lambent.OutcomeGone
	defer func() { manager.Return(claim, outcome) }()
	result, err = worker.Invoke(context.WithoutCancel(ctx), req)
	if err == nil {
		outcome = result.Outcome
	}
	return result, err
}

// admissible checks what needs no function.
func admissible(req *lambent.InvokeRequest) error {
	switch {
	case len(req.Payload) > lambent.MaxRequestBytes:
		return lambent.Errorf(lambent.TooLarge, "Request must be smaller than %d bytes for the InvokeFunction operation", lambent.MaxRequestBytes)
	case req.Type == lambent.Event:
		return lambent.Errorf(lambent.NotImplemented, "Asynchronous invokes (InvocationType Event) are not built yet; use RequestResponse.")
	}
	if len(req.Payload) == 0 {
		req.Payload = []byte("{}")
		return nil
	}
	if json.Valid(req.Payload) {
		return nil
	}
	var any json.RawMessage
	err := json.Unmarshal(req.Payload, &any)
	return lambent.Errorf(lambent.InvalidContent, "Could not parse request body into json: %v", err)
}

// invocable checks the function's state.
func invocable(v *lambent.FunctionVersion) error {
	switch v.State {
	case lambent.StateActive, lambent.StateInactive:
		return nil
	case lambent.StateFailed:
		return lambent.Errorf(lambent.NotReady, "The operation cannot be performed at this time. The function is currently in the following state: Failed")
	}
	return lambent.Errorf(lambent.Conflict, "The operation cannot be performed at this time. The function is currently in the following state: %s", v.State)
}
