package worker

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"lambent"
	"lambent/sandbox"
)

// A version runs under its own isolation or not at all.
func TestDrivers(t *testing.T) {
	virtual := &fakeDriver{program: serve(func(*fakeProcess, *fakeEvent) string { return `"virtual"` })}
	t.Cleanup(func() {
		if n := virtual.living(); n > 0 {
			t.Errorf("%d sandboxes of the second driver are left", n)
		}
	})
	h := newHarness(t, serve(func(*fakeProcess, *fakeEvent) string { return `"native"` }), func(o *Options) {
		o.Drivers[lambent.IsolationMicroVM] = virtual
	})
	for isolation, want := range map[lambent.Isolation]string{lambent.IsolationNative: `"native"`, lambent.IsolationMicroVM: `"virtual"`} {
		version := *h.version
		version.Isolation = isolation
		h.version = &version
		h.start(lambent.SandboxID(isolation))
		if got := string(h.invoke(lambent.SandboxID(isolation), "1").Response.Payload); got != want {
			t.Errorf("%s: %s", isolation, got)
		}
	}
	if box := h.worker.find("microvm").box.(*fakeBox); box.template.MemoryMiB != 512 {
		t.Errorf("the template for 128 MiB is %+v", box.template)
	}
	for _, isolation := range []lambent.Isolation{lambent.IsolationGVisor, "", "docker"} {
		version := *h.version
		version.Isolation = isolation
		h.version = &version
		if err := h.tryStart("s"); lambent.CodeOf(err) != lambent.Unavailable {
			t.Errorf("%q: %v", isolation, err)
		}
	}
	status := h.worker.status()
	if got := fmt.Sprint(status.Drivers, status.Residents); got != "[native microvm] [{000000000001 microvm} {000000000001 native}]" {
		t.Errorf("the heartbeat tells of %s", got)
	}
	for name, options := range map[string]Options{"none": {}, "unknown": {Drivers: map[lambent.Isolation]sandbox.Driver{"docker": virtual}},
		"nil": {Drivers: map[lambent.Isolation]sandbox.Driver{lambent.IsolationNative: nil}}} {
		if err := options.checkDrivers(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// The worker itself keeps accounts apart: whatever comes and goes, and whatever is granted.
func TestResidents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shared := slices.DeleteFunc(lambent.Isolations(), func(i lambent.Isolation) bool { return !rapid.Bool().Draw(t, string(i)) })
		r := NewResidents(shared)
		var there []lambent.Resident
		t.Repeat(map[string]func(*rapid.T){
			"enter": func(t *rapid.T) {
				who := lambent.Resident{Account: rapid.StringMatching("[abc]").Draw(t, "account"), Isolation: rapid.SampledFrom(lambent.Isolations()).Draw(t, "isolation")}
				allowed := !slices.ContainsFunc(there, func(other lambent.Resident) bool {
					return other.Account != who.Account && (!slices.Contains(shared, other.Isolation) || !slices.Contains(shared, who.Isolation))
				})
				if err := r.enter(who); (err == nil) != allowed {
					t.Fatalf("%+v beside %+v, shared %v: %v", who, there, shared, err)
				}
				if allowed {
					there = append(there, who)
				}
			},
			"leave": func(t *rapid.T) {
				if len(there) > 0 {
					i := rapid.IntRange(0, len(there)-1).Draw(t, "who")
					r.leave(there[i])
					there = slices.Delete(there, i, i+1)
				}
			},
			"": func(t *rapid.T) {
				for _, who := range r.all() {
					if !slices.Contains(there, who) {
						t.Fatalf("%+v is still told of", who)
					}
				}
			},
		})
	})
}

func TestAccountsApart(t *testing.T) {
	h := newHarness(t, serve(echo), func(o *Options) { o.Residents = NewResidents(nil) })
	h.start("first")
	other := *h.version
	other.Account = "000000000002"
	mine := h.version
	h.version = &other
	if err := h.tryStart("second"); lambent.CodeOf(err) != lambent.Unavailable || !strings.Contains(err.Error(), "another account") {
		t.Errorf("beside another account's sandbox: %v", err)
	}
	if err := h.worker.Stop(t.Context(), "first", 9); err != nil {
		t.Fatal(err)
	}
	h.start("second")
	h.version = mine
	neighbour := newHarness(t, serve(echo), func(o *Options) { o.Residents = h.options.Residents })
	if err := neighbour.tryStart("fourth"); lambent.CodeOf(err) != lambent.Unavailable || len(neighbour.worker.status().Residents) != 1 {
		t.Errorf("on another worker of the host: %v", err)
	}
	if err := h.tryStart("third"); lambent.CodeOf(err) != lambent.Unavailable {
		t.Errorf("the other way round: %v", err)
	}
}

// A sandbox of a function that isolates tenants has one, and runs nothing for another.
func TestTenants(t *testing.T) {
	h := newHarness(t, serve(func(_ *fakeProcess, e *fakeEvent) string {
		return `"` + e.header.Get("Lambda-Runtime-Aws-Tenant-Id") + `"`
	}), nil)
	h.tenant = "blue"
	if err := h.tryStart("s"); lambent.CodeOf(err) != lambent.InvalidParameter {
		t.Errorf("a tenant of a function that has none: %v", err)
	}
	h.version.PerTenant, h.tenant = true, ""
	if err := h.tryStart("s"); lambent.CodeOf(err) != lambent.InvalidParameter {
		t.Errorf("no tenant of a function that isolates them: %v", err)
	}
	h.tenant = "blue"
	h.start("s")
	if got := string(h.invoke("s", "1").Response.Payload); got != `"blue"` {
		t.Errorf("the runtime was told of %s", got)
	}
	for _, tenant := range []string{"green", ""} {
		request := h.request("s", "1")
		request.Request.TenantID = tenant
		if _, err := h.worker.Invoke(t.Context(), request); lambent.CodeOf(err) != lambent.SandboxGone {
			t.Errorf("for tenant %q: %v", tenant, err)
		}
	}
}

// A driver that fails again and again is not offered for a while. The usual one is, and what it fails in is told to placement.
func TestFaults(t *testing.T) {
	f, now := newFaults(lambent.IsolationNative), time.Now()
	for n := range 2 * withdrawAfter {
		f.failed(lambent.IsolationNative, now)
		f.failed(lambent.IsolationGVisor, now)
		if got := f.withdrawn(lambent.IsolationGVisor, now); got != (n+1 >= withdrawAfter) {
			t.Errorf("after %d failures: %v", n+1, got)
		}
	}
	if f.withdrawn(lambent.IsolationNative, now) || f.withdrawn(lambent.IsolationMicroVM, now) || f.count() != 2*withdrawAfter {
		t.Errorf("%d failures are told", f.count())
	}
	later := now.Add(withdrawFor)
	if f.withdrawn(lambent.IsolationGVisor, later) {
		t.Error("it is not tried again")
	}
	f.failed(lambent.IsolationGVisor, later)
	if !f.withdrawn(lambent.IsolationGVisor, later) {
		t.Error("it failed again, and is offered")
	}
	f.worked(lambent.IsolationGVisor)
	f.failed(lambent.IsolationGVisor, later)
	if f.withdrawn(lambent.IsolationGVisor, later) {
		t.Error("one failure is enough")
	}
}

func TestBrokenSecondDriver(t *testing.T) {
	broken := &fakeDriver{program: serve(echo), failNext: errBroken}
	h := newHarness(t, serve(echo), func(o *Options) { o.Drivers[lambent.IsolationGVisor] = broken })
	native, other := h.version, *h.version
	other.Isolation = lambent.IsolationGVisor
	h.version = &other
	eventually(t, "the driver is withdrawn", func() bool {
		return lambent.CodeOf(h.tryStart("s")) == lambent.Unavailable && !slices.Contains(h.worker.status().Drivers, lambent.IsolationGVisor)
	})
	if status := h.worker.status(); status.Failures != 0 || len(status.Drivers) != 1 {
		t.Errorf("the heartbeat tells of %+v", status)
	}
	h.version = native
	h.start("s")
	h.invoke("s", "1")
}
