// Command go-api is a URL shortener behind an HTTP API, as a function of a provided runtime. It is an ordinary net/http
// handler; what makes it a function is in this file.
package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
)

func main() {
	lambda.Start(adapt(newHandler(newLinks(time.Now))))
}

// adapt makes a function of an HTTP handler. Its event is that of API Gateway's HTTP APIs and of function URLs.
func adapt(handler http.Handler) func(context.Context, events.APIGatewayV2HTTPRequest) (events.APIGatewayV2HTTPResponse, error) {
	return func(ctx context.Context, event events.APIGatewayV2HTTPRequest) (events.APIGatewayV2HTTPResponse, error) {
		request, err := newRequest(ctx, event)
		if err != nil {
			return events.APIGatewayV2HTTPResponse{}, err
		}
		response := &response{header: http.Header{}}
		handler.ServeHTTP(response, request)
		return response.event(), nil
	}
}

func newRequest(ctx context.Context, event events.APIGatewayV2HTTPRequest) (*http.Request, error) {
	method := event.RequestContext.HTTP.Method
	if method == "" || !strings.HasPrefix(event.RawPath, "/") {
		return nil, fmt.Errorf("the event is not an HTTP request: it needs requestContext.http.method and rawPath")
	}
	body := []byte(event.Body)
	if event.IsBase64Encoded {
		var err error
		if body, err = base64.StdEncoding.DecodeString(event.Body); err != nil {
			return nil, fmt.Errorf("decode the body: %w", err)
		}
	}
	target := url.URL{Path: event.RawPath, RawQuery: event.RawQueryString}
	request, err := http.NewRequestWithContext(ctx, method, target.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("read the event: %w", err)
	}
	for name, value := range event.Headers {
		request.Header.Set(name, value)
	}
	request.Host = request.Header.Get("Host")
	request.RemoteAddr = event.RequestContext.HTTP.SourceIP
	return request, nil
}

// response collects what a handler writes.
type response struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *response) Header() http.Header { return r.header }

func (r *response) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

func (r *response) Write(p []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(p)
}

func (r *response) event() events.APIGatewayV2HTTPResponse {
	r.WriteHeader(http.StatusOK)
	event := events.APIGatewayV2HTTPResponse{StatusCode: r.status, Headers: map[string]string{}}
	for name, values := range r.header {
		event.Headers[strings.ToLower(name)] = strings.Join(values, ",")
	}
	if utf8.Valid(r.body.Bytes()) {
		event.Body = r.body.String()
	} else {
		event.Body, event.IsBase64Encoded = base64.StdEncoding.EncodeToString(r.body.Bytes()), true
	}
	return event
}
