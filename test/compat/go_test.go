package compat

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/smithy-go"
	transport "github.com/aws/smithy-go/transport/http"
)

const (
	role    = "arn:aws:iam::123456789012:role/compat"
	payload = `{"text":"grüße <&>","n":1.50,"list":[1,{"a":null}]}`
)

// goClient collects what the SDK for Go sees.
type goClient struct {
	*lambda.Client
	t      *testing.T
	name   *string
	report map[string]any
}

func must[T any](t *testing.T) func(T, error) T {
	return func(got T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
}

func TestGo(t *testing.T) {
	g, name := open(t), "compat-go"
	connections := &http.Transport{}
	defer connections.CloseIdleConnections()
	c := &goClient{t: t, name: &name, report: map[string]any{}, Client: lambda.New(lambda.Options{BaseEndpoint: &g.endpoint, Region: g.region, RetryMaxAttempts: 1,
		HTTPClient: &http.Client{Transport: connections},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: g.keyID, SecretAccessKey: g.secret}, nil
		})})}
	c.create(g)
	c.run()
	c.settings()
	c.errors()
	out, err := json.Marshal(c.report)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, g, name, out, nil)
}

func (c *goClient) create(g target) {
	t, ctx := c.t, c.t.Context()
	code, err := os.ReadFile(programs.archive)
	if err != nil {
		t.Fatal(err)
	}
	created := must[*lambda.CreateFunctionOutput](t)(c.CreateFunction(ctx, &lambda.CreateFunctionInput{FunctionName: c.name, Runtime: types.Runtime(g.runtime), Role: aws.String(role),
		Handler: aws.String("index.handler"), Code: &types.FunctionCode{ZipFile: code}, Timeout: aws.Int32(7), MemorySize: aws.Int32(256),
		Environment: &types.Environment{Variables: map[string]string{"GREETING": "grüße <&>"}}, Tags: map[string]string{"team": "a b"}}))
	c.report["created"] = []any{created.FunctionName, created.State, created.Version, created.Timeout, created.MemorySize, created.Environment.Variables["GREETING"]}
	fast := func(o *lambda.FunctionActiveV2WaiterOptions) { o.MinDelay = 100 * time.Millisecond }
	if err := lambda.NewFunctionActiveV2Waiter(c, fast).Wait(ctx, &lambda.GetFunctionInput{FunctionName: c.name}, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	got := must[*lambda.GetFunctionOutput](t)(c.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: c.name}))
	link := must[*http.Response](t)(http.Get(*got.Code.Location))
	defer link.Body.Close()
	sum := sha256.Sum256(must[[]byte](t)(io.ReadAll(link.Body)))
	c.report["code"] = base64.StdEncoding.EncodeToString(sum[:]) == *got.Configuration.CodeSha256
	c.report["tags"] = got.Tags
}

func (c *goClient) invoke(qualifier *string) []any {
	got := must[*lambda.InvokeOutput](c.t)(c.Invoke(c.t.Context(), &lambda.InvokeInput{FunctionName: c.name, Qualifier: qualifier, Payload: []byte(payload), LogType: types.LogTypeTail}))
	log := must[[]byte](c.t)(base64.StdEncoding.DecodeString(aws.ToString(got.LogResult)))
	return []any{got.StatusCode, got.ExecutedVersion, hex.EncodeToString(got.Payload), aws.ToString(got.FunctionError), bytes.Contains(log, []byte("START RequestId: "))}
}

func (c *goClient) run() {
	t, ctx := c.t, c.t.Context()
	c.report["invoked"] = c.invoke(nil)
	updated := must[*lambda.UpdateFunctionConfigurationOutput](t)(c.UpdateFunctionConfiguration(ctx, &lambda.UpdateFunctionConfigurationInput{FunctionName: c.name, Timeout: aws.Int32(9)}))
	c.report["updated"] = []any{updated.Timeout, updated.LastUpdateStatus}
	fast := func(o *lambda.FunctionUpdatedV2WaiterOptions) { o.MinDelay = 100 * time.Millisecond }
	if err := lambda.NewFunctionUpdatedV2Waiter(c, fast).Wait(ctx, &lambda.GetFunctionInput{FunctionName: c.name}, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	c.report["published"] = must[*lambda.PublishVersionOutput](t)(c.PublishVersion(ctx, &lambda.PublishVersionInput{FunctionName: c.name})).Version
	alias := must[*lambda.CreateAliasOutput](t)(c.CreateAlias(ctx, &lambda.CreateAliasInput{FunctionName: c.name, Name: aws.String("live"), FunctionVersion: aws.String("1")}))
	c.report["alias"] = []any{strings.HasSuffix(*alias.AliasArn, ":function:"+*c.name+":live"), alias.FunctionVersion}
	published := func(o *lambda.PublishedVersionActiveWaiterOptions) { o.MinDelay = 100 * time.Millisecond }
	if err := lambda.NewPublishedVersionActiveWaiter(c, published).Wait(ctx, &lambda.GetFunctionConfigurationInput{FunctionName: c.name, Qualifier: aws.String("1")}, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	c.report["by alias"] = c.invoke(aws.String("live"))
	c.report["dry run"] = must[*lambda.InvokeOutput](t)(c.Invoke(ctx, &lambda.InvokeInput{FunctionName: c.name, InvocationType: types.InvocationTypeDryRun})).StatusCode
}

func (c *goClient) settings() {
	t, ctx := c.t, c.t.Context()
	got := must[*lambda.GetFunctionConfigurationOutput](t)(c.GetFunctionConfiguration(ctx, &lambda.GetFunctionConfigurationInput{FunctionName: c.name}))
	must[*lambda.UpdateAliasOutput](t)(c.UpdateAlias(ctx, &lambda.UpdateAliasInput{FunctionName: got.FunctionArn, Name: aws.String("live"), Description: aws.String("changed")}))
	aliases := [][]string{}
	for _, a := range must[*lambda.ListAliasesOutput](t)(c.ListAliases(ctx, &lambda.ListAliasesInput{FunctionName: c.name})).Aliases {
		aliases = append(aliases, []string{*a.Name, *a.Description})
	}
	versions := []string{}
	for _, v := range must[*lambda.ListVersionsByFunctionOutput](t)(c.ListVersionsByFunction(ctx, &lambda.ListVersionsByFunctionInput{FunctionName: c.name})).Versions {
		versions = append(versions, *v.Version)
	}
	c.report["aliases"], c.report["versions"], c.report["listed"] = aliases, versions, false
	for pages := lambda.NewListFunctionsPaginator(c, &lambda.ListFunctionsInput{}); pages.HasMorePages(); {
		for _, f := range must[*lambda.ListFunctionsOutput](t)(pages.NextPage(ctx)).Functions {
			if *f.FunctionName == *c.name {
				c.report["listed"] = true
			}
		}
	}
	must[*lambda.PutFunctionConcurrencyOutput](t)(c.PutFunctionConcurrency(ctx, &lambda.PutFunctionConcurrencyInput{FunctionName: c.name, ReservedConcurrentExecutions: aws.Int32(5)}))
	c.report["reserved"] = must[*lambda.GetFunctionConcurrencyOutput](t)(c.GetFunctionConcurrency(ctx, &lambda.GetFunctionConcurrencyInput{FunctionName: c.name})).ReservedConcurrentExecutions
	must[*lambda.DeleteFunctionConcurrencyOutput](t)(c.DeleteFunctionConcurrency(ctx, &lambda.DeleteFunctionConcurrencyInput{FunctionName: c.name}))
	must[*lambda.TagResourceOutput](t)(c.TagResource(ctx, &lambda.TagResourceInput{Resource: got.FunctionArn, Tags: map[string]string{"stage": "x/y+z"}}))
	must[*lambda.UntagResourceOutput](t)(c.UntagResource(ctx, &lambda.UntagResourceInput{Resource: got.FunctionArn, TagKeys: []string{"team"}}))
	c.report["tags now"] = must[*lambda.ListTagsOutput](t)(c.ListTags(ctx, &lambda.ListTagsInput{Resource: got.FunctionArn})).Tags
}

func (c *goClient) errors() {
	t, ctx := c.t, c.t.Context()
	note := func(key string, err error) {
		var known smithy.APIError
		var response *transport.ResponseError
		if !errors.As(err, &known) || !errors.As(err, &response) {
			t.Errorf("%s: %v", key, err)
			return
		}
		c.report[key] = []any{response.HTTPStatusCode(), known.ErrorCode(), known.ErrorMessage()}
	}
	_, err := c.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: aws.String(*c.name + "-none")})
	note("missing", err)
	_, err = c.Invoke(ctx, &lambda.InvokeInput{FunctionName: c.name, Qualifier: aws.String("none")})
	note("missing invoked", err)
	_, err = c.CreateAlias(ctx, &lambda.CreateAliasInput{FunctionName: c.name, Name: aws.String("live"), FunctionVersion: aws.String("1")})
	note("taken", err)
	_, err = c.UpdateFunctionConfiguration(ctx, &lambda.UpdateFunctionConfigurationInput{FunctionName: c.name, Role: aws.String("no role")})
	note("bad role", err)
	if bad, ok := c.report["bad role"].([]any); ok {
		c.report["bad role"] = bad[:2]
	}
	must[*lambda.DeleteAliasOutput](t)(c.DeleteAlias(ctx, &lambda.DeleteAliasInput{FunctionName: c.name, Name: aws.String("live")}))
	must[*lambda.DeleteFunctionOutput](t)(c.DeleteFunction(ctx, &lambda.DeleteFunctionInput{FunctionName: c.name}))
	_, err = c.GetFunctionConfiguration(ctx, &lambda.GetFunctionConfigurationInput{FunctionName: c.name})
	note("deleted", err)
}
