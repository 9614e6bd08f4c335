package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

// InvokeCmd invokes a function and waits for its answer.
type InvokeCmd struct {
	ClientFlags
	Name          string `arg:"" help:"Name or ARN of the function."`
	Payload       string `short:"d" xor:"payload" placeholder:"JSON" help:"The event. Without -d and -f it is empty."`
	File          string `short:"f" xor:"payload" placeholder:"FILE" help:"Read the event from a file; - is the standard input."`
	Tail          bool   `help:"Print the end of the function's log, at most 4 KiB, on the standard error."`
	Qualifier     string `help:"Version number or alias." placeholder:"V"`
	ClientContext string `help:"Client context for the function." placeholder:"JSON"`
}

// Run prints the payload on the standard output, whether the function succeeded or not; the log and what went wrong are
// printed on the standard error.
func (c *InvokeCmd) Run(ctx context.Context, proc *Process) error {
	payload, err := c.payload(proc.In)
	if err != nil {
		return err
	}
	client, err := c.Open(proc.Getenv)
	if err != nil {
		return err
	}
	in := &lambda.InvokeInput{FunctionName: &c.Name, Qualifier: optional(c.Qualifier), Payload: payload}
	if c.Tail {
		in.LogType = types.LogTypeTail
	}
	if c.ClientContext != "" {
		in.ClientContext = aws.String(base64.StdEncoding.EncodeToString([]byte(c.ClientContext)))
	}
	out, err := client.Lambda.Invoke(ctx, in)
	if err != nil {
		return client.explain(err)
	}
	return printAnswer(proc, out)
}

// payload returns the event, checked to be JSON so that a slip of the keyboard is met here.
func (c *InvokeCmd) payload(stdin io.Reader) ([]byte, error) {
	if c.ClientContext != "" && !json.Valid([]byte(c.ClientContext)) {
		return nil, errors.New("the client context is not JSON")
	}
	var payload []byte
	var err error
	switch c.File {
	case "":
		payload = []byte(c.Payload)
	case "-":
		payload, err = io.ReadAll(stdin)
	default:
		payload, err = os.ReadFile(c.File)
	}
	if err != nil {
		return nil, fmt.Errorf("read the event: %w", err)
	}
	if len(payload) > 0 && !json.Valid(payload) {
		return nil, errors.New("the event is not JSON")
	}
	return payload, nil
}

func printAnswer(proc *Process, out *lambda.InvokeOutput) error {
	if tail := aws.ToString(out.LogResult); tail != "" {
		text, err := base64.StdEncoding.DecodeString(tail)
		if err != nil {
			return fmt.Errorf("decode the log: %w", err)
		}
		if _, err := proc.Err.Write(text); err != nil {
			return err
		}
	}
	if len(out.Payload) > 0 {
		if _, err := fmt.Fprintf(proc.Out, "%s\n", out.Payload); err != nil {
			return err
		}
	}
	if kind := aws.ToString(out.FunctionError); kind != "" {
		return fmt.Errorf("the function failed (%s error)", kind)
	}
	return nil
}
