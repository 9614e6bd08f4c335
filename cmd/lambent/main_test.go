package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// runCommand runs a command line against an endpoint and returns its exit code and what it printed.
func runCommand(t *testing.T, url, stdin string, args ...string) (code int, out, errs string) {
	t.Helper()
	env := map[string]string{"HOME": t.TempDir()}
	if url != "" {
		for name, value := range map[string]string{
			"AWS_ENDPOINT_URL": url, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s",
		} {
			env[name] = value
		}
	}
	var stdout, stderr bytes.Buffer
	proc := &Process{In: strings.NewReader(stdin), Out: &stdout, Err: &stderr, Getenv: func(name string) string { return env[name] }}
	code = run(context.Background(), args, proc)
	return code, stdout.String(), stderr.String()
}

func TestCommandLineErrors(t *testing.T) {
	event := filepath.Join(t.TempDir(), "event.json")
	if err := os.WriteFile(event, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		args []string
		code int
		want string
	}{
		{[]string{"nonsense"}, exitUsage, "nonsense"},
		{[]string{"invoke"}, exitUsage, "name"},
		{[]string{"invoke", "f", "-d", "{}", "-f", event}, exitUsage, "can't be used together"},
		{[]string{"invoke", "f", "-d", "{oops"}, exitFailed, "not JSON"},
		{[]string{"invoke", "f", "-f", event + ".gone"}, exitFailed, "no such file"},
		{[]string{"invoke", "f", "--client-context", "{oops"}, exitFailed, "client context"},
		{[]string{"invoke", "f"}, exitFailed, "lambent up"},
		{[]string{"env"}, exitFailed, "lambent up"},
		{[]string{"list"}, exitFailed, "lambent up"},
		{[]string{"deploy"}, exitUsage, "path"},
		{[]string{"deploy", ".", "--env", "novalue"}, exitUsage, "novalue"},
		{[]string{"deploy", ".", "--memory", "much"}, exitUsage, "memory"},
		{[]string{"logs", "f", "--since", "yesterday"}, exitUsage, "since"},
		{[]string{"version"}, exitOK, ""},
	}
	for _, test := range tests {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			code, _, errs := runCommand(t, "", "", test.args...)
			if code != test.code || !strings.Contains(errs, test.want) {
				t.Errorf("got code %d and %q; want %d and %q", code, errs, test.code, test.want)
			}
		})
	}
}

func TestNothingListens(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	code, _, errs := runCommand(t, server.URL, "", "list")
	if code != exitFailed || !strings.Contains(errs, "nothing listens at "+server.URL) {
		t.Errorf("got code %d and %q", code, errs)
	}
}

// wire answers requests in the order of a script and keeps what it was sent.
type wire struct {
	t       *testing.T
	mu      sync.Mutex
	answers []answer
	got     []string
	bodies  []string
}

type answer struct {
	want    string // method and path, or the X-Amz-Target
	status  int
	headers map[string]string
	body    string
}

func serve(t *testing.T, answers ...answer) (*wire, string) {
	w := &wire{t: t, answers: answers}
	server := httptest.NewServer(w)
	t.Cleanup(server.Close)
	t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.answers) > 0 {
			t.Errorf("never asked for: %+v", w.answers)
		}
	})
	return w, server.URL
}

// ServeHTTP checks the request against the script's next line.
func (w *wire) ServeHTTP(out http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		w.t.Error(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	key := req.Method + " " + req.URL.Path
	if target := req.Header.Get("X-Amz-Target"); target != "" {
		key = target
	}
	w.got = append(w.got, key+"?"+req.URL.RawQuery)
	w.bodies = append(w.bodies, string(body))
	if !strings.HasPrefix(req.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=k/") {
		w.t.Errorf("%s is not signed", key)
	}
	if len(w.answers) == 0 || w.answers[0].want != key {
		w.t.Errorf("unexpected request %s, want %+v", key, w.answers)
		out.WriteHeader(http.StatusTeapot)
		return
	}
	next := w.answers[0]
	w.answers = w.answers[1:]
	for name, value := range next.headers {
		out.Header().Set(name, value)
	}
	out.WriteHeader(next.status)
	io.WriteString(out, next.body)
}

func TestInvoke(t *testing.T) {
	const path = "POST /2015-03-31/functions/f/invocations"
	tail := base64.StdEncoding.EncodeToString([]byte("REPORT\n"))
	tests := []struct {
		name      string
		args      []string
		answer    answer
		code      int
		out, errs string
		body      string
	}{
		{"event", []string{"-d", `{"a":1}`}, answer{path, 200, nil, `{"b":2}`}, 0, "{\"b\":2}\n", "", `{"a":1}`},
		{"from the standard input", []string{"-f", "-"}, answer{path, 200, nil, `null`}, 0, "null\n", "", `"stdin"`},
		{"log", []string{"--tail"}, answer{path, 200, map[string]string{"X-Amz-Log-Result": tail}, `1`}, 0, "1\n", "REPORT\n", ""},
		{"function error", nil, answer{path, 200, map[string]string{"X-Amz-Function-Error": "Unhandled"}, `{"errorType":"E"}`},
			1, "{\"errorType\":\"E\"}\n", "lambent: the function failed (Unhandled error)\n", ""},
		{"platform error", nil, answer{path, 404, map[string]string{"X-Amzn-Errortype": "ResourceNotFoundException"}, `{"Message":"Function not found: f"}`},
			1, "", "lambent: ResourceNotFoundException: Function not found: f\n", ""},
		{"throttled is not tried again", nil, answer{path, 429, map[string]string{"X-Amzn-Errortype": "TooManyRequestsException"}, `{"message":"Rate Exceeded."}`},
			1, "", "lambent: TooManyRequestsException: Rate Exceeded.\n", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w, url := serve(t, test.answer)
			code, out, errs := runCommand(t, url, `"stdin"`, append([]string{"invoke", "f"}, test.args...)...)
			if code != test.code || out != test.out || errs != test.errs {
				t.Errorf("got %d %q %q; want %d %q %q", code, out, errs, test.code, test.out, test.errs)
			}
			if w.bodies[0] != test.body {
				t.Errorf("sent %q, want %q", w.bodies[0], test.body)
			}
		})
	}
}

func TestInvokeOptionsReachTheWire(t *testing.T) {
	w, url := serve(t, answer{"POST /2015-03-31/functions/f/invocations", 200, nil, "1"})
	code, _, errs := runCommand(t, url, "", "invoke", "f", "--qualifier", "live", "--client-context", `{"custom":{}}`)
	if code != 0 || !strings.HasSuffix(w.got[0], "?Qualifier=live") {
		t.Errorf("got %d %q, sent %q", code, errs, w.got)
	}
}

const (
	configuration = `{"FunctionName":"fn","FunctionArn":"arn:aws:lambda:us-east-1:000000000000:function:fn","Runtime":"provided.al2023",` +
		`"Handler":"bootstrap","CodeSize":2048,"CodeSha256":"abc=","State":"Active","LastUpdateStatus":"Successful"}`
	functions = "/2015-03-31/functions"
)

func functionDir(t *testing.T) string {
	dir := filepath.Join(t.TempDir(), "fn")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bootstrap"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestDeployCreates(t *testing.T) {
	w, url := serve(t,
		answer{"GET " + functions + "/fn/configuration", 404, map[string]string{"X-Amzn-Errortype": "ResourceNotFoundException"}, `{}`},
		answer{"POST " + functions, 201, nil, configuration},
		answer{"GET " + functions + "/fn", 200, nil, `{"Configuration":{"State":"Pending"}}`},
		answer{"GET " + functions + "/fn", 200, nil, `{"Configuration":` + configuration + `}`},
		answer{"GET " + functions + "/fn/configuration", 200, nil, configuration},
	)
	code, out, errs := runCommand(t, url, "", "deploy", functionDir(t), "--memory", "256", "--timeout", "2m", "--env", "A=1,2", "--env", "B=")
	if code != 0 || !strings.Contains(out, "fn is ready") || !strings.Contains(out, "next: lambent invoke fn") {
		t.Fatalf("got %d %q %q", code, out, errs)
	}
	if !strings.Contains(errs, "packing") || !strings.Contains(errs, "uploading") {
		t.Errorf("no progress in %q", errs)
	}
	var sent struct {
		FunctionName, Runtime, Handler, Role string
		MemorySize, Timeout                  int
		Environment                          struct{ Variables map[string]string }
		Code                                 struct{ ZipFile []byte }
	}
	if err := json.Unmarshal([]byte(w.bodies[1]), &sent); err != nil {
		t.Fatal(err)
	}
	if got := unzip(t, sent.Code.ZipFile); !slices.Equal(got, []string{"-rwxr-xr-x bootstrap: #!/bin/sh\n"}) {
		t.Errorf("archive %q", got)
	}
	got := fmt.Sprintf("%s %s %s %s %d %d %v", sent.FunctionName, sent.Runtime, sent.Handler, sent.Role, sent.MemorySize, sent.Timeout, sent.Environment.Variables)
	if want := "fn provided.al2023 bootstrap arn:aws:iam::000000000000:role/lambent 256 120 map[A:1,2 B:]"; got != want {
		t.Errorf("sent %s\nwant %s", got, want)
	}
}

func TestDeployUpdates(t *testing.T) {
	w, url := serve(t,
		answer{"GET " + functions + "/other/configuration", 200, nil, configuration},
		answer{"PUT " + functions + "/other/code", 200, nil, configuration},
		answer{"GET " + functions + "/other", 200, nil, `{"Configuration":{"LastUpdateStatus":"InProgress"}}`},
		answer{"GET " + functions + "/other", 200, nil, `{"Configuration":{"LastUpdateStatus":"Successful"}}`},
		answer{"PUT " + functions + "/other/configuration", 200, nil, configuration},
		answer{"GET " + functions + "/other", 200, nil, `{"Configuration":{"LastUpdateStatus":"Successful"}}`},
		answer{"GET " + functions + "/other/configuration", 200, nil, configuration},
	)
	dir := functionDir(t)
	archive, err := bundle(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "fn.zip")
	if err := os.WriteFile(file, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, errs := runCommand(t, url, "", "deploy", file, "--name", "other"); code != 0 {
		t.Fatalf("got %d %q %q", code, out, errs)
	}
	for _, member := range []string{"Environment", "MemorySize", "Timeout", "Role"} {
		if strings.Contains(w.bodies[4], member) {
			t.Errorf("%s was not asked for and is changed: %s", member, w.bodies[4])
		}
	}
}

// The region says which runtimes it has; the interpreters beside the client count only where it does not.
func TestDeployPicksTheRegionsNewestRuntime(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "app.py"), []byte("def handler(event, context): pass"), 0o600); err != nil {
		t.Fatal(err)
	}
	deploy := DeployCmd{Path: dir}
	plan, _, err := deploy.prepare(t.Context(), newProgress(io.Discard), []string{"python3.98", "python3.99", "nodejs99.x", "provided.al2023"})
	if err != nil || plan.runtime != "python3.99" || plan.handler != "app.handler" {
		t.Errorf("got %s %s, %v", plan.runtime, plan.handler, err)
	}
}

func TestDeployFailsBeforeItSends(t *testing.T) {
	notZip := filepath.Join(t.TempDir(), "x.zip")
	if err := os.WriteFile(notZip, []byte("PK but no"), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		notZip:                                  "neither a directory nor a zip",
		t.TempDir():                             "no function",
		notZip + ".gone":                        "no such file",
		functionDir(t) + " --timeout 1500ms":    "whole seconds",
		functionDir(t) + " --role r --memory -": "memory",
	} {
		_, url := serve(t) // any request fails the test
		code, _, errs := runCommand(t, url, "", append([]string{"deploy"}, strings.Fields(args)...)...)
		if code == 0 || !strings.Contains(errs, want) {
			t.Errorf("deploy %s: got %d %q, want %q", args, code, errs, want)
		}
	}
}

func TestList(t *testing.T) {
	_, url := serve(t,
		answer{"GET " + functions, 200, nil, `{"Functions":[` + configuration + `],"NextMarker":"m"}`},
		answer{"GET " + functions, 200, nil, `{"Functions":[{"FunctionName":"second"}]}`},
	)
	code, out, errs := runCommand(t, url, "", "list")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != 0 || len(lines) != 3 || !strings.HasPrefix(lines[0], "NAME") || !strings.Contains(lines[1], "2.0 KiB") || !strings.HasPrefix(lines[2], "second") {
		t.Errorf("got %d %q %q", code, out, errs)
	}
}

func TestDelete(t *testing.T) {
	w, url := serve(t, answer{"DELETE " + functions + "/fn", 204, nil, ""})
	if code, _, errs := runCommand(t, url, "", "delete", "fn", "--qualifier", "3"); code != 0 || !strings.HasSuffix(w.got[0], "?Qualifier=3") {
		t.Errorf("got %d %q, sent %q", code, errs, w.got)
	}
}

func TestLogs(t *testing.T) {
	const target = "Logs_20140328.FilterLogEvents"
	w, url := serve(t,
		answer{"GET " + functions + "/fn/configuration", 200, nil, `{"FunctionName":"fn","LoggingConfig":{"LogGroup":"/mine"}}`},
		answer{target, 200, nil, `{"events":[{"eventId":"1","timestamp":1,"message":"one\n"}],"nextToken":"t"}`},
		answer{target, 200, nil, `{"events":[{"eventId":"2","timestamp":1,"message":"two"},{"eventId":"1","timestamp":1,"message":"one"}]}`},
	)
	code, out, errs := runCommand(t, url, "", "logs", "fn", "--since", "5m")
	if code != 0 || out != "one\ntwo\n" {
		t.Errorf("got %d %q %q", code, out, errs)
	}
	if !strings.Contains(w.bodies[1], `"logGroupName":"/mine"`) || !strings.Contains(w.bodies[2], `"nextToken":"t"`) {
		t.Errorf("sent %q", w.bodies[1:])
	}
}

func TestLogsErrors(t *testing.T) {
	const target = "Logs_20140328.FilterLogEvents"
	found := answer{"GET " + functions + "/fn/configuration", 200, nil, `{"FunctionName":"fn"}`}
	for _, test := range []struct {
		answer answer
		code   int
		errs   string
	}{
		{answer{target, 400, nil, `{"__type":"com.amazonaws#ResourceNotFoundException","message":"no group"}`}, 0, ""},
		{answer{target, 400, nil, `{"__type":"AccessDeniedException","message":"no"}`}, 1, "lambent: AccessDeniedException: no\n"},
		{answer{target, 502, nil, `<html>`}, 1, "lambent: HTTP 502 Bad Gateway: <html>\n"},
		{answer{target, 200, nil, `<html>`}, 1, "decode"},
	} {
		_, url := serve(t, found, test.answer)
		if code, _, errs := runCommand(t, url, "", "logs", "fn"); code != test.code || !strings.Contains(errs, test.errs) {
			t.Errorf("%s: got %d %q", test.answer.body, code, errs)
		}
	}
}

// A line that another host ships late is printed, and none is printed twice.
func TestLogReaderOverlaps(t *testing.T) {
	r := &logReader{from: 0, seen: map[string]int64{}}
	round := func(events ...logEvent) string {
		var ids []string
		for _, event := range r.fresh(events) {
			ids = append(ids, event.EventID)
		}
		r.advance()
		return strings.Join(ids, ",")
	}
	at := func(id string, ms int64) logEvent { return logEvent{EventID: id, Timestamp: ms} }
	for i, step := range []struct{ got, want string }{
		{round(at("a", 1000), at("b", 20_000)), "a,b"},
		{round(at("late", 15_000), at("b", 20_000)), "late"},
		{round(at("late", 15_000), at("b", 20_000), at("c", 20_000)), "c"},
		{round(), ""},
	} {
		if step.got != step.want {
			t.Errorf("round %d: got %q, want %q", i, step.got, step.want)
		}
	}
	if r.from != 10_000 || len(r.seen) != 3 {
		t.Errorf("from %d, %d seen: want 10000 and 3, so that memory stays bounded", r.from, len(r.seen))
	}
}
