package counting

import (
	"context"
	"errors"
	"fmt"

	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lambent"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// catalog is a control plane that knows of nothing but reservations.
type catalog struct {
	mu       sync.Mutex
	revision int64
	settings map[lambent.FunctionID]*int
	watchers map[chan lambent.CatalogEvent]context.Context
	held     chan struct{} // when set, a watch says that it is synced only when this is closed
}

func newCatalog() *catalog {
	return &catalog{settings: map[lambent.FunctionID]*int{}, watchers: map[chan lambent.CatalogEvent]context.Context{}}
}

const testAccount = "000000000000"

func functionName(id lambent.FunctionID) lambent.FunctionName {
	return lambent.FunctionName{Account: testAccount, Name: string(id)}
}

func (c *catalog) Revision(context.Context) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.revision, nil
}

func (c *catalog) Watch(ctx context.Context) (<-chan lambent.CatalogEvent, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	events, out := make(chan lambent.CatalogEvent, 1000), make(chan lambent.CatalogEvent)
	for id, n := range c.settings {
		events <- c.event(id, n)
	}
	held := c.held
	events <- lambent.CatalogEvent{Kind: lambent.CatalogSynced, Revision: c.revision}
	c.watchers[events] = ctx //nolint:fatcontext // a watch lives as long as its context
	go func() {
		defer close(out)
		for {
			select {
			case <-ctx.Done():
				return
			case e := <-events:
				if e.Kind == lambent.CatalogSynced && held != nil {
					select {
					case <-held:
					case <-ctx.Done():
						return
					}
				}
				select {
				case out <- e:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out, nil
}

func (c *catalog) event(id lambent.FunctionID, reserved *int) lambent.CatalogEvent {
	return lambent.CatalogEvent{Kind: lambent.CatalogSettings, Revision: c.revision, Function: functionName(id), ID: id,
		Settings: &lambent.Settings{Reserved: reserved}}
}

// reserve sets a function's reserved concurrency; nil: none.
func (c *catalog) reserve(id lambent.FunctionID, reserved *int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.revision++
	c.settings[id] = reserved
	for events := range c.watchers {
		events <- c.event(id, reserved)
	}
}

func quietLog() *slog.Logger { return slog.New(slog.DiscardHandler) }

func openService(t testing.TB, o Options) *Service {
	t.Helper()
	if o.Catalog == nil {
		o.Catalog = newCatalog()
	}
	o.Logger = quietLog()
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func openSession(t testing.TB, s *Service, name string) *Session {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	session, err := s.Session(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = session.Close() })
	return session
}

func acquire(t testing.TB, s *Session, id lambent.FunctionID) lambent.Slot {
	t.Helper()
	slot, err := s.Acquire(context.Background(), functionName(id), id)
	if err != nil {
		t.Fatalf("acquire %s: %v", id, err)
	}
	return slot
}

func reasonOf(err error) lambent.ThrottleReason {
	var e *lambent.Error
	if errors.As(err, &e) && e.Code == lambent.Throttled {
		return e.Reason
	}
	return lambent.ThrottleReason(fmt.Sprintf("not throttled: %v", err))
}

func wantThrottled(t testing.TB, s *Session, id lambent.FunctionID, reason lambent.ThrottleReason) {
	t.Helper()
	slot, err := s.Acquire(context.Background(), functionName(id), id)
	if err == nil {
		slot.Release()
	}
	if got := reasonOf(err); got != reason {
		t.Fatalf("acquire %s: %s, want %s", id, got, reason)
	}
}

func TestLimitsOfFunctionAndAccount(t *testing.T) {
	c := newCatalog()
	two, none := 2, 0
	c.reserve("two", &two)
	c.reserve("none", &none)
	service := openService(t, Options{Catalog: c, AccountLimit: 10})
	a, b := openSession(t, service, "a"), openSession(t, service, "b")

	slots := []lambent.Slot{acquire(t, a, "two"), acquire(t, b, "two")}
	wantThrottled(t, a, "two", lambent.ReservedConcurrentLimit)
	wantThrottled(t, b, "two", lambent.ReservedConcurrentLimit)
	wantThrottled(t, a, "none", lambent.ReservedConcurrentLimit)
	for i := range 8 {
		slots = append(slots, acquire(t, []*Session{a, b}[i%2], lambent.FunctionID(fmt.Sprint("other", i%3))))
	}
	wantThrottled(t, a, "other0", lambent.ConcurrentLimit)
	wantThrottled(t, b, "new", lambent.ConcurrentLimit)
	slots[0].Release()
	slots[0].Release()
	slots = append(slots, acquire(t, b, "two"))
	wantThrottled(t, a, "two", lambent.ReservedConcurrentLimit)
	slots[3].Release()
	slots = append(slots, acquire(t, a, "new"))
	for _, s := range slots {
		s.Release()
	}
}

// TestIdleCreditsAreRecalled: what one front end has at hand is there for another.
func TestIdleCreditsAreRecalled(t *testing.T) {
	service := openService(t, Options{AccountLimit: 100})
	a, b := openSession(t, service, "a"), openSession(t, service, "b")
	for round := range 4 {
		s := []*Session{a, b}[round%2]
		var slots []lambent.Slot
		for i := range 100 {
			slots = append(slots, acquire(t, s, lambent.FunctionID(fmt.Sprint(i%7))))
		}
		for _, slot := range slots {
			slot.Release()
		}
	}
}

func TestLimitsChangeWhileTheyAreUsed(t *testing.T) {
	c := newCatalog()
	service := openService(t, Options{Catalog: c, AccountLimit: 100})
	a, b := openSession(t, service, "a"), openSession(t, service, "b")
	var slots []lambent.Slot
	for range 5 {
		slots = append(slots, acquire(t, a, "f"), acquire(t, b, "f"))
	}
	// The function uses ten slots of the account's pool when it gets a reservation of three.
	three := 3
	c.reserve("f", &three)
	eventually(t, 2*time.Second, func() bool {
		slot, err := a.Acquire(context.Background(), functionName("f"), "f")
		if err == nil {
			slots = append(slots, slot)
		}
		return reasonOf(err) == lambent.ReservedConcurrentLimit
	})
	for len(slots) > 3 {
		slots[0].Release()
		slots = slots[1:]
		wantThrottled(t, a, "f", lambent.ReservedConcurrentLimit)
		wantThrottled(t, b, "f", lambent.ReservedConcurrentLimit)
	}
	slots[0].Release()
	slots[0] = acquire(t, b, "f")
	wantThrottled(t, a, "f", lambent.ReservedConcurrentLimit)
	c.reserve("f", nil)
	eventually(t, 2*time.Second, func() bool {
		slot, err := a.Acquire(context.Background(), functionName("f"), "f")
		if err == nil {
			slots = append(slots, slot)
		}
		return err == nil
	})
	for _, s := range slots {
		s.Release()
	}
}

func eventually(t testing.TB, patience time.Duration, condition func() bool) {
	t.Helper()
	begun := time.Now()
	for !condition() {
		if time.Since(begun) > patience {
			t.Fatalf("not within %v", patience)
		}
	}
	t.Logf("after %v", time.Since(begun))
}

// TestNothingBeforeTheLimitsAreKnown: a function whose reservation is not known yet is not admitted from its account's pool.
func TestNothingBeforeTheLimitsAreKnown(t *testing.T) {
	c := newCatalog()
	c.held = make(chan struct{})
	none := 0
	c.reserve("f", &none)
	service := openService(t, Options{Catalog: c, Patience: 200 * time.Millisecond})
	s := openSession(t, service, "a")
	if _, err := s.Acquire(context.Background(), functionName("f"), "f"); lambent.CodeOf(err) != lambent.Unavailable {
		t.Fatalf("acquire before the limits are known: %v", err)
	}
	close(c.held)
	eventually(t, 5*time.Second, func() bool {
		_, err := s.Acquire(context.Background(), functionName("f"), "f")
		return reasonOf(err) == lambent.ReservedConcurrentLimit
	})
	acquire(t, s, "g").Release()
}

// TestShards: accounts are counted by different groups, each with limits of its own.
func TestShards(t *testing.T) {
	c := newCatalog()
	one := 1
	c.reserve("f", &one)
	service := openService(t, Options{Catalog: c, Shards: 4, AccountLimit: 3})
	s := openSession(t, service, "a")
	shards := map[int]bool{}
	for i := range 20 {
		account := fmt.Sprintf("%012d", i)
		shards[shardOf(account, 4)] = true
		id := lambent.FunctionID(fmt.Sprint("g", i))
		limit := 3
		if account == testAccount {
			limit = 2
			acquire(t, s, "f")
			wantThrottled(t, s, "f", lambent.ReservedConcurrentLimit)
		}
		for n := range limit + 1 {
			_, err := s.Acquire(context.Background(), lambent.FunctionName{Account: account, Name: "g"}, id)
			if (err == nil) != (n < limit) {
				t.Errorf("account %s, slot %d of %d: %v", account, n+1, limit, err)
			}
		}
	}
	if len(shards) != 4 {
		t.Errorf("accounts fall on %d shards of 4", len(shards))
	}
}

func TestManyClientsNeverPassTheLimit(t *testing.T) {
	c := newCatalog()
	five, limits := 5, map[lambent.FunctionID]int64{"five": 5, "x": 15, "y": 15}
	c.reserve("five", &five)
	service := openService(t, Options{Catalog: c, AccountLimit: 20})
	sessions := []*Session{openSession(t, service, "a"), openSession(t, service, "b"), openSession(t, service, "c")}
	var running [2]atomic.Int64 // by pool
	var admitted, refused atomic.Int64
	var tasks sync.WaitGroup
	for i := range 30 {
		tasks.Go(func() {
			id := []lambent.FunctionID{"five", "x", "y"}[i%3]
			pool := &running[min(i%3, 1)]
			for range 100 {
				slot, err := sessions[i%len(sessions)].Acquire(context.Background(), functionName(id), id)
				if err != nil {
					if lambent.CodeOf(err) != lambent.Throttled {
						t.Error(err)
					}
					refused.Add(1)
					continue
				}
				admitted.Add(1)
				if n := pool.Add(1); n > limits[id] {
					t.Errorf("%d slots of %s in use", n, id)
				}
				runtime.Gosched() // others try meanwhile
				pool.Add(-1)
				slot.Release()
			}
		})
	}
	tasks.Wait()
	t.Logf("%d admitted, %d refused", admitted.Load(), refused.Load())
	if admitted.Load() == 0 || refused.Load() == 0 {
		t.Errorf("%d admitted and %d refused: this shows nothing", admitted.Load(), refused.Load())
	}
}

func BenchmarkLocalCredit(b *testing.B) {
	s := openSession(b, openService(b, Options{AccountLimit: 1 << 28}), "a")
	ctx, name := context.Background(), functionName("f")
	acquire(b, s, "f").Release()
	b.ReportAllocs()
	for b.Loop() {
		slot, err := s.Acquire(ctx, name, "f")
		if err != nil {
			b.Fatal(err)
		}
		slot.Release()
	}
}

func BenchmarkLocalCreditParallel(b *testing.B) {
	s := openSession(b, openService(b, Options{AccountLimit: 1 << 28}), "a")
	var next atomic.Int64
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		id := lambent.FunctionID(fmt.Sprint("f", next.Add(1)))
		name := functionName(id)
		for pb.Next() {
			slot, err := s.Acquire(context.Background(), name, id)
			if err != nil {
				b.Error(err)
				return
			}
			slot.Release()
		}
	})
}

// BenchmarkOneCreditPerInvoke: two front ends near the limit keep nothing, so that each acquire asks the group.
func BenchmarkOneCreditPerInvoke(b *testing.B) {
	service := openService(b, Options{AccountLimit: 1 << 28})
	one, other := openSession(b, service, "a"), openSession(b, service, "b")
	for _, s := range []*Session{one, other} { // as the group's answers make it when the pool is nearly empty
		acquire(b, s, "f").Release()
		s.parts[0].mu.Lock()
		p := s.parts[0].lease.Load().function("f").purse
		p.scarce = true
		p.tightenLocked()
		s.parts[0].mu.Unlock()
	}
	b.ResetTimer()
	for b.Loop() {
		acquire(b, one, "f").Release()
		p := one.parts[0].lease.Load().function("f").purse
		one.parts[0].mu.Lock()
		p.collectLocked()
		p.total -= p.free
		p.free = 0
		p.tellLocked()
		one.parts[0].mu.Unlock()
	}
}
