package api

import (
	"encoding/base64"
	"encoding/json"
	"net/http"

	"lambent"
	"lambent/api/internal/wire"
)

// maxClientContext is the size of the base64 text of a client context, from Lambda's documentation.
const maxClientContext = 3583

// invoke runs a function. Its input is read by hand: this is the way that has to be short. What it cannot read so, it has
// read and judged by the model.
func (c *call) invoke() error {
	header := c.r.Header
	req := lambent.InvokeRequest{RequestID: c.id, Caller: c.who, Type: lambent.RequestResponse,
		TraceID: header.Get("X-Amzn-Trace-Id"), TenantID: header.Get("X-Amz-Tenant-Id"), LogTail: header.Get("X-Amz-Log-Type") == "Tail", Payload: c.body}
	if kind := header.Get("X-Amz-Invocation-Type"); kind != "" {
		req.Type = lambent.InvocationType(kind)
	}
	name := c.labels.Get("FunctionName")
	if c.r.URL.RawQuery == "" && req.Type == lambent.RequestResponse && isPlain(name) && len(header["X-Amz-Log-Type"]) == 0 &&
		len(header["X-Amz-Tenant-Id"]) == 0 && len(header["X-Amz-Durable-Execution-Name"]) == 0 {
		req.Function.FunctionName = lambent.FunctionName{Account: c.who.Account, Name: name}
	} else {
		var in wire.InvocationRequest
		if err := c.input(&in); err != nil {
			return err
		}
		if err := unsupported(in.DurableExecutionName != nil, "DurableExecutionName"); err != nil {
			return err
		}
		var err error
		if req.Function, err = c.reference(in.FunctionName, in.Qualifier); err != nil {
			return err
		}
	}
	var err error
	if req.ClientContext, err = clientContext(header.Get("X-Amz-Client-Context")); err != nil {
		return err
	}
	resp, err := c.FrontEnd.Invoke(c.ctx, req)
	if err != nil {
		return err
	}
	return c.invoked(req.Type, &resp)
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
		c.begin(http.StatusNoContent)
		return nil
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
