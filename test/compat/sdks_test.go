package compat

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// expected is what every SDK has to see of the life of a function.
func expected(g target, name string) map[string]any {
	payload := hex.EncodeToString(mirrored())
	const notFound = "ResourceNotFoundException"
	arn := func(suffix string) string {
		return "arn:aws:lambda:" + g.region + ":" + g.account + ":function:" + name + suffix
	}
	return map[string]any{
		"created":         []any{name, "Pending", "$LATEST", 7.0, 256.0, "grüße <&>"},
		"code":            true,
		"tags":            map[string]any{"team": "a b"},
		"invoked":         []any{200.0, "$LATEST", payload, "", true},
		"updated":         []any{9.0, "InProgress"},
		"published":       "1",
		"alias":           []any{true, "1"},
		"by alias":        []any{200.0, "1", payload, "", true},
		"dry run":         204.0,
		"aliases":         []any{[]any{"live", "changed"}},
		"versions":        []any{"$LATEST", "1"},
		"listed":          true,
		"reserved":        5.0,
		"tags now":        map[string]any{"stage": "x/y+z"},
		"missing":         []any{404.0, notFound, "Function not found: " + arn("-none")},
		"missing invoked": []any{404.0, notFound, "Function not found: " + arn(":none")},
		"taken":           []any{409.0, "ResourceConflictException", "Alias already exists: " + arn(":live")},
		"bad role":        []any{400.0, "ValidationException"},
		"deleted":         []any{404.0, notFound, "Function not found: " + arn("")},
	}
}

// compare judges what a client printed.
func compare(t *testing.T, g target, name string, printed []byte, extra map[string]any) {
	t.Helper()
	var got map[string]any
	if err := json.Unmarshal(printed, &got); err != nil {
		t.Fatalf("%v: %s", err, printed)
	}
	want := expected(g, name)
	for key, value := range extra {
		want[key] = value
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the client saw something else (-want +got):\n%s", diff)
	}
}

func TestBoto3(t *testing.T) {
	python := client(t, "python3")
	if out, err := exec.CommandContext(t.Context(), python, "-c", "import boto3").CombinedOutput(); err != nil {
		t.Skipf("SKIP: boto3 is not on this machine; \"make test\" installs it: %s", out)
	}
	g := open(t)
	out := run(t, g.environment(t), "testdata", python, "client.py", "compat-python", programs.archive, g.runtime)
	compare(t, g, "compat-python", out, map[string]any{"account": g.account, "logged": true})
}

func TestJavaScript(t *testing.T) {
	node, clients := client(t, "node"), os.Getenv("LAMBENT_TEST_CLIENTS")
	if clients == "" || !exists(filepath.Join(clients, "node_modules", "@aws-sdk", "client-lambda")) {
		t.Skip("SKIP: the AWS SDK for JavaScript is not under LAMBENT_TEST_CLIENTS; \"make test\" installs it")
	}
	g := open(t)
	out := run(t, g.environment(t), "testdata", node, "client.mjs", "compat-node", programs.archive, g.runtime)
	compare(t, g, "compat-node", out, nil)
}
