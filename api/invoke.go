package api

import (
	"encoding/base64"
	"encoding/json"
	"net/http"

	"lambent"
)

// maxClientContext is the size of the base64 text of a client context, from Lambda's documentation.
const maxClientContext = 3583

// invoke runs a function.
func (c *call) invoke() error {
	ref, err := c.function()
	if err != nil {
		return err
	}
	header := c.r.Header
	req := lambent.InvokeRequest{RequestID: c.id, Caller: c.who, Function: ref, Type: lambent.InvocationType(header.Get("X-Amz-Invocation-Type")),
		TraceID: header.Get("X-Amzn-Trace-Id"), TenantID: header.Get("X-Amz-Tenant-Id"), Payload: c.body}
	if err := checkInvoke(&req, header.Get("X-Amz-Log-Type")); err != nil {
		return err
	}
	if req.ClientContext, err = clientContext(header.Get("X-Amz-Client-Context")); err != nil {
		return err
	}
	resp, err := c.FrontEnd.Invoke(c.ctx, req)
	if err != nil {
		return err
	}
	return c.invoked(req.Type, &resp)
}

// checkInvoke judges the headers of an invoke and completes it.
func checkInvoke(req *lambent.InvokeRequest, logType string) error {
	var v violations
	v.given("invocationType", string(req.Type))
	v.given("logType", logType)
	v.given("tenantId", req.TenantID)
	if req.Type == "" {
		req.Type = lambent.RequestResponse
	}
	req.LogTail = logType == "Tail"
	return v.err()
}

func clientContext(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	if len(text) > maxClientContext {
		return "", lambent.Errorf(lambent.InvalidContent, "Client context must be no more than %d bytes when base64-encoded.", maxClientContext)
	}
	decoded, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return "", lambent.Errorf(lambent.InvalidContent, "Client context must be a valid Base64-encoded JSON object.")
	}
	if !json.Valid(decoded) {
		return "", lambent.Errorf(lambent.InvalidContent, "Client context must be a valid Base64-encoded JSON object.")
	}
	return string(decoded), nil
}

func (c *call) invoked(kind lambent.InvocationType, resp *lambent.InvokeResponse) error {
	header := c.w.Header()
	if kind == lambent.DryRun {
		return c.empty(http.StatusNoContent)
	}
	header["X-Amz-Executed-Version"] = []string{resp.ExecutedVersion}
	if resp.FunctionError != "" {
		header["X-Amz-Function-Error"] = []string{resp.FunctionError}
	}
	if resp.LogTail != nil {
		header["X-Amz-Log-Result"] = []string{base64.StdEncoding.EncodeToString(resp.LogTail)}
	}
	c.write(http.StatusOK, "application/json", resp.Payload)
	return nil
}
