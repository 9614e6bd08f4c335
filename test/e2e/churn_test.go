package e2e

import (
	"bufio"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"golang.org/x/sys/unix"

	"lambent"
)

// churned misbehaves as its event says.
const churned = `
import os, time
def handler(event, context):
    if event == "crash": os._exit(3)
    if event == "raise": raise ValueError(event)
    if event == "sleep": time.sleep(60)
    if event == "memory":
        kept = []
        while True: kept.append(b"x" * (8 << 20))
    if event == "litter":
        for n in range(200): open("/tmp/%d-%d" % (n, time.monotonic_ns()), "w").write("x" * 1000)
        if os.fork() == 0: time.sleep(60); os._exit(0)
    if event == "noise": print("x" * 100000)
    return "fine"
`

// holdings are what a region holds of the host.
type holdings struct {
	memoryMiB, descriptors, mounts, cgroups, loops, processes, namespaces int
}

func (h holdings) String() string {
	return fmt.Sprintf("%d MiB in processes, %d descriptors, %d mounts, %d cgroups, %d loop devices, %d processes, %d network namespaces",
		h.memoryMiB, h.descriptors, h.mounts, h.cgroups, h.loops, h.processes, h.namespaces)
}

// hold measures what the region of a server holds. Memory and descriptors are those of the host and the service, which go on; the rest
// is that of sandboxes too.
func (s *server) hold(t *testing.T) holdings {
	t.Helper()
	h := holdings{loops: len(loopDevices(t, s.data))}
	for _, group := range cgroupsOf(t, s.data) {
		h.cgroups += groupsBelow(group)
	}
	own, namespaces := map[string]bool{}, map[string]bool{}
	if ns, err := os.Readlink("/proc/self/ns/net"); err == nil {
		own[ns] = true
	}
	for pid := range descendants(t, s.cmd.Process.Pid) {
		h.processes++
		if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid)); err == nil && !own[ns] {
			namespaces[ns] = true
		}
		if command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.HasPrefix(string(command), programs.lambent+"\x00service") {
			h.add(pid)
		}
	}
	h.add(s.cmd.Process.Pid)
	h.namespaces = len(namespaces)
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	h.mounts = strings.Count(string(mounts), "\n")
	return h
}

// groupsBelow counts the cgroups below one, which come and go meanwhile.
func groupsBelow(group string) (count int) {
	_ = filepath.WalkDir(group, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			count++
		}
		return nil
	})
	return count
}

// add adds the memory and the descriptors of a process that goes on.
func (h *holdings) add(pid int) {
	if files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)); err == nil {
		h.descriptors += len(files)
	}
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "RssAnon:"); ok {
			kib, _ := strconv.Atoi(strings.Fields(rest)[0])
			h.memoryMiB += kib >> 10
		}
	}
}

// loopDevices lists those of files below a directory.
func loopDevices(t *testing.T, data string) []string {
	t.Helper()
	backing, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, path := range backing {
		if text, err := os.ReadFile(path); err == nil && strings.Contains(string(text), data) {
			found = append(found, path)
		}
	}
	return found
}

// churn is functions that come, run, fail and go.
type churn struct {
	*server
	python            string
	created, answered atomic.Int64
	failed, throttled atomic.Int64
	surprises         sync.Map
}

// cycle is the life of one function.
func (c *churn) cycle(t *testing.T, random *rand.Rand, name string, isolation lambent.Isolation) {
	ctx := t.Context()
	in := &lambda.CreateFunctionInput{FunctionName: &name, Role: aws.String("arn:aws:iam::" + account + ":role/e2e"), Timeout: aws.Int32(2),
		MemorySize: aws.Int32(int32(128 + 64*random.IntN(4))), Tags: map[string]string{lambent.IsolationTag: string(isolation)}}
	if random.IntN(2) == 0 {
		source(c.python, "x.py", "x.handler", churned)(in)
	} else {
		provided(programs.echo)(in)
	}
	if isolation == lambent.IsolationMicroVM {
		in.Timeout = aws.Int32(20)
	}
	if _, err := c.client.CreateFunction(ctx, in); err != nil {
		c.surprises.Store("create: "+err.Error(), true)
		return
	}
	c.created.Add(1)
	waiter := lambda.NewFunctionActiveV2Waiter(c.client, func(o *lambda.FunctionActiveV2WaiterOptions) { o.MinDelay = 20 * time.Millisecond })
	if err := waiter.Wait(ctx, &lambda.GetFunctionInput{FunctionName: &name}, time.Minute); err != nil {
		c.surprises.Store("wait: "+err.Error(), true)
	}
	var calls sync.WaitGroup
	for range 1 + random.IntN(3) {
		event := []string{"fine", "fine", "fine", "crash", "raise", "sleep", "memory", "litter", "noise"}[random.IntN(9)]
		if isolation == lambent.IsolationMicroVM && event == "memory" {
			event = "crash" // an emulated machine works at its limit for very long
		}
		calls.Go(func() { c.call(t, name, event) })
	}
	calls.Wait()
	if _, err := c.client.DeleteFunction(ctx, &lambda.DeleteFunctionInput{FunctionName: &name}); err != nil {
		c.surprises.Store("delete: "+err.Error(), true)
	}
}

func (c *churn) call(t *testing.T, name, event string) {
	out, err := c.client.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: &name, Payload: []byte(`"` + event + `"`)})
	switch {
	case err == nil && out.FunctionError == nil:
		c.answered.Add(1)
	case err == nil:
		c.failed.Add(1)
	case strings.Contains(err.Error(), "TooManyRequests"):
		c.throttled.Add(1)
	default:
		c.surprises.Store("invoke: "+err.Error(), true)
	}
}

// injure kills a process of a sandbox, whichever it is: an init, a kernel in user space, a machine, or the function itself.
func (c *churn) injure(t *testing.T, random *rand.Rand) {
	var victims []int
	for pid := range descendants(t, c.cmd.Process.Pid) {
		var stat unix.Stat_t
		if unix.Stat("/proc/"+strconv.Itoa(pid), &stat) == nil && stat.Uid >= 0x70000000 {
			victims = append(victims, pid)
		}
	}
	if len(victims) > 0 {
		_ = syscall.Kill(victims[random.IntN(len(victims))], syscall.SIGKILL) // it may have ended
	}
}

// Functions of all isolations are made, invoked, fail and are deleted, while processes of sandboxes are killed: what the region holds of the
// host does not grow. LAMBENT_CHURN sets the length; the default keeps a test run short.
func TestChurn(t *testing.T) {
	length := 40 * time.Second
	if given := os.Getenv("LAMBENT_CHURN"); given != "" {
		var err error
		if length, err = time.ParseDuration(given); err != nil {
			t.Fatal(err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	data := t.TempDir()
	left := newRemains(data)
	c := &churn{server: start(t, data)}
	c.python, _ = interpreters(t, c.server)
	for _, isolation := range lambent.Isolations() { // what is made once is made before
		c.function("first", under(isolation, func(in *lambda.CreateFunctionInput) { provided(programs.echo)(in); in.Timeout = aws.Int32(60) }))
		c.invoke("first", "1")
		if _, err := c.client.DeleteFunction(t.Context(), &lambda.DeleteFunctionInput{FunctionName: aws.String("first")}); err != nil {
			t.Fatal(err)
		}
	}
	c.spin(t, seed, max(length/6, 15*time.Second))
	before := c.rest(t)
	t.Logf("at rest after a while: %v", before)
	c.spin(t, seed+1, length)
	after := c.rest(t)
	t.Logf("at rest after %v: %v; %d functions, %d answers, %d failures, %d throttled", length, after, c.created.Load(), c.answered.Load(),
		c.failed.Load(), c.throttled.Load())
	c.surprises.Range(func(what, _ any) bool { t.Errorf("%s", what); return true })
	if c.answered.Load() == 0 || c.failed.Load() == 0 {
		t.Error("nothing was answered, or nothing failed, so that this test shows nothing")
	}
	// Ready-made sandboxes are kept for the classes that were used last; each has a few of all.
	for what, pair := range map[string][3]int{
		"MiB of memory": {before.memoryMiB, after.memoryMiB, 64}, "descriptors": {before.descriptors, after.descriptors, 400},
		"mounts": {before.mounts, after.mounts, 40}, "cgroups": {before.cgroups, after.cgroups, 200}, "loop devices": {before.loops, after.loops, 40},
		"processes": {before.processes, after.processes, 200}, "network namespaces": {before.namespaces, after.namespaces, 40},
	} {
		if pair[1] > pair[0]+pair[2] {
			t.Errorf("%s grew from %d to %d", what, pair[0], pair[1])
		}
	}
	left.see(t, c.server)
	c.stop()
	left.check(t, false)
}

// spin has functions come and go for a while.
func (c *churn) spin(t *testing.T, seed uint64, length time.Duration) {
	end := time.Now().Add(length)
	var group sync.WaitGroup
	for lane, isolation := range []lambent.Isolation{lambent.IsolationNative, lambent.IsolationNative, lambent.IsolationGVisor, lambent.IsolationMicroVM} {
		group.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(lane)))
			for n := 0; time.Now().Before(end); n++ {
				c.cycle(t, random, fmt.Sprintf("churn-%d-%d-%d", seed%1000, lane, n), isolation)
			}
		})
	}
	group.Go(func() {
		random := rand.New(rand.NewPCG(seed, 99))
		for report := time.Now(); time.Now().Before(end); {
			timer := time.After(time.Duration(1+random.IntN(4)) * time.Second)
			<-timer // the random moment
			c.injure(t, random)
			if time.Since(report) > time.Minute {
				report = time.Now()
				t.Logf("%s: %v", time.Until(end).Round(time.Second), c.hold(t))
			}
		}
	})
	group.Wait()
}

// rest waits until nothing is made or ended any more, and measures.
func (c *churn) rest(t *testing.T) holdings {
	t.Helper()
	if response, err := http.Get(c.endpoint); err == nil { // it still answers
		response.Body.Close()
	}
	last, since := c.hold(t), time.Now()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); {
		<-time.After(time.Second) // what a sampler waits between two samples
		now := c.hold(t)
		if now.cgroups != last.cgroups || now.processes != last.processes || now.loops != last.loops {
			last, since = now, time.Now()
			continue
		}
		if time.Since(since) > 8*time.Second {
			return now
		}
	}
	t.Log("the region does not come to rest")
	return last
}
