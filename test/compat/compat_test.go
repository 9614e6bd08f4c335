// Package compat drives the real binary with the clients that people have: the AWS CLI, the SDKs, Terraform.
package compat

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/google/go-cmp/cmp"
)

const (
	accessKey = "AKIACOMPATTESTS00001"
	secretKey = "compat/secret/of/the/tests/0000000000000"
	account   = "123456789012"
	region    = "eu-central-1"
	role      = "arn:aws:iam::" + account + ":role/compat"
	runtime   = "provided.al2023"
	payload   = `{"text":"grüße <&>","n":1.50,"list":[1,{"a":null}]}`
)

// programs are what TestMain built: the binary under test and the archive of a function that answers what it was sent.
var programs struct{ lambent, archive string }

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Getuid() != 0 {
		fmt.Println("SKIP: the tests with clients make sandboxes and need root")
		return 0
	}
	dir, err := os.MkdirTemp("", "lambent-compat-")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	echo := filepath.Join(dir, "echo")
	programs.lambent, programs.archive = filepath.Join(dir, "lambent"), filepath.Join(dir, "echo.zip")
	builds := [][2]string{{echo, "lambent/bench/functions/echo"}}
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
	if err := pack(echo, programs.archive); err != nil {
		fmt.Println(err)
		return 1
	}
	return m.Run()
}

// pack writes the archive of a function for provided runtimes.
func pack(program, archive string) error {
	content, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	header := &zip.FileHeader{Name: "bootstrap", Method: zip.Deflate}
	header.SetMode(0o755)
	entry, err := w.CreateHeader(header)
	if err == nil {
		_, err = entry.Write(content)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return err
	}
	return os.WriteFile(archive, buf.Bytes(), 0o644)
}

// start runs `lambent up` and returns its endpoint when it serves.
func start(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().String()
	listener.Close()
	var output bytes.Buffer
	cmd := exec.Command(programs.lambent, "up", "--data", t.TempDir(), "--listen", addr, "--account", account, "--region", region, "--credentials", accessKey+":"+secretKey)
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Logf("output of lambent up:\n%s", output.String())
		}
	})
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		if conn, err := net.Dial("tcp", addr); err == nil {
			conn.Close()
			return "http://" + addr
		}
		select {
		case <-ended:
			t.Fatal("lambent up ended")
		case <-time.After(10 * time.Millisecond): // the port is another process's: there is no signal to wait for
		}
	}
	t.Fatal("lambent up does not answer")
	return ""
}

// environment is what clients are pointed at an endpoint with, and nothing of the caller's own AWS configuration.
func environment(t *testing.T, endpoint string) []string {
	var kept []string
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "AWS_") {
			kept = append(kept, variable)
		}
	}
	return append(kept, "AWS_ENDPOINT_URL="+endpoint, "AWS_REGION="+region, "AWS_DEFAULT_REGION="+region, "AWS_ACCESS_KEY_ID="+accessKey,
		"AWS_SECRET_ACCESS_KEY="+secretKey, "AWS_EC2_METADATA_DISABLED=true", "AWS_PAGER=", "AWS_CONFIG_FILE="+filepath.Join(t.TempDir(), "config"), "AWS_MAX_ATTEMPTS=1",
		"PYTHONUTF8=1", "NO_PROXY=127.0.0.1")
}

// clients returns the directory with the Python and JavaScript clients.
func clients(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("LAMBENT_TEST_CLIENTS")
	if dir == "" {
		t.Skip("SKIPPED: LAMBENT_TEST_CLIENTS is not set, so there are no clients to test with (make test sets it)")
	}
	return dir
}

// command runs a client and returns its output.
func command(t *testing.T, env []string, name string, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = env
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s%s", name, args, err, out, complaints.String())
	}
	return out
}

// Both SDKs go through the whole API and have to see the same.
func TestTheSDKsSeeTheSame(t *testing.T) {
	dir := clients(t)
	endpoint := start(t)
	env := environment(t, endpoint)
	runs := map[string][]string{
		"python": {filepath.Join(dir, "venv/bin/python3"), "testdata/client.py"},
		"node":   {"node", "testdata/client.mjs"},
	}
	reports := map[string]map[string]any{}
	for name, run := range runs {
		t.Run(name, func(t *testing.T) {
			var report map[string]any
			out := command(t, env, run[0], run[1], "sdk", programs.archive, runtime)
			if err := json.Unmarshal(out, &report); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			reports[name] = report
		})
	}
	if t.Failed() {
		return
	}
	python := reports["python"]
	if python["account"] != account || python["logged"] != true {
		t.Errorf("python: account %v, logged %v", python["account"], python["logged"])
	}
	delete(python, "account")
	delete(python, "logged")
	if diff := cmp.Diff(python, reports["node"]); diff != "" {
		t.Errorf("python and node differ: %s", diff)
	}
	invoked := []any{200.0, "$LATEST", hex.EncodeToString([]byte(payload)), "", true}
	missing := []any{404.0, "ResourceNotFoundException", "Function not found: arn:aws:lambda:" + region + ":" + account + ":function:sdk-none"}
	for member, want := range map[string]any{"invoked": invoked, "missing": missing, "code": true, "reserved": 5.0, "dry run": 204.0,
		"bad role": []any{400.0, "ValidationException"}, "tags now": map[string]any{"stage": "x/y+z"}, "versions": []any{"$LATEST", "1"}} {
		if diff := cmp.Diff(want, python[member]); diff != "" {
			t.Errorf("%s: %s", member, diff)
		}
	}
}

// client makes functions and invokes them.
type client struct {
	create func(t *testing.T, function string)
	invoke func(t *testing.T, function string) []byte
}

// The same function, made with any client, answers the same bytes to each.
func TestTheSameBytesToEach(t *testing.T) {
	dir := clients(t)
	endpoint := start(t)
	env := environment(t, endpoint)
	all := map[string]client{
		"go": goClient(endpoint), "cli": cliClient(env, filepath.Join(dir, "venv/bin/aws"), filepath.Join(dir, "venv/bin/python3")),
		"boto3": scriptClient(env, filepath.Join(dir, "venv/bin/python3"), "testdata/one.py"), "node": scriptClient(env, "node", "testdata/one.mjs"),
	}
	for name, c := range all {
		c.create(t, "by-"+name)
	}
	for creator := range all {
		for invoker, c := range all {
			if got := c.invoke(t, "by-"+creator); string(got) != payload {
				t.Errorf("made with %s, invoked with %s: %q", creator, invoker, got)
			}
		}
	}
}

func goClient(endpoint string) client {
	api := lambda.New(lambda.Options{BaseEndpoint: &endpoint, Region: region, RetryMaxAttempts: 1,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: accessKey, SecretAccessKey: secretKey}, nil
		})})
	return client{
		create: func(t *testing.T, function string) {
			content, err := os.ReadFile(programs.archive)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := api.CreateFunction(t.Context(), &lambda.CreateFunctionInput{FunctionName: &function, Runtime: types.Runtime(runtime), Role: aws.String(role),
				Handler: aws.String("bootstrap"), Code: &types.FunctionCode{ZipFile: content}}); err != nil {
				t.Fatal(err)
			}
			if err := lambda.NewFunctionActiveV2Waiter(api).Wait(t.Context(), &lambda.GetFunctionInput{FunctionName: &function}, 30*time.Second); err != nil {
				t.Fatal(err)
			}
		},
		invoke: func(t *testing.T, function string) []byte {
			out, err := api.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: &function, Payload: []byte(payload)})
			if err != nil {
				t.Fatal(err)
			}
			return out.Payload
		},
	}
}

// cliClient runs the AWS CLI with the interpreter that it was installed with.
func cliClient(env []string, aws, python string) client {
	run := func(t *testing.T, args ...string) {
		t.Helper()
		command(t, env, python, append([]string{aws, "lambda"}, args...)...)
	}
	return client{
		create: func(t *testing.T, function string) {
			run(t, "create-function", "--function-name", function, "--runtime", runtime, "--role", role, "--handler", "bootstrap", "--zip-file", "fileb://"+programs.archive)
			run(t, "wait", "function-active-v2", "--function-name", function)
		},
		invoke: func(t *testing.T, function string) []byte {
			t.Helper()
			dir := t.TempDir()
			in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
			if err := os.WriteFile(in, []byte(payload), 0o644); err != nil {
				t.Fatal(err)
			}
			run(t, "invoke", "--function-name", function, "--payload", "fileb://"+in, out)
			content, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			return content
		},
	}
}

// scriptClient runs a script that creates or invokes one function.
func scriptClient(env []string, interpreter, script string) client {
	return client{
		create: func(t *testing.T, function string) {
			t.Helper()
			command(t, env, interpreter, script, "create", function, programs.archive, runtime)
		},
		invoke: func(t *testing.T, function string) []byte {
			t.Helper()
			return command(t, env, interpreter, script, "invoke", function, payload)
		},
	}
}
