// Package e2e drives the real binary as its users do: a process, its API, its command line.
package e2e

import (
	"archive/zip"
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

const (
	accessKey = "AKIAE2ETESTBENCH0001"
	secretKey = "e2e/secret/of/the/test/bench/00000000000"
	account   = "123456789012"
	region    = "eu-central-1"
)

// programs are what TestMain built: the binary under test and the functions for provided runtimes.
var programs struct{ lambent, echo, probe string }

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Getuid() != 0 {
		fmt.Println("SKIP: the end-to-end tests make sandboxes and need root")
		return 0
	}
	dir, err := os.MkdirTemp("", "lambent-e2e-")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	programs.lambent, programs.echo, programs.probe = filepath.Join(dir, "lambent"), filepath.Join(dir, "echo"), filepath.Join(dir, "probe")
	builds := [][2]string{{programs.echo, "lambent/bench/functions/echo"}, {programs.probe, "lambent/test/e2e/probe"}}
	if given := os.Getenv("LAMBENT_BINARY"); given != "" {
		programs.lambent = given
	} else {
		builds = append(builds, [2]string{programs.lambent, "lambent/cmd/lambent"})
	}
	for _, b := range builds {
		build := exec.Command("go", "build", "-trimpath", "-o", b[0], b[1])
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Printf("build %s: %v\n%s", b[1], err, out)
			return 1
		}
	}
	return m.Run()
}

// server is one running `lambent up`.
type server struct {
	t        testing.TB
	data     string
	endpoint string
	cmd      *exec.Cmd
	output   *lockedBuffer
	ended    chan struct{} // closed when the process has ended
	client   *lambda.Client
}

// start runs `lambent up` on a data directory and waits until it answers. It is ended with the test.
func start(t testing.TB, data string, args ...string) *server {
	t.Helper()
	s := launch(t, data, args...)
	s.awaitReady()
	return s
}

// launch is start without the wait.
func launch(t testing.TB, data string, args ...string) *server {
	t.Helper()
	s := &server{t: t, data: data, output: &lockedBuffer{}, ended: make(chan struct{})}
	addr := freeAddr(t)
	s.endpoint = "http://" + addr
	args = append([]string{"up", "--data", data, "--listen", addr, "--account", account, "--region", region, "--credentials", accessKey + ":" + secretKey}, args...)
	s.cmd = exec.Command(programs.lambent, args...)
	s.cmd.Stdout, s.cmd.Stderr = s.output, s.output
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.cmd.Wait(); close(s.ended) }()
	t.Cleanup(func() {
		s.cmd.Process.Signal(syscall.SIGTERM) // which leaves nothing behind, of killed predecessors neither
		select {
		case <-s.ended:
		case <-time.After(30 * time.Second):
			s.kill()
		}
		if t.Failed() {
			t.Logf("output of lambent up:\n%s", s.output.tail(16<<10))
		}
	})
	s.client = lambda.New(lambda.Options{
		BaseEndpoint: &s.endpoint, Region: region, RetryMaxAttempts: 1,
		HTTPClient: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 128}},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: accessKey, SecretAccessKey: secretKey}, nil
		}),
	})
	return s
}

// awaitReady waits until the region answers a request, which is then a refusal.
func (s *server) awaitReady() {
	s.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		resp, err := http.Get(s.endpoint)
		if err == nil {
			resp.Body.Close()
			return
		}
		select {
		case <-s.ended:
			s.t.Fatalf("lambent up ended:\n%s", s.output.tail(8<<10))
		case <-time.After(5 * time.Millisecond): // the port is another process's: there is no signal to wait for
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("lambent up does not answer:\n%s", s.output.tail(8<<10))
		}
	}
}

// stop sends SIGTERM and waits for a clean exit.
func (s *server) stop() {
	s.t.Helper()
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.ended:
	case <-time.After(30 * time.Second):
		s.t.Fatalf("lambent up does not drain within 30 s:\n%s", s.output.tail(8<<10))
	}
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		s.t.Fatalf("lambent up exited with %d:\n%s", code, s.output.tail(8<<10))
	}
}

// kill ends the server as a power cut would.
func (s *server) kill() {
	s.cmd.Process.Kill()
	<-s.ended
}

// function creates a function and waits until it is active.
func (s *server) function(name string, set func(*lambda.CreateFunctionInput)) {
	s.t.Helper()
	in := &lambda.CreateFunctionInput{
		FunctionName: &name, Role: aws.String("arn:aws:iam::" + account + ":role/e2e"), Timeout: aws.Int32(10), MemorySize: aws.Int32(256),
	}
	set(in)
	ctx := s.t.Context()
	if _, err := s.client.CreateFunction(ctx, in); err != nil {
		s.t.Fatalf("create %s: %v", name, err)
	}
	waiter := lambda.NewFunctionActiveV2Waiter(s.client, func(o *lambda.FunctionActiveV2WaiterOptions) { o.MinDelay = 20 * time.Millisecond })
	if err := waiter.Wait(ctx, &lambda.GetFunctionInput{FunctionName: &name}, 30*time.Second); err != nil {
		s.t.Fatalf("wait for %s: %v", name, err)
	}
}

// provided is the code of a function for provided.al2023.
func provided(program string) func(*lambda.CreateFunctionInput) {
	return func(in *lambda.CreateFunctionInput) {
		content, err := os.ReadFile(program)
		if err != nil {
			panic(err)
		}
		in.Runtime, in.Handler = types.RuntimeProvidedal2023, aws.String("bootstrap")
		in.Code = &types.FunctionCode{ZipFile: archive(file{"bootstrap", content, 0o755})}
	}
}

// source is the code of a function in an interpreted language; handler is "FILE.FUNCTION".
func source(runtime, name, handler, text string) func(*lambda.CreateFunctionInput) {
	return func(in *lambda.CreateFunctionInput) {
		in.Runtime, in.Handler = types.Runtime(runtime), &handler
		in.Code = &types.FunctionCode{ZipFile: archive(file{name, []byte(text), 0o644})}
	}
}

type file struct {
	name    string
	content []byte
	mode    os.FileMode
}

func archive(files ...file) []byte {
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for _, f := range files {
		header := &zip.FileHeader{Name: f.name, Method: zip.Deflate}
		header.SetMode(f.mode)
		entry, err := w.CreateHeader(header)
		if err == nil {
			_, err = entry.Write(f.content)
		}
		if err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

// invoke calls a function and fails the test when the platform does not answer.
func (s *server) invoke(name, payload string) *lambda.InvokeOutput {
	s.t.Helper()
	out, err := s.client.Invoke(s.t.Context(), &lambda.InvokeInput{FunctionName: &name, Payload: []byte(payload), LogType: types.LogTypeTail})
	if err != nil {
		s.t.Fatalf("invoke %s: %v", name, err)
	}
	return out
}

// descendants lists the living processes below a pid, 0 for all, each with its start time, so that a reused pid is not taken for it.
func descendants(t testing.TB, root int) map[int]string {
	t.Helper()
	parents, starts := map[int]int{}, map[int]string{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if ppid, start, ok := stat(pid); ok {
			parents[pid], starts[pid] = ppid, start
		}
	}
	found := map[int]string{}
	for pid := range parents {
		for up := parents[pid]; up > 1 || root == 0; up = parents[up] {
			if up == root {
				found[pid] = starts[pid]
				break
			}
		}
	}
	return found
}

// stat returns the parent and start time of a living process, zombies excluded.
func stat(pid int) (parent int, start string, ok bool) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, "", false
	}
	fields := strings.Fields(string(content[bytes.LastIndexByte(content, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return 0, "", false
	}
	parent, err = strconv.Atoi(fields[1])
	return parent, fields[19], err == nil
}

// alive returns those of the processes that still live.
func alive(processes map[int]string) []int {
	var left []int
	for pid, start := range processes {
		if _, now, ok := stat(pid); ok && now == start {
			left = append(left, pid)
		}
	}
	return left
}

// mountsBelow lists this host's mounts whose root or mount point names the directory.
func mountsBelow(t testing.TB, dir string) []string {
	t.Helper()
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var found []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if strings.Contains(lines.Text(), dir) {
			found = append(found, lines.Text())
		}
	}
	return found
}

func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// lockedBuffer keeps what the server prints.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *lockedBuffer) tail(n int) string {
	s := b.String()
	return s[max(0, len(s)-n):]
}

var _ io.Writer = (*lockedBuffer)(nil)
