package sandboxtest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lambent/sandbox"
	"lambent/sandbox/identity"
	"lambent/sandbox/sandboxtest/probe/hostile"
)

// RunAttempts runs those parts of the table of attempts that have the titles, without the rest of the suite.
func RunAttempts(t *testing.T, h Harness, titles ...string) {
	s := newSuite(t, h)
	var attempts []hostile.Attempt
	for _, group := range hostile.Groups() {
		if slices.Contains(titles, group.Title) {
			attempts = append(attempts, group.Attempts...)
		}
	}
	if len(attempts) == 0 {
		t.Fatalf("no attempts have the titles %q", titles)
	}
	s.try(t, attempts)
}

// hostileAttempts makes every attempt of the table.
func hostileAttempts(t *testing.T, s *suite) { s.try(t, hostile.Attempts()) }

// try makes attempts in sandboxes of the driver, beside victims on the host and in another sandbox. They share a sandbox:
// what one leaves behind must not help the next.
func (s *suite) try(t *testing.T, attempts []hostile.Attempt) {
	scene := hostile.Scene{Code: "/var/task", Temp: "/tmp", Shared: "/dev/shm", FilesMax: 100_000, Secret: "secret-of-the-suite"}
	victim := hostVictim(t, s)
	scene.Victims = []hostile.Victim{victim.Victim, neighbourVictim(t, s)}
	scene.Listened = append(hostListeners(t), s.HostAddresses...)
	scene.Files = secretFiles(t, scene.Secret)
	if mayPinScores(t) {
		scene.ScoreFloor = 1000
	}
	shared := s.sandbox(t, nil)
	for _, attempt := range attempts {
		t.Run(attempt.Name, func(t *testing.T) {
			box, spec := shared, s.specification()
			if attempt.Flood {
				change := func(spec *sandbox.Spec) {
					spec.MemoryMiB, spec.Processes, spec.Descriptors, spec.EphemeralMiB = s.floodMiB(), 64, 300, s.tmpMiB()
				}
				box = s.sandbox(t, change)
				change(&spec)
			}
			scene := scene
			scene.MemoryMiB, scene.Processes = spec.MemoryMiB, spec.Processes
			scene.Descriptors, scene.EphemeralMiB = spec.Descriptors, spec.EphemeralMiB
			if s.TmpInMemory {
				scene.MemoryMiB += spec.EphemeralMiB
			}
			before := hostState(t, victim)
			s.tryOne(t, box, attempt, scene)
			for name, was := range before {
				if now := hostState(t, victim)[name]; now != was {
					t.Errorf("on the host, %s was %q and is %q", name, was, now)
				}
			}
			if attempt.Flood {
				destroyWithin(t, box)
			}
		})
	}
	t.Run("working directory", func(t *testing.T) { s.climbFromDirectory(t, shared, scene) })
	hold(t, shared, "echo") // whatever was tried, the sandbox is as good as before
}

// climbFromDirectory asks the driver for processes whose working directory is a descriptor that the driver itself may have
// open while it starts them, as a function's configuration could name one (CVE-2024-21626). Refusing is right, too.
func (s *suite) climbFromDirectory(t *testing.T, box sandbox.Sandbox, scene hostile.Scene) {
	text, err := json.Marshal(scene)
	if err != nil {
		t.Fatal(err)
	}
	for fd := range 32 {
		for _, directory := range []string{fmt.Sprintf("/proc/self/fd/%d", fd), fmt.Sprintf("/proc/1/fd/%d/../..", fd)} {
			cmd := command("try", "leaked-directory", string(text))
			cmd.Dir = directory
			process, err := box.Start(t.Context(), cmd)
			if err != nil {
				continue
			}
			out := readTail(t, process.Output())
			process.Output().Close()
			await(t, process)
			if strings.Contains(out, hostile.BreachPrefix) {
				t.Errorf("in %s: %s", directory, out)
			}
		}
	}
}

// mayPinScores tells whether root of this host has the capability that keeps oom_score_adj from being lowered again.
func mayPinScores(t *testing.T) bool {
	t.Helper()
	var sets [2]unix.CapUserData
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &sets[0]); err != nil {
		t.Fatal(err)
	}
	return sets[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0 && !identity.Restricted()
}

// tryOne makes an attempt, and checks that it got nothing.
func (s *suite) tryOne(t *testing.T, box sandbox.Sandbox, attempt hostile.Attempt, scene hostile.Scene) {
	t.Helper()
	text, err := json.Marshal(scene)
	if err != nil {
		t.Fatal(err)
	}
	process := start(t, box, "try", attempt.Name, string(text))
	defer process.Output().Close()
	if attempt.Unread {
		<-time.After(unread)
	}
	if attempt.Flood { // at its memory limit a process may do nothing but read its own code again: a function's timeout ends it
		timeout := time.AfterFunc(patience/2, func() {
			if err := box.Kill(context.Background()); err != nil {
				t.Errorf("kill: %v", err)
			}
		})
		defer timeout.Stop()
	}
	out := readTail(t, process.Output())
	exit := await(t, process)
	var breaches []string
	for line := range strings.Lines(out) {
		if breach, ok := strings.CutPrefix(line, hostile.BreachPrefix); ok {
			breaches = append(breaches, strings.TrimSpace(breach))
		}
	}
	reason, granted := hostile.Granted(s.Kind, attempt.Name)
	const couldNotTry = 3
	ended := attempt.Flood && exit.Code != couldNotTry || attempt.Crash && exit.Signal != 0
	switch {
	case len(breaches) > 0 && granted:
		t.Logf("granted, since %s: %s", reason, strings.Join(breaches, "; "))
	case len(breaches) > 0:
		t.Errorf("it could %s:\n%s", attempt.Tries, tail([]byte(out), 2000))
	case granted && !attempt.Flood: // a list that says more than it must would hide the day on which it is true
		t.Errorf("it is held, while hostile.Granted says that it need not be: %s", reason)
	case exit != (sandbox.Exit{}) && !ended:
		t.Errorf("exit %+v:\n%s", exit, tail([]byte(out), 2000))
	default:
		t.Logf("held, exit %+v:\n%s", exit, tail([]byte(out), 1000))
	}
}

// unread is how long nobody reads the output of an attempt that is made for that.
const unread = 4 * time.Second

// readTail reads to the end and returns the last part, where the verdict is.
func readTail(t *testing.T, r io.Reader) string {
	t.Helper()
	const most = 64 << 10
	var last []byte
	buffer := make([]byte, most)
	for {
		n, err := r.Read(buffer)
		last = tail(append(last, buffer[:n]...), most)
		if errors.Is(err, io.EOF) {
			return string(last)
		}
		if err != nil {
			t.Fatalf("read the output: %v", err)
		}
	}
}

// destroyWithin destroys a sandbox, which nothing inside may prevent.
func destroyWithin(t *testing.T, box sandbox.Sandbox) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := box.Destroy(ctx); err != nil {
		t.Errorf("destroy: %v", err)
	}
}

// standing is a victim on the host.
type standing struct {
	hostile.Victim
	clock int64 // the clock's offset when it was started
}

// clockOffset is the time of the host's clock when it was started, in seconds.
func clockOffset() int64 {
	var real, boot unix.Timespec
	unix.ClockGettime(unix.CLOCK_REALTIME, &real)
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot)
	return real.Sec - boot.Sec
}

// hostVictim starts a victim on the host.
func hostVictim(t *testing.T, s *suite) standing {
	t.Helper()
	cmd := exec.Command(filepath.Join(s.code, "probe"), "victim", fmt.Sprintf("host-%d", os.Getpid()), "/tmp", "/dev/shm")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(unix.SIGTERM)
		cmd.Wait()
	})
	return standing{readVictim(t, out), clockOffset()}
}

// neighbourVictim starts a victim in a sandbox of its own. Its PID means nothing elsewhere.
func neighbourVictim(t *testing.T, s *suite) hostile.Victim {
	t.Helper()
	process := start(t, s.sandbox(t, nil), "victim", "neighbour", "/tmp", "/dev/shm")
	t.Cleanup(func() { process.Output().Close() })
	victim := readVictim(t, process.Output())
	victim.PID = 0
	return victim
}

func readVictim(t *testing.T, out io.Reader) (victim hostile.Victim) {
	t.Helper()
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &victim)
	}
	if err != nil {
		t.Fatalf("the victim said %q: %v", line, err)
	}
	return victim
}

// hostListeners serves on every address of the host, and returns pairs of network and address.
func hostListeners(t *testing.T) (pairs []string) {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range addresses {
		ip := address.(*net.IPNet).IP
		if ip.To4() == nil && ip.IsLinkLocalUnicast() {
			continue
		}
		pairs = append(pairs, "tcp", serve(t, "tcp", net.JoinHostPort(ip.String(), "0")))
		pairs = append(pairs, "udp", echoUDP(t, net.JoinHostPort(ip.String(), "0")))
	}
	return pairs
}

// secretFiles makes files on the host that everyone may read and that hold the secret.
func secretFiles(t *testing.T, secret string) []string {
	t.Helper()
	paths := hostFiles(t)
	for _, path := range paths {
		if err := os.WriteFile(path, []byte(secret), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return paths
}

// hostState reads what attempts are after on the host.
func hostState(t *testing.T, victim standing) map[string]string {
	t.Helper()
	state := map[string]string{}
	for _, path := range []string{"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hostname",
		"/proc/sys/kernel/domainname", "/proc/sys/kernel/sysrq", "/proc/sys/vm/overcommit_memory", "/proc/sys/vm/nr_hugepages",
		"/proc/swaps", "/proc/self/oom_score_adj", "/sys/kernel/uevent_helper"} {
		text, _ := os.ReadFile(path)
		state[path] = string(text)
	}
	var clock unix.Timex
	if _, err := unix.Adjtimex(&clock); err != nil {
		t.Fatal(err)
	}
	state["the clock's tick"] = fmt.Sprint(clock.Tick)
	const minute = 60
	jump := clockOffset() - victim.clock
	state["the clock has been set"] = fmt.Sprint(jump > minute || jump < -minute)
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	state["the number of hostile mounts"] = fmt.Sprint(strings.Count(string(mounts), "lambent-hostile"))
	left, _ := filepath.Glob("/*/lambent-hostile*")
	state["files of attempts"] = strings.Join(left, " ")
	interfaces, _ := net.InterfaceByName("hostile0")
	state["the hostile interface"] = fmt.Sprint(interfaces != nil)
	stateOf(state, victim)
	return state
}

// stateOf reads what attempts are after in the victim.
func stateOf(state map[string]string, victim standing) {
	directory := fmt.Sprintf("/proc/%d", victim.PID)
	status, _ := os.ReadFile(directory + "/status")
	for line := range strings.Lines(string(status)) {
		for _, name := range []string{"TracerPid", "Cpus_allowed", "Seccomp"} {
			if strings.HasPrefix(line, name+":") {
				state["the victim's "+name] = line
			}
		}
		if strings.HasPrefix(line, "State:") {
			state["the victim is stopped or gone"] = fmt.Sprint(strings.ContainsAny(line, "TtZX"))
		}
	}
	priority, _ := unix.Getpriority(unix.PRIO_PROCESS, victim.PID)
	state["the victim's priority"] = fmt.Sprint(priority)
	limits, _ := os.ReadFile(directory + "/limits")
	state["the victim's limits"] = string(limits)
	secret := make([]byte, len(victim.Secret))
	if memory, err := os.Open(directory + "/mem"); err == nil {
		memory.ReadAt(secret, int64(victim.Address))
		memory.Close()
	}
	state["the victim's memory"] = string(secret)
	for _, path := range victim.Files {
		text, _ := os.ReadFile(path)
		state["the victim's "+path] = string(text)
	}
}
