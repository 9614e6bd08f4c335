package logstore

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"lambent"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func open(t testing.TB, options Options) *Store {
	t.Helper()
	if options.Dir == "" {
		options.Dir = t.TempDir()
	}
	options.Logger = quiet()
	s, err := Open(options)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func query(t testing.TB, s *Store, q lambent.LogQuery) []lambent.LogEvent {
	t.Helper()
	events, err := s.Query(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func messages(events []lambent.LogEvent) string {
	var all []string
	for _, e := range events {
		all = append(all, e.Message)
	}
	return strings.Join(all, " ")
}

func TestQueryBeforeAndAfterFlushAndReopen(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Dir: dir, FlushEvery: time.Hour, Owner: "w1"})
	base := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	a, b := s.Stream("1", "/g/a", "s1"), s.Stream("1", "/g/b", "s2")
	for i := range 4 {
		a.Append(base.Add(time.Duration(i)*time.Second), fmt.Appendf(nil, "a%d", i))
		b.Append(base.Add(time.Duration(i)*time.Second), fmt.Appendf(nil, "b%d", i))
	}
	check := func() {
		t.Helper()
		for _, c := range []struct {
			query lambent.LogQuery
			want  string
		}{
			{lambent.LogQuery{}, "a0 b0 a1 b1 a2 b2 a3 b3"},
			{lambent.LogQuery{Group: "/g/a"}, "a0 a1 a2 a3"},
			{lambent.LogQuery{Group: "/g/a", Limit: 2}, "a0 a1"},
			{lambent.LogQuery{Limit: 3}, "a0 b0 a1"},
			{lambent.LogQuery{Stream: "s2"}, "b0 b1 b2 b3"},
			{lambent.LogQuery{Account: "2"}, ""},
			{lambent.LogQuery{Group: "/g/b", Start: base.Add(time.Second), End: base.Add(3 * time.Second)}, "b1 b2"},
		} {
			got := query(t, s, c.query)
			if messages(got) != c.want {
				t.Errorf("%+v: %s, want %s", c.query, messages(got), c.want)
			}
			if c.query.Limit == 0 && len(got) > 1 {
				c.query.After = got[0].ID
				if rest := query(t, s, c.query); !slices.Equal(rest, got[1:]) {
					t.Errorf("after the first: %v, want %v", messages(rest), messages(got[1:]))
				}
			}
		}
	}
	check()
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	check()
	before := query(t, s, lambent.LogQuery{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, Options{Dir: dir, FlushEvery: time.Hour, Owner: "w1"})
	defer s.Close()
	check()
	if after := query(t, s, lambent.LogQuery{}); !slices.Equal(before, after) {
		t.Errorf("%v, before %v", after, before)
	}
	// A clock that went back does not break the order.
	c := s.Stream("1", "/g/a", "s3")
	c.Append(base.Add(-time.Hour), []byte("late"))
	if got := query(t, s, lambent.LogQuery{Group: "/g/a"}); messages(got) != "a0 a1 a2 a3 late" || !got[4].Time.Equal(base.Add(-time.Hour)) {
		t.Error(messages(got))
	}
}

func TestTornTail(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Dir: dir, FlushEvery: time.Hour})
	st := s.Stream("1", "/g", "s")
	for i := range 3 {
		st.Append(time.Now(), fmt.Appendf(nil, "m%d", i))
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	whole, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for cut := range whole {
		if err := os.WriteFile(files[0], append(bytes.Clone(whole[:cut]), "junk"...), 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, Options{Dir: dir, FlushEvery: time.Hour})
		want := []string{"", "m0", "m0 m1"}[3*cut/len(whole)]
		if got := messages(query(t, s, lambent.LogQuery{})); got != want {
			t.Errorf("cut at %d of %d: %q, want %q", cut, len(whole), got, want)
		}
		st := s.Stream("1", "/g", "s")
		st.Append(time.Now(), []byte("new"))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, Options{Dir: dir, FlushEvery: time.Hour})
		if got := messages(query(t, s, lambent.LogQuery{})); got != strings.TrimSpace(want+" new") {
			t.Errorf("cut at %d, then: %q", cut, got)
		}
		s.Close()
		more, err := filepath.Glob(filepath.Join(dir, "*.log"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range more {
			if file != files[0] {
				os.Remove(file)
			}
		}
	}
}

func TestRetention(t *testing.T) {
	dir := t.TempDir()
	s := open(t, Options{Dir: dir, FlushEvery: time.Hour, MaxBytes: 100_000, SegmentBytes: 10_000})
	defer s.Close()
	st := s.Stream("1", "/g", "s")
	for i := range 500 {
		st.Append(time.Now(), append(fmt.Appendf(nil, "%03d", i), make([]byte, 1000)...))
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	total := int64(0)
	files, _ := os.ReadDir(dir)
	for _, file := range files {
		info, err := file.Info()
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if total > 100_000 {
		t.Errorf("%d bytes are kept", total)
	}
	got := query(t, s, lambent.LogQuery{})
	if len(got) < 70 || !strings.HasPrefix(got[len(got)-1].Message, "499") || !strings.HasPrefix(got[0].Message, fmt.Sprintf("%03d", 500-len(got))) {
		t.Errorf("%d events, from %.3s to %.3s", len(got), got[0].Message, got[len(got)-1].Message)
	}
}

func TestAppendIsBounded(t *testing.T) {
	s := open(t, Options{FlushEvery: time.Hour, PendingBytes: 1 << 20})
	defer s.Close()
	st := s.Stream("1", "/g", "s")
	line := make([]byte, 1000)
	n := 0
	for st.Append(time.Now(), line) {
		n++
	}
	if !st.Full() || n > streamBytes/1000 {
		t.Errorf("%d lines were taken", n)
	}
	var others []*Stream
	for range 4 {
		other := s.Stream("1", "/g", "o")
		others = append(others, other)
		for other.Append(time.Now(), line) {
			n++
		}
	}
	if n > 1100 {
		t.Errorf("%d lines were taken of all streams", n)
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	<-st.Room()
	if st.Full() || !st.Append(time.Now(), line) {
		t.Error("there is no room after a flush")
	}
	st.Close()
	if st.Append(time.Now(), line) {
		t.Error("a closed stream takes events")
	}
	for _, other := range others {
		other.Close()
	}
	s.Flush()
	s.Flush()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.streams) != 0 {
		t.Errorf("%d closed streams are kept", len(s.streams))
	}
}

// A reader that goes on behind the last event that it has seen sees each event once, whatever is appended and flushed.
func TestFollowersMissNothing(t *testing.T) {
	s := open(t, Options{FlushEvery: time.Millisecond, SegmentBytes: 20_000})
	defer s.Close()
	const writers, each = 4, 2000
	var group sync.WaitGroup
	for w := range writers {
		group.Go(func() {
			st := s.Stream("1", "/g", fmt.Sprint(w))
			defer st.Close()
			for i := range each {
				for !st.Append(time.Now(), fmt.Appendf(nil, "%d", i)) {
					<-st.Room()
				}
			}
		})
	}
	seen := map[string]int{}
	last, total := "", 0
	for deadline := time.Now().Add(30 * time.Second); total < writers*each && time.Now().Before(deadline); {
		for _, e := range query(t, s, lambent.LogQuery{Group: "/g", After: last, Limit: 100}) {
			if e.ID <= last {
				t.Fatalf("%s after %s", e.ID, last)
			}
			if e.Message != fmt.Sprint(seen[e.Stream]) {
				t.Fatalf("stream %s: %s after %d", e.Stream, e.Message, seen[e.Stream]-1)
			}
			seen[e.Stream]++
			last = e.ID
			total++
		}
	}
	group.Wait()
	if total != writers*each {
		t.Errorf("%d events of %d were seen", total, writers*each)
	}
}

func TestBlockProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var events []event
		sequence := int64(0)
		streams := []*Stream{{account: "1", group: "g", name: "a"}, {account: "1", group: "g", name: "b"}}
		for range rapid.IntRange(1, 20).Draw(t, "n") {
			sequence += rapid.Int64Range(1, 1<<40).Draw(t, "step")
			events = append(events, event{sequence, rapid.Int64Range(-1<<60, 1<<60).Draw(t, "time"),
				rapid.SampledFrom(streams).Draw(t, "stream"), []byte(rapid.String().Draw(t, "message"))})
		}
		block, n := encodeBlock(nil, events)
		if n != len(events) {
			t.Fatal(n)
		}
		h, length, err := readBlock(bytes.NewReader(block))
		if err != nil || h.first != events[0].sequence || h.last != sequence || h.count != n {
			t.Fatal(h, err)
		}
		i := 0
		err = decodeBlock(block[len(block)-length:], func(sequence, time int64, stream string, message []byte) bool {
			e := events[i]
			i++
			return sequence == e.sequence && time == e.time && stream == e.stream.name && string(message) == string(e.message)
		})
		if err != nil || i != n {
			t.Fatal(i, err)
		}
	})
}

// FuzzBlock checks that no file content makes the reader fail otherwise than with an error.
func FuzzBlock(f *testing.F) {
	block, _ := encodeBlock(nil, []event{{1, 2, &Stream{account: "1", group: "g", name: "s"}, []byte("message")}})
	f.Add(block)
	f.Add(block[blockPrefix:])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		readBlock(bytes.NewReader(data))
		decodeBlock(data, func(_, _ int64, _ string, message []byte) bool { return len(message) < 10 })
		parseID(string(data))
	})
}

func BenchmarkAppend(b *testing.B) {
	s := open(b, Options{})
	defer s.Close()
	st := s.Stream("1", "/g", "s")
	line := []byte("START RequestId: 8f5c9cb5-6d35-4a0c-8c1b-1d5b1e0e6a11 Version: $LATEST")
	b.ReportAllocs()
	for b.Loop() {
		for !st.Append(time.Now(), line) {
			<-st.Room()
		}
	}
}
