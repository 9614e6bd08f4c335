// Command probe is a hostile function: each event names one thing to try, and the answer tells how far it came. The
// end-to-end tests run it in sandboxes only.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/aws/aws-lambda-go/lambda"
)

// Event names an attempt and its argument.
type Event struct {
	Try string `json:"try"`
	Arg string `json:"arg"`
}

// Answer tells what came of it. Reached is true when the attempt got what it must not get.
type Answer struct {
	Reached bool   `json:"reached"`
	Detail  string `json:"detail"`
}

var attempts = map[string]func(string) (Answer, error){
	"read": read, "walk": walk, "processes": processes, "environment": environment, "forks": forks, "allocate": allocate,
	"fill": fill, "socket": socket, "mount": mount, "ptrace": ptrace, "kill": killAll, "write": write, "connect": connect,
	"unshare": unshare, "setuid": setuid, "hold": hold, "say": say, "exit": exit,
}

func main() {
	lambda.Start(func(_ context.Context, e Event) (Answer, error) {
		attempt, ok := attempts[e.Try]
		if !ok {
			return Answer{}, fmt.Errorf("unknown attempt %q", e.Try)
		}
		return attempt(e.Arg)
	})
}

func failed(err error) Answer { return Answer{Detail: fmt.Sprint(err)} }

func read(path string) (Answer, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return failed(err), nil
	}
	return Answer{Reached: len(content) > 0, Detail: string(content[:min(len(content), 2000)])}, nil // what is masked is empty
}

// walk looks for a file of the given name anywhere.
func walk(name string) (Answer, error) {
	var found []string
	err := filepath.WalkDir("/", func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Name() == name {
			found = append(found, path)
		}
		if strings.HasPrefix(path, "/proc/") && strings.Count(path, "/") > 2 && d != nil && d.IsDir() {
			return filepath.SkipDir
		}
		return nil
	})
	return Answer{Reached: len(found) > 0, Detail: fmt.Sprint(found, err)}, nil
}

// processes tells which processes are seen: more than the sandbox's own few are too many.
func processes(string) (Answer, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return failed(err), nil
	}
	var seen []string
	for _, e := range entries {
		if strings.Trim(e.Name(), "0123456789") == "" {
			line, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
			seen = append(seen, e.Name()+":"+string(line))
		}
	}
	return Answer{Reached: len(seen) > 4, Detail: strings.Join(seen, " ")}, nil
}

// environment looks into the environments of other processes.
func environment(string) (Answer, error) {
	paths, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, p := range paths {
		if strings.HasPrefix(p, fmt.Sprintf("/proc/%d/", os.Getpid())) {
			continue
		}
		if content, err := os.ReadFile(p); err == nil && len(content) > 0 {
			return Answer{Reached: true, Detail: p + ": " + string(content)}, nil
		}
	}
	return Answer{Detail: fmt.Sprint(paths)}, nil
}

// forks starts processes until it cannot; more than the limit of 1,024 reaches too far.
func forks(string) (Answer, error) {
	var started []*exec.Cmd
	var last error
	for len(started) < 2000 {
		c := exec.Command("/bin/sleep", "30")
		if last = c.Start(); last != nil {
			break
		}
		started = append(started, c)
	}
	for _, c := range started {
		c.Process.Kill()
		c.Wait()
	}
	return Answer{Reached: len(started) >= 1024, Detail: fmt.Sprint(len(started), " ", last)}, nil
}

func allocate(string) (Answer, error) {
	var held [][]byte
	for i := range 10 << 10 {
		block := make([]byte, 1<<20)
		for j := 0; j < len(block); j += 4096 {
			block[j] = byte(i)
		}
		held = append(held, block)
	}
	return Answer{Reached: true, Detail: fmt.Sprint(len(held), " MiB")}, nil
}

// fill writes to /tmp until it cannot; more than the 600 MiB that the test allows reaches too far.
func fill(string) (Answer, error) {
	f, err := os.Create("/tmp/fill")
	if err != nil {
		return failed(err), nil
	}
	defer os.Remove("/tmp/fill")
	defer f.Close()
	block := make([]byte, 1<<20)
	written := 0
	for ; written < 2048; written++ {
		if _, err = f.Write(block); err != nil {
			break
		}
	}
	return Answer{Reached: written > 600 || written < 400 || !errors.Is(err, syscall.ENOSPC), Detail: fmt.Sprint(written, " MiB ", err)}, nil
}

func socket(kind string) (Answer, error) {
	kinds := map[string][3]int{
		"raw": {syscall.AF_INET, syscall.SOCK_RAW, syscall.IPPROTO_ICMP}, "packet": {syscall.AF_PACKET, syscall.SOCK_RAW, 0x300},
		"uevent": {syscall.AF_NETLINK, syscall.SOCK_RAW, syscall.NETLINK_KOBJECT_UEVENT}, "audit": {syscall.AF_NETLINK, syscall.SOCK_RAW, syscall.NETLINK_AUDIT},
		"vsock": {40, syscall.SOCK_STREAM, 0},
	}
	k, ok := kinds[kind]
	if !ok {
		return Answer{}, fmt.Errorf("unknown socket %q", kind)
	}
	fd, err := syscall.Socket(k[0], k[1], k[2])
	if err != nil {
		return failed(err), nil
	}
	syscall.Close(fd)
	return Answer{Reached: true}, nil
}

func mount(string) (Answer, error) {
	if err := syscall.Mount("none", "/tmp", "tmpfs", 0, ""); err != nil {
		return failed(err), nil
	}
	return Answer{Reached: true}, nil
}

func ptrace(string) (Answer, error) {
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PTRACE, syscall.PTRACE_ATTACH, 1, 0, 0, 0, 0); errno != 0 {
		return failed(errno), nil
	}
	return Answer{Reached: true}, nil
}

// killAll signals everything that it may: its own runtime may die of it, its neighbours must not.
func killAll(string) (Answer, error) {
	syscall.Kill(-1, syscall.SIGKILL)
	return Answer{Detail: "survived"}, nil
}

func write(path string) (Answer, error) {
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		return failed(err), nil
	}
	return Answer{Reached: true, Detail: path}, nil
}

func connect(addr string) (Answer, error) {
	network, address, _ := strings.Cut(addr, "!")
	conn, err := net.DialTimeout(network, address, 2*time.Second)
	if err != nil {
		return failed(err), nil
	}
	conn.Close()
	return Answer{Reached: true, Detail: addr}, nil
}

func unshare(string) (Answer, error) {
	if _, _, errno := syscall.RawSyscall(syscall.SYS_UNSHARE, syscall.CLONE_NEWUSER|syscall.CLONE_NEWNS, 0, 0); errno != 0 {
		return failed(errno), nil
	}
	return Answer{Reached: true}, nil
}

func setuid(string) (Answer, error) {
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETUID, 0, 0, 0); errno != 0 {
		return failed(errno), nil
	}
	return Answer{Reached: true}, nil
}

// hold answers when it began and ended, on the clock that all sandboxes of a host share, so that a test can count how many
// ran at once.
func hold(length string) (Answer, error) {
	d, err := time.ParseDuration(length)
	if err != nil {
		return Answer{}, err
	}
	begin := monotonic()
	time.Sleep(d)
	out, err := json.Marshal([2]int64{begin, monotonic()})
	return Answer{Detail: string(out)}, err
}

func say(text string) (Answer, error) {
	fmt.Println(text)
	return Answer{Detail: text}, nil
}

func exit(code string) (Answer, error) {
	os.Exit(len(code))
	return Answer{}, nil
}

func monotonic() int64 {
	var ts syscall.Timespec
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, 1 /* CLOCK_MONOTONIC */, uintptr(unsafe.Pointer(&ts)), 0)
	return ts.Nano()
}
