package e2e

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

// A function lives through a stop and a start, with its versions, aliases and settings.
func TestRestartKeepsEverything(t *testing.T) {
	data := t.TempDir()
	s := start(t, data)
	ctx := t.Context()
	s.function("keeper", provided(programs.echo))
	if out := s.invoke("keeper", `{"a":1}`); string(out.Payload) != `{"a":1}` {
		t.Fatalf("answered %s", out.Payload)
	}
	name := aws.String("keeper")
	version, err := s.client.PublishVersion(ctx, &lambda.PublishVersionInput{FunctionName: name})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.CreateAlias(ctx, &lambda.CreateAliasInput{FunctionName: name, Name: aws.String("live"), FunctionVersion: version.Version}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.PutFunctionConcurrency(ctx, &lambda.PutFunctionConcurrencyInput{FunctionName: name, ReservedConcurrentExecutions: aws.Int32(7)}); err != nil {
		t.Fatal(err)
	}
	processes := descendants(t, s.cmd.Process.Pid)
	if len(processes) == 0 {
		t.Fatal("a warm sandbox has no process")
	}
	s.stop()
	if left := alive(processes); len(left) > 0 {
		t.Errorf("processes left after SIGTERM: %v", left)
	}
	if left := mountsBelow(t, data); len(left) > 0 {
		t.Errorf("mounts left after SIGTERM: %v", left)
	}

	s = start(t, data)
	got, err := s.client.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: name, Qualifier: aws.String("live")})
	if err != nil {
		t.Fatal(err)
	}
	if got.Concurrency == nil || *got.Concurrency.ReservedConcurrentExecutions != 7 {
		t.Errorf("reserved concurrency after the restart: %v", got.Concurrency)
	}
	out, err := s.client.Invoke(ctx, &lambda.InvokeInput{FunctionName: name, Qualifier: aws.String("live"), Payload: []byte(`"again"`)})
	if err != nil {
		t.Fatal(err)
	}
	if string(out.Payload) != `"again"` || *out.ExecutedVersion != "1" {
		t.Errorf("answered %s by version %s", out.Payload, *out.ExecutedVersion)
	}
}

func TestSecondUpOnTheSameDataSaysSo(t *testing.T) {
	data := t.TempDir()
	start(t, data)
	second := launch(t, data)
	select {
	case <-second.ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the second lambent up runs on")
	}
	if second.cmd.ProcessState.ExitCode() == 0 || !strings.Contains(second.output.String(), data) {
		t.Errorf("exit code %d, output %q", second.cmd.ProcessState.ExitCode(), second.output)
	}
}

// The promise is one second; the test allows for a machine that runs other tests at the same time.
func TestStartOnExistingDataIsQuick(t *testing.T) {
	data := t.TempDir()
	s := start(t, data)
	s.function("quick", provided(programs.echo))
	s.stop()
	began := time.Now()
	s = start(t, data)
	if _, err := s.client.ListFunctions(t.Context(), &lambda.ListFunctionsInput{}); err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	t.Logf("first answer after %v", took)
	if took > 5*time.Second {
		t.Errorf("first answer after %v", took)
	}
}

// SIGTERM lets running invokes finish.
func TestDrain(t *testing.T) {
	s := start(t, t.TempDir())
	s.function("slow", provided(programs.probe))
	s.invoke("slow", `{"try":"say","arg":"warm"}`)
	answered := make(chan error, 1)
	ctx := t.Context()
	go func() {
		out, err := s.client.Invoke(ctx, &lambda.InvokeInput{FunctionName: aws.String("slow"), Payload: []byte(`{"try":"hold","arg":"2s"}`)})
		if err == nil && (out.FunctionError != nil || !strings.Contains(string(out.Payload), "detail")) {
			err = fmt.Errorf("answered %s", out.Payload)
		}
		answered <- err
	}()
	<-time.After(500 * time.Millisecond) // nothing outside tells that an invoke has reached its function
	s.stop()
	if err := <-answered; err != nil {
		t.Errorf("the invoke that ran during the drain: %v", err)
	}
}

// After SIGKILL the next start cleans what the sandboxes left.
func TestStartAfterKillCleansUp(t *testing.T) {
	data := t.TempDir()
	s := start(t, data)
	s.function("victim", provided(programs.echo))
	s.invoke("victim", `1`)
	processes := descendants(t, s.cmd.Process.Pid)
	s.kill()
	s = start(t, data)
	if left := alive(processes); len(left) > 0 {
		t.Errorf("processes left of the killed region: %v", left)
	}
	if out := s.invoke("victim", `2`); string(out.Payload) != "2" {
		t.Errorf("answered %s", out.Payload)
	}
	s.stop()
	if left := mountsBelow(t, data); len(left) > 0 {
		t.Errorf("mounts left: %v", left)
	}
}

// The client commands of the binary work against the region that they find in the data directory.
func TestCommandLine(t *testing.T) {
	data := t.TempDir()
	s := start(t, data)
	code := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(code+"/"+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("lambda_function.py", "def lambda_handler(event, context):\n    print('seen', event['n'])\n    return {'n': event['n'] + 1}\n")
	run := func(args ...string) (string, error) {
		c := exec.Command(programs.lambent, append([]string{args[0], "--data", data}, args[1:]...)...)
		c.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
		out, err := c.CombinedOutput()
		return string(out), err
	}
	if out, err := run("env"); err != nil || !strings.Contains(out, s.endpoint) || !strings.Contains(out, accessKey) {
		t.Fatalf("env: %v\n%s", err, out)
	}
	for range 2 { // creates, then updates
		if out, err := run("deploy", code, "--name", "plus"); err != nil {
			t.Fatalf("deploy: %v\n%s", err, out)
		}
	}
	if out, err := run("invoke", "plus", "-d", `{"n": 41}`); err != nil || !strings.Contains(out, `{"n": 42}`) {
		t.Errorf("invoke: %v\n%s", err, out)
	}
	if out, err := run("list"); err != nil || !strings.Contains(out, "plus") {
		t.Errorf("list: %v\n%s", err, out)
	}
	if out, err := run("logs", "plus"); err != nil || !strings.Contains(out, "seen 41") {
		t.Errorf("logs: %v\n%s", err, out)
	}
	if out, err := run("delete", "plus"); err != nil {
		t.Errorf("delete: %v\n%s", err, out)
	}
	if out, err := run("invoke", "plus"); err == nil || !strings.Contains(out, "not found") {
		t.Errorf("invoke of a deleted function: %v\n%s", err, out)
	}
}

func TestUnsignedRequestIsRefused(t *testing.T) {
	s := start(t, t.TempDir())
	resp, err := http.Get(s.endpoint + "/2015-03-31/functions/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden || resp.Header.Get("x-amzn-ErrorType") != "MissingAuthenticationTokenException" {
		t.Errorf("status %d, type %q", resp.StatusCode, resp.Header.Get("x-amzn-ErrorType"))
	}
}

// Lambda's failures are answers with the payloads that Lambda gives.
func TestFailures(t *testing.T) {
	s := start(t, t.TempDir())
	s.function("probe", func(in *lambda.CreateFunctionInput) {
		provided(programs.probe)(in)
		in.Timeout, in.MemorySize = aws.Int32(2), aws.Int32(128)
	})
	tests := map[string]struct{ payload, kind, message, log string }{
		"timeout": {`{"try":"hold","arg":"60s"}`, "", "Task timed out after 2.00 seconds", "Task timed out after 2.00 seconds"},
		"crash":   {`{"try":"exit","arg":"xxx"}`, "Runtime.ExitError", "Error: Runtime exited with error: exit status 3", "Runtime.ExitError"},
		"memory":  {`{"try":"allocate"}`, "Runtime.OutOfMemory", "Error: Runtime exited with error: signal: killed", "Runtime.OutOfMemory"},
		"handler": {`{"try":"nothing"}`, "errorString", "unknown attempt", "END RequestId"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			out := s.invoke("probe", test.payload)
			if aws.ToString(out.FunctionError) != "Unhandled" {
				t.Errorf("function error %q", aws.ToString(out.FunctionError))
			}
			if !strings.Contains(string(out.Payload), test.message) || !strings.Contains(string(out.Payload), test.kind) {
				t.Errorf("payload %s", out.Payload)
			}
			log, err := base64.StdEncoding.DecodeString(aws.ToString(out.LogResult))
			if err != nil || !strings.Contains(string(log), test.log) || !strings.Contains(string(log), "REPORT RequestId") {
				t.Errorf("log %s %v", log, err)
			}
			if again := s.invoke("probe", `{"try":"say","arg":"well"}`); again.FunctionError != nil {
				t.Errorf("the next invoke: %s", again.Payload)
			}
		})
	}
}

func TestThrottleReason(t *testing.T) {
	s := start(t, t.TempDir())
	s.function("closed", provided(programs.echo))
	ctx := t.Context()
	if _, err := s.client.PutFunctionConcurrency(ctx, &lambda.PutFunctionConcurrencyInput{FunctionName: aws.String("closed"), ReservedConcurrentExecutions: aws.Int32(0)}); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		_, err := s.client.Invoke(ctx, &lambda.InvokeInput{FunctionName: aws.String("closed")})
		var throttled *types.TooManyRequestsException
		if as(err, &throttled) {
			if throttled.Reason != types.ThrottleReasonReservedFunctionConcurrentInvocationLimitExceeded {
				t.Errorf("reason %q", throttled.Reason)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not throttled: %v", err)
		}
	}
}
