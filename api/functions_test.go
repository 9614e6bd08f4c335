package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/google/go-cmp/cmp"
)

func TestAFunctionsLife(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	in := creation(t, "f")
	in.Description, in.Timeout, in.MemorySize = aws.String("d"), aws.Int32(7), aws.Int32(256)
	in.Environment = &types.Environment{Variables: map[string]string{"KEY": "<&>"}}
	in.Tags = map[string]string{"team": "a"}
	created, err := b.client.CreateFunction(ctx, in)
	if err != nil {
		t.Fatal(err)
	}
	if created.State != types.StatePending || *created.FunctionArn != arnBase+"f" || *created.Version != "$LATEST" || created.Environment.Variables["KEY"] != "<&>" {
		t.Errorf("created: %+v", created)
	}
	b.wait("f")
	got, err := b.client.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: aws.String(arnBase + "f")})
	if err != nil {
		t.Fatal(err)
	}
	c := got.Configuration
	if c.State != types.StateActive || *c.Timeout != 7 || *c.MemorySize != 256 || *c.Description != "d" || got.Tags["team"] != "a" || *c.CodeSha256 != *created.CodeSha256 {
		t.Errorf("got: %+v", got)
	}
	if content := b.download(*got.Code.Location); !bytes.Equal(content, in.Code.ZipFile) {
		t.Errorf("the code's link gave %d bytes, not %d", len(content), len(in.Code.ZipFile))
	}
	updated, err := b.client.UpdateFunctionConfiguration(ctx, &lambda.UpdateFunctionConfigurationInput{FunctionName: aws.String("f"), Timeout: aws.Int32(9), RevisionId: c.RevisionId})
	if err != nil || *updated.Timeout != 9 || *updated.MemorySize != 256 || updated.LastUpdateStatus != types.LastUpdateStatusInProgress {
		t.Fatalf("updated: %+v, %v", updated, err)
	}
	b.wait("f")
	_, err = b.client.UpdateFunctionConfiguration(ctx, &lambda.UpdateFunctionConfigurationInput{FunctionName: aws.String("f"), RevisionId: c.RevisionId})
	wantError[*types.PreconditionFailedException](t, err, "Revision Id")
	code, err := b.client.UpdateFunctionCode(ctx, &lambda.UpdateFunctionCodeInput{FunctionName: aws.String("f"), ZipFile: archive(t, "new")})
	if err != nil || *code.CodeSha256 == *created.CodeSha256 {
		t.Fatalf("new code: %+v, %v", code, err)
	}
	b.wait("f")
	_, err = b.client.CreateFunction(ctx, in)
	wantError[*types.ResourceConflictException](t, err, "Function already exist: f")
	if _, err := b.client.DeleteFunction(ctx, &lambda.DeleteFunctionInput{FunctionName: aws.String("f")}); err != nil {
		t.Fatal(err)
	}
	_, err = b.client.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: aws.String("f")})
	wantError[*types.ResourceNotFoundException](t, err, "Function not found: "+arnBase+"f")
	_, err = b.client.DeleteFunction(ctx, &lambda.DeleteFunctionInput{FunctionName: aws.String("f")})
	wantError[*types.ResourceNotFoundException](t, err, "Function not found")
}

func (b *bench) download(link string) []byte {
	b.t.Helper()
	resp, err := b.http.Get(link)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		b.t.Fatalf("%s: %d %s, %v", link, resp.StatusCode, content, err)
	}
	return content
}

func TestVersionsAndAliases(t *testing.T) {
	b, ctx, f := newBench(t), t.Context(), aws.String("f")
	b.create("f")
	first, err := b.client.PublishVersion(ctx, &lambda.PublishVersionInput{FunctionName: f, Description: aws.String("one")})
	if err != nil || *first.Version != "1" || *first.FunctionArn != arnBase+"f:1" || *first.Description != "one" {
		t.Fatalf("first: %+v, %v", first, err)
	}
	if _, err := b.client.UpdateFunctionCode(ctx, &lambda.UpdateFunctionCodeInput{FunctionName: f, ZipFile: archive(t, "2"), Publish: true}); err != nil {
		t.Fatal(err)
	}
	b.wait("f")
	var versions []string
	for pages := lambda.NewListVersionsByFunctionPaginator(b.client, &lambda.ListVersionsByFunctionInput{FunctionName: f, MaxItems: aws.Int32(1)}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range page.Versions {
			versions = append(versions, *v.Version)
		}
	}
	if !slices.Equal(versions, []string{"$LATEST", "1", "2"}) {
		t.Errorf("versions: %q", versions)
	}
	made, err := b.client.CreateAlias(ctx, &lambda.CreateAliasInput{FunctionName: f, Name: aws.String("live"), FunctionVersion: aws.String("1"),
		RoutingConfig: &types.AliasRoutingConfiguration{AdditionalVersionWeights: map[string]float64{"2": 0.25}}})
	if err != nil || *made.AliasArn != arnBase+"f:live" || made.RoutingConfig.AdditionalVersionWeights["2"] != 0.25 {
		t.Fatalf("alias: %+v, %v", made, err)
	}
	_, err = b.client.CreateAlias(ctx, &lambda.CreateAliasInput{FunctionName: f, Name: aws.String("live"), FunctionVersion: aws.String("1")})
	wantError[*types.ResourceConflictException](t, err, "Alias already exists")
	got, err := b.client.GetAlias(ctx, &lambda.GetAliasInput{FunctionName: f, Name: aws.String("live")})
	if err != nil || *got.RevisionId != *made.RevisionId || *got.FunctionVersion != "1" {
		t.Fatalf("got: %+v, %v", got, err)
	}
	changed, err := b.client.UpdateAlias(ctx, &lambda.UpdateAliasInput{FunctionName: f, Name: aws.String("live"), FunctionVersion: aws.String("2"),
		RoutingConfig: &types.AliasRoutingConfiguration{}})
	if err != nil || *changed.FunctionVersion != "2" || changed.RoutingConfig != nil {
		t.Fatalf("changed: %+v, %v", changed, err)
	}
	listed, err := b.client.ListAliases(ctx, &lambda.ListAliasesInput{FunctionName: f, FunctionVersion: aws.String("2")})
	if err != nil || len(listed.Aliases) != 1 {
		t.Fatalf("listed: %+v, %v", listed, err)
	}
	alias, err := b.client.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: aws.String("f:live")})
	if err != nil || *alias.Configuration.Version != "2" {
		t.Errorf("by alias: %+v, %v", alias, err)
	}
	if _, err := b.client.DeleteAlias(ctx, &lambda.DeleteAliasInput{FunctionName: f, Name: aws.String("live")}); err != nil {
		t.Error(err)
	}
	_, err = b.client.GetAlias(ctx, &lambda.GetAliasInput{FunctionName: f, Name: aws.String("live")})
	wantError[*types.ResourceNotFoundException](t, err, "Cannot find alias arn: "+arnBase+"f:live")
	if _, err := b.client.DeleteFunction(ctx, &lambda.DeleteFunctionInput{FunctionName: f, Qualifier: aws.String("1")}); err != nil {
		t.Error(err)
	}
	published := lambda.NewPublishedVersionActiveWaiter(b.client)
	if err := published.Wait(ctx, &lambda.GetFunctionConfigurationInput{FunctionName: f, Qualifier: aws.String("2")}, 5*time.Second); err != nil {
		t.Error(err)
	}
}

func TestLists(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	var want []string
	for i := range 5 {
		name := fmt.Sprint("f", i)
		b.create(name)
		want = append(want, name)
	}
	var got []string
	for pages := lambda.NewListFunctionsPaginator(b.client, &lambda.ListFunctionsInput{MaxItems: aws.Int32(2)}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range page.Functions {
			got = append(got, *f.FunctionName)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	all, err := b.client.ListFunctions(ctx, &lambda.ListFunctionsInput{FunctionVersion: types.FunctionVersionAll})
	if err != nil || len(all.Functions) != 5 {
		t.Errorf("all: %+v, %v", all, err)
	}
	settings, err := b.client.GetAccountSettings(ctx, &lambda.GetAccountSettingsInput{})
	if err != nil || settings.AccountUsage.FunctionCount != 5 || settings.AccountLimit.ConcurrentExecutions != 1000 || *settings.AccountLimit.UnreservedConcurrentExecutions != 1000 {
		t.Errorf("settings: %+v, %v", settings, err)
	}
}

func TestConcurrencyAndTags(t *testing.T) {
	b, ctx, f := newBench(t), t.Context(), aws.String("f")
	b.create("f")
	none, err := b.client.GetFunctionConcurrency(ctx, &lambda.GetFunctionConcurrencyInput{FunctionName: f})
	if err != nil || none.ReservedConcurrentExecutions != nil {
		t.Fatalf("none: %+v, %v", none, err)
	}
	put, err := b.client.PutFunctionConcurrency(ctx, &lambda.PutFunctionConcurrencyInput{FunctionName: f, ReservedConcurrentExecutions: aws.Int32(0)})
	if err != nil || *put.ReservedConcurrentExecutions != 0 {
		t.Fatalf("put: %+v, %v", put, err)
	}
	got, err := b.client.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: f})
	if err != nil || got.Concurrency == nil || *got.Concurrency.ReservedConcurrentExecutions != 0 {
		t.Fatalf("got: %+v, %v", got, err)
	}
	_, err = b.client.PutFunctionConcurrency(ctx, &lambda.PutFunctionConcurrencyInput{FunctionName: f, ReservedConcurrentExecutions: aws.Int32(901)})
	wantError[*types.InvalidParameterValueException](t, err, "")
	if _, err := b.client.DeleteFunctionConcurrency(ctx, &lambda.DeleteFunctionConcurrencyInput{FunctionName: f}); err != nil {
		t.Error(err)
	}
	arn := aws.String(arnBase + "f")
	if _, err := b.client.TagResource(ctx, &lambda.TagResourceInput{Resource: arn, Tags: map[string]string{"a": "1", "b": "2", "c d": "+ /"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.client.UntagResource(ctx, &lambda.UntagResourceInput{Resource: arn, TagKeys: []string{"a", "b"}}); err != nil {
		t.Fatal(err)
	}
	tags, err := b.client.ListTags(ctx, &lambda.ListTagsInput{Resource: arn})
	if err != nil || !cmp.Equal(tags.Tags, map[string]string{"c d": "+ /"}) {
		t.Errorf("tags: %+v, %v", tags, err)
	}
	_, err = b.client.ListTags(ctx, &lambda.ListTagsInput{Resource: aws.String(arnBase + "f:1")})
	wantError[*types.InvalidParameterValueException](t, err, "Tags on function aliases and versions are not supported. Please specify a function ARN.")
	_, err = b.client.ListTags(ctx, &lambda.ListTagsInput{Resource: f})
	wantCode(t, err, "ValidationException", "'resource'")
}

// What is not there is said as Lambda says it: tools that read a function ask for all of it.
func TestWhatAFunctionDoesNotHave(t *testing.T) {
	b, f := newBench(t), aws.String("f")
	b.create("f")
	c := b.client
	missing := map[string]func(context.Context) error{
		"The resource you requested does not exist.": func(ctx context.Context) error {
			_, err := c.GetPolicy(ctx, &lambda.GetPolicyInput{FunctionName: f})
			return err
		},
		"does not exist.": func(ctx context.Context) error {
			_, err := c.GetFunctionUrlConfig(ctx, &lambda.GetFunctionUrlConfigInput{FunctionName: f})
			return err
		},
		"The function " + arnBase + "f:$LATEST doesn't have an EventInvokeConfig": func(ctx context.Context) error {
			_, err := c.GetFunctionEventInvokeConfig(ctx, &lambda.GetFunctionEventInvokeConfigInput{FunctionName: f, Qualifier: aws.String("$LATEST")})
			return err
		},
	}
	for message, ask := range missing {
		wantError[*types.ResourceNotFoundException](t, ask(t.Context()), message)
	}
	_, err := c.GetProvisionedConcurrencyConfig(t.Context(), &lambda.GetProvisionedConcurrencyConfigInput{FunctionName: f, Qualifier: aws.String("$LATEST")})
	wantError[*types.ProvisionedConcurrencyConfigNotFoundException](t, err, "No Provisioned Concurrency Config found for this function")
	provisioned, err := c.ListProvisionedConcurrencyConfigs(t.Context(), &lambda.ListProvisionedConcurrencyConfigsInput{FunctionName: f})
	if err != nil || len(provisioned.ProvisionedConcurrencyConfigs) != 0 {
		t.Errorf("provisioned: %+v, %v", provisioned, err)
	}
	_, err = c.ListFunctionUrlConfigs(t.Context(), &lambda.ListFunctionUrlConfigsInput{FunctionName: aws.String("none")})
	wantError[*types.ResourceNotFoundException](t, err, "Function does not exist")
	recursion, err := c.GetFunctionRecursionConfig(t.Context(), &lambda.GetFunctionRecursionConfigInput{FunctionName: f})
	if err != nil || recursion.RecursiveLoop != types.RecursiveLoopTerminate {
		t.Errorf("recursion: %+v, %v", recursion, err)
	}
	management, err := c.GetRuntimeManagementConfig(t.Context(), &lambda.GetRuntimeManagementConfigInput{FunctionName: f})
	if err != nil || management.UpdateRuntimeOn != types.UpdateRuntimeOnAuto || *management.FunctionArn != arnBase+"f" {
		t.Errorf("management: %+v, %v", management, err)
	}
	signing, err := c.GetFunctionCodeSigningConfig(t.Context(), &lambda.GetFunctionCodeSigningConfigInput{FunctionName: aws.String(arnBase + "f")})
	if err != nil || signing.CodeSigningConfigArn != nil {
		t.Errorf("signing: %+v, %v", signing, err)
	}
	mappings, err := c.ListEventSourceMappings(t.Context(), &lambda.ListEventSourceMappingsInput{})
	if err != nil || len(mappings.EventSourceMappings) != 0 {
		t.Errorf("mappings: %+v, %v", mappings, err)
	}
	layers, err := c.ListLayers(t.Context(), &lambda.ListLayersInput{})
	if err != nil || len(layers.Layers) != 0 {
		t.Errorf("layers: %+v, %v", layers, err)
	}
	_, err = c.GetLayerVersionByArn(t.Context(), &lambda.GetLayerVersionByArnInput{Arn: aws.String("arn:aws:lambda:eu-central-1:123456789012:layer:l:1")})
	wantCode(t, err, "NotImplementedException", "GetLayerVersionByArn")
	_, err = c.AddPermission(t.Context(), &lambda.AddPermissionInput{FunctionName: f, Action: aws.String("lambda:InvokeFunction"), Principal: aws.String("p"), StatementId: aws.String("s")})
	wantCode(t, err, "NotImplementedException", "AddPermission")
	_, err = c.AddPermission(t.Context(), &lambda.AddPermissionInput{FunctionName: f, Action: aws.String("a"), Principal: aws.String("p"), StatementId: aws.String("s")})
	wantCode(t, err, "ValidationException", "'action'")
	_, err = c.GetFunctionRecursionConfig(t.Context(), &lambda.GetFunctionRecursionConfigInput{FunctionName: aws.String("none")})
	wantError[*types.ResourceNotFoundException](t, err, "Function not found: "+arnBase+"none")
}

func TestTheMembersOfAConfiguration(t *testing.T) {
	b := newBench(t)
	b.create("f")
	got := b.do(b.request("GET", "/2015-03-31/functions/f/configuration", nil))
	var members map[string]any
	if err := json.Unmarshal([]byte(got.body), &members); err != nil {
		t.Fatal(err)
	}
	for _, varies := range []string{"CodeSha256", "CodeSize", "LastModified", "RevisionId", "RuntimeVersionConfig"} {
		if members[varies] == nil {
			t.Errorf("no %s", varies)
		}
		delete(members, varies)
	}
	want := map[string]any{"FunctionName": "f", "FunctionArn": arnBase + "f", "Version": "$LATEST", "Description": "", "Role": role, "Runtime": "python3.12",
		"Handler": "index.handler", "Architectures": []any{"x86_64"}, "PackageType": "Zip", "Timeout": 3.0, "MemorySize": 128.0, "State": "Active",
		"LastUpdateStatus": "Successful", "EphemeralStorage": map[string]any{"Size": 512.0}, "TracingConfig": map[string]any{"Mode": "PassThrough"},
		"SnapStart":     map[string]any{"ApplyOn": "None", "OptimizationStatus": "Off"},
		"LoggingConfig": map[string]any{"LogFormat": "Text", "LogGroup": "/aws/lambda/f"}}
	if diff := cmp.Diff(want, members); diff != "" {
		t.Error(diff)
	}
	if got.header.Get("Content-Type") != "application/json" || len(got.header.Get("X-Amzn-Requestid")) != 36 {
		t.Errorf("header: %v", got.header)
	}
}
