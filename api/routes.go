package api

import (
	"net/http"
	"net/url"
	"strings"

	"lambent"
)

// operation is one of Lambda's, with its route.
type operation struct {
	name    string
	method  string
	path    string // segments; {Name} stands for one segment, or, for ARNs of tags, for all that is left
	maxBody int64  // of the request; 0: maxSmallBody
	run     func(*call) error
}

// operations are all that Lambda's model has. What is not built says so.
var operations = []operation{
	{"InvokeAsync", "POST", "/2014-11-13/functions/{FunctionName}/invoke-async", 0, notBuilt},
	{"ListEventSourceMappings", "GET", "/2015-03-31/event-source-mappings", 0, (*call).listEventSourceMappings},
	{"CreateEventSourceMapping", "POST", "/2015-03-31/event-source-mappings", 0, notBuilt},
	{"DeleteEventSourceMapping", "DELETE", "/2015-03-31/event-source-mappings/{UUID}", 0, notBuilt},
	{"GetEventSourceMapping", "GET", "/2015-03-31/event-source-mappings/{UUID}", 0, notBuilt},
	{"UpdateEventSourceMapping", "PUT", "/2015-03-31/event-source-mappings/{UUID}", 0, notBuilt},
	{"ListFunctions", "GET", "/2015-03-31/functions", 0, (*call).listFunctions},
	{"CreateFunction", "POST", "/2015-03-31/functions", maxBody, (*call).createFunction},
	{"DeleteFunction", "DELETE", "/2015-03-31/functions/{FunctionName}", 0, (*call).deleteFunction},
	{"GetFunction", "GET", "/2015-03-31/functions/{FunctionName}", 0, (*call).getFunction},
	{"ListAliases", "GET", "/2015-03-31/functions/{FunctionName}/aliases", 0, (*call).listAliases},
	{"CreateAlias", "POST", "/2015-03-31/functions/{FunctionName}/aliases", 0, (*call).createAlias},
	{"DeleteAlias", "DELETE", "/2015-03-31/functions/{FunctionName}/aliases/{Name}", 0, (*call).deleteAlias},
	{"GetAlias", "GET", "/2015-03-31/functions/{FunctionName}/aliases/{Name}", 0, (*call).getAlias},
	{"UpdateAlias", "PUT", "/2015-03-31/functions/{FunctionName}/aliases/{Name}", 0, (*call).updateAlias},
	{"UpdateFunctionCode", "PUT", "/2015-03-31/functions/{FunctionName}/code", maxBody, (*call).updateFunctionCode},
	{"GetFunctionConfiguration", "GET", "/2015-03-31/functions/{FunctionName}/configuration", 0, (*call).getFunctionConfiguration},
	{"UpdateFunctionConfiguration", "PUT", "/2015-03-31/functions/{FunctionName}/configuration", 0, (*call).updateFunctionConfiguration},
	{"Invoke", "POST", "/2015-03-31/functions/{FunctionName}/invocations", lambent.MaxRequestBytes, (*call).invoke},
	{"GetPolicy", "GET", "/2015-03-31/functions/{FunctionName}/policy", 0, (*call).getPolicy},
	{"AddPermission", "POST", "/2015-03-31/functions/{FunctionName}/policy", 0, notBuilt},
	{"RemovePermission", "DELETE", "/2015-03-31/functions/{FunctionName}/policy/{StatementId}", 0, notBuilt},
	{"ListVersionsByFunction", "GET", "/2015-03-31/functions/{FunctionName}/versions", 0, (*call).listVersionsByFunction},
	{"PublishVersion", "POST", "/2015-03-31/functions/{FunctionName}/versions", 0, (*call).publishVersion},
	{"GetAccountSettings", "GET", "/2016-08-19/account-settings", 0, (*call).getAccountSettings},
	{"UntagResource", "DELETE", "/2017-03-31/tags/{Resource}", 0, (*call).untagResource},
	{"ListTags", "GET", "/2017-03-31/tags/{Resource}", 0, (*call).listTags},
	{"TagResource", "POST", "/2017-03-31/tags/{Resource}", 0, (*call).tagResource},
	{"DeleteFunctionConcurrency", "DELETE", "/2017-10-31/functions/{FunctionName}/concurrency", 0, (*call).deleteFunctionConcurrency},
	{"PutFunctionConcurrency", "PUT", "/2017-10-31/functions/{FunctionName}/concurrency", 0, (*call).putFunctionConcurrency},
	{"ListLayers", "GET", "/2018-10-31/layers", 0, (*call).listLayers},
	{"ListLayerVersions", "GET", "/2018-10-31/layers/{LayerName}/versions", 0, notBuilt},
	{"PublishLayerVersion", "POST", "/2018-10-31/layers/{LayerName}/versions", 0, notBuilt},
	{"DeleteLayerVersion", "DELETE", "/2018-10-31/layers/{LayerName}/versions/{VersionNumber}", 0, notBuilt},
	{"GetLayerVersion", "GET", "/2018-10-31/layers/{LayerName}/versions/{VersionNumber}", 0, notBuilt},
	{"GetLayerVersionPolicy", "GET", "/2018-10-31/layers/{LayerName}/versions/{VersionNumber}/policy", 0, notBuilt},
	{"AddLayerVersionPermission", "POST", "/2018-10-31/layers/{LayerName}/versions/{VersionNumber}/policy", 0, notBuilt},
	{"RemoveLayerVersionPermission", "DELETE", "/2018-10-31/layers/{LayerName}/versions/{VersionNumber}/policy/{StatementId}", 0, notBuilt},
	{"GetLayerVersionByArn", "GET", "/2018-10-31/layers", 0, notBuilt},
	{"DeleteFunctionEventInvokeConfig", "DELETE", "/2019-09-25/functions/{FunctionName}/event-invoke-config", 0, notBuilt},
	{"GetFunctionEventInvokeConfig", "GET", "/2019-09-25/functions/{FunctionName}/event-invoke-config", 0, (*call).getFunctionEventInvokeConfig},
	{"UpdateFunctionEventInvokeConfig", "POST", "/2019-09-25/functions/{FunctionName}/event-invoke-config", 0, notBuilt},
	{"PutFunctionEventInvokeConfig", "PUT", "/2019-09-25/functions/{FunctionName}/event-invoke-config", 0, notBuilt},
	{"ListFunctionEventInvokeConfigs", "GET", "/2019-09-25/functions/{FunctionName}/event-invoke-config/list", 0, (*call).listFunctionEventInvokeConfigs},
	{"GetFunctionConcurrency", "GET", "/2019-09-30/functions/{FunctionName}/concurrency", 0, (*call).getFunctionConcurrency},
	{"DeleteProvisionedConcurrencyConfig", "DELETE", "/2019-09-30/functions/{FunctionName}/provisioned-concurrency", 0, notBuilt},
	{"GetProvisionedConcurrencyConfig", "GET", "/2019-09-30/functions/{FunctionName}/provisioned-concurrency", 0, (*call).getProvisionedConcurrencyConfig},
	{"PutProvisionedConcurrencyConfig", "PUT", "/2019-09-30/functions/{FunctionName}/provisioned-concurrency", 0, notBuilt},
	{"ListProvisionedConcurrencyConfigs", "GET", "/2019-09-30/functions/{FunctionName}/provisioned-concurrency", 0, (*call).listProvisionedConcurrencyConfigs},
	{"ListCodeSigningConfigs", "GET", "/2020-04-22/code-signing-configs", 0, notBuilt},
	{"CreateCodeSigningConfig", "POST", "/2020-04-22/code-signing-configs", 0, notBuilt},
	{"DeleteCodeSigningConfig", "DELETE", "/2020-04-22/code-signing-configs/{CodeSigningConfigArn}", 0, notBuilt},
	{"GetCodeSigningConfig", "GET", "/2020-04-22/code-signing-configs/{CodeSigningConfigArn}", 0, notBuilt},
	{"UpdateCodeSigningConfig", "PUT", "/2020-04-22/code-signing-configs/{CodeSigningConfigArn}", 0, notBuilt},
	{"ListFunctionsByCodeSigningConfig", "GET", "/2020-04-22/code-signing-configs/{CodeSigningConfigArn}/functions", 0, notBuilt},
	{"DeleteFunctionCodeSigningConfig", "DELETE", "/2020-06-30/functions/{FunctionName}/code-signing-config", 0, notBuilt},
	{"GetFunctionCodeSigningConfig", "GET", "/2020-06-30/functions/{FunctionName}/code-signing-config", 0, (*call).getFunctionCodeSigningConfig},
	{"PutFunctionCodeSigningConfig", "PUT", "/2020-06-30/functions/{FunctionName}/code-signing-config", 0, notBuilt},
	{"GetRuntimeManagementConfig", "GET", "/2021-07-20/functions/{FunctionName}/runtime-management-config", 0, (*call).getRuntimeManagementConfig},
	{"PutRuntimeManagementConfig", "PUT", "/2021-07-20/functions/{FunctionName}/runtime-management-config", 0, notBuilt},
	{"DeleteFunctionUrlConfig", "DELETE", "/2021-10-31/functions/{FunctionName}/url", 0, notBuilt},
	{"GetFunctionUrlConfig", "GET", "/2021-10-31/functions/{FunctionName}/url", 0, (*call).getFunctionUrlConfig},
	{"CreateFunctionUrlConfig", "POST", "/2021-10-31/functions/{FunctionName}/url", 0, notBuilt},
	{"UpdateFunctionUrlConfig", "PUT", "/2021-10-31/functions/{FunctionName}/url", 0, notBuilt},
	{"ListFunctionUrlConfigs", "GET", "/2021-10-31/functions/{FunctionName}/urls", 0, (*call).listFunctionUrlConfigs},
	{"InvokeWithResponseStream", "POST", "/2021-11-15/functions/{FunctionName}/response-streaming-invocations", 0, notBuilt},
	{"GetFunctionRecursionConfig", "GET", "/2024-08-31/functions/{FunctionName}/recursion-config", 0, (*call).getFunctionRecursionConfig},
	{"PutFunctionRecursionConfig", "PUT", "/2024-08-31/functions/{FunctionName}/recursion-config", 0, notBuilt},
	{"ListCapacityProviders", "GET", "/2025-11-30/capacity-providers", 0, notBuilt},
	{"CreateCapacityProvider", "POST", "/2025-11-30/capacity-providers", 0, notBuilt},
	{"DeleteCapacityProvider", "DELETE", "/2025-11-30/capacity-providers/{CapacityProviderName}", 0, notBuilt},
	{"GetCapacityProvider", "GET", "/2025-11-30/capacity-providers/{CapacityProviderName}", 0, notBuilt},
	{"UpdateCapacityProvider", "PUT", "/2025-11-30/capacity-providers/{CapacityProviderName}", 0, notBuilt},
	{"ListFunctionVersionsByCapacityProvider", "GET", "/2025-11-30/capacity-providers/{CapacityProviderName}/function-versions", 0, notBuilt},
	{"GetFunctionScalingConfig", "GET", "/2025-11-30/functions/{FunctionName}/function-scaling-config", 0, notBuilt},
	{"PutFunctionScalingConfig", "PUT", "/2025-11-30/functions/{FunctionName}/function-scaling-config", 0, notBuilt},
	{"SendDurableExecutionCallbackFailure", "POST", "/2025-12-01/durable-execution-callbacks/{CallbackId}/fail", 0, notBuilt},
	{"SendDurableExecutionCallbackHeartbeat", "POST", "/2025-12-01/durable-execution-callbacks/{CallbackId}/heartbeat", 0, notBuilt},
	{"SendDurableExecutionCallbackSuccess", "POST", "/2025-12-01/durable-execution-callbacks/{CallbackId}/succeed", 0, notBuilt},
	{"GetDurableExecution", "GET", "/2025-12-01/durable-executions/{DurableExecutionArn}", 0, notBuilt},
	{"CheckpointDurableExecution", "POST", "/2025-12-01/durable-executions/{DurableExecutionArn}/checkpoint", 0, notBuilt},
	{"GetDurableExecutionHistory", "GET", "/2025-12-01/durable-executions/{DurableExecutionArn}/history", 0, notBuilt},
	{"GetDurableExecutionState", "GET", "/2025-12-01/durable-executions/{DurableExecutionArn}/state", 0, notBuilt},
	{"StopDurableExecution", "POST", "/2025-12-01/durable-executions/{DurableExecutionArn}/stop", 0, notBuilt},
	{"ListDurableExecutionsByFunction", "GET", "/2025-12-01/functions/{FunctionName}/durable-executions", 0, notBuilt},
}

// notBuilt answers an operation whose feature is still to come.
func notBuilt(c *call) error {
	return lambent.Errorf(lambent.NotImplemented, "Lambent does not support %s yet.", c.op.name)
}

// route finds the operation of a request and the labels in its path; nil when there is none.
func route(r *http.Request) (*operation, map[string]string) {
	sent := strings.Split(strings.Trim(r.URL.EscapedPath(), "/"), "/")
	for i := range operations {
		op := &operations[i]
		if op.method != r.Method {
			continue
		}
		if labels, ok := match(strings.Split(strings.Trim(op.path, "/"), "/"), sent); ok {
			return op, labels
		}
	}
	return nil, nil
}

func match(want, sent []string) (map[string]string, bool) {
	if len(sent) < len(want) || len(sent) > len(want) && want[len(want)-1] != "{Resource}" {
		return nil, false
	}
	var labels map[string]string
	for i, segment := range want {
		got := sent[i]
		if segment == "{Resource}" {
			got = strings.Join(sent[i:], "/")
		}
		if !strings.HasPrefix(segment, "{") {
			if segment != got {
				return nil, false
			}
			continue
		}
		value, err := url.PathUnescape(got)
		if err != nil || value == "" {
			return nil, false
		}
		if labels == nil {
			labels = make(map[string]string, 2)
		}
		labels[strings.Trim(segment, "{}+")] = value
	}
	return labels, true
}
