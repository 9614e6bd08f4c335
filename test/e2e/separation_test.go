package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"golang.org/x/sys/unix"

	"lambent"
)

// service returns the process that serves what clients and sandboxes say.
func (s *server) service() int {
	s.t.Helper()
	for pid := range descendants(s.t, s.cmd.Process.Pid) {
		command, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
		if err == nil && strings.HasSuffix(string(command), "\x00service\x00") {
			return pid
		}
	}
	s.t.Fatal("there is no service")
	return 0
}

// TestServiceHasNoRights checks that what parses requests and responses is nobody, may do nothing, and that what has rights listens
// nowhere.
func TestServiceHasNoRights(t *testing.T) {
	s := start(t, t.TempDir())
	pid := s.service()
	tasks, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/status")
	if err != nil || len(tasks) == 0 {
		t.Fatalf("threads are %q, %v", tasks, err)
	}
	none := strings.Repeat("0", 16)
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue // the thread has ended
		}
		fields := map[string][]string{}
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(line, ":")
			fields[name] = strings.Fields(value)
		}
		for name, want := range map[string]string{"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none,
			"NoNewPrivs": "1", "Seccomp": "2"} {
			if !slices.Equal(fields[name], []string{want}) {
				t.Errorf("%s: %s is %q", task, name, fields[name])
			}
		}
		if len(fields["Groups"]) > 0 || slices.Contains(fields["Uid"], "0") || slices.Contains(fields["Gid"], "0") {
			t.Errorf("%s: users %q, groups %q %q", task, fields["Uid"], fields["Gid"], fields["Groups"])
		}
	}
	if sockets := listening(t, s.cmd.Process.Pid); len(sockets) > 0 {
		t.Errorf("the privileged part listens on %q", sockets)
	}
	if sockets := listening(t, pid); len(sockets) == 0 {
		t.Error("the service listens nowhere, so that this test finds nothing")
	}
}

// listening lists the TCP sockets of a process that listen in its network namespace.
func listening(t *testing.T, pid int) []string {
	t.Helper()
	proc := "/proc/" + strconv.Itoa(pid)
	inodes := map[string]string{}
	for _, name := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(proc + "/net/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if fields := strings.Fields(line); len(fields) > 9 && fields[3] == "0A" {
				inodes["socket:["+fields[9]+"]"] = fields[1]
			}
		}
	}
	links, err := filepath.Glob(proc + "/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && inodes[target] != "" {
			found = append(found, inodes[target])
		}
	}
	return found
}

// TestServiceKilled kills the service: the privileged part notices, ends every sandbox, and ends.
func TestServiceKilled(t *testing.T) {
	s := start(t, t.TempDir())
	s.function("echo", provided(programs.echo))
	s.invoke("echo", `{}`)
	if len(cgroupsOf(t, s.data)) == 0 {
		t.Error("a region that runs has no cgroups, so that this test finds nothing")
	}
	processes := descendants(t, s.cmd.Process.Pid)
	if err := syscall.Kill(s.service(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.ended:
	case <-time.After(20 * time.Second):
		t.Fatal("lambent up goes on without its service")
	}
	if code := s.cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("it exited with %d", code)
	}
	if left := alive(processes); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
	if left := append(mountsBelow(t, s.data), cgroupsOf(t, s.data)...); len(left) > 0 {
		t.Errorf("left are %q", left)
	}
}

// TestHostKilled kills the privileged part: the service and every sandbox, whatever it is made of, end by themselves.
func TestHostKilled(t *testing.T) {
	s := start(t, t.TempDir())
	for _, isolation := range lambent.Isolations() {
		name := "echo-" + string(isolation)
		s.function(name, under(isolation, func(in *lambda.CreateFunctionInput) { provided(programs.echo)(in); in.Timeout = aws.Int32(60) }))
		s.invoke(name, `{}`)
	}
	var all []unix.PollFd
	for pid := range descendants(t, s.cmd.Process.Pid) {
		if fd, err := unix.PidfdOpen(pid, 0); err == nil { // else it has ended
			defer unix.Close(fd)
			all = append(all, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		}
	}
	if len(all) < 6 {
		t.Errorf("the region has only %d processes", len(all))
	}
	s.kill()
	for deadline := time.Now().Add(20 * time.Second); len(all) > 0; {
		n, err := unix.Poll(all, int(time.Until(deadline).Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n <= 0 || err != nil {
			t.Fatalf("%d processes go on without the privileged part: %v", len(all), err)
		}
		all = slices.DeleteFunc(all, func(p unix.PollFd) bool { return p.Revents != 0 })
	}
	start(t, s.data).invoke("echo-native", `{}`)
}
