package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/smithy-go"
)

// ClientFlags are the flags of the commands that are clients of a region.
type ClientFlags struct{ DataFlag }

// Endpoint finds the region: --data if it is given, else the environment if AWS_ENDPOINT_URL_LAMBDA or AWS_ENDPOINT_URL is
// set, else the default data directory. The sources are not mixed, so that the keys of one place never go to another.
func (f ClientFlags) Endpoint(getenv func(string) string) (Endpoint, error) {
	first := func(names ...string) string {
		for _, name := range names {
			if value := getenv(name); value != "" {
				return value
			}
		}
		return ""
	}
	if url := first("AWS_ENDPOINT_URL_LAMBDA", "AWS_ENDPOINT_URL"); url != "" && f.Data == "" {
		endpoint := Endpoint{
			Endpoint:        strings.TrimSuffix(url, "/"),
			Region:          first("AWS_REGION", "AWS_DEFAULT_REGION"),
			Account:         first("AWS_ACCOUNT_ID"),
			AccessKeyID:     first("AWS_ACCESS_KEY_ID"),
			SecretAccessKey: first("AWS_SECRET_ACCESS_KEY"),
		}
		if err := endpoint.check(); err != nil {
			return Endpoint{}, fmt.Errorf("AWS_ENDPOINT_URL is set: %w", err)
		}
		return endpoint, nil
	}
	dir, err := f.Dir(getenv)
	if err != nil {
		return Endpoint{}, err
	}
	return readEndpoint(dir)
}

// Client is a client of one region.
type Client struct {
	Endpoint Endpoint
	HTTP     *http.Client
	Lambda   *lambda.Client
}

// Open finds the region and makes a client of it. It sends nothing.
func (f ClientFlags) Open(getenv func(string) string) (*Client, error) {
	endpoint, err := f.Endpoint(getenv)
	if err != nil {
		return nil, err
	}
	c := &Client{Endpoint: endpoint, HTTP: &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()}}
	c.Lambda = lambda.New(lambda.Options{
		Region:       endpoint.Region,
		BaseEndpoint: aws.String(endpoint.Endpoint),
		Credentials:  aws.CredentialsProviderFunc(c.credentials),
		HTTPClient:   c.HTTP,
		// What a person typed is done once: who wants it again types it again.
		Retryer: aws.NopRetryer{},
	})
	return c, nil
}

func (c *Client) credentials(context.Context) (aws.Credentials, error) {
	return aws.Credentials{AccessKeyID: c.Endpoint.AccessKeyID, SecretAccessKey: c.Endpoint.SecretAccessKey}, nil
}

// maxJSONBytes bounds the answer of a JSON operation.
const maxJSONBytes = 16 << 20

// CallJSON calls an operation of an AWS service that speaks JSON 1.1 at the region's endpoint: it signs and posts in, and
// decodes the answer into out.
func (c *Client) CallJSON(ctx context.Context, service, target string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.Endpoint.Endpoint+"/", bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make the request: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	req.Header.Set("X-Amz-Target", target)
	credentials, err := c.credentials(ctx)
	if err != nil {
		return err
	}
	hash := sha256.Sum256(body)
	signer := v4.NewSigner()
	if err := signer.SignHTTP(ctx, credentials, req, hex.EncodeToString(hash[:]), service, c.Endpoint.Region, time.Now()); err != nil {
		return fmt.Errorf("sign the request: %w", err)
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxJSONBytes))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return jsonError(resp, answer)
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("decode the answer: %w", err)
	}
	return nil
}

// jsonError reads the error of a JSON 1.1 operation: its name is in __type, perhaps behind a namespace.
func jsonError(resp *http.Response, answer []byte) error {
	var shape struct {
		Type    string `json:"__type"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal(answer, &shape); err != nil || shape.Type == "" {
		return &smithy.GenericAPIError{Code: "HTTP " + resp.Status, Message: strings.TrimSpace(string(answer))}
	}
	name := shape.Type[strings.LastIndexByte(shape.Type, '#')+1:]
	return &smithy.GenericAPIError{Code: name, Message: shape.Message}
}

// explain turns an error of a client call into one line for a person.
func (c *Client) explain(err error) error {
	var apiError smithy.APIError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &apiError):
		return fmt.Errorf("%s: %s", apiError.ErrorCode(), apiError.ErrorMessage())
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("nothing listens at %s: start a region with \"lambent up\"", c.Endpoint.Endpoint)
	}
	return err
}

// notFound tells whether an API answered that there is no such thing.
func notFound(err error) bool {
	var apiError smithy.APIError
	return errors.As(err, &apiError) && apiError.ErrorCode() == "ResourceNotFoundException"
}
