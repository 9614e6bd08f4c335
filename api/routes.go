package api

import (
	"errors"

	"lambent"
	"lambent/api/internal/wire"
)

// work is how an operation is done.
type work struct {
	run     func(*call) error
	maxBody int64 // of the request, in bytes; 0: maxSmallBody
}

// with makes work that reads the operation's input first.
func with[In any](run func(*call, *In) error) work {
	return work{run: func(c *call) error {
		in := new(In)
		if err := c.input(in); err != nil {
			return err
		}
		return run(c, in)
	}}
}

// workOf are the operations that are built, by name. The others judge their input and then say so.
func workOf() map[string]work {
	create, update := with((*call).createFunction), with((*call).updateFunctionCode)
	create.maxBody, update.maxBody = maxBody, maxBody
	return map[string]work{
		"CreateAlias":                 with((*call).createAlias),
		"CreateFunction":              create,
		"DeleteAlias":                 with((*call).deleteAlias),
		"DeleteFunction":              with((*call).deleteFunction),
		"DeleteFunctionConcurrency":   with((*call).deleteFunctionConcurrency),
		"GetAccountSettings":          {run: (*call).getAccountSettings},
		"GetAlias":                    with((*call).getAlias),
		"GetFunction":                 with((*call).getFunction),
		"GetFunctionConcurrency":      with((*call).getFunctionConcurrency),
		"GetFunctionConfiguration":    with((*call).getFunctionConfiguration),
		"Invoke":                      {run: (*call).invoke, maxBody: lambent.MaxRequestBytes},
		"ListAliases":                 with((*call).listAliases),
		"ListFunctions":               with((*call).listFunctions),
		"ListTags":                    with((*call).listTags),
		"ListVersionsByFunction":      with((*call).listVersionsByFunction),
		"PublishVersion":              with((*call).publishVersion),
		"PutFunctionConcurrency":      with((*call).putFunctionConcurrency),
		"TagResource":                 with((*call).tagResource),
		"UntagResource":               with((*call).untagResource),
		"UpdateAlias":                 with((*call).updateAlias),
		"UpdateFunctionCode":          update,
		"UpdateFunctionConfiguration": with((*call).updateFunctionConfiguration),

		// What tools ask about a function whose answer is "none", which is the truth while it cannot be set.
		"GetFunctionCodeSigningConfig":      with((*call).getFunctionCodeSigningConfig),
		"GetFunctionEventInvokeConfig":      with((*call).getFunctionEventInvokeConfig),
		"GetFunctionRecursionConfig":        with((*call).getFunctionRecursionConfig),
		"GetFunctionUrlConfig":              with((*call).getFunctionURLConfig),
		"GetPolicy":                         with((*call).getPolicy),
		"GetProvisionedConcurrencyConfig":   with((*call).getProvisionedConcurrencyConfig),
		"GetRuntimeManagementConfig":        with((*call).getRuntimeManagementConfig),
		"ListEventSourceMappings":           with((*call).listEventSourceMappings),
		"ListFunctionEventInvokeConfigs":    with((*call).listFunctionEventInvokeConfigs),
		"ListFunctionUrlConfigs":            with((*call).listFunctionURLConfigs),
		"ListLayers":                        with((*call).listLayers),
		"ListProvisionedConcurrencyConfigs": with((*call).listProvisionedConcurrencyConfigs),
	}
}

// notBuilt answers an operation whose feature is still to come.
func notBuilt(c *call) error {
	if c.op.New != nil {
		if err := c.input(c.op.New()); err != nil {
			return err
		}
	}
	return lambent.Errorf(lambent.NotImplemented, "Lambent does not support %s yet.", c.op.Name)
}

// input reads an operation's input, and judges it by the constraints of Lambda's model.
func (c *call) input(in any) error {
	err := c.op.Read(&wire.Request{Labels: c.labels, Query: c.r.URL.RawQuery, Header: c.r.Header, Body: c.body}, in)
	if err != nil {
		return inputError(err)
	}
	if message := c.op.Check(in); message != "" {
		return &lambent.Error{Code: lambent.Validation, Message: message}
	}
	return nil
}

// inputError is what the caller is told of input that cannot be read.
func inputError(err error) error {
	var wrong *wire.TypeError
	if errors.As(err, &wrong) {
		return &modelError{serialization, wrong.Message}
	}
	return lambent.Wrap(lambent.InvalidContent, err, "Could not parse request body into json: %v", err)
}
