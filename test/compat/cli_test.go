package compat

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// cli is the AWS CLI.
type cli struct {
	t           *testing.T
	program     string
	environment []string
	dir         string
	name        string
}

// do runs a command and returns what it printed, decoded; nil for nothing.
func (c *cli) do(arguments ...string) map[string]any {
	c.t.Helper()
	out := run(c.t, c.environment, c.dir, c.program, append(arguments, "--output", "json")...)
	var got map[string]any
	if len(out) > 0 {
		if err := json.Unmarshal(out, &got); err != nil {
			c.t.Fatalf("%q printed %s: %v", arguments, out, err)
		}
	}
	return got
}

// fails runs a command that has to fail and returns the status (which the CLI does not print: it is the expected one), the
// name and the message of the error.
func (c *cli) fails(status float64, arguments ...string) []any {
	c.t.Helper()
	command := exec.CommandContext(c.t.Context(), c.program, arguments...)
	command.Env, command.Dir = c.environment, c.dir
	out, err := command.CombinedOutput()
	said := regexp.MustCompile(`An error occurred \((\w+)\) when calling the \w+ operation: (.*)`).FindSubmatch(out)
	if err == nil || said == nil {
		c.t.Fatalf("%q: %v\n%s", arguments, err, out)
	}
	return []any{status, string(said[1]), strings.TrimSpace(string(said[2]))}
}

func (c *cli) invoke(arguments ...string) []any {
	c.t.Helper()
	got := c.do(append([]string{"lambda", "invoke", "--function-name", c.name, "--log-type", "Tail", "--payload", "fileb://payload.json", "out.json"}, arguments...)...)
	content, err := os.ReadFile(filepath.Join(c.dir, "out.json"))
	if err != nil {
		c.t.Fatal(err)
	}
	log, err := base64.StdEncoding.DecodeString(got["LogResult"].(string))
	if err != nil {
		c.t.Fatal(err)
	}
	failed, _ := got["FunctionError"].(string)
	return []any{got["StatusCode"], got["ExecutedVersion"], hex.EncodeToString(content), failed, strings.Contains(string(log), "START RequestId: ")}
}

func TestCLI(t *testing.T) {
	program := client(t, "aws")
	g := open(t)
	c := &cli{t: t, program: program, environment: g.environment(t), dir: t.TempDir(), name: "compat-cli"}
	if err := os.WriteFile(filepath.Join(c.dir, "payload.json"), []byte(payload), 0o644); err != nil {
		t.Fatal(err)
	}
	report := map[string]any{}
	c.create(g, report)
	c.change(report)
	c.read(report)
	c.errors(report)
	out, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, g, c.name, out, map[string]any{"account": g.account, "logged": true})
}

func (c *cli) create(g target, report map[string]any) {
	made := c.do("lambda", "create-function", "--function-name", c.name, "--runtime", g.runtime, "--role", role, "--handler", "index.handler",
		"--zip-file", "fileb://"+programs.archive, "--timeout", "7", "--memory-size", "256", "--environment", `{"Variables":{"GREETING":"grüße <&>"}}`, "--tags", "team=a b")
	variables := made["Environment"].(map[string]any)["Variables"].(map[string]any)
	report["created"] = []any{made["FunctionName"], made["State"], made["Version"], made["Timeout"], made["MemorySize"], variables["GREETING"]}
	c.do("lambda", "wait", "function-active-v2", "--function-name", c.name)
	got := c.do("lambda", "get-function", "--function-name", c.name)
	report["tags"] = got["Tags"]
	report["code"] = strings.HasPrefix(got["Code"].(map[string]any)["Location"].(string), g.endpoint) // the SDKs' tests read it
}

func (c *cli) change(report map[string]any) {
	report["invoked"] = c.invoke()
	updated := c.do("lambda", "update-function-configuration", "--function-name", c.name, "--timeout", "9")
	report["updated"] = []any{updated["Timeout"], updated["LastUpdateStatus"]}
	c.do("lambda", "wait", "function-updated-v2", "--function-name", c.name)
	report["published"] = c.do("lambda", "publish-version", "--function-name", c.name)["Version"]
	alias := c.do("lambda", "create-alias", "--function-name", c.name, "--name", "live", "--function-version", "1")
	report["alias"] = []any{strings.HasSuffix(alias["AliasArn"].(string), ":function:"+c.name+":live"), alias["FunctionVersion"]}
	c.do("lambda", "wait", "published-version-active", "--function-name", c.name, "--qualifier", "1")
	report["by alias"] = c.invoke("--qualifier", "live")
	report["dry run"] = c.do("lambda", "invoke", "--function-name", c.name, "--invocation-type", "DryRun", "out.json")["StatusCode"]
	arn := updated["FunctionArn"].(string)
	c.do("lambda", "update-alias", "--function-name", arn, "--name", "live", "--description", "changed")
	c.do("lambda", "put-function-concurrency", "--function-name", c.name, "--reserved-concurrent-executions", "5")
	report["reserved"] = c.do("lambda", "get-function-concurrency", "--function-name", c.name)["ReservedConcurrentExecutions"]
	c.do("lambda", "delete-function-concurrency", "--function-name", c.name)
	c.do("lambda", "tag-resource", "--resource", arn, "--tags", "stage=x/y+z")
	c.do("lambda", "untag-resource", "--resource", arn, "--tag-keys", "team")
	report["tags now"] = c.do("lambda", "list-tags", "--resource", arn)["Tags"]
}

func (c *cli) read(report map[string]any) {
	each := func(list any, do func(item map[string]any)) {
		for _, item := range list.([]any) {
			do(item.(map[string]any))
		}
	}
	aliases, versions, listed := []any{}, []any{}, false
	each(c.do("lambda", "list-aliases", "--function-name", c.name)["Aliases"], func(a map[string]any) { aliases = append(aliases, []any{a["Name"], a["Description"]}) })
	each(c.do("lambda", "list-versions-by-function", "--function-name", c.name)["Versions"], func(v map[string]any) { versions = append(versions, v["Version"]) })
	each(c.do("lambda", "list-functions")["Functions"], func(f map[string]any) { listed = listed || f["FunctionName"] == c.name })
	report["aliases"], report["versions"], report["listed"] = aliases, versions, listed
	report["account"] = c.do("sts", "get-caller-identity")["Account"]
	report["logged"] = false
	for end := time.Now().Add(20 * time.Second); report["logged"] == false && time.Now().Before(end); { // lines are shipped behind the invoke
		each(c.do("logs", "filter-log-events", "--log-group-name", "/aws/lambda/"+c.name, "--filter-pattern", "START")["events"],
			func(map[string]any) { report["logged"] = true })
	}
}

func (c *cli) errors(report map[string]any) {
	report["missing"] = c.fails(404, "lambda", "get-function", "--function-name", c.name+"-none")
	report["missing invoked"] = c.fails(404, "lambda", "invoke", "--function-name", c.name, "--qualifier", "none", "out.json")
	report["taken"] = c.fails(409, "lambda", "create-alias", "--function-name", c.name, "--name", "live", "--function-version", "1")
	report["bad role"] = c.fails(400, "lambda", "update-function-configuration", "--function-name", c.name, "--role", "no role")[:2]
	c.do("lambda", "delete-alias", "--function-name", c.name, "--name", "live")
	c.do("lambda", "delete-function", "--function-name", c.name)
	report["deleted"] = c.fails(404, "lambda", "get-function-configuration", "--function-name", c.name)
}
