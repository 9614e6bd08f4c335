// Package managertest is the suite that every implementation of lambent.Manager passes, and a region in memory to test managers
// with.
package managertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"lambent"
)

// Settings are what a manager is opened with. Zero members mean its defaults.
type Settings struct {
	ID        lambent.ManagerID
	ScaleRate int
	Patience  time.Duration // of a claim that finds no room
}

// Run runs the suite. open gives a manager of a region, and closes it at the end of the test that it is given.
func Run(t *testing.T, open func(*testing.T, *Region, Settings) lambent.Manager) {
	tests := []struct {
		name string
		run  func(*testing.T, *suite)
	}{
		{"WarmAndCold", testWarmAndCold},
		{"ReturnIsIdempotent", testReturnTwice},
		{"LateReturnIsIgnored", testLateReturn},
		{"GoneIsForgotten", testGone},
		{"NothingIsShared", testNothingShared},
		{"ReturnedComesFirst", testReturnedFirst},
		{"WaitersAreServedInOrder", testOrder},
		{"ContextEnds", testContextEnds},
		{"InvalidRuntime", testInvalidRuntime},
		{"AnotherWorker", testAnotherWorker},
		{"AllWorkersFail", testAllFail},
		{"Throttled", testThrottled},
		{"NoRoom", testNoRoom},
		{"RoomIsMade", testRoomIsMade},
		{"ReportGone", testReportGone},
		{"ReportLost", testReportLost},
		{"NextManager", testNextManager},
		{"Stampede", testStampede},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := &suite{T: t, region: NewRegion(1000, "a", "b")}
			s.open = func(settings Settings) lambent.Manager {
				if settings.ID == "" {
					settings.ID = "manager"
				}
				return open(t, s.region, settings)
			}
			test.run(t, s)
			for _, fault := range s.region.Faults() {
				t.Error(fault)
			}
		})
	}
}

// suite is one test's region.
type suite struct {
	*testing.T
	region *Region
	open   func(Settings) lambent.Manager
}

// Version is a function version with so much as the data plane needs.
func Version(id lambent.FunctionID, revision string) *lambent.FunctionVersion {
	name := lambent.FunctionName{Account: "123456789012", Name: string(id)}
	return &lambent.FunctionVersion{
		FunctionName: name, Key: lambent.VersionKey{Function: id, Version: lambent.Latest, Revision: revision}, ARN: name.ARN("local"),
		Isolation: lambent.IsolationNative, MemoryMiB: 128, Timeout: 3 * time.Second, State: lambent.StateActive,
	}
}

func request(id lambent.FunctionID) lambent.ClaimRequest {
	return lambent.ClaimRequest{Version: Version(id, "r1")}
}

// claim claims a sandbox and begins an invoke in it.
func (s *suite) claim(m lambent.Manager, req lambent.ClaimRequest) lambent.Claim {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 20*time.Second)
	defer cancel()
	claim, err := m.Claim(ctx, req)
	if err != nil {
		s.Fatal(err)
	}
	if err := s.region.Fake(claim.Worker).Begin(claim, req.Version.Key); err != nil {
		s.Fatal(err)
	}
	return claim
}

// done ends the invoke and returns the claim.
func (s *suite) done(m lambent.Manager, claim lambent.Claim) {
	s.region.Fake(claim.Worker).End(claim, false)
	m.Return(claim, lambent.OutcomeIdle)
}

// refused claims and expects an error of a code.
func (s *suite) refused(m lambent.Manager, req lambent.ClaimRequest, code lambent.Code) error {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 20*time.Second)
	defer cancel()
	claim, err := m.Claim(ctx, req)
	if err == nil || lambent.CodeOf(err) != code {
		s.Fatalf("claim %+v, error %v of code %d; want code %d", claim, err, lambent.CodeOf(err), code)
	}
	return err
}

// gate makes all starts wait. It returns a channel that gets a value for each start, and a function that lets one go on.
func (s *suite) gate() (begun <-chan lambent.SandboxID, open func()) {
	began, pass := make(chan lambent.SandboxID, 100), make(chan struct{})
	for _, id := range []lambent.WorkerID{"a", "b"} {
		s.region.Fake(id).OnStart(func(ctx context.Context, req lambent.StartRequest) error {
			began <- req.Sandbox
			select {
			case <-pass:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}
	return began, func() { pass <- struct{}{} }
}

// failing makes the starts on some workers fail.
func (s *suite) failing(err error, workers ...lambent.WorkerID) {
	for _, id := range workers {
		s.region.Fake(id).OnStart(func(context.Context, lambent.StartRequest) error { return err })
	}
}

func (s *suite) starts() int { return s.region.Fake("a").Starts() + s.region.Fake("b").Starts() }

// claimed is what a claim in the background gave.
type claimed struct {
	claim lambent.Claim
	err   error
}

func (s *suite) background(ctx context.Context, m lambent.Manager, req lambent.ClaimRequest) <-chan claimed {
	result := make(chan claimed, 1)
	go func() {
		claim, err := m.Claim(ctx, req)
		result <- claimed{claim, err}
	}()
	return result
}

func testWarmAndCold(t *testing.T, s *suite) {
	m := s.open(Settings{})
	first := s.claim(m, request("f"))
	if !first.Cold || first.Manager != "manager" || first.Epoch == 0 {
		t.Errorf("the first claim is %+v", first)
	}
	s.done(m, first)
	second := s.claim(m, request("f"))
	if second.Cold || second.Sandbox != first.Sandbox || second.Epoch <= first.Epoch || second.ID == first.ID {
		t.Errorf("after %+v the claim is %+v", first, second)
	}
	if third := s.claim(m, request("f")); !third.Cold || third.Sandbox == first.Sandbox {
		t.Errorf("while %+v is in use the claim is %+v", second, third)
	}
	if n := s.starts(); n != 2 {
		t.Errorf("%d sandboxes were started for two invokes at once", n)
	}
}

func testReturnTwice(t *testing.T, s *suite) {
	m := s.open(Settings{})
	first := s.claim(m, request("f"))
	s.done(m, first)
	m.Return(first, lambent.OutcomeIdle)
	m.Return(first, lambent.OutcomeGone)
	a, b := s.claim(m, request("f")), s.claim(m, request("f"))
	if a.Sandbox != first.Sandbox || a.Sandbox == b.Sandbox {
		t.Errorf("after two returns of %+v the claims are %+v and %+v", first, a, b)
	}
}

func testLateReturn(t *testing.T, s *suite) {
	m := s.open(Settings{})
	first := s.claim(m, request("f"))
	s.done(m, first)
	second := s.claim(m, request("f"))
	m.Return(first, lambent.OutcomeIdle) // once more, when the sandbox has another claim
	m.Return(first, lambent.OutcomeGone)
	strange := second
	strange.Manager = "another"
	m.Return(strange, lambent.OutcomeIdle)
	m.Return(lambent.Claim{Manager: "manager", Sandbox: "none"}, lambent.OutcomeIdle)
	if third := s.claim(m, request("f")); third.Sandbox == second.Sandbox {
		t.Errorf("sandbox %s has two claims", third.Sandbox)
	}
	s.done(m, second)
	if fourth := s.claim(m, request("f")); fourth.Sandbox != second.Sandbox {
		t.Error("the sandbox did not come back")
	}
}

func testGone(t *testing.T, s *suite) {
	m := s.open(Settings{})
	first := s.claim(m, request("f"))
	s.region.Fake(first.Worker).End(first, true)
	m.Return(first, lambent.OutcomeGone)
	if second := s.claim(m, request("f")); second.Sandbox == first.Sandbox || !second.Cold {
		t.Errorf("the claim is %+v after the sandbox had gone", second)
	}
}

func testNothingShared(t *testing.T, s *suite) {
	m := s.open(Settings{})
	owners := map[lambent.SandboxID]string{}
	requests := map[string]lambent.ClaimRequest{
		"f": request("f"), "g": request("g"), "f for a": {Version: Version("f", "r1"), Tenant: "a"},
		"f for b": {Version: Version("f", "r1"), Tenant: "b"}, "f, changed": {Version: Version("f", "r2")},
	}
	published := Version("f", "r1")
	published.Key.Version = "1"
	requests["f:1"] = lambent.ClaimRequest{Version: published}
	for range 3 {
		for name, req := range requests {
			claim := s.claim(m, req)
			if other, ok := owners[claim.Sandbox]; ok && other != name {
				t.Errorf("sandbox %s of %s was used for %s", claim.Sandbox, other, name)
			}
			owners[claim.Sandbox] = name
			s.done(m, claim)
		}
	}
}

func testReturnedFirst(t *testing.T, s *suite) {
	m := s.open(Settings{})
	first := s.claim(m, request("f"))
	begun, pass := s.gate()
	waiting := s.background(t.Context(), m, request("f"))
	fresh := <-begun
	s.done(m, first)
	second := <-waiting
	if second.err != nil || second.claim.Sandbox != first.Sandbox {
		t.Fatalf("the waiter got %+v, want the returned sandbox %s", second, first.Sandbox)
	}
	// The new one becomes idle, and serves the next claim without another start.
	third := s.background(t.Context(), m, request("f"))
	pass()
	if got := <-third; got.err != nil || got.claim.Sandbox != fresh || !got.claim.Cold {
		t.Errorf("the next claim got %+v, want the new sandbox %s", got, fresh)
	}
	if n := s.starts(); n != 2 {
		t.Errorf("%d starts for two invokes at once", n)
	}
}

func testOrder(t *testing.T, s *suite) {
	m := s.open(Settings{})
	first := s.claim(m, request("f"))
	begun, pass := s.gate()
	var queue []<-chan claimed
	for range 3 {
		queue = append(queue, s.background(t.Context(), m, request("f")))
		<-begun
	}
	for i, waiting := range queue {
		s.done(m, first)
		got := <-waiting
		if got.err != nil || got.claim.Sandbox != first.Sandbox {
			t.Fatalf("waiter %d got %+v", i, got)
		}
		if err := s.region.Fake(got.claim.Worker).Begin(got.claim, request("f").Version.Key); err != nil {
			t.Fatal(err)
		}
		first = got.claim
	}
	for range queue {
		pass()
	}
}

func testContextEnds(t *testing.T, s *suite) {
	m := s.open(Settings{})
	begun, pass := s.gate()
	ctx, cancel := context.WithCancel(t.Context())
	waiting := s.background(ctx, m, request("f"))
	fresh := <-begun
	cancel()
	if got := <-waiting; !errors.Is(got.err, context.Canceled) {
		t.Fatalf("the claim gave %+v after its context had ended", got)
	}
	next := s.background(t.Context(), m, request("f"))
	pass()
	if got := <-next; got.err != nil || got.claim.Sandbox != fresh || !got.claim.Cold {
		t.Errorf("the next claim got %+v, want the sandbox %s that was on its way", got, fresh)
	}
	if n := s.starts(); n != 1 {
		t.Errorf("%d sandboxes were started", n)
	}
}

func testInvalidRuntime(t *testing.T, s *suite) {
	m := s.open(Settings{})
	s.failing(lambent.Errorf(lambent.InvalidRuntime, "There is no such runtime."), "a", "b")
	if err := s.refused(m, request("f"), lambent.InvalidRuntime); err.Error() != "There is no such runtime." {
		t.Errorf("the error is %v", err)
	}
	if n := s.starts(); n != 1 {
		t.Errorf("%d workers were tried", n)
	}
}

func testAnotherWorker(t *testing.T, s *suite) {
	m := s.open(Settings{})
	s.failing(lambent.Errorf(lambent.Unavailable, "The worker drains."), "a")
	var claims []lambent.Claim
	for range 4 {
		claim := s.claim(m, request("f"))
		if claim.Worker != "b" {
			t.Errorf("the claim is on worker %s, where nothing starts", claim.Worker)
		}
		claims = append(claims, claim)
	}
	for _, claim := range claims {
		s.done(m, claim)
	}
}

func testAllFail(t *testing.T, s *suite) {
	m := s.open(Settings{})
	s.failing(lambent.Errorf(lambent.Unavailable, "The worker drains."), "a")
	s.failing(lambent.Errorf(lambent.Internal, "The disk is broken."), "b")
	if err := s.refused(m, request("f"), lambent.Internal); err.Error() != "The disk is broken." {
		t.Errorf("the error is %v", err)
	}
	s.failing(nil, "a", "b")
	s.claim(m, request("f"))
}

func testThrottled(t *testing.T, s *suite) {
	m := s.open(Settings{ScaleRate: 3})
	var claims []lambent.Claim
	for range 3 {
		claims = append(claims, s.claim(m, request("f")))
	}
	err := s.refused(m, request("f"), lambent.Throttled)
	var throttled *lambent.Error
	if !errors.As(err, &throttled) || throttled.Reason == "" || throttled.RetryAfter <= 0 || throttled.RetryAfter > 10*time.Second {
		t.Errorf("the error is %+v", throttled)
	}
	s.claim(m, request("g")) // another function has its own rate
	s.done(m, claims[0])
	if warm := s.claim(m, request("f")); warm.Cold {
		t.Error("a throttled function got a new sandbox")
	}
}

func testNoRoom(t *testing.T, s *suite) {
	s.region = NewRegion(1, "a", "b")
	m := s.open(Settings{Patience: 300 * time.Millisecond})
	first := s.claim(m, request("f"))
	s.claim(m, request("f"))
	s.refused(m, request("f"), lambent.Unavailable)
	// With patience left, a waiter gets what is returned.
	waiting := s.background(t.Context(), m, request("f"))
	s.done(m, first)
	if got := <-waiting; got.err != nil || got.claim.Sandbox != first.Sandbox {
		t.Errorf("the waiter got %+v", got)
	}
}

func testRoomIsMade(t *testing.T, s *suite) {
	s.region = NewRegion(1, "a", "b")
	m := s.open(Settings{})
	oldest, newest := s.claim(m, request("f")), s.claim(m, request("g"))
	s.done(m, oldest)
	s.done(m, newest)
	claim := s.claim(m, request("h"))
	if claim.Worker != oldest.Worker {
		t.Error("room was not made by the sandbox that was not used for longest")
	}
	if again := s.claim(m, request("g")); again.Sandbox != newest.Sandbox {
		t.Error("a sandbox that was used later was stopped as well")
	}
}

func testReportGone(t *testing.T, s *suite) {
	m := s.open(Settings{})
	first := s.claim(m, request("f"))
	s.done(m, first)
	s.region.Fake(first.Worker).Lose(first.Sandbox)
	report := lambent.WorkerReport{Worker: first.Worker, Gone: []lambent.SandboxID{first.Sandbox, "unknown"}}
	for range 2 {
		if err := m.Report(t.Context(), report); err != nil {
			t.Fatal(err)
		}
	}
	if second := s.claim(m, request("f")); second.Sandbox == first.Sandbox {
		t.Error("a sandbox was claimed that is gone")
	}
}

func testReportLost(t *testing.T, s *suite) {
	m := s.open(Settings{})
	idle, busy := s.claim(m, request("f")), s.claim(m, request("g"))
	s.done(m, idle)
	for _, id := range []lambent.WorkerID{"a", "b"} {
		s.region.SetHealth(id, lambent.WorkerDead)
		if err := m.Report(t.Context(), lambent.WorkerReport{Worker: id, Lost: true}); err != nil {
			t.Fatal(err)
		}
		s.region.Fake(id).Reboot("second")
	}
	m.Return(busy, lambent.OutcomeGone) // what its front end says when the invoke has failed
	for _, id := range []lambent.FunctionID{"f", "g"} {
		if claim := s.claim(m, request(id)); claim.Sandbox == idle.Sandbox || claim.Sandbox == busy.Sandbox {
			t.Errorf("a sandbox of a lost worker was claimed: %+v", claim)
		}
	}
}

// A manager that is opened after another one keeps its warm sandboxes; claims of the other one are stale.
func testNextManager(t *testing.T, s *suite) {
	before := s.open(Settings{})
	idle, busy := s.claim(before, request("f")), s.claim(before, request("g"))
	s.done(before, idle)
	old, err := before.Claim(t.Context(), request("f")) // it does not reach the worker before the manager dies
	if err != nil {
		t.Fatal(err)
	}
	after := s.open(Settings{})
	warm := s.claim(after, request("f"))
	if warm.Sandbox != idle.Sandbox || warm.Epoch <= old.Epoch || warm.Cold {
		t.Errorf("the claim is %+v, want the warm sandbox %s and an epoch after %d", warm, idle.Sandbox, old.Epoch)
	}
	s.done(after, warm)
	if err := s.region.Fake(old.Worker).Begin(old, request("f").Version.Key); lambent.CodeOf(err) != lambent.StaleEpoch {
		t.Errorf("the former manager's claim: %v", err)
	}
	s.region.Fake(busy.Worker).End(busy, false)
	after.Return(busy, lambent.OutcomeIdle) // a claim of the former manager
	claim := s.claim(after, request("g"))
	if claim.Sandbox == busy.Sandbox && claim.Epoch <= busy.Epoch {
		t.Errorf("the claim is %+v after %+v", claim, busy)
	}
}

// Hundreds of invokes at once never meet in a sandbox, and none is left behind.
func testStampede(t *testing.T, s *suite) {
	m := s.open(Settings{})
	const clients, rounds = 200, 30
	var group sync.WaitGroup
	for i := range clients {
		group.Go(func() {
			req := request(lambent.FunctionID(fmt.Sprint("f", i%3)))
			for round := range rounds {
				claim, err := m.Claim(t.Context(), req)
				if err != nil {
					t.Error(err)
					return
				}
				worker := s.region.Fake(claim.Worker)
				if err := worker.Begin(claim, req.Version.Key); err != nil {
					t.Error(err)
				}
				gone := (i+round)%17 == 0
				worker.End(claim, gone)
				if gone {
					m.Return(claim, lambent.OutcomeGone)
				} else {
					m.Return(claim, lambent.OutcomeIdle)
				}
			}
		})
	}
	group.Wait()
	if n := s.region.Sandboxes(); n > clients+s.region.surplus(clients) {
		t.Errorf("%d sandboxes for %d invokes at once", n, clients)
	}
}
