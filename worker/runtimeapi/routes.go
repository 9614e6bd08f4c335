package runtimeapi

import (
	"bytes"
	"fmt"
	"strings"
)

// endpoint is what a request is for.
type endpoint int

const (
	unknown endpoint = iota
	getNext
	postResponse
	postError
	postInitError
)

// route finds the endpoint of a request, and the request ID in its path.
func route(method, path []byte) (kind endpoint, id []byte, refusal *refusal) {
	kind, id, verb := match(path)
	switch {
	case kind == unknown:
		return unknown, nil, notFound(path)
	case string(method) != verb:
		return unknown, nil, refusal405
	}
	return kind, id, nil
}

// match finds the endpoint of a path, and its method.
func match(path []byte) (kind endpoint, id []byte, method string) {
	rest, ok := bytes.CutPrefix(path, []byte("/2018-06-01/runtime/"))
	if !ok {
		return unknown, nil, ""
	}
	switch string(rest) {
	case "invocation/next":
		return getNext, nil, "GET"
	case "init/error":
		return postInitError, nil, "POST"
	}
	rest, ok = bytes.CutPrefix(rest, []byte("invocation/"))
	id, verb, ok2 := bytes.Cut(rest, []byte("/"))
	if !ok || !ok2 {
		return unknown, nil, ""
	}
	switch string(verb) {
	case "response":
		return postResponse, id, "POST"
	case "error":
		return postError, id, "POST"
	}
	return unknown, nil, ""
}

// refusal is an answer that says no.
type refusal struct {
	status int
	text   string
}

// The refusals that do not depend on the request.
var (
	refusal405     = &refusal{405, apiError("MethodNotAllowed", "this path has another method")}
	refusalID      = &refusal{400, apiError("InvalidRequestID", "Invalid request ID")}
	refusalMode    = &refusal{400, apiError("InvalidFunctionResponseMode", "Lambda-Runtime-Function-Response-Mode is streaming or absent")}
	refusalTooMuch = &refusal{413, apiError("RequestEntityTooLarge",
		fmt.Sprintf("Exceeded maximum allowed payload size (%d bytes).", maxBody))}
)

// refusalState is the answer to a request that does not fit the runtime's state.
func refusalState(from phase, to string) *refusal {
	return &refusal{403, apiError("InvalidStateTransition",
		fmt.Sprintf("State transition from %v to %s failed for runtime. Error: State transition is not allowed", from, to))}
}

// notFound names the APIs that processes may rightly look for here.
func notFound(path []byte) *refusal {
	for _, api := range [...]struct{ prefix, text string }{
		{"/2020-01-01/extension/", "Extensions are not built yet: this sandbox serves the Runtime API only"},
		{"/2022-07-01/telemetry", "The Telemetry API is not built yet: this sandbox serves the Runtime API only"},
		{"/2020-08-15/logs", "The Logs API is not built yet: this sandbox serves the Runtime API only"},
		{"/2018-06-01/runtime/restore/", "SnapStart is not built yet: no sandbox is restored"},
	} {
		if strings.HasPrefix(string(path), api.prefix) {
			return &refusal{404, apiError("NotImplemented", api.text)}
		}
	}
	return &refusal{404, apiError("NotFound", "there is no such path in the Runtime API")}
}

// apiError is the body of an error. Both texts are ASCII without quotes.
func apiError(kind, message string) string {
	return `{"errorMessage":"` + message + `","errorType":"` + kind + "\"}\n"
}
