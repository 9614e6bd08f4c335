package counting

import (
	"fmt"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"lambent"
)

// counter is what callers see of a pool: a number that acquires raise up to a limit, and a throttle is right only at the limit.
func counter(limit int) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return 0 },
		Step: func(state, input, output any) (bool, any) {
			inUse, op := state.(int), input.(operation)
			switch {
			case op.release:
				return inUse > 0, inUse - 1
			case output == "admitted":
				return inUse < limit, inUse + 1
			case output == "throttled":
				return inUse == limit, inUse
			}
			return true, inUse // not known: it was not admitted
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprint(input, output) },
	}
}

func TestHistories(t *testing.T) {
	for _, c := range []struct {
		name   string
		fronts int
		faults bool
	}{
		{"one front end", 1, false},
		{"one front end, replicas that fail", 1, true},
		{"three front ends, replicas that fail", 3, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			counts := map[string]int{}
			for seed := range uint64(40) {
				w := newWorld(seed, c.fronts, 6, 5*time.Second) // no lease ends: all slots count until they are released
				w.reserve("f", 2, false)
				s := &schedule{w: w, trouble: 2 * time.Second, every: 300 * time.Millisecond}
				s.load()
				for at := 300 * time.Millisecond; c.faults && at < s.trouble; at += 600 * time.Millisecond {
					w.after(at, func() { s.crashReplicas(1, 200*time.Millisecond) })
				}
				w.run(s.trouble + 3*time.Second)
				w.restore()
				report(t, w)
				checkHistory(t, w, c.fronts == 1, counts)
				if t.Failed() {
					return
				}
			}
			t.Log(counts)
			if counts["admitted"] == 0 || counts["throttled"] == 0 {
				t.Error("these histories show nothing")
			}
		})
	}
}

// checkHistory has porcupine judge a history. Several front ends may each have found no idle credit one after the other, so
// that throttles are right at no one moment; then only what was admitted is judged, and falseThrottle judges the rest.
func checkHistory(t *testing.T, w *world, exact bool, counts map[string]int) {
	t.Helper()
	pools := map[lambent.FunctionID][]porcupine.Operation{}
	for i, op := range w.history {
		pool := lambent.FunctionID("")
		if op.id == "f" {
			pool = "f"
		}
		counts[op.result]++
		if !exact && !op.release && op.result != "admitted" {
			continue
		}
		pools[pool] = append(pools[pool], porcupine.Operation{ClientId: i, Input: op, Call: int64(op.call), Output: op.result, Return: int64(op.answer)})
	}
	for pool, history := range pools {
		limit := 4
		if pool == "f" {
			limit = 2
		}
		if result := porcupine.CheckOperationsTimeout(counter(limit), history, 20*time.Second); result != porcupine.Ok {
			t.Errorf("seed %d: the history of pool %q is %s", w.seed, pool, result)
		}
	}
}
