package api

import (
	"lambent"
	"lambent/api/internal/wire"
)

func (c *call) putFunctionConcurrency(in *wire.PutFunctionConcurrencyRequest) error {
	ref, err := c.reference(in.FunctionName, nil)
	if err != nil {
		return err
	}
	got, err := c.Functions.PutFunctionConcurrency(c.ctx, ref.FunctionName, *in.ReservedConcurrentExecutions)
	if err != nil {
		return err
	}
	return c.json(wire.Concurrency{ReservedConcurrentExecutions: &got})
}

func (c *call) getFunctionConcurrency(in *wire.GetFunctionConcurrencyRequest) error {
	ref, err := c.reference(in.FunctionName, nil)
	if err != nil {
		return err
	}
	got, err := c.Functions.GetFunctionConcurrency(c.ctx, ref.FunctionName)
	if err != nil {
		return err
	}
	return c.json(wire.GetFunctionConcurrencyResponse{ReservedConcurrentExecutions: got})
}

func (c *call) deleteFunctionConcurrency(in *wire.DeleteFunctionConcurrencyRequest) error {
	ref, err := c.reference(in.FunctionName, nil)
	if err != nil {
		return err
	}
	return c.done(c.Functions.DeleteFunctionConcurrency(c.ctx, ref.FunctionName))
}

func (c *call) getAccountSettings() error {
	s, err := c.Functions.GetAccountSettings(c.ctx, c.who.Account)
	if err != nil {
		return err
	}
	return c.json(wire.GetAccountSettingsResponse{
		AccountLimit: &wire.AccountLimit{TotalCodeSize: &s.TotalCodeLimit, CodeSizeUnzipped: &s.CodeUnzippedLimit, CodeSizeZipped: &s.CodeZippedLimit,
			ConcurrentExecutions: &s.ConcurrencyLimit, UnreservedConcurrentExecutions: &s.UnreservedConcurrency},
		AccountUsage: &wire.AccountUsage{TotalCodeSize: &s.TotalCodeUsed, FunctionCount: &s.FunctionCount},
	})
}

func (c *call) tagResource(in *wire.TagResourceRequest) error {
	ref, err := c.reference(in.Resource, nil)
	if err != nil {
		return err
	}
	return c.done(c.Functions.TagResource(c.ctx, ref, in.Tags))
}

func (c *call) untagResource(in *wire.UntagResourceRequest) error {
	ref, err := c.reference(in.Resource, nil)
	if err != nil {
		return err
	}
	return c.done(c.Functions.UntagResource(c.ctx, ref, in.TagKeys))
}

func (c *call) listTags(in *wire.ListTagsRequest) error {
	ref, err := c.reference(in.Resource, nil)
	if err != nil {
		return err
	}
	tags, err := c.Functions.ListTags(c.ctx, ref)
	if err != nil {
		return err
	}
	if tags == nil {
		tags = map[string]string{}
	}
	return c.json(wire.ListTagsResponse{Tags: tags})
}

// The rest are what tools ask about a function whose answer is "none", which is the truth while it cannot be set.

// existing returns a reference to a function version that exists.
func (c *call) existing(name, qualifier *string) (lambent.FunctionRef, error) {
	ref, err := c.reference(name, qualifier)
	if err != nil {
		return ref, err
	}
	_, err = c.Functions.GetFunctionConfiguration(c.ctx, ref)
	return ref, err
}

// noResource is what Lambda says of policies and function URLs, also of a function that does not exist.
func (c *call) noResource(name, qualifier *string) error {
	if _, err := c.reference(name, qualifier); err != nil {
		return err
	}
	return lambent.Errorf(lambent.NotFound, "The resource you requested does not exist.")
}

func (c *call) getPolicy(in *wire.GetPolicyRequest) error {
	return c.noResource(in.FunctionName, in.Qualifier)
}

func (c *call) getFunctionURLConfig(in *wire.GetFunctionUrlConfigRequest) error {
	return c.noResource(in.FunctionName, in.Qualifier)
}

func (c *call) getFunctionEventInvokeConfig(in *wire.GetFunctionEventInvokeConfigRequest) error {
	ref, err := c.reference(in.FunctionName, in.Qualifier)
	if err != nil {
		return err
	}
	qualifier := ref.Qualifier
	if qualifier == "" {
		qualifier = lambent.Latest
	}
	return lambent.Errorf(lambent.NotFound, "The function %s:%s doesn't have an EventInvokeConfig", ref.ARN(c.Region), qualifier)
}

func (c *call) getProvisionedConcurrencyConfig(in *wire.GetProvisionedConcurrencyConfigRequest) error {
	if _, err := c.existing(in.FunctionName, in.Qualifier); err != nil {
		return err
	}
	return &modelError{noProvisioned, "No Provisioned Concurrency Config found for this function"}
}

func (c *call) getFunctionCodeSigningConfig(in *wire.GetFunctionCodeSigningConfigRequest) error {
	if _, err := c.existing(in.FunctionName, nil); err != nil {
		return err
	}
	return c.json(wire.GetFunctionCodeSigningConfigResponse{}) // AWS says no more, though the model requires members
}

func (c *call) getFunctionRecursionConfig(in *wire.GetFunctionRecursionConfigRequest) error {
	if _, err := c.existing(in.FunctionName, nil); err != nil {
		return err
	}
	return c.json(wire.GetFunctionRecursionConfigResponse{RecursiveLoop: new("Terminate")})
}

func (c *call) getRuntimeManagementConfig(in *wire.GetRuntimeManagementConfigRequest) error {
	ref, err := c.existing(in.FunctionName, in.Qualifier)
	if err != nil {
		return err
	}
	return c.json(wire.GetRuntimeManagementConfigResponse{UpdateRuntimeOn: new("Auto"), FunctionArn: new(ref.ARN(c.Region))})
}

func (c *call) listEventSourceMappings(*wire.ListEventSourceMappingsRequest) error {
	return c.json(wire.ListEventSourceMappingsResponse{EventSourceMappings: []wire.EventSourceMappingConfiguration{}})
}

func (c *call) listLayers(*wire.ListLayersRequest) error {
	return c.json(wire.ListLayersResponse{Layers: []wire.LayersListItem{}})
}

func (c *call) listProvisionedConcurrencyConfigs(in *wire.ListProvisionedConcurrencyConfigsRequest) error {
	if _, err := c.existing(in.FunctionName, nil); err != nil {
		return err
	}
	return c.json(wire.ListProvisionedConcurrencyConfigsResponse{ProvisionedConcurrencyConfigs: []wire.ProvisionedConcurrencyConfigListItem{}})
}

func (c *call) listFunctionURLConfigs(in *wire.ListFunctionUrlConfigsRequest) error {
	if _, err := c.existing(in.FunctionName, nil); err != nil {
		if lambent.CodeOf(err) == lambent.NotFound {
			err = lambent.Wrap(lambent.NotFound, err, "Function does not exist")
		}
		return err
	}
	return c.json(wire.ListFunctionUrlConfigsResponse{FunctionUrlConfigs: []wire.FunctionUrlConfig{}})
}

func (c *call) listFunctionEventInvokeConfigs(in *wire.ListFunctionEventInvokeConfigsRequest) error {
	if _, err := c.existing(in.FunctionName, nil); err != nil {
		return err
	}
	return c.json(wire.ListFunctionEventInvokeConfigsResponse{FunctionEventInvokeConfigs: []wire.FunctionEventInvokeConfig{}})
}
