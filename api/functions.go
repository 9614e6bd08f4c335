package api

import (
	"net/http"
	"net/url"

	"lambent"
	"lambent/api/internal/wire"
	"lambent/functions"
)

// The handlers of the control plane. Each has its input read and judged, calls, and encodes.

// answer encodes a configuration, or passes an error on.
func (c *call) answer(got *functions.Configuration, err error) error {
	if err != nil {
		return err
	}
	return c.json(configuration(got))
}

func (c *call) createFunction(in *wire.CreateFunctionRequest) error {
	ref, err := c.reference(in.FunctionName, nil)
	if err != nil {
		return err
	}
	if err := unsupported(in.Code.SourceKMSKeyArn != nil, "SourceKMSKeyArn", in.PublishTo != nil, "PublishTo",
		in.CapacityProviderConfig != nil, "CapacityProviderConfig", in.DurableConfig != nil, "DurableConfig"); err != nil {
		return err
	}
	code := functions.Code{ZipFile: in.Code.ZipFile, S3Bucket: value(in.Code.S3Bucket), S3Key: value(in.Code.S3Key),
		S3ObjectVersion: value(in.Code.S3ObjectVersion), ImageURI: value(in.Code.ImageUri)}
	return c.answer(c.Functions.CreateFunction(c.ctx, functions.CreateFunctionRequest{Function: ref.FunctionName, Settable: created(in).domain(), Code: code,
		PackageType: value(in.PackageType), Architectures: in.Architectures, Publish: value(in.Publish), Tags: in.Tags,
		TenantIsolation: tenantIsolation(in.TenancyConfig), CodeSigningConfigARN: value(in.CodeSigningConfigArn)}))
}

// unsupported refuses what a request sets and Lambent does not have: pairs of whether a member is there, and its name.
func unsupported(pairs ...any) error {
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i].(bool) {
			return lambent.Errorf(lambent.InvalidParameter, "%s is not supported.", pairs[i+1])
		}
	}
	return nil
}

func (c *call) getFunction(in *wire.GetFunctionRequest) error {
	ref, err := c.reference(in.FunctionName, in.Qualifier)
	if err != nil {
		return err
	}
	got, err := c.Functions.GetFunction(c.ctx, ref)
	if err != nil {
		return err
	}
	out := wire.GetFunctionResponse{Configuration: new(configuration(&got.Configuration)),
		Code: &wire.FunctionCodeLocation{RepositoryType: new("S3"), Location: new(c.codeURL(got.Configuration.Code))}}
	if len(got.Tags) > 0 {
		out.Tags = got.Tags
	}
	if got.Reserved != nil {
		out.Concurrency = &wire.Concurrency{ReservedConcurrentExecutions: got.Reserved}
	}
	return c.json(out)
}

func (c *call) getFunctionConfiguration(in *wire.GetFunctionConfigurationRequest) error {
	ref, err := c.reference(in.FunctionName, in.Qualifier)
	if err != nil {
		return err
	}
	return c.answer(c.Functions.GetFunctionConfiguration(c.ctx, ref))
}

func configurations(page functions.ConfigurationPage) []wire.FunctionConfiguration {
	list := make([]wire.FunctionConfiguration, len(page.Configurations))
	for i := range page.Configurations {
		list[i] = configuration(&page.Configurations[i])
	}
	return list
}

func (c *call) listFunctions(in *wire.ListFunctionsRequest) error {
	page, err := c.Functions.ListFunctions(c.ctx, functions.ListFunctionsRequest{Account: c.who.Account, MasterRegion: value(in.MasterRegion),
		AllVersions: in.FunctionVersion != nil, Marker: value(in.Marker), MaxItems: value(in.MaxItems)})
	if err != nil {
		return err
	}
	return c.json(wire.ListFunctionsResponse{Functions: configurations(page), NextMarker: given(page.NextMarker)})
}

func (c *call) updateFunctionCode(in *wire.UpdateFunctionCodeRequest) error {
	ref, err := c.reference(in.FunctionName, nil)
	if err != nil {
		return err
	}
	if err := unsupported(in.SourceKMSKeyArn != nil, "SourceKMSKeyArn", in.PublishTo != nil, "PublishTo"); err != nil {
		return err
	}
	code := functions.Code{ZipFile: in.ZipFile, S3Bucket: value(in.S3Bucket), S3Key: value(in.S3Key), S3ObjectVersion: value(in.S3ObjectVersion), ImageURI: value(in.ImageUri)}
	return c.answer(c.Functions.UpdateFunctionCode(c.ctx, functions.UpdateFunctionCodeRequest{Function: ref.FunctionName, Code: code,
		Architectures: in.Architectures, Publish: value(in.Publish), DryRun: value(in.DryRun), RevisionID: value(in.RevisionId)}))
}

func (c *call) updateFunctionConfiguration(in *wire.UpdateFunctionConfigurationRequest) error {
	ref, err := c.reference(in.FunctionName, nil)
	if err != nil {
		return err
	}
	if err := unsupported(in.CapacityProviderConfig != nil, "CapacityProviderConfig", in.DurableConfig != nil, "DurableConfig"); err != nil {
		return err
	}
	return c.answer(c.Functions.UpdateFunctionConfiguration(c.ctx, functions.UpdateFunctionConfigurationRequest{Function: ref.FunctionName,
		Settable: updated(in).domain(), RevisionID: value(in.RevisionId)}))
}

func (c *call) deleteFunction(in *wire.DeleteFunctionRequest) error {
	ref, err := c.reference(in.FunctionName, in.Qualifier)
	if err != nil {
		return err
	}
	return c.done(c.Functions.DeleteFunction(c.ctx, ref))
}

func (c *call) publishVersion(in *wire.PublishVersionRequest) error {
	ref, err := c.reference(in.FunctionName, nil)
	if err != nil {
		return err
	}
	if err := unsupported(in.PublishTo != nil, "PublishTo"); err != nil {
		return err
	}
	return c.answer(c.Functions.PublishVersion(c.ctx, functions.PublishVersionRequest{Function: ref.FunctionName, CodeSHA256: value(in.CodeSha256),
		Description: in.Description, RevisionID: value(in.RevisionId)}))
}

func (c *call) listVersionsByFunction(in *wire.ListVersionsByFunctionRequest) error {
	ref, err := c.reference(in.FunctionName, nil)
	if err != nil {
		return err
	}
	page, err := c.Functions.ListVersionsByFunction(c.ctx, functions.ListVersionsRequest{Function: ref.FunctionName, Marker: value(in.Marker), MaxItems: value(in.MaxItems)})
	if err != nil {
		return err
	}
	return c.json(wire.ListVersionsByFunctionResponse{Versions: configurations(page), NextMarker: given(page.NextMarker)})
}

func (c *call) aliasAnswer(got *functions.Alias, err error) error {
	if err != nil {
		return err
	}
	return c.json(alias(got))
}

func (c *call) createAlias(in *wire.CreateAliasRequest) error {
	ref, err := c.reference(in.FunctionName, nil)
	if err != nil {
		return err
	}
	req := functions.CreateAliasRequest{Function: ref.FunctionName, Name: *in.Name, Version: *in.FunctionVersion, Description: value(in.Description)}
	if in.RoutingConfig != nil {
		req.Weights = in.RoutingConfig.AdditionalVersionWeights
	}
	return c.aliasAnswer(c.Functions.CreateAlias(c.ctx, req))
}

// aliasRef reads the alias that a path names.
func (c *call) aliasRef(function, name *string) (lambent.FunctionRef, error) {
	ref, err := c.reference(function, nil)
	ref.Qualifier = *name
	return ref, err
}

func (c *call) getAlias(in *wire.GetAliasRequest) error {
	ref, err := c.aliasRef(in.FunctionName, in.Name)
	if err != nil {
		return err
	}
	return c.aliasAnswer(c.Functions.GetAlias(c.ctx, ref))
}

func (c *call) updateAlias(in *wire.UpdateAliasRequest) error {
	ref, err := c.aliasRef(in.FunctionName, in.Name)
	if err != nil {
		return err
	}
	req := functions.UpdateAliasRequest{Function: ref.FunctionName, Name: ref.Qualifier, Version: in.FunctionVersion, Description: in.Description, RevisionID: value(in.RevisionId)}
	if in.RoutingConfig != nil {
		req.Weights = &in.RoutingConfig.AdditionalVersionWeights
	}
	return c.aliasAnswer(c.Functions.UpdateAlias(c.ctx, req))
}

func (c *call) deleteAlias(in *wire.DeleteAliasRequest) error {
	ref, err := c.aliasRef(in.FunctionName, in.Name)
	if err != nil {
		return err
	}
	return c.done(c.Functions.DeleteAlias(c.ctx, ref))
}

func (c *call) listAliases(in *wire.ListAliasesRequest) error {
	ref, err := c.reference(in.FunctionName, nil)
	if err != nil {
		return err
	}
	page, err := c.Functions.ListAliases(c.ctx, functions.ListAliasesRequest{Function: ref.FunctionName, Version: value(in.FunctionVersion),
		Marker: value(in.Marker), MaxItems: value(in.MaxItems)})
	if err != nil {
		return err
	}
	out := wire.ListAliasesResponse{Aliases: make([]wire.AliasConfiguration, len(page.Aliases)), NextMarker: given(page.NextMarker)}
	for i := range page.Aliases {
		out.Aliases[i] = alias(&page.Aliases[i])
	}
	return c.json(out)
}

// callerIdentity is STS GetCallerIdentity, which AWS tools ask before anything else.
func (c *call) callerIdentity() error {
	form, err := url.ParseQuery(string(c.body))
	if err != nil || form.Get("Action") != "GetCallerIdentity" {
		return errUnknownOperation
	}
	c.write(http.StatusOK, "text/xml", []byte(`<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult><Arn>`+
		c.who.ARN+`</Arn><UserId>`+c.who.AccessKeyID+`</UserId><Account>`+c.who.Account+`</Account></GetCallerIdentityResult><ResponseMetadata><RequestId>`+
		c.id+`</RequestId></ResponseMetadata></GetCallerIdentityResponse>`))
	return nil
}
