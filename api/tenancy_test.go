package api_test

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

func TestTenancyConfig(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	in := creation(t, "f")
	in.TenancyConfig = &types.TenancyConfig{TenantIsolationMode: types.TenantIsolationModePerTenant}
	created, err := b.client.CreateFunction(ctx, in)
	if err != nil || created.TenancyConfig == nil || created.TenancyConfig.TenantIsolationMode != types.TenantIsolationModePerTenant {
		t.Fatalf("created: %+v, %v", created, err)
	}
	b.wait("f")
	if _, err := b.client.CreateFunction(ctx, creation(t, "g")); err != nil {
		t.Fatal(err)
	}
	b.wait("g")
	got, err := b.client.GetFunction(ctx, &lambda.GetFunctionInput{FunctionName: aws.String("f")})
	if err != nil || got.Configuration.TenancyConfig == nil {
		t.Errorf("got: %+v, %v", got, err)
	}
	list, err := b.client.ListFunctions(ctx, &lambda.ListFunctionsInput{})
	if err != nil || len(list.Functions) != 2 || list.Functions[0].TenancyConfig == nil || list.Functions[1].TenancyConfig != nil {
		t.Errorf("listed: %+v, %v", list, err)
	}
	if _, err := b.client.Invoke(ctx, &lambda.InvokeInput{FunctionName: aws.String("f"), TenantId: aws.String("blue")}); err != nil {
		t.Fatal(err)
	}
	if asked := b.front.last(); asked.TenantID != "blue" {
		t.Errorf("the front end was asked for %+v", asked)
	}
	in = creation(t, "h")
	in.TenancyConfig = &types.TenancyConfig{TenantIsolationMode: "PER_USER"}
	if _, err := b.client.CreateFunction(ctx, in); err == nil || !strings.Contains(err.Error(), "tenancyConfig.tenantIsolationMode") {
		t.Errorf("an unknown mode: %v", err)
	}
}

func TestIsolationTag(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	in := creation(t, "f")
	in.Tags = map[string]string{"lambent:isolation": "docker"}
	_, err := b.client.CreateFunction(ctx, in)
	wantError[*types.InvalidParameterValueException](t, err, "lambent:isolation")
	in.Tags = map[string]string{"lambent:isolation": "microvm"}
	if _, err := b.client.CreateFunction(ctx, in); err != nil {
		t.Fatal(err)
	}
	_, err = b.client.TagResource(ctx, &lambda.TagResourceInput{Resource: aws.String(arnBase + "f"), Tags: map[string]string{"lambent:isolation": "none"}})
	wantError[*types.InvalidParameterValueException](t, err, "Use one of: native, gvisor, microvm.")
}
