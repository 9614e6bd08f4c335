package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
)

func newFunction() func(context.Context, events.APIGatewayV2HTTPRequest) (events.APIGatewayV2HTTPResponse, error) {
	return adapt(newHandler(newLinks(func() time.Time { return time.Unix(1700000000, 0) })))
}

func request(method, path, body string) events.APIGatewayV2HTTPRequest {
	event := events.APIGatewayV2HTTPRequest{RawPath: path, Body: body, Headers: map[string]string{"content-type": "application/json"}}
	event.RequestContext.HTTP.Method = method
	return event
}

// A life of the API: each step sees what those before it have done.
func TestAPI(t *testing.T) {
	const link = `{"slug":"docs","url":"https://example.com/a?b=c","hits":%d,"created":"2023-11-14T22:13:20Z"}`
	steps := []struct {
		method, path, body string
		status             int
		want, location     string
	}{
		{"GET", "/links", "", 200, "[]", ""},
		{"POST", "/links", `{"url": "https://example.com/a?b=c", "slug": "docs"}`, 201, fmt.Sprintf(link, 0), "/docs"},
		{"POST", "/links", `{"url": "https://example.com", "slug": "docs"}`, 409, `{"error":"the slug is taken"}`, ""},
		{"GET", "/docs", "", 302, "", "https://example.com/a?b=c"},
		{"GET", "/docs", "", 302, "", "https://example.com/a?b=c"},
		{"GET", "/links", "", 200, "[" + fmt.Sprintf(link, 2) + "]", ""},
		{"GET", "/nope", "", 404, `{"error":"there is no such link"}`, ""},
		{"POST", "/links", `{"url": "javascript:alert(1)"}`, 400, `{"error":"url is an absolute http or https URL of at most 2048 bytes"}`, ""},
		{"POST", "/links", `{"url": "https://` + strings.Repeat("x", 2048) + `"}`, 400, `{"error":"url is an absolute http or https URL of at most 2048 bytes"}`, ""},
		{"POST", "/links", `{"url": "https://example.com", "slug": "links"}`, 400, `{"error":"slug is 1 to 40 lower-case letters, digits and hyphens, and not \"links\""}`, ""},
		{"POST", "/links", `{"url": "https://example.com", "slug": "A/b"}`, 400, `{"error":"slug is 1 to 40 lower-case letters, digits and hyphens, and not \"links\""}`, ""},
		{"POST", "/links", `{"link": 1}`, 400, `{"error":"the body is not what is wanted: json: unknown field \"link\""}`, ""},
		{"POST", "/links", ``, 400, `{"error":"the body is not what is wanted: EOF"}`, ""},
		{"PUT", "/links", ``, 405, "Method Not Allowed", ""},
		{"DELETE", "/links/docs", "", 204, "", ""},
		{"DELETE", "/links/docs", "", 404, `{"error":"there is no such link"}`, ""},
		{"GET", "/docs", "", 404, `{"error":"there is no such link"}`, ""},
	}
	function := newFunction()
	for _, step := range steps {
		got, err := function(t.Context(), request(step.method, step.path, step.body))
		if err != nil {
			t.Fatal(err)
		}
		if got.StatusCode != step.status || strings.TrimSpace(got.Body) != step.want || got.Headers["location"] != step.location {
			t.Errorf("%s %s %s: %d %s %q", step.method, step.path, step.body, got.StatusCode, got.Body, got.Headers)
		}
	}
}

func TestRandomSlugsAndEncodedBodies(t *testing.T) {
	function := newFunction()
	event := request("POST", "/links", base64.StdEncoding.EncodeToString([]byte(`{"url": "http://example.com/é"}`)))
	event.IsBase64Encoded = true
	seen := map[string]bool{}
	for range 100 {
		got, err := function(t.Context(), event)
		if err != nil || got.StatusCode != http.StatusCreated || seen[got.Headers["location"]] {
			t.Fatalf("%+v, %v", got, err)
		}
		seen[got.Headers["location"]] = true
		led, err := function(t.Context(), request("GET", got.Headers["location"], ""))
		if err != nil || led.Headers["location"] != "http://example.com/%C3%A9" {
			t.Fatalf("%+v, %v", led, err)
		}
	}
}

func TestLimitOfLinks(t *testing.T) {
	l := newLinks(time.Now)
	var wait sync.WaitGroup
	for part := range 4 {
		wait.Go(func() {
			for i := range maxLinks / 4 {
				if _, err := l.add(fmt.Sprintf("s%d-%d", part, i), "http://x"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	if _, err := l.add("", "http://x"); err != errFull {
		t.Errorf("one too many: %v", err)
	}
}

func TestEventsThatAreNoRequests(t *testing.T) {
	bad := request("POST", "/links", "*")
	bad.IsBase64Encoded = true
	for _, event := range []events.APIGatewayV2HTTPRequest{{}, request("GET", "links", ""), bad} {
		if _, err := newFunction()(t.Context(), event); err == nil {
			t.Errorf("%+v is no error", event)
		}
	}
}

func TestSampleEvent(t *testing.T) {
	text, err := os.ReadFile("event.json")
	if err != nil {
		t.Fatal(err)
	}
	var event events.APIGatewayV2HTTPRequest
	if err := json.Unmarshal(text, &event); err != nil {
		t.Fatal(err)
	}
	got, err := newFunction()(t.Context(), event)
	if err != nil || got.StatusCode != http.StatusCreated || got.Headers["location"] != "/docs" {
		t.Errorf("%+v, %v", got, err)
	}
}
