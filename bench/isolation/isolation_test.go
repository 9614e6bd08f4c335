package isolation

import (
	"context"
	"encoding/xml"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lambent/sandbox"
	"lambent/sandbox/native"
	"lambent/sandbox/native/nativetest"
)

func TestMain(m *testing.M) {
	native.MaybeInit()
	goleak.VerifyTestMain(m)
}

// nativeCandidate is the native driver without a network.
func nativeCandidate(t *testing.T) Candidate {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("real sandboxes need root")
	}
	return Candidate{
		Name: "native", Missing: native.Check(),
		Open: func(_ context.Context, dir string) (sandbox.Driver, error) {
			t.Cleanup(func() {
				if left := nativetest.Leftovers(dir); len(left) > 0 {
					t.Errorf("there are left: %v", left)
				}
			})
			return native.Open(native.Options{StateDir: dir})
		},
	}
}

func TestRunNative(t *testing.T) {
	starts, count := 10, 5
	if n, err := strconv.Atoi(os.Getenv("LAMBENT_BENCH_STARTS")); err == nil {
		starts, count = n, 1000
	}
	result, err := Run(t.Context(), Options{Dir: t.TempDir(), Candidates: []Candidate{nativeCandidate(t)}, Starts: starts, Count: count,
		Length: time.Second, Progress: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("plain %+v", result.Plain)
	t.Logf("native smallest %+v ratio %.2f", result.All[0].Smallest, result.All[0].Smallest.Ratio())
	t.Logf("native go %+v ratio %.2f", result.All[0].Go, result.All[0].Go.Ratio())
	t.Logf("native %.0f/s idle %+v performance %+v", result.All[0].PerSecond, result.All[0].Idle, result.All[0].Performance)
}

func TestNeighboursNative(t *testing.T) {
	all, err := RunNeighbours(t.Context(), Options{Dir: t.TempDir(), Candidates: []Candidate{nativeCandidate(t), {Name: "other", Missing: []string{"it is not there"}}},
		Progress: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 2 || len(all[0].All) != len(attacks()) || len(all[1].All) != 0 {
		t.Fatalf("%+v", all)
	}
	for _, n := range all[0].All {
		if n.Alone.P50 <= 0 || n.Attacked.P99 < n.Attacked.P50 {
			t.Errorf("%+v", n)
		}
	}
	text := NeighboursMarkdown(all)
	if !strings.Contains(text, "| native | disk |") || !strings.Contains(text, "it is not there") {
		t.Error(text)
	}
	t.Log("\n" + text)
}

// TestReport checks the table and the drawing of a result.
func TestReport(t *testing.T) {
	result := &Result{When: time.Unix(0, 0), Host: "a host", Starts: 3, All: []Measured{{Name: "native", Limits: "a limit."}, {Name: "<other>", Missing: []string{"it is not there"}}}}
	result.Plain.Smallest.P50 = time.Millisecond
	result.All[0].Smallest.FromReady.P50 = 150 * time.Millisecond
	markdown := result.Markdown("plot.svg")
	if !strings.Contains(markdown, "`native`: a limit.") {
		t.Error("the limits are not named:", markdown)
	}
	lines := 0
	for line := range strings.Lines(markdown) {
		if strings.HasPrefix(line, "|") {
			lines++
			if n := strings.Count(line, "|"); n != 4 {
				t.Errorf("%d columns: %s", n-1, line)
			}
		}
	}
	if lines != len(rowNames())+3 {
		t.Errorf("%d lines", lines)
	}
	result.All[1].Missing = nil
	svg := result.SVG()
	if err := xml.Unmarshal([]byte(svg), new(struct{})); err != nil || strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
		t.Errorf("%v\n%s", err, svg)
	}
}

func TestReplaceSection(t *testing.T) {
	const m = IsolationMarker
	for _, test := range []struct{ page, want string }{
		{"", m + "\n\nnew\n\n" + m + "\n"},
		{"text\n", "text\n\n" + m + "\n\nnew\n\n" + m + "\n"},
		{"a\n" + m + "\nold\n" + m + "\nb\n", "a\n" + m + "\n\nnew\n\n" + m + "\nb\n"},
	} {
		got, err := replaceSection(test.page, m, "new\n")
		if err != nil || got != test.want {
			t.Errorf("%q: %v", got, err)
		}
		if again, err := replaceSection(got, m, "new"); err != nil || again != got {
			t.Errorf("again: %q, %v", again, err)
		}
	}
	if _, err := replaceSection("a "+m+" b", m, "new"); err == nil {
		t.Error("one marker is not enough")
	}
}

func TestParsers(t *testing.T) {
	const text = "MemTotal: 1000 kB\nMemFree: 400 kB\nBuffers: 50 kB\nCached: 200 kB\nShmem: 10 kB\nHugePages_Total: 7\n"
	if used, err := parseUsedMemory(text); err != nil || used != 360<<10 {
		t.Errorf("used %d, %v", used, err)
	}
	if _, err := parseUsedMemory("nothing"); err == nil {
		t.Error("no memory at all is taken")
	}
	if parent, ok := parseParent("12 (a) b) (c) S 34 12"); !ok || parent != 34 {
		t.Errorf("parent %d", parent)
	}
	if _, ok := parseParent("12 (a"); ok {
		t.Error("half a line is taken")
	}
	if parents := map[int]int{5: 4, 4: 5, 9: 3, 3: 1}; descends(5, 1, parents) || !descends(9, 1, parents) || descends(9, 2, parents) {
		t.Error("descends")
	}
	if q := quantiles([]time.Duration{3, 1, 2}); q != (Quantiles{1, 2, 3}) || quantiles(nil) != (Quantiles{}) {
		t.Errorf("%+v", q)
	}
}
