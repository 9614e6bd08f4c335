package compat

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

// maker makes functions and invokes them.
type maker struct {
	create func(t *testing.T, function string)
	invoke func(t *testing.T, function string) []byte
}

// The same function, made with any client, answers the same bytes to each.
func TestTheSameBytesToEach(t *testing.T) {
	if os.Getenv("LAMBENT_TEST_CLIENTS") == "" {
		t.Skip("SKIP: LAMBENT_TEST_CLIENTS names no clients; \"make test\" installs them")
	}
	g := open(t)
	env := g.environment(t)
	all := map[string]maker{
		"go": goMaker(g), "cli": cliMaker(env, client(t, "aws")), "boto3": scriptMaker(env, client(t, "python3"), "one.py"), "node": scriptMaker(env, client(t, "node"), "one.mjs"),
	}
	for name, c := range all {
		c.create(t, "by-"+name)
	}
	for creator := range all {
		for invoker, c := range all {
			if got := c.invoke(t, "by-"+creator); string(got) != string(mirrored()) {
				t.Errorf("made with %s, invoked with %s: %q", creator, invoker, got)
			}
		}
	}
}

func goMaker(g target) maker {
	api := lambda.New(lambda.Options{BaseEndpoint: &g.endpoint, Region: g.region, RetryMaxAttempts: 1,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: g.keyID, SecretAccessKey: g.secret}, nil
		})})
	return maker{
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

func cliMaker(env []string, program string) maker {
	do := func(t *testing.T, args ...string) {
		t.Helper()
		run(t, env, "", program, append([]string{"lambda"}, args...)...)
	}
	return maker{
		create: func(t *testing.T, function string) {
			do(t, "create-function", "--function-name", function, "--runtime", runtime, "--role", role, "--handler", "bootstrap", "--zip-file", "fileb://"+programs.archive)
			do(t, "wait", "function-active-v2", "--function-name", function)
		},
		invoke: func(t *testing.T, function string) []byte {
			t.Helper()
			dir := t.TempDir()
			in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
			if err := os.WriteFile(in, []byte(payload), 0o644); err != nil {
				t.Fatal(err)
			}
			do(t, "invoke", "--function-name", function, "--payload", "fileb://"+in, out)
			content, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			return content
		},
	}
}

// scriptClient runs a script that creates or invokes one function.
func scriptMaker(env []string, interpreter, script string) maker {
	return maker{
		create: func(t *testing.T, function string) {
			t.Helper()
			run(t, env, "testdata", interpreter, script, "create", function, programs.archive, runtime)
		},
		invoke: func(t *testing.T, function string) []byte {
			t.Helper()
			return run(t, env, "testdata", interpreter, script, "invoke", function, payload)
		},
	}
}
