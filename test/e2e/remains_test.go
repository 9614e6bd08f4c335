package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"lambent"
	"lambent/network"
	"lambent/sandbox/identity"
)

// remains lists whatever is on the host of a region: it is empty before the first start and after each clean end. Other regions of
// the host may run, so only what names the data directory, or what the processes were seen to have, counts.
type remains struct {
	data       string
	processes  map[int]string  // seen, with their start times
	namespaces map[string]bool // network namespaces seen
	others     map[int]string  // processes that were there then and are not the region's
	seen       int             // when that was, as processes' start times are
}

func newRemains(data string) *remains {
	return &remains{data: data, processes: map[int]string{}, namespaces: map[string]bool{}}
}

// see notes what a running region has.
func (r *remains) see(t *testing.T, s *server) {
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		t.Fatal(err)
	}
	r.seen = int(now.Nano() / 1e7) // hundredths of a second
	r.others = descendants(t, 0)
	for pid, start := range descendants(t, s.cmd.Process.Pid) {
		r.processes[pid] = start
		delete(r.others, pid)
		if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid)); err == nil && ns != own {
			r.namespaces[ns] = true
		}
	}
}

// check says what is left of all that was seen. With a region running, what is found by the data directory is that one's.
func (r *remains) check(t *testing.T, running bool) {
	t.Helper()
	if left := alive(r.processes); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
	spaces, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range spaces {
		ns, err := os.Readlink(path)
		if err != nil || !r.namespaces[ns] {
			continue
		}
		// The number of a namespace that is gone is given to others: what began later, or was another's, is not what was seen.
		pid, _ := strconv.Atoi(strings.Split(path, "/")[2])
		if _, start, ok := stat(pid); ok && r.others[pid] != start {
			if began, err := strconv.Atoi(start); err == nil && began <= r.seen {
				t.Errorf("network namespace %s is left, of %s", ns, path)
			}
		}
	}
	if running {
		return
	}
	if left := append(mountsBelow(t, r.data), cgroupsOf(t, r.data)...); len(left) > 0 {
		t.Errorf("left are %q", left)
	}
	if left := loopDevices(t, r.data); len(left) > 0 {
		t.Errorf("loop devices left: %q", left)
	}
	if table, link := onNetwork(t, r.data); table || link {
		t.Errorf("left are of the network: its table %v, its interface %v", table, link)
	}
	sources, err := os.ReadDir(filepath.Join(r.data, "sources"))
	if err != nil || len(sources) > 0 {
		t.Errorf("mount points left: %v, %v", sources, err)
	}
	for _, pattern := range []string{"sandboxes/microvm/vm/*", "sandboxes/microvm/*.new", "sandboxes/microvm/*/*.new", "sandboxes/native/*/*"} {
		files, err := filepath.Glob(filepath.Join(r.data, pattern))
		if err != nil || len(files) > 0 {
			t.Errorf("files left: %q, %v", files, err)
		}
	}
}

// onNetwork tells whether the host has the nftables table and the interface of a region's network.
func onNetwork(t *testing.T, data string) (table, link bool) {
	t.Helper()
	tableName, linkName, err := network.Names(filepath.Join(data, "network"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := conn.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == tableName }),
		slices.ContainsFunc(links, func(l net.Interface) bool { return l.Name == linkName })
}

// Processes of the region are killed at random moments, those of the start included: after the next start nothing of the former is
// there, and after a clean end nothing at all. LAMBENT_KILLS sets how often.
func TestKillLeavesNothing(t *testing.T) {
	kills := 6
	if given := os.Getenv("LAMBENT_KILLS"); given != "" {
		var err error
		if kills, err = strconv.Atoi(given); err != nil {
			t.Fatal(err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	data := t.TempDir()
	left := newRemains(data)
	first := start(t, data)
	if table, link := onNetwork(t, data); !table || !link || len(cgroupsOf(t, data)) == 0 {
		t.Error("a region that runs has no table, no interface or no cgroup, so that this test finds nothing")
	}
	for _, isolation := range lambent.Isolations() {
		first.function("busy-"+string(isolation), under(isolation, func(in *lambda.CreateFunctionInput) {
			provided(programs.echo)(in)
			in.Timeout = aws.Int32(60)
		}))
		first.invoke("busy-"+string(isolation), "1")
	}
	first.stop()
	left.check(t, false)
	for range kills {
		s := launch(t, data)
		moment := time.Duration(random.IntN(1500)) * time.Millisecond
		timer := time.After(moment)
		for _, isolation := range lambent.Isolations() {
			go s.keepBusy(t.Context(), "busy-"+string(isolation))
		}
		<-timer // the random moment
		left.see(t, s)
		victim, name := left.victim(t, s, random)
		t.Logf("%s killed after %v", name, moment)
		_ = unix.Kill(victim, unix.SIGKILL) // a service may have ended by itself
		if name != "host" {
			<-time.After(100 * time.Millisecond) // the region may live through the death of a helper
		}
		s.kill()
		next := start(t, data)
		left.check(t, true)
		if out := next.invoke("busy-native", `1`); string(out.Payload) != "1" {
			t.Errorf("answered %s", out.Payload)
		}
		next.stop()
		left.check(t, false)
		if t.Failed() {
			return
		}
	}
}

// keepBusy invokes a function until the server has ended.
func (s *server) keepBusy(ctx context.Context, name string) {
	for {
		if _, err := s.client.Invoke(ctx, &lambda.InvokeInput{FunctionName: &name, Payload: []byte("1")}); err != nil && s.over() {
			return
		}
	}
}

// over tells whether the server has ended.
func (s *server) over() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// victim chooses the process to kill: the host, the service, or any of their helpers that is no sandbox's.
func (r *remains) victim(t *testing.T, s *server, random *rand.Rand) (pid int, name string) {
	if random.IntN(2) == 0 {
		return s.cmd.Process.Pid, "host"
	}
	var helpers []int
	for pid := range descendants(t, s.cmd.Process.Pid) {
		var stat unix.Stat_t
		if unix.Stat("/proc/"+strconv.Itoa(pid), &stat) == nil && stat.Uid <= identity.ServiceID {
			helpers = append(helpers, pid)
		}
	}
	if len(helpers) == 0 {
		return s.cmd.Process.Pid, "host"
	}
	pid = helpers[random.IntN(len(helpers))]
	command, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil {
		return pid, "a process that has ended"
	}
	return pid, strings.ReplaceAll(strings.TrimRight(string(command), "\x00"), "\x00", " ")
}
