package isolation

import (
	"context"
	"os"
	"strconv"
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
