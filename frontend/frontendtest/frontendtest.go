// Package frontendtest is the suite that every implementation of lambent.FrontEnd passes, and a region in memory to test front
// ends with.
package frontendtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"lambent"
)

// Run runs the suite. open gives a front end of a region, and closes it at the end of the test that it is given.
func Run(t *testing.T, open func(*testing.T, *Region) lambent.FrontEnd) {
	tests := []struct {
		name string
		run  func(*testing.T, *Region, lambent.FrontEnd)
	}{
		{"Answer", testAnswer},
		{"Qualifiers", testQualifiers},
		{"NotFound", testNotFound},
		{"JustCreated", testJustCreated},
		{"States", testStates},
		{"Refusals", testRefusals},
		{"Tenants", testTenants},
		{"DryRun", testDryRun},
		{"FunctionError", testFunctionError},
		{"VoidClaims", testVoidClaims},
		{"HostLost", testHostLost},
		{"WorkerUnknown", testWorkerUnknown},
		{"CallerGone", testCallerGone},
		{"WorkerPanics", testPanic},
		{"StoreAway", testStoreAway},
		{"CatalogueResets", testResets},
		{"Limit", testLimit},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := NewRegion()
			r.Put(Function("f", lambent.Latest))
			test.run(t, r, open(t, r))
			for _, fault := range r.Faults() {
				t.Error(fault)
			}
			if slots, claims := r.Held(); slots != 0 || claims != 0 {
				t.Errorf("%d slots and %d claims are still held", slots, claims)
			}
		})
	}
}

// Request is an invoke of a function by its own account. The qualifier may be empty.
func Request(function, qualifier, payload string) lambent.InvokeRequest {
	return lambent.InvokeRequest{
		RequestID: fmt.Sprintf("%s:%s:%.100s", function, qualifier, payload), Caller: lambent.Principal{Account: Account, ARN: "arn:aws:iam::" + Account + ":root"},
		Function: lambent.FunctionRef{FunctionName: lambent.FunctionName{Account: Account, Name: function}, Qualifier: qualifier},
		Type:     lambent.RequestResponse, Payload: []byte(payload),
	}
}

func answered(t *testing.T, f lambent.FrontEnd, req lambent.InvokeRequest) lambent.InvokeResponse {
	t.Helper()
	resp, err := f.Invoke(t.Context(), req)
	if err != nil {
		t.Fatalf("%s: %v", req.RequestID, err)
	}
	return resp
}

func refused(t *testing.T, f lambent.FrontEnd, req lambent.InvokeRequest, code lambent.Code, message string) {
	t.Helper()
	resp, err := f.Invoke(t.Context(), req)
	var coded *lambent.Error
	if !errors.As(err, &coded) || coded.Code != code || !strings.Contains(coded.Message, message) {
		t.Errorf("%.60s: answer %.60s, error %v; want code %d and %q", req.RequestID, resp.Payload, err, code, message)
	}
}

func testAnswer(t *testing.T, r *Region, f lambent.FrontEnd) {
	r.OnRun(func(_ context.Context, req lambent.WorkerInvoke) (lambent.WorkerResult, error) {
		if req.InvokedARN != "arn:aws:lambda:test-1:123456789012:function:f" || req.Key != Function("f", lambent.Latest).Key {
			t.Errorf("the worker was asked for %+v", req)
		}
		result := r.Run(req)
		result.Response.LogTail = []byte("log")
		return result, nil
	})
	resp := answered(t, f, Request("f", "", `{"a":1}`))
	if string(resp.Payload) != `{"a":1}` || resp.ExecutedVersion != lambent.Latest || string(resp.LogTail) != "log" || resp.FunctionError != "" {
		t.Errorf("the answer is %+v", resp)
	}
	if resp := answered(t, f, Request("f", "", "")); string(resp.Payload) != "{}" {
		t.Errorf("the function got %q for an empty payload", resp.Payload)
	}
}

func testQualifiers(t *testing.T, r *Region, f lambent.FrontEnd) {
	r.Put(Function("f", "1"), Function("f", "2"))
	r.PutAlias("f", &lambent.Alias{Name: "live", Version: "1"})
	r.PutAlias("f", &lambent.Alias{Name: "half", Version: "1", Weights: map[string]float64{"2": 0.5}})
	r.PutAlias("f", &lambent.Alias{Name: "all", Version: "1", Weights: map[string]float64{"2": 1}})
	r.PutAlias("f", &lambent.Alias{Name: "dangling", Version: "9"})
	arns := make(chan string, 1000)
	r.OnRun(func(_ context.Context, req lambent.WorkerInvoke) (lambent.WorkerResult, error) {
		arns <- req.InvokedARN
		return r.Run(req), nil
	})
	for qualifier, version := range map[string]string{"": lambent.Latest, lambent.Latest: lambent.Latest, "1": "1", "2": "2", "live": "1", "all": "2"} {
		want := "arn:aws:lambda:test-1:123456789012:function:f"
		if qualifier != "" {
			want += ":" + qualifier
		}
		if resp := answered(t, f, Request("f", qualifier, "1")); resp.ExecutedVersion != version {
			t.Errorf("qualifier %q executed version %s, want %s", qualifier, resp.ExecutedVersion, version)
		}
		if arn := <-arns; arn != want {
			t.Errorf("qualifier %q was invoked as %s", qualifier, arn)
		}
	}
	seen := map[string]int{}
	for i := range 200 {
		seen[answered(t, f, Request("f", "half", fmt.Sprint(i))).ExecutedVersion]++
	}
	if seen["1"] < 50 || seen["2"] < 50 || seen["1"]+seen["2"] != 200 {
		t.Errorf("of 200 invokes half and half: %v", seen)
	}
	refused(t, f, Request("f", "dangling", "1"), lambent.NotFound, "function:f:dangling")
}

func testNotFound(t *testing.T, r *Region, f lambent.FrontEnd) {
	const text = "Function not found: arn:aws:lambda:test-1:123456789012:function:"
	refused(t, f, Request("none", "", "1"), lambent.NotFound, text+"none")
	refused(t, f, Request("none", "$LATEST", "1"), lambent.NotFound, text+"none:$LATEST")
	refused(t, f, Request("f", "7", "1"), lambent.NotFound, text+"f:7")
	refused(t, f, Request("f", "alias", "1"), lambent.NotFound, text+"f:alias")
	answered(t, f, Request("f", "", "1"))
	r.Delete(Function("f", lambent.Latest), "")
	r.Put(Function("g", lambent.Latest))
	answered(t, f, Request("g", "", "1")) // by then the deletion has been heard of
	refused(t, f, Request("f", "", "2"), lambent.NotFound, text+"f")
}

// What was created before an invoke is found, however late the watch tells of it.
func testJustCreated(t *testing.T, r *Region, f lambent.FrontEnd) {
	answered(t, f, Request("f", "", "0"))
	for i := range 20 {
		name := fmt.Sprint("new", i)
		r.HoldBack(true)
		r.Put(Function(name, lambent.Latest), Function(name, "1"))
		r.PutAlias(name, &lambent.Alias{Name: "live", Version: "1"})
		var group sync.WaitGroup
		for _, qualifier := range []string{"", "1", "live"} {
			group.Go(func() {
				if _, err := f.Invoke(t.Context(), Request(name, qualifier, "1")); err != nil {
					t.Error(err)
				}
			})
		}
		r.HoldBack(false)
		group.Wait()
	}
}

func testStates(t *testing.T, r *Region, f lambent.FrontEnd) {
	in := func(name string, state lambent.FunctionState) *lambent.FunctionVersion {
		v := Function(name, lambent.Latest)
		v.State = state
		return v
	}
	const text = "The operation cannot be performed at this time. The function is currently in the following state: "
	r.Put(in("pending", lambent.StatePending), in("failed", lambent.StateFailed), in("inactive", lambent.StateInactive), in("young", lambent.StatePending))
	refused(t, f, Request("pending", "", "1"), lambent.Conflict, text+"Pending")
	refused(t, f, Request("failed", "", "1"), lambent.Conflict, text+"Failed")
	answered(t, f, Request("inactive", "", "1"))
	// A caller who knows that the function is active by now does not meet a copy that has not heard of it.
	r.HoldBack(true)
	r.Put(in("young", lambent.StateActive))
	done := make(chan error, 1)
	go func() {
		_, err := f.Invoke(t.Context(), Request("young", "", "1"))
		done <- err
	}()
	r.HoldBack(false)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func testRefusals(t *testing.T, r *Region, f lambent.FrontEnd) {
	refused(t, f, Request("f", "", `{"a":`), lambent.InvalidContent, "Could not parse request body into json: ")
	refused(t, f, Request("f", "", strings.Repeat(" ", lambent.MaxRequestBytes)+"1"), lambent.TooLarge,
		"Request must be smaller than 6291456 bytes for the InvokeFunction operation")
	largest := `"` + strings.Repeat("x", lambent.MaxRequestBytes-2) + `"`
	if resp := answered(t, f, Request("f", "", largest)); len(resp.Payload) != lambent.MaxRequestBytes {
		t.Errorf("%d bytes came back", len(resp.Payload))
	}
	event := Request("f", "", "1")
	event.Type = lambent.Event
	refused(t, f, event, lambent.NotImplemented, "Event")
	event.Type = "Sometimes"
	refused(t, f, event, lambent.InvalidParameter, "Sometimes")
	stranger := Request("f", "", "1")
	stranger.Caller = lambent.Principal{Account: "999999999999", ARN: "arn:aws:iam::999999999999:user/u"}
	refused(t, f, stranger, lambent.AccessDenied, "User: arn:aws:iam::999999999999:user/u is not authorized to perform: lambda:InvokeFunction")
	r.SetRefusal(lambent.Errorf(lambent.InvalidRuntime, "There is no such runtime."))
	refused(t, f, Request("f", "", "1"), lambent.InvalidRuntime, "There is no such runtime.")
}

func testDryRun(t *testing.T, r *Region, f lambent.FrontEnd) {
	req := Request("f", "", "1")
	req.Type = lambent.DryRun
	if resp := answered(t, f, req); len(resp.Payload) != 0 || r.Runs(req.RequestID) != 0 {
		t.Errorf("the answer is %+v after %d runs", resp, r.Runs(req.RequestID))
	}
	missing := Request("none", "", "1")
	missing.Type = lambent.DryRun
	refused(t, f, missing, lambent.NotFound, "function:none")
}

func testFunctionError(t *testing.T, r *Region, f lambent.FrontEnd) {
	r.OnRun(func(_ context.Context, req lambent.WorkerInvoke) (lambent.WorkerResult, error) {
		result := r.Run(req)
		result.Response.FunctionError, result.Outcome = "Unhandled", lambent.OutcomeGone
		return result, nil
	})
	if resp := answered(t, f, Request("f", "", "1")); resp.FunctionError != "Unhandled" || string(resp.Payload) != "1" {
		t.Errorf("the answer is %+v", resp)
	}
}

// A claim that is void is replaced, a few times, because nothing was run under it.
func testVoidClaims(t *testing.T, r *Region, f lambent.FrontEnd) {
	attempts := 0
	r.OnRun(func(_ context.Context, req lambent.WorkerInvoke) (lambent.WorkerResult, error) {
		switch attempts++; attempts {
		case 1:
			return lambent.WorkerResult{}, lambent.Errorf(lambent.SandboxGone, "It is gone.")
		case 2:
			return lambent.WorkerResult{}, fmt.Errorf("remote: %w", lambent.Errorf(lambent.StaleEpoch, "It was claimed anew."))
		}
		return r.Run(req), nil
	})
	answered(t, f, Request("f", "", "1"))
	r.OnRun(func(context.Context, lambent.WorkerInvoke) (lambent.WorkerResult, error) {
		attempts++
		return lambent.WorkerResult{}, lambent.Errorf(lambent.SandboxGone, "It is gone.")
	})
	attempts = 0
	refused(t, f, Request("f", "", "2"), lambent.Unavailable, "")
	if attempts < 2 || attempts > 10 {
		t.Errorf("%d claims were tried", attempts)
	}
}

// A worker that dies while the function may have run is an error at once, and no second run.
func testHostLost(t *testing.T, r *Region, f lambent.FrontEnd) {
	for i, code := range []lambent.Code{lambent.HostLost, lambent.Internal, lambent.Unavailable} {
		r.OnRun(func(_ context.Context, req lambent.WorkerInvoke) (lambent.WorkerResult, error) {
			r.Run(req)
			return lambent.WorkerResult{}, lambent.Errorf(code, "The worker was lost.")
		})
		req := Request("f", "", fmt.Sprint(i))
		refused(t, f, req, code, "The worker was lost.")
		if n := r.Runs(req.RequestID); n != 1 {
			t.Errorf("the request was run %d times", n)
		}
	}
}

func testWorkerUnknown(t *testing.T, r *Region, f lambent.FrontEnd) {
	r.SetLost(true)
	refused(t, f, Request("f", "", "1"), lambent.Unavailable, "")
	r.SetLost(false)
	answered(t, f, Request("f", "", "1"))
}

// When the caller leaves, the function runs on and counts until it has ended.
func testCallerGone(t *testing.T, r *Region, f lambent.FrontEnd) {
	ctx, cancel := context.WithCancel(t.Context())
	running, finish := make(chan context.Context), make(chan struct{})
	r.OnRun(func(ctx context.Context, req lambent.WorkerInvoke) (lambent.WorkerResult, error) {
		running <- ctx
		<-finish
		return r.Run(req), nil
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = f.Invoke(ctx, Request("f", "", "1")) // nobody wants to know
	}()
	inside := <-running
	cancel()
	if inside.Err() != nil {
		t.Error("the function's context ended with the caller's")
	}
	if slots, claims := r.Held(); slots != 1 || claims != 1 {
		t.Errorf("%d slots and %d claims are held while the function runs", slots, claims)
	}
	close(finish)
	<-done
	// One who is gone before anything was claimed runs nothing.
	req := Request("f", "", "2")
	if _, err := f.Invoke(ctx, req); !errors.Is(err, context.Canceled) || r.Runs(req.RequestID) != 0 {
		t.Errorf("error %v after %d runs", err, r.Runs(req.RequestID))
	}
}

func testPanic(t *testing.T, r *Region, f lambent.FrontEnd) {
	r.OnRun(func(context.Context, lambent.WorkerInvoke) (lambent.WorkerResult, error) { panic("a fault of ours") })
	if r.isRemote() {
		refused(t, f, Request("f", "", "1"), lambent.Internal, "")
		return
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		_, _ = f.Invoke(t.Context(), Request("f", "", "1")) // it panics
	}()
}

// When the metadata store is away, invokes of known functions go on.
func testStoreAway(t *testing.T, r *Region, f lambent.FrontEnd) {
	answered(t, f, Request("f", "", "1"))
	r.SetAway(true)
	r.BreakWatches()
	for i := range 20 {
		answered(t, f, Request("f", "", fmt.Sprint(100+i)))
	}
	refused(t, f, Request("none", "", "1"), lambent.Unavailable, "")
	r.SetAway(false)
	r.Put(Function("later", lambent.Latest))
	answered(t, f, Request("later", "", "1"))
}

// While everything is delivered anew, the functions stay invocable, and what is gone is gone afterwards.
func testResets(t *testing.T, r *Region, f lambent.FrontEnd) {
	answered(t, f, Request("f", "", "1"))
	r.Put(Function("g", lambent.Latest))
	r.HoldBack(true)
	r.Delete(Function("g", lambent.Latest), "")
	r.Put(Function("h", lambent.Latest), Function("f", "1"))
	r.Reset()
	answered(t, f, Request("f", "", "2"))
	r.HoldBack(false)
	answered(t, f, Request("h", "", "1"))
	answered(t, f, Request("f", "1", "1"))
	refused(t, f, Request("g", "", "1"), lambent.NotFound, "function:g")
}

func testLimit(t *testing.T, r *Region, f lambent.FrontEnd) {
	r.SetLimit(1)
	running, finish := make(chan struct{}), make(chan struct{})
	r.OnRun(func(_ context.Context, req lambent.WorkerInvoke) (lambent.WorkerResult, error) {
		close(running)
		<-finish
		return r.Run(req), nil
	})
	done := make(chan error, 1)
	go func() {
		_, err := f.Invoke(t.Context(), Request("f", "", "1"))
		done <- err
	}()
	select {
	case <-running:
	case <-time.After(20 * time.Second):
		t.Fatal("the invoke does not run")
	}
	refused(t, f, Request("f", "", "2"), lambent.Throttled, "Rate Exceeded.")
	close(finish)
	if err := <-done; err != nil {
		t.Error(err)
	}
	r.OnRun(nil)
	answered(t, f, Request("f", "", "3"))
}

// A function that isolates tenants runs only for a tenant, and any other only without one; claims and workers are told whose it is.
func testTenants(t *testing.T, r *Region, f lambent.FrontEnd) {
	isolated := Function("g", lambent.Latest)
	isolated.PerTenant = true
	r.Put(isolated)
	for _, kind := range []lambent.InvocationType{lambent.RequestResponse, lambent.DryRun} {
		stray, nobody := Request("f", "", "1"), Request("g", "", "1")
		stray.TenantID, stray.Type, nobody.Type = "blue", kind, kind
		refused(t, f, stray, lambent.InvalidParameter, "The invoked function is not enabled with tenancy configuration.")
		refused(t, f, nobody, lambent.InvalidParameter,
			"The invoked function is enabled with tenancy configuration. Add a valid tenant ID in your request and try again.")
	}
	var told []string
	r.OnRun(func(_ context.Context, req lambent.WorkerInvoke) (lambent.WorkerResult, error) {
		told = append(told, req.Request.TenantID)
		return r.Run(req), nil
	})
	for i, tenant := range []string{"blue", "green", "blue"} {
		req := Request("g", "", fmt.Sprint(i))
		req.TenantID = tenant
		answered(t, f, req)
	}
	answered(t, f, Request("f", "", "1"))
	if got := strings.Join(told, ","); got != "blue,green,blue," {
		t.Errorf("the workers were told of the tenants %s", got)
	}
}
