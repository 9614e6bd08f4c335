package runtimes

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"lambent"
)

const (
	requestID = "8476a536-e9f4-11e8-9739-2dfe598c3fcd"
	arn       = "arn:aws:lambda:us-east-1:000000000000:function:fn"
)

// registry is shared by the tests, because the first Open runs every interpreter.
var registry = sync.OnceValues(func() (*Registry, error) {
	dir, err := os.MkdirTemp("", "runtimes-test-")
	if err != nil {
		return nil, err
	}
	return Open(Options{Dir: dir})
})

// openRegistry returns the registry of this host. It must have an interpreter of the language.
func openRegistry(t *testing.T, wanted string) (*Registry, []string) {
	t.Helper()
	r, err := registry()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, available := range r.Available() {
		if language(available.Name) == wanted {
			found = append(found, available.Name)
		}
	}
	if len(found) == 0 {
		t.Fatalf("this host has no %s to test with", wanted)
	}
	return r, found
}

func TestMain(m *testing.M) {
	if os.Getenv("RUNTIMES_TEST_ENTER") != "" {
		enter() // does not return
	}
	code := m.Run()
	if r, err := registry(); err == nil {
		os.RemoveAll(filepath.Dir(r.base[slices.IndexFunc(r.base, isEtc)].Source))
	}
	os.Exit(code)
}

// event is what the Runtime API answers to a request for the next one.
type event struct {
	body   string
	header map[string]string
}

// post is what a bootstrap posted.
type post struct {
	path, errorType, contentType string
	body                         string
}

// api is a Runtime API for one process.
type api struct {
	address string
	events  chan event
	posts   chan post
	answer  func(post) int // the status of a post; nil: 202
}

func startAPI(t *testing.T, answer func(post) int) *api {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &api{address: listener.Addr().String(), events: make(chan event), posts: make(chan post, 100), answer: answer}
	server := &http.Server{Handler: a}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	return a
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet && r.URL.Path == "/2018-06-01/runtime/invocation/next" {
		select {
		case e := <-a.events:
			header := w.Header()
			header.Set("Lambda-Runtime-Aws-Request-Id", requestID)
			header.Set("Lambda-Runtime-Invoked-Function-Arn", arn)
			header.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(time.Now().Add(time.Minute).UnixMilli(), 10))
			header.Set("Content-Length", strconv.Itoa(len(e.body)))
			for name, value := range e.header {
				header.Set(name, value)
			}
			io.WriteString(w, e.body)
		case <-r.Context().Done():
		}
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	p := post{strings.TrimPrefix(r.URL.Path, "/2018-06-01/runtime/"), r.Header.Get("Lambda-Runtime-Function-Error-Type"),
		r.Header.Get("Content-Type"), string(body)}
	status := http.StatusAccepted
	if a.answer != nil {
		status = a.answer(p)
	}
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(status)
	a.posts <- p
}

// function is a function under test, as files by name.
type function struct {
	runtime string
	handler string
	files   map[string]string
	env     map[string]string
	logging lambent.Logging
	answer  func(post) int
}

// process is a function that runs outside of a sandbox, with its code in a temporary directory.
type process struct {
	*api
	task    string
	command *exec.Cmd
	output  *bytes.Buffer
	ended   chan struct{}
}

func start(t *testing.T, r *Registry, f function) *process {
	t.Helper()
	p := &process{api: startAPI(t, f.answer), task: t.TempDir(), ended: make(chan struct{})}
	for name, content := range f.files {
		write(t, filepath.Join(p.task, name), content)
	}
	version := &lambent.FunctionVersion{Runtime: f.runtime, Handler: f.handler, MemoryMiB: 128, Environment: f.env,
		FunctionName: lambent.FunctionName{Name: "fn"}, Logging: f.logging}
	launch, err := r.Launch(version)
	if err != nil {
		t.Fatal(err)
	}
	found := r.interpreters[f.runtime]
	outside := strings.NewReplacer(taskRoot, p.task, runtimeDir, found.Bootstrap, langDir+"/bin/python"+majorMinor(found.Version),
		found.Path, langDir+"/bin/node", found.Path)
	p.command = exec.Command(outside.Replace(launch.Command.Path))
	p.command.Args = nil
	for _, arg := range launch.Command.Args {
		p.command.Args = append(p.command.Args, outside.Replace(arg))
	}
	for _, variable := range launch.Command.Env {
		p.command.Env = append(p.command.Env, outside.Replace(variable))
	}
	p.command.Env = append(p.command.Env, "AWS_LAMBDA_RUNTIME_API="+p.address, "AWS_LAMBDA_LOG_STREAM_NAME=stream")
	p.command.Dir = p.task
	p.run(t)
	return p
}

// run starts the process's command.
func (p *process) run(t *testing.T) {
	t.Helper()
	p.output = &bytes.Buffer{}
	p.command.Stdout, p.command.Stderr = p.output, p.output
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		p.command.Wait()
	}()
	t.Cleanup(func() { p.stop() })
}

// invoke sends an event and returns what the function posted.
func (p *process) invoke(t *testing.T, e event) post {
	t.Helper()
	p.send(t, e)
	return p.posted(t)
}

func (p *process) send(t *testing.T, e event) {
	t.Helper()
	select {
	case p.events <- e:
	case <-p.ended:
		t.Fatalf("the process ended: %v\n%s", p.command.ProcessState, p.output)
	case <-time.After(20 * time.Second):
		t.Fatal("the process does not ask for an event")
	}
}

func (p *process) posted(t *testing.T) post {
	t.Helper()
	select {
	case posted := <-p.posts:
		posted.body = strings.ReplaceAll(posted.body, p.task, taskRoot)
		return posted
	case <-time.After(20 * time.Second):
		t.Fatalf("nothing was posted; the log:\n%s", p.stop())
		return post{}
	}
}

// stop kills the process and returns its log, with its times and places masked.
func (p *process) stop() string {
	p.command.Process.Kill()
	<-p.ended
	return mask(p.output.String(), p.task)
}

// exit waits for the process to end by itself, and returns its status and log.
func (p *process) exit(t *testing.T) (int, string) {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(20 * time.Second):
		t.Fatalf("the process does not end; the log:\n%s", p.stop())
	}
	return p.command.ProcessState.ExitCode(), mask(p.output.String(), p.task)
}

var timestamps = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z`)

func mask(log, task string) string {
	return timestamps.ReplaceAllString(strings.ReplaceAll(log, task, taskRoot), "TIME")
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
}

// respond is the post of a response.
func respond(body string) post {
	return post{path: "invocation/" + requestID + "/response", contentType: "application/json", body: body}
}

// failed is the post of an invoke's error.
func failed(kind, body string) post {
	return post{"invocation/" + requestID + "/error", kind, "application/json", body}
}

// initFailed is the post of an initialisation's error.
func initFailed(kind, body string) post { return post{"init/error", kind, "application/json", body} }
