package e2e

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"lambent"
	"lambent/sandbox/cgroup"
)

func as[T error](err error, target *T) bool { return errors.As(err, target) }

const holdPython = `
import time, json
def handler(event, context):
    begin = time.monotonic_ns()
    time.sleep(0.02)
    return {"detail": json.dumps([begin, time.monotonic_ns()])}
`

const holdNode = `
export const handler = async () => {
  const begin = process.hrtime.bigint();
  await new Promise((r) => setTimeout(r, 20));
  return { detail: "[" + begin + "," + process.hrtime.bigint() + "]" };
};
`

// interval is when an invoke ran, on the host's monotonic clock, told by the function itself.
type interval [2]int64

// 64 clients hammer functions of three runtimes: no function runs more invokes at once than its limit, nothing is lost, and
// nothing is left. LAMBENT_HAMMER sets the length; the default keeps a test run short.
func TestHammer(t *testing.T) {
	length := 15 * time.Second
	if given := os.Getenv("LAMBENT_HAMMER"); given != "" {
		var err error
		if length, err = time.ParseDuration(given); err != nil {
			t.Fatal(err)
		}
	}
	data := t.TempDir()
	s := start(t, data)
	python, node := interpreters(t, s)
	functions := []struct {
		name, payload string
		limit         int32
		code          func(*lambda.CreateFunctionInput)
	}{
		{"hammer-go", `{"try":"hold","arg":"20ms"}`, 5, provided(programs.probe)},
		{"hammer-python", `{}`, 20, source(python, "hold.py", "hold.handler", holdPython)},
		{"hammer-node", `{}`, 0, source(node, "hold.mjs", "hold.handler", holdNode)},
	}
	ctx := t.Context()
	for _, f := range functions {
		s.function(f.name, f.code)
		if f.limit == 0 {
			continue
		}
		if _, err := s.client.PutFunctionConcurrency(ctx, &lambda.PutFunctionConcurrencyInput{FunctionName: &f.name, ReservedConcurrentExecutions: &f.limit}); err != nil {
			t.Fatal(err)
		}
		awaitLimit(t, s, f.name, f.payload, f.limit)
	}
	var mu sync.Mutex
	ran, throttled, failures := map[string][]interval{}, map[string]int{}, []string{}
	var group sync.WaitGroup
	end := time.Now().Add(length)
	for client := range 64 {
		group.Go(func() {
			for n := client; time.Now().Before(end); n++ {
				f := functions[n%len(functions)]
				out, err := s.client.Invoke(ctx, &lambda.InvokeInput{FunctionName: &f.name, Payload: []byte(f.payload)})
				mu.Lock()
				switch when, problem := judge(out, err); {
				case problem == "throttled":
					throttled[f.name]++
				case problem != "":
					failures = append(failures, f.name+": "+problem)
				default:
					ran[f.name] = append(ran[f.name], when)
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if len(failures) > 0 {
		t.Errorf("%d invokes failed, the first: %s", len(failures), failures[0])
	}
	for _, f := range functions {
		most := overlap(ran[f.name])
		t.Logf("%s: %d invokes, at most %d at once, %d throttled", f.name, len(ran[f.name]), most, throttled[f.name])
		switch {
		case len(ran[f.name]) == 0:
			t.Errorf("%s never ran", f.name)
		case f.limit > 0 && most > int(f.limit):
			t.Errorf("%s ran %d at once, its limit is %d", f.name, most, f.limit)
		case most < 2:
			t.Errorf("%s never ran two invokes at once: the test shows nothing", f.name)
		case f.limit == 0 && throttled[f.name] > 0:
			t.Errorf("%s has no limit and was throttled %d times", f.name, throttled[f.name])
		}
	}
	processes := descendants(t, s.cmd.Process.Pid)
	s.stop()
	if left := alive(processes); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
	if left := mountsBelow(t, data); len(left) > 0 {
		t.Errorf("mounts left: %v", left)
	}
	if left := cgroupsOf(t, s.data); len(left) > 0 {
		t.Errorf("cgroups left: %v", left)
	}
}

// judge reads an answer of a hold function.
func judge(out *lambda.InvokeOutput, err error) (interval, string) {
	var tooMany *types.TooManyRequestsException
	if errors.As(err, &tooMany) {
		return interval{}, "throttled"
	}
	if err != nil {
		return interval{}, err.Error()
	}
	var answer struct{ Detail string }
	var when interval
	if out.FunctionError != nil {
		return when, string(out.Payload)
	}
	if err := json.Unmarshal(out.Payload, &answer); err != nil {
		return when, fmt.Sprintf("%v in %s", err, out.Payload)
	}
	if err := json.Unmarshal([]byte(answer.Detail), &when); err != nil {
		return when, fmt.Sprintf("%v in %s", err, out.Payload)
	}
	return when, ""
}

// overlap returns the largest number of intervals that hold one instant.
func overlap(intervals []interval) int {
	type edge struct {
		at   int64
		step int
	}
	var edges []edge
	for _, i := range intervals {
		edges = append(edges, edge{i[0], 1}, edge{i[1], -1})
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.step, b.step)) })
	now, most := 0, 0
	for _, e := range edges {
		now += e.step
		most = max(most, now)
	}
	return most
}

// awaitLimit waits until a limit is in force: a burst of twice its size then meets it.
func awaitLimit(t *testing.T, s *server, name, payload string, limit int32) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		var met atomic.Bool
		var burst sync.WaitGroup
		for range 2 * limit {
			burst.Go(func() {
				_, err := s.client.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: &name, Payload: []byte(payload)})
				var tooMany *types.TooManyRequestsException
				if errors.As(err, &tooMany) {
					met.Store(true)
				}
			})
		}
		burst.Wait()
		if met.Load() {
			return
		}
	}
	t.Fatalf("the limit of %s is not in force", name)
}

// interpreters reads from the data directory which Python and Node.js the region can run, and takes the newest.
func interpreters(t *testing.T, s *server) (python, node string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(s.data, "endpoint.json"))
	if err != nil {
		t.Fatal(err)
	}
	var endpoint struct{ Runtimes []string }
	if err := json.Unmarshal(content, &endpoint); err != nil {
		t.Fatal(err)
	}
	for _, name := range endpoint.Runtimes {
		switch {
		case strings.HasPrefix(name, "python3."):
			if len(name) > len(python) || len(name) == len(python) && name > python {
				python = name
			}
		case strings.HasPrefix(name, "nodejs"):
			node = max(node, name)
		}
	}
	if python == "" || node == "" {
		t.Fatalf("the region lists no Python or no Node.js: %v", endpoint.Runtimes)
	}
	return python, node
}

// cgroupsOf lists the cgroups of a region's sandboxes.
func cgroupsOf(t *testing.T, data string) []string {
	t.Helper()
	names := map[string]bool{}
	for _, isolation := range lambent.Isolations() {
		names[cgroup.Name(filepath.Join(data, "sandboxes", string(isolation)))] = true
	}
	var found []string
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && names[d.Name()] {
			found = append(found, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
