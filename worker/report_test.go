package worker

import (
	"encoding/json"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"lambent"
	"lambent/sandbox"
	"lambent/worker/logstore"
)

func TestReportLines(t *testing.T) {
	text := newJournal(lambent.Logging{}, "")
	for want, r := range map[string]report{
		"REPORT RequestId: a\tDuration: 1.23 ms\tBilled Duration: 2 ms\tMemory Size: 128 MB\tMax Memory Used: 36 MB\t": {
			requestID: "a", duration: 1234 * time.Microsecond, memoryMiB: 128, maxMiB: 36, status: statusSuccess},
		"REPORT RequestId: a\tDuration: 3.01 ms\tBilled Duration: 4 ms\tMemory Size: 128 MB\tMax Memory Used: 36 MB\tInit Duration: 110.10 ms\t": {
			requestID: "a", duration: 3010 * time.Microsecond, init: 110100 * time.Microsecond, memoryMiB: 128, maxMiB: 36, status: statusFailure, errorType: "X"},
		"REPORT RequestId: a\tDuration: 3000.00 ms\tBilled Duration: 3000 ms\tMemory Size: 128 MB\tMax Memory Used: 36 MB\tStatus: timeout": {
			requestID: "a", duration: 3 * time.Second, memoryMiB: 128, maxMiB: 36, status: statusTimeout},
		"REPORT RequestId: a\tDuration: 5.00 ms\tBilled Duration: 5 ms\tMemory Size: 128 MB\tMax Memory Used: 128 MB\tStatus: error\tError Type: Runtime.OutOfMemory": {
			requestID: "a", duration: 5 * time.Millisecond, memoryMiB: 128, maxMiB: 128, status: statusError, errorType: "Runtime.OutOfMemory"},
	} {
		r.billed = billed(r.duration)
		if got := string(text.report(nil, time.Time{}, &r)); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := string(text.initReport(time.Time{}, "init", 1236040*time.Microsecond, statusError, "Runtime.ExitError")); got !=
		"INIT_REPORT Init Duration: 1236.04 ms\tPhase: init\tStatus: error\tError Type: Runtime.ExitError" {
		t.Error(got)
	}
	if got := text.initReport(time.Time{}, "init", time.Second, statusSuccess, ""); got != nil {
		t.Errorf("%s", got)
	}
}

func TestLevelsOfJSONLines(t *testing.T) {
	version := &lambent.FunctionVersion{}
	for level, want := range map[string]string{
		"DEBUG": "platform.initStart platform.initReport platform.start platform.runtimeDone platform.report platform.report",
		"INFO":  "platform.initStart platform.start platform.report platform.report",
		"":      "platform.initStart platform.start platform.report platform.report",
		"WARN":  "platform.report",
	} {
		j := newJournal(lambent.Logging{Format: lambent.LogJSON, SystemLevel: level}, "")
		good, bad := &report{status: statusSuccess}, &report{status: statusTimeout}
		var got []string
		for _, line := range [][]byte{j.initStart(time.Time{}, version, "r", "a", "s"), j.initReport(time.Time{}, "init", 0, statusSuccess, ""),
			j.start(nil, time.Time{}, "a", "1"), j.runtimeDone(time.Time{}, good, 1), j.end(nil, "a"), j.report(nil, time.Time{}, good), j.report(nil, time.Time{}, bad)} {
			if line == nil {
				continue
			}
			var event struct{ Type string }
			if err := json.Unmarshal(line, &event); err != nil {
				t.Fatal(err)
			}
			got = append(got, event.Type)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %s, want %s", level, got, want)
		}
	}
}

func TestBilled(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "duration"))
		b := billed(d)
		if b%time.Millisecond != 0 || b < d || b-d >= time.Millisecond {
			t.Fatalf("%v is billed as %v", d, b)
		}
	})
}

// However output arrives in pieces, its lines are the same, and none is longer than an event may be.
func TestLinesDoNotDependOnPieces(t *testing.T) {
	store, err := logstore.Open(logstore.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		stream := store.Stream("1", "/g", strings.Repeat("i", n))
		defer stream.Close()
		o := newOutput(stream, false, &sync.Pool{})
		want := ""
		for range rapid.IntRange(0, 20).Draw(t, "pieces") {
			piece := rapid.SampledFrom([]string{"a", "bc\n", "\n", "d\ne\n\nf", strings.Repeat("x", 1000)}).Draw(t, "piece")
			want += piece
			o.acceptLocked([]byte(piece), time.Now())
		}
		o.endLineLocked(time.Now())
		events, err := store.Query(t.Context(), lambent.LogQuery{Stream: stream.Name()})
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, e := range events {
			got += e.Message + "\n"
		}
		if want != "" && !strings.HasSuffix(want, "\n") {
			want += "\n"
		}
		if got != want {
			t.Fatalf("%q, want %q", got, want)
		}
	})
}

func TestPoolTarget(t *testing.T) {
	now := time.Now()
	at := func(n int, age time.Duration) (all []time.Time) {
		for range n {
			all = append(all, now.Add(-age))
		}
		return all
	}
	for name, c := range map[string]struct {
		taken []time.Time
		cost  time.Duration
		want  int
	}{
		"idle":            {nil, 10 * time.Millisecond, 2},
		"long ago":        {at(1000, time.Minute), time.Second, 2},
		"burst":           {at(100, 0), 125 * time.Millisecond, 2 + 25},
		"steady":          {at(100, 5*time.Second), 125 * time.Millisecond, 2 + 3},
		"bounded":         {at(1000, 0), time.Second, 32},
		"one per 125 ms":  {at(8, 500*time.Millisecond), 125 * time.Millisecond, 2 + 2},
		"rare and costly": {at(1, 0), time.Millisecond, 3},
	} {
		if got := poolTarget(c.taken, now, c.cost, 2, 32); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// The pool fills, follows the load, shrinks again, and goes on after a failure, all by itself.
func TestPoolInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		driver := &fakeDriver{program: func(*fakeProcess) sandbox.Exit { return sandbox.Exit{} }}
		var failures atomic.Int64
		p := testPool(map[lambent.Isolation]*fakeDriver{lambent.IsolationNative: driver}, 1000, &failures)
		synctest.Wait()
		of := p.first()
		p.mu.Lock()
		p.classes[of].cost = time.Second
		p.mu.Unlock()
		if driver.living() != 2 {
			t.Errorf("%d are ready", driver.living())
		}
		for range 3 {
			box, err := p.take(t.Context(), of, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := box.Destroy(t.Context()); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if driver.living() < 4 {
			t.Errorf("%d are ready under load", driver.living())
		}
		<-time.After(time.Minute)
		synctest.Wait()
		if driver.living() != 2 {
			t.Errorf("%d are ready after a minute", driver.living())
		}
		driver.fail(errBroken)
		box, err := p.take(t.Context(), of, nil)
		if err != nil {
			t.Fatal(err)
		}
		box.Destroy(t.Context())
		<-time.After(10 * time.Second)
		synctest.Wait()
		if driver.living() != 1 || failures.Load() < 5 || failures.Load() > 11 {
			t.Errorf("%d are ready, %d failures in 10 s", driver.living(), failures.Load())
		}
		driver.fail(nil)
		<-time.After(2 * time.Second)
		synctest.Wait()
		if driver.living() != 2 {
			t.Errorf("%d are ready after the failure", driver.living())
		}
		if err := p.close(); err != nil || driver.living() != 0 {
			t.Error(err, driver.living())
		}
	})
}
