package counting

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"lambent"
)

// The tests of this file run a service and its sessions in virtual time.

// settled waits until everything has been said that is to be said now.
func settled(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// leaderSeat waits for a leader, and returns its seat.
func leaderSeat(t *testing.T, s *Service) int {
	t.Helper()
	for range 1000 {
		s.groups[0].mu.Lock()
		for seat, r := range s.groups[0].replicas {
			if r != nil && r.state.Load().leads {
				s.groups[0].mu.Unlock()
				return seat
			}
		}
		s.groups[0].mu.Unlock()
		settled(time.Millisecond)
	}
	t.Fatal("no leader within a second")
	return 0
}

// held is what the group counts for all sessions. The leader is replaced, so that its books can be read.
func held(t *testing.T, s *Service) int {
	t.Helper()
	seat := leaderSeat(t, s)
	r := s.groups[0].replicas[seat]
	s.Stop(seat)
	if err := s.Start(seat); err != nil {
		t.Fatal(err)
	}
	settled(time.Second)
	return r.member.ledger.account(testAccount).held
}

// vanish ends a session as the loss of its host does: nothing is given back.
func vanish(service *Service, s *Session) {
	p := s.parts[0]
	p.stop()
	<-p.stopped
	service.groups[0].network.Listen(Address{Session: p.options.ID}, nil)
}

func TestGroupSurvivesTheLossOfEachReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service := openService(t, Options{AccountLimit: 10})
		s := openSession(t, service, "a")
		for round := range 6 {
			lost := leaderSeat(t, service)
			if round%2 == 1 {
				lost = (lost + 1) % 3
			}
			service.Stop(lost)
			begun := time.Now()
			var slots []lambent.Slot
			for range 10 {
				slots = append(slots, acquire(t, s, "f"))
			}
			wantThrottled(t, s, "f", lambent.ConcurrentLimit)
			if healed := time.Since(begun); healed > time.Second {
				t.Errorf("round %d: healed after %v", round, healed)
			}
			for _, slot := range slots {
				slot.Release()
			}
			if err := service.Start(lost); err != nil {
				t.Fatal(err)
			}
			settled(3 * time.Second)
			if state := service.groups[0].replicas[lost].state.Load(); len(state.voters) != 3 || len(state.outgoing) != 0 {
				t.Fatalf("round %d: the replica that joined knows the members %+v", round, state)
			}
		}
	})
}

// TestQuorumIsRebuiltFromSessions: sessions that live go on with what they hold, and nobody gets more before all others have
// ended.
func TestQuorumIsRebuiltFromSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service := openService(t, Options{AccountLimit: 10})
		lives, dies := openSession(t, service, "lives"), openSession(t, service, "dies")
		var slots []lambent.Slot
		for range 6 {
			slots = append(slots, acquire(t, lives, "f"))
		}
		for range 4 {
			acquire(t, dies, "f")
		}
		vanish(service, dies)
		service.Stop(0)
		service.Stop(1)
		slots[0].Release()
		slots[0] = acquire(t, lives, "f") // from a credit at hand
		for seat := range 2 {
			if err := service.Start(seat); err != nil {
				t.Fatal(err)
			}
		}
		lost := time.Now()
		settled(time.Second)
		if err := lives.Lease(testAccount).Err(); err != nil {
			t.Fatalf("the session that lives: %v", err)
		}
		other := openSession(t, service, "other")
		if _, err := other.Acquire(context.Background(), functionName("g"), "g"); lambent.CodeOf(err) != lambent.Unavailable {
			t.Fatalf("before the lost session has ended: %v", err)
		}
		settled(4 * time.Second)
		for range 4 {
			slots = append(slots, acquire(t, other, "g"))
		}
		wantThrottled(t, other, "g", lambent.ConcurrentLimit)
		wantThrottled(t, lives, "f", lambent.ConcurrentLimit)
		if took := time.Since(lost); took < 5*time.Second {
			t.Errorf("the credits of a session that may still have admitted were free after %v", took)
		}
		for _, slot := range slots {
			slot.Release()
		}
	})
}

// TestNobodyAdmitsWithoutQuorum: the front end stops, and says that invokes must end, before its term is over.
func TestNobodyAdmitsWithoutQuorum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service := openService(t, Options{})
		s := openSession(t, service, "a")
		acquire(t, s, "f").Release()
		service.Stop(0)
		service.Stop(1)
		service.Stop(2)
		begun := time.Now()
		acquire(t, s, "f").Release()
		<-s.Lease(testAccount).Done()
		if took := time.Since(begun); took < 3*time.Second || took > 4500*time.Millisecond {
			t.Errorf("the lease ended after %v", took)
		}
		if _, err := s.Acquire(context.Background(), functionName("f"), "f"); lambent.CodeOf(err) != lambent.Unavailable {
			t.Errorf("acquire: %v", err)
		}
		if err := service.Start(0); err != nil {
			t.Fatal(err)
		}
		settled(6 * time.Second)
		acquire(t, s, "f").Release()
		if s.Lease(testAccount).Err() != nil {
			t.Error("the lease is not valid again")
		}
	})
}

func TestLostFrontEndGivesItsSlotsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service := openService(t, Options{AccountLimit: 5})
		lost, s := openSession(t, service, "lost"), openSession(t, service, "a")
		for range 5 {
			acquire(t, lost, "f")
		}
		vanish(service, lost)
		if _, err := s.Acquire(context.Background(), functionName("f"), "f"); lambent.CodeOf(err) != lambent.Unavailable {
			t.Fatalf("while nobody knows whether the front end has idle credits: %v", err)
		}
		settled(4 * time.Second)
		for range 5 {
			acquire(t, s, "f").Release()
		}
	})
}

func TestIdleCreditsGoBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service := openService(t, Options{AccountLimit: 1000})
		s := openSession(t, service, "a")
		var slots []lambent.Slot
		for range 500 {
			slots = append(slots, acquire(t, s, "f"))
		}
		for _, slot := range slots {
			slot.Release()
		}
		settled(5 * time.Second)
		if n := held(t, service); n > keepIdle {
			t.Errorf("%d idle credits held", n)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if n := held(t, service); n != 0 {
			t.Errorf("%d credits held after the session's end", n)
		}
		if _, err := s.Acquire(context.Background(), functionName("f"), "f"); lambent.CodeOf(err) != lambent.Unavailable {
			t.Errorf("acquire after the session's end: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("second end: %v", err)
		}
	})
}

func TestRequestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCatalog()
		two := 2
		c.reserve("two", &two)
		service := openService(t, Options{Catalog: c, AccountLimit: 7})
		s := openSession(t, service, "a")
		for id, want := range map[lambent.FunctionID]struct {
			perSecond int
			reason    lambent.ThrottleReason
		}{"two": {20, lambent.ReservedRateLimit}, "other": {50, lambent.RateLimit}} {
			begun, admitted := time.Now(), 0
			for time.Since(begun) < 3*time.Second {
				slot, err := s.Acquire(context.Background(), functionName(id), id)
				if err == nil {
					admitted++
					slot.Release()
				} else if got := reasonOf(err); got != want.reason {
					t.Fatalf("%s: %s, want %s", id, got, want.reason)
				} else if e := new(lambent.Error); !errors.As(err, &e) || e.RetryAfter <= 0 || e.RetryAfter > 100*time.Millisecond {
					t.Fatalf("%s: retry after %v", id, e.RetryAfter)
				}
				settled(time.Millisecond)
			}
			// A second's worth at once, and what comes in three seconds.
			if most := 4*want.perSecond + 1; admitted > most || admitted < most-want.perSecond/5 {
				t.Errorf("%s: %d requests in 3 s at %d a second", id, admitted, want.perSecond)
			}
		}
	})
}

func TestAcquireEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		service := openService(t, Options{AccountLimit: 5})
		s := openSession(t, service, "a")
		service.Stop(0)
		service.Stop(1)
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		if _, err := s.Acquire(ctx, functionName("f"), "f"); lambent.CodeOf(err) != lambent.Unavailable || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("acquire: %v", err)
		}
		if err := service.Start(0); err != nil {
			t.Fatal(err)
		}
		settled(7 * time.Second)
		for range 5 { // the acquire that was given up took nothing
			acquire(t, s, "f")
		}
	})
}
