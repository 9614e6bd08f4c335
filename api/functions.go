package api

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"lambent"
	"lambent/functions"
)

// The handlers of the control plane. Each decodes, calls and encodes.

// answer encodes a configuration, or passes an error on.
func (c *call) answer(status int, got *functions.Configuration, err error) error {
	if err != nil {
		return err
	}
	return c.json(status, configuration(got))
}

func (c *call) createFunction() error {
	var in createFunctionInput
	if err := c.decode(&in); err != nil {
		return err
	}
	var v violations
	v.required("functionName", in.FunctionName)
	v.required("role", in.Role)
	v.present("code", in.Code != nil)
	v.given("packageType", in.PackageType)
	v.settable(&in.settable)
	if err := v.err(); err != nil {
		return err
	}
	ref, err := c.reference(*in.FunctionName, "")
	if err != nil {
		return err
	}
	got, err := c.Functions.CreateFunction(c.ctx, functions.CreateFunctionRequest{Function: ref.FunctionName, Settable: in.domain(), Code: in.Code.domain(),
		PackageType: in.PackageType, Architectures: in.Architectures, Publish: in.Publish, Tags: in.Tags, CodeSigningConfigARN: in.CodeSigningConfigArn})
	return c.answer(http.StatusCreated, got, err)
}

func (c *call) getFunction() error {
	ref, err := c.function()
	if err != nil {
		return err
	}
	got, err := c.Functions.GetFunction(c.ctx, ref)
	if err != nil {
		return err
	}
	body := map[string]any{"Configuration": configuration(&got.Configuration),
		"Code": map[string]string{"RepositoryType": "S3", "Location": c.codeURL(got.Configuration.Code)}}
	if len(got.Tags) > 0 {
		body["Tags"] = got.Tags
	}
	if got.Reserved != nil {
		body["Concurrency"] = map[string]int{"ReservedConcurrentExecutions": *got.Reserved}
	}
	return c.json(http.StatusOK, body)
}

func (c *call) getFunctionConfiguration() error {
	ref, err := c.function()
	if err != nil {
		return err
	}
	got, err := c.Functions.GetFunctionConfiguration(c.ctx, ref)
	return c.answer(http.StatusOK, got, err)
}

// page reads Marker and MaxItems.
func (c *call) page() (marker string, items int, err error) {
	query := c.r.URL.Query()
	if text := query.Get("MaxItems"); text != "" {
		if items, err = strconv.Atoi(text); err != nil {
			return "", 0, &modelError{serialization, "STRING_VALUE can not be converted to Integer at 'MaxItems'"}
		}
		var v violations
		v.number("maxItems", &items)
		err = v.err()
	}
	return query.Get("Marker"), items, err
}

func configurations(name string, page functions.ConfigurationPage) map[string]any {
	list := make([]map[string]any, len(page.Configurations))
	for i := range page.Configurations {
		list[i] = configuration(&page.Configurations[i])
	}
	body := map[string]any{name: list}
	if page.NextMarker != "" {
		body["NextMarker"] = page.NextMarker
	}
	return body
}

func (c *call) listFunctions() error {
	marker, items, err := c.page()
	if err != nil {
		return err
	}
	query := c.r.URL.Query()
	version := query.Get("FunctionVersion")
	if version != "" && version != "ALL" {
		var v violations
		v.add("'"+version+"'", "functionVersion", "Member must satisfy enum value set: [ALL]")
		return v.err()
	}
	page, err := c.Functions.ListFunctions(c.ctx, functions.ListFunctionsRequest{Account: c.who.Account, MasterRegion: query.Get("MasterRegion"),
		AllVersions: version == "ALL", Marker: marker, MaxItems: items})
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, configurations("Functions", page))
}

func (c *call) updateFunctionCode() error {
	ref, err := c.function()
	if err != nil {
		return err
	}
	var in struct {
		code
		Architectures   []string
		Publish, DryRun bool
		RevisionID      string `json:"RevisionId"`
	}
	if err := c.decode(&in); err != nil {
		return err
	}
	got, err := c.Functions.UpdateFunctionCode(c.ctx, functions.UpdateFunctionCodeRequest{Function: ref.FunctionName, Code: in.code.domain(),
		Architectures: in.Architectures, Publish: in.Publish, DryRun: in.DryRun, RevisionID: in.RevisionID})
	return c.answer(http.StatusOK, got, err)
}

func (c *call) updateFunctionConfiguration() error {
	ref, err := c.function()
	if err != nil {
		return err
	}
	var in struct {
		settable
		RevisionID string `json:"RevisionId"`
	}
	if err := c.decode(&in); err != nil {
		return err
	}
	var v violations
	v.text("role", in.Role)
	v.settable(&in.settable)
	if err := v.err(); err != nil {
		return err
	}
	got, err := c.Functions.UpdateFunctionConfiguration(c.ctx, functions.UpdateFunctionConfigurationRequest{Function: ref.FunctionName,
		Settable: in.domain(), RevisionID: in.RevisionID})
	return c.answer(http.StatusOK, got, err)
}

func (c *call) deleteFunction() error {
	ref, err := c.function()
	if err != nil {
		return err
	}
	if err := c.Functions.DeleteFunction(c.ctx, ref); err != nil {
		return err
	}
	return c.empty(http.StatusNoContent)
}

func (c *call) publishVersion() error {
	ref, err := c.function()
	if err != nil {
		return err
	}
	var in struct {
		CodeSha256  string
		RevisionID  string `json:"RevisionId"`
		Description *string
	}
	if err := c.decode(&in); err != nil {
		return err
	}
	var v violations
	v.text("description", in.Description)
	if err := v.err(); err != nil {
		return err
	}
	got, err := c.Functions.PublishVersion(c.ctx, functions.PublishVersionRequest{Function: ref.FunctionName, CodeSHA256: in.CodeSha256,
		Description: in.Description, RevisionID: in.RevisionID})
	return c.answer(http.StatusCreated, got, err)
}

func (c *call) listVersionsByFunction() error {
	ref, err := c.function()
	if err != nil {
		return err
	}
	marker, items, err := c.page()
	if err != nil {
		return err
	}
	page, err := c.Functions.ListVersionsByFunction(c.ctx, functions.ListVersionsRequest{Function: ref.FunctionName, Marker: marker, MaxItems: items})
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, configurations("Versions", page))
}

type routing struct{ AdditionalVersionWeights map[string]float64 }

func (c *call) aliasAnswer(status int, got *functions.Alias, err error) error {
	if err != nil {
		return err
	}
	return c.json(status, alias(got))
}

func (c *call) createAlias() error {
	ref, err := c.function()
	if err != nil {
		return err
	}
	var in struct {
		Name, FunctionVersion *string
		Description           string
		RoutingConfig         *routing
	}
	if err := c.decode(&in); err != nil {
		return err
	}
	var v violations
	v.required("name", in.Name)
	v.required("functionVersion", in.FunctionVersion)
	v.given("description", in.Description)
	if err := v.err(); err != nil {
		return err
	}
	req := functions.CreateAliasRequest{Function: ref.FunctionName, Name: *in.Name, Version: *in.FunctionVersion, Description: in.Description}
	if in.RoutingConfig != nil {
		req.Weights = in.RoutingConfig.AdditionalVersionWeights
	}
	got, err := c.Functions.CreateAlias(c.ctx, req)
	return c.aliasAnswer(http.StatusCreated, got, err)
}

// aliasRef reads the alias that the path names.
func (c *call) aliasRef() (lambent.FunctionRef, error) {
	ref, err := c.function()
	if err != nil {
		return ref, err
	}
	ref.Qualifier = c.labels.get("Name")
	var v violations
	v.text("name", &ref.Qualifier)
	return ref, v.err()
}

func (c *call) getAlias() error {
	ref, err := c.aliasRef()
	if err != nil {
		return err
	}
	got, err := c.Functions.GetAlias(c.ctx, ref)
	return c.aliasAnswer(http.StatusOK, got, err)
}

func (c *call) updateAlias() error {
	ref, err := c.aliasRef()
	if err != nil {
		return err
	}
	var in struct {
		FunctionVersion, Description *string
		RoutingConfig                *routing
		RevisionID                   string `json:"RevisionId"`
	}
	if err := c.decode(&in); err != nil {
		return err
	}
	var v violations
	v.text("functionVersion", in.FunctionVersion)
	v.text("description", in.Description)
	if err := v.err(); err != nil {
		return err
	}
	req := functions.UpdateAliasRequest{Function: ref.FunctionName, Name: ref.Qualifier, Version: in.FunctionVersion, Description: in.Description, RevisionID: in.RevisionID}
	if in.RoutingConfig != nil {
		req.Weights = &in.RoutingConfig.AdditionalVersionWeights
	}
	got, err := c.Functions.UpdateAlias(c.ctx, req)
	return c.aliasAnswer(http.StatusOK, got, err)
}

func (c *call) deleteAlias() error {
	ref, err := c.aliasRef()
	if err != nil {
		return err
	}
	if err := c.Functions.DeleteAlias(c.ctx, ref); err != nil {
		return err
	}
	return c.empty(http.StatusNoContent)
}

func (c *call) listAliases() error {
	ref, err := c.function()
	if err != nil {
		return err
	}
	marker, items, err := c.page()
	if err != nil {
		return err
	}
	page, err := c.Functions.ListAliases(c.ctx, functions.ListAliasesRequest{Function: ref.FunctionName, Version: c.r.URL.Query().Get("FunctionVersion"),
		Marker: marker, MaxItems: items})
	if err != nil {
		return err
	}
	list := make([]map[string]any, len(page.Aliases))
	for i := range page.Aliases {
		list[i] = alias(&page.Aliases[i])
	}
	body := map[string]any{"Aliases": list}
	if page.NextMarker != "" {
		body["NextMarker"] = page.NextMarker
	}
	return c.json(http.StatusOK, body)
}

func (c *call) putFunctionConcurrency() error {
	ref, err := c.function()
	if err != nil {
		return err
	}
	var in struct{ ReservedConcurrentExecutions *int }
	if err := c.decode(&in); err != nil {
		return err
	}
	var v violations
	v.present("reservedConcurrentExecutions", in.ReservedConcurrentExecutions != nil)
	v.number("reservedConcurrentExecutions", in.ReservedConcurrentExecutions)
	if err := v.err(); err != nil {
		return err
	}
	got, err := c.Functions.PutFunctionConcurrency(c.ctx, ref.FunctionName, *in.ReservedConcurrentExecutions)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, map[string]int{"ReservedConcurrentExecutions": got})
}

// invalidNull is the error of a member that is missing.
func invalidNull(member string) error {
	var v violations
	v.present(member, false)
	return v.err()
}

func (c *call) getFunctionConcurrency() error {
	ref, err := c.function()
	if err != nil {
		return err
	}
	got, err := c.Functions.GetFunctionConcurrency(c.ctx, ref.FunctionName)
	if err != nil {
		return err
	}
	body := map[string]int{}
	if got != nil {
		body["ReservedConcurrentExecutions"] = *got
	}
	return c.json(http.StatusOK, body)
}

func (c *call) deleteFunctionConcurrency() error {
	ref, err := c.function()
	if err != nil {
		return err
	}
	if err := c.Functions.DeleteFunctionConcurrency(c.ctx, ref.FunctionName); err != nil {
		return err
	}
	return c.empty(http.StatusNoContent)
}

func (c *call) getAccountSettings() error {
	s, err := c.Functions.GetAccountSettings(c.ctx, c.who.Account)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, map[string]any{
		"AccountLimit": map[string]any{"TotalCodeSize": s.TotalCodeLimit, "CodeSizeUnzipped": s.CodeUnzippedLimit, "CodeSizeZipped": s.CodeZippedLimit,
			"ConcurrentExecutions": s.ConcurrencyLimit, "UnreservedConcurrentExecutions": s.UnreservedConcurrency},
		"AccountUsage": map[string]any{"TotalCodeSize": s.TotalCodeUsed, "FunctionCount": s.FunctionCount},
	})
}

// tagged reads the function that an ARN in the path names.
func (c *call) tagged() (lambent.FunctionRef, error) {
	resource := c.labels.get("Resource")
	if !strings.HasPrefix(resource, "arn:") {
		var v violations
		v.add("'"+resource+"'", "resource", "Member must satisfy regular expression pattern: "+taggable)
		return lambent.FunctionRef{}, v.err()
	}
	return c.reference(resource, "")
}

func (c *call) tagResource() error {
	ref, err := c.tagged()
	if err != nil {
		return err
	}
	var in struct{ Tags map[string]string }
	if err := c.decode(&in); err != nil {
		return err
	}
	if in.Tags == nil {
		return invalidNull("tags")
	}
	if err := c.Functions.TagResource(c.ctx, ref, in.Tags); err != nil {
		return err
	}
	return c.empty(http.StatusNoContent)
}

func (c *call) untagResource() error {
	ref, err := c.tagged()
	if err != nil {
		return err
	}
	keys := c.r.URL.Query()["tagKeys"]
	if len(keys) == 0 {
		return invalidNull("tagKeys")
	}
	if err := c.Functions.UntagResource(c.ctx, ref, keys); err != nil {
		return err
	}
	return c.empty(http.StatusNoContent)
}

func (c *call) listTags() error {
	ref, err := c.tagged()
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
	return c.json(http.StatusOK, map[string]any{"Tags": tags})
}

// The rest are what tools ask about a function whose answer is "none", which is the truth while it cannot be set.

// exists answers an error unless the function exists.
func (c *call) exists() error {
	ref, err := c.function()
	if err != nil {
		return err
	}
	_, err = c.Functions.GetFunctionConfiguration(c.ctx, ref)
	return err
}

// existing checks the function and answers a fixed body.
func (c *call) existing(body any) error {
	if err := c.exists(); err != nil {
		return err
	}
	return c.json(http.StatusOK, body)
}

// missing answers that there is no such thing, with a message made from the function's ARN.
func (c *call) missing(message func(arn string) error) error {
	ref, err := c.function()
	if err != nil {
		return err
	}
	arn := ref.ARN(c.Region)
	if ref.Qualifier != "" {
		arn += ":" + ref.Qualifier
	}
	return message(arn)
}

// noResource is what Lambda says of policies and function URLs, also of a function that does not exist.
func noResource(string) error {
	return lambent.Errorf(lambent.NotFound, "The resource you requested does not exist.")
}

func (c *call) getPolicy() error            { return c.missing(noResource) }
func (c *call) getFunctionURLConfig() error { return c.missing(noResource) }
func (c *call) getFunctionEventInvokeConfig() error {
	return c.missing(func(arn string) error {
		return lambent.Errorf(lambent.NotFound, "The function %s doesn't have an EventInvokeConfig", arn)
	})
}
func (c *call) getProvisionedConcurrencyConfig() error {
	if c.r.URL.Query().Get("List") == "ALL" {
		return c.existing(map[string]any{"ProvisionedConcurrencyConfigs": []any{}})
	}
	if err := c.exists(); err != nil {
		return err
	}
	return &modelError{noProvisioned, "No Provisioned Concurrency Config found for this function"}
}
func (c *call) getFunctionCodeSigningConfig() error {
	ref, err := c.function()
	if err != nil {
		return err
	}
	return c.existing(map[string]string{"FunctionName": ref.Name})
}
func (c *call) getFunctionRecursionConfig() error {
	return c.existing(map[string]string{"RecursiveLoop": "Terminate"})
}
func (c *call) getRuntimeManagementConfig() error {
	ref, err := c.function()
	if err != nil {
		return err
	}
	return c.existing(map[string]string{"UpdateRuntimeOn": "Auto", "FunctionArn": ref.ARN(c.Region)})
}
func (c *call) listEventSourceMappings() error {
	return c.json(http.StatusOK, map[string]any{"EventSourceMappings": []any{}})
}
func (c *call) listLayers() error {
	if c.r.URL.Query().Get("find") == "LayerVersion" {
		return lambent.Errorf(lambent.NotImplemented, "Lambent does not support GetLayerVersionByArn yet.")
	}
	return c.json(http.StatusOK, map[string]any{"Layers": []any{}})
}
func (c *call) listFunctionURLConfigs() error {
	err := c.existing(map[string]any{"FunctionUrlConfigs": []any{}})
	if err != nil && lambent.CodeOf(err) == lambent.NotFound {
		return lambent.Errorf(lambent.NotFound, "Function does not exist")
	}
	return err
}
func (c *call) listFunctionEventInvokeConfigs() error {
	return c.existing(map[string]any{"FunctionEventInvokeConfigs": []any{}})
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
