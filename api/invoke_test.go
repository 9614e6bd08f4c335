package api_test

import (
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"lambent"
)

func TestInvoke(t *testing.T) {
	b, ctx := newBench(t), t.Context()
	b.front.answer = func(req lambent.InvokeRequest) (lambent.InvokeResponse, error) {
		return lambent.InvokeResponse{Payload: req.Payload, ExecutedVersion: "7", FunctionError: "Unhandled", LogTail: []byte("START\n")}, nil
	}
	client := base64.StdEncoding.EncodeToString([]byte(`{"custom":{"a":"b"}}`))
	out, err := b.client.Invoke(ctx, &lambda.InvokeInput{FunctionName: aws.String(arnBase + "f"), Qualifier: aws.String("$LATEST"),
		Payload: []byte(`{"<": 1}`), LogType: types.LogTypeTail, ClientContext: &client, TenantId: aws.String("blue tenant")})
	if err != nil {
		t.Fatal(err)
	}
	if string(out.Payload) != `{"<": 1}` || *out.ExecutedVersion != "7" || *out.FunctionError != "Unhandled" || out.StatusCode != 200 {
		t.Errorf("got %+v", out)
	}
	if tail, err := base64.StdEncoding.DecodeString(*out.LogResult); err != nil || string(tail) != "START\n" {
		t.Errorf("log: %q, %v", tail, err)
	}
	asked := b.front.last()
	if asked.Function != (lambent.FunctionRef{FunctionName: lambent.FunctionName{Account: account, Name: "f"}, Qualifier: "$LATEST"}) ||
		!asked.LogTail || asked.ClientContext != `{"custom":{"a":"b"}}` || asked.TenantID != "blue tenant" || asked.Type != lambent.RequestResponse ||
		asked.Caller.AccessKeyID != keyID || len(asked.RequestID) != 36 {
		t.Errorf("asked %+v", asked)
	}
}

func TestInvokeDry(t *testing.T) {
	b := newBench(t)
	out, err := b.client.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("f"), InvocationType: types.InvocationTypeDryRun})
	if err != nil || out.StatusCode != http.StatusNoContent || len(out.Payload) != 0 || b.front.last().Type != lambent.DryRun {
		t.Errorf("got %+v, %v", out, err)
	}
}

func TestErrorsOfTheDataPlane(t *testing.T) {
	b := newBench(t)
	var fault error
	b.front.answer = func(lambent.InvokeRequest) (lambent.InvokeResponse, error) { return lambent.InvokeResponse{}, fault }
	invoke := func() error {
		_, err := b.client.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("f")})
		return err
	}
	fault = &lambent.Error{Code: lambent.Throttled, Message: "Rate Exceeded.", Reason: lambent.ReservedConcurrentLimit, RetryAfter: 1500 * time.Millisecond}
	err := invoke()
	wantError[*types.TooManyRequestsException](t, err, "Rate Exceeded.")
	var throttled *types.TooManyRequestsException
	if errors.As(err, &throttled) && (throttled.Reason != types.ThrottleReasonReservedFunctionConcurrentInvocationLimitExceeded || *throttled.Type != "User" || *throttled.RetryAfterSeconds != "2") {
		t.Errorf("throttled: %+v", throttled)
	}
	fault = lambent.Errorf(lambent.NotFound, "Function not found: x")
	wantError[*types.ResourceNotFoundException](t, invoke(), "Function not found: x")
	fault = lambent.Errorf(lambent.InvalidRuntime, "no such runtime")
	wantError[*types.InvalidRuntimeException](t, invoke(), "no such runtime")
	fault = lambent.Errorf(lambent.NotReady, "not ready")
	wantError[*types.ResourceNotReadyException](t, invoke(), "not ready")
	fault = lambent.Errorf(lambent.Conflict, "Pending")
	wantError[*types.ResourceConflictException](t, invoke(), "Pending")
	fault = lambent.Errorf(lambent.HostLost, "lost")
	wantError[*types.EC2UnexpectedException](t, invoke(), "lost")
	fault = lambent.Errorf(lambent.Unavailable, "busy")
	wantCode(t, invoke(), "ServiceUnavailableException", "busy")
	fault = lambent.Wrap(lambent.Internal, errors.New("the secret cause"), "An internal error occurred.")
	err = invoke()
	wantError[*types.ServiceException](t, err, "An internal error occurred.")
	if strings.Contains(err.Error(), "cause") {
		t.Errorf("the cause is told: %v", err)
	}
	fault = errors.New("the secret cause")
	wantError[*types.ServiceException](t, invoke(), "An internal error occurred.")
	b.front.answer = func(lambent.InvokeRequest) (lambent.InvokeResponse, error) { panic("boom") }
	wantError[*types.ServiceException](t, invoke(), "An internal error occurred.")
}

func TestHeadersOfAnInvoke(t *testing.T) {
	b := newBench(t)
	cases := []struct{ name, header, value, kind, part string }{
		{"type", "X-Amz-Invocation-Type", "Later", "ValidationException", "Value 'Later' at 'invocationType' failed to satisfy constraint: Member must satisfy enum value set: [Event, RequestResponse, DryRun]"},
		{"log", "X-Amz-Log-Type", "Head", "ValidationException", "'logType'"},
		{"tenant", "X-Amz-Tenant-Id", "a<b", "ValidationException", "'tenantId'"},
		{"context is not base64", "X-Amz-Client-Context", "{}", "InvalidRequestContentException", "Base64"},
		{"context is not JSON", "X-Amz-Client-Context", "e30x", "InvalidRequestContentException", "JSON"},
		{"context is too long", "X-Amz-Client-Context", strings.Repeat("e30K", 900), "InvalidRequestContentException", "3583"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := b.do(b.request("POST", "/2015-03-31/functions/f/invocations", nil, c.header, c.value))
			if got.status != 400 || got.kind != c.kind || !strings.Contains(got.body, c.part) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestNamesOfFunctions(t *testing.T) {
	b := newBench(t)
	long := strings.Repeat("n", 64)
	cases := []struct{ name, want, kind, part string }{ // want: NAME:QUALIFIER
		{"f", "f:", "", ""},
		{long, long + ":", "", ""},
		{"f:$LATEST", "f:$LATEST", "", ""},
		{"f:live", "f:live", "", ""},
		{"function:f", "f:", "", ""},
		{account + ":f", "f:", "", ""},
		{account + ":function:f:3", "f:3", "", ""},
		{arnBase + "f", "f:", "", ""},
		{arnBase + "f:3", "f:3", "", ""},
		{"f?Qualifier=live", "f:live", "", ""},
		{"f:live?Qualifier=live", "f:live", "", ""},
		{"f:live?Qualifier=prod", "", "InvalidParameterValueException", "The derived qualifier from the function name does not match the specified qualifier."},
		{"f?Qualifier=a.b", "", "ValidationException", `at 'qualifier' failed to satisfy constraint: Member must satisfy regular expression pattern: \\$(LATEST(\\.PUBLISHED)?)|[a-zA-Z0-9-_$]+`},
		{"arn:aws:lambda:us-east-1:" + account + ":function:f", "", "ResourceNotFoundException", "us-east-1"},
		{"210987654321:f", "", "AccessDeniedException", "is not authorized to perform: lambda:InvokeFunction on resource: arn:aws:lambda:eu-central-1:210987654321:function:f"},
		{long + "n", "", "ValidationException", "less than or equal to 64"},
		{strings.Repeat("n", 4000), "", "ValidationException", "at 'functionName'"},
		{"%2e%2e%2f%00", "", "ValidationException", "at 'functionName'"},
		{"a%20b", "", "ValidationException", "at 'functionName'"},
		{"%E2%82%AC", "", "ValidationException", "at 'functionName'"},
	}
	for _, c := range cases {
		name, query, _ := strings.Cut(c.name, "?")
		target := "/2015-03-31/functions/" + name + "/invocations"
		if query != "" {
			target += "?" + query
		}
		got := b.do(b.request("POST", target, nil))
		if c.kind != "" {
			if got.kind != c.kind || got.status < 400 || got.status >= 500 || !strings.Contains(got.body, c.part) {
				t.Errorf("%.100s: %+v", c.name, got)
			}
			continue
		}
		if ref := b.front.last().Function; got.status != 200 || ref.Name+":"+ref.Qualifier != c.want {
			t.Errorf("%s: %+v, %+v", c.name, ref, got)
		}
	}
}

// discard is a response writer that keeps nothing.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }

func BenchmarkInvoke(b *testing.B) {
	bench := newBench(b)
	bench.front.answer = func(req lambent.InvokeRequest) (lambent.InvokeResponse, error) {
		return lambent.InvokeResponse{Payload: req.Payload, ExecutedVersion: lambent.Latest}, nil
	}
	payload := strings.Repeat("x", 1024)
	sent := bench.request("POST", "/2015-03-31/functions/f/invocations", []byte(payload), "Content-Type", "application/json")
	req := httptest.NewRequest("POST", sent.URL.String(), nil)
	req.RequestURI, req.Header, req.ContentLength = sent.URL.RequestURI(), sent.Header, int64(len(payload))
	reader := strings.NewReader(payload)
	body := io.NopCloser(reader)
	w := &discard{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		reader.Reset(payload)
		req.Body = body
		bench.handler.ServeHTTP(w, req)
	}
	if w.header.Get("X-Amz-Executed-Version") == "" {
		b.Fatal("not invoked")
	}
}
