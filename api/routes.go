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
	path    string // {Name} stands for one segment
	maxBody int64  // of the request; 0: maxSmallBody
	run     func(*call) error
}

// operations are all that Lambda's model has. What is not built says so. Two share another's route and are told apart by the
// query: GetLayerVersionByArn and ListProvisionedConcurrencyConfigs.
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
	{"DeleteFunctionEventInvokeConfig", "DELETE", "/2019-09-25/functions/{FunctionName}/event-invoke-config", 0, notBuilt},
	{"GetFunctionEventInvokeConfig", "GET", "/2019-09-25/functions/{FunctionName}/event-invoke-config", 0, (*call).getFunctionEventInvokeConfig},
	{"UpdateFunctionEventInvokeConfig", "POST", "/2019-09-25/functions/{FunctionName}/event-invoke-config", 0, notBuilt},
	{"PutFunctionEventInvokeConfig", "PUT", "/2019-09-25/functions/{FunctionName}/event-invoke-config", 0, notBuilt},
	{"ListFunctionEventInvokeConfigs", "GET", "/2019-09-25/functions/{FunctionName}/event-invoke-config/list", 0, (*call).listFunctionEventInvokeConfigs},
	{"GetFunctionConcurrency", "GET", "/2019-09-30/functions/{FunctionName}/concurrency", 0, (*call).getFunctionConcurrency},
	{"DeleteProvisionedConcurrencyConfig", "DELETE", "/2019-09-30/functions/{FunctionName}/provisioned-concurrency", 0, notBuilt},
	{"GetProvisionedConcurrencyConfig", "GET", "/2019-09-30/functions/{FunctionName}/provisioned-concurrency", 0, (*call).getProvisionedConcurrencyConfig},
	{"PutProvisionedConcurrencyConfig", "PUT", "/2019-09-30/functions/{FunctionName}/provisioned-concurrency", 0, notBuilt},
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
	{"GetFunctionUrlConfig", "GET", "/2021-10-31/functions/{FunctionName}/url", 0, (*call).getFunctionURLConfig},
	{"CreateFunctionUrlConfig", "POST", "/2021-10-31/functions/{FunctionName}/url", 0, notBuilt},
	{"UpdateFunctionUrlConfig", "PUT", "/2021-10-31/functions/{FunctionName}/url", 0, notBuilt},
	{"ListFunctionUrlConfigs", "GET", "/2021-10-31/functions/{FunctionName}/urls", 0, (*call).listFunctionURLConfigs},
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

// maxSegments is how many segments a path may have.
const maxSegments = 7

// router holds the operations by method, with their paths in segments.
type router map[string][]route

type route struct {
	op       *operation
	segments []string
}

func newRouter() router {
	routes := router{}
	for i := range operations {
		op := &operations[i]
		routes[op.method] = append(routes[op.method], route{op, strings.Split(strings.Trim(op.path, "/"), "/")})
	}
	return routes
}

// labels are what stands in a path for the names in braces, unescaped.
type labels struct {
	names  [3]string
	values [3]string
}

// get returns a label's value, "" if the path has none.
func (l *labels) get(name string) string {
	for i := range l.names {
		if l.names[i] == name {
			return l.values[i]
		}
	}
	return ""
}

// find returns the operation of a request and the labels in its path; nil when there is none.
func (routes router) find(r *http.Request) (*operation, labels) {
	var segments [maxSegments]string
	sent := segments[:0]
	for segment := range strings.SplitSeq(strings.Trim(r.URL.EscapedPath(), "/"), "/") {
		if len(sent) == maxSegments {
			return nil, labels{}
		}
		sent = append(sent, segment)
	}
	for _, candidate := range routes[r.Method] {
		if found, ok := candidate.match(sent); ok {
			return candidate.op, found
		}
	}
	return nil, labels{}
}

func (r *route) match(sent []string) (found labels, ok bool) {
	if len(sent) != len(r.segments) || sent[0] != r.segments[0] {
		return found, false
	}
	n := 0
	for i, want := range r.segments {
		if want[0] != '{' {
			if want != sent[i] {
				return found, false
			}
			continue
		}
		value, err := url.PathUnescape(sent[i])
		if err != nil || value == "" {
			return found, false
		}
		found.names[n], found.values[n] = want[1:len(want)-1], value
		n++
	}
	return found, true
}
