package api

import (
	"errors"
	"net/http/httptest"
	"strings"
	"testing"

	"lambent"
	"lambent/api/internal/wire"
)

func testCall(t testing.TB, operation, body string) *call {
	t.Helper()
	for _, op := range wire.Ops() {
		if op.Name == operation {
			return &call{handler: &handler{Options: Options{Region: "eu-central-1"}}, op: &op, body: []byte(body), r: httptest.NewRequest("POST", "/", nil),
				who: lambent.Principal{Account: "123456789012"}}
		}
	}
	t.Fatalf("no operation %s", operation)
	return nil
}

// FuzzReference: what is accepted names a function of the caller.
func FuzzReference(f *testing.F) {
	for _, text := range []string{"f", "f:1", "arn:aws:lambda:eu-central-1:123456789012:function:f:$LATEST", "123456789012:function:f", "function:f", ":", "arn:", "a:b:c",
		"function:function", "us-east-1:f", "123456789012", "eu-central-1:123456789012:f:live"} {
		f.Add(text, "")
		f.Add(text, "live")
	}
	f.Fuzz(func(t *testing.T, text, qualifier string) {
		c := testCall(t, "GetFunction", "")
		sent := &qualifier
		if qualifier == "" {
			sent = nil
		}
		ref, err := c.reference(&text, sent)
		if err != nil {
			if code := lambent.CodeOf(err); code == lambent.Internal {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		if !isPlain(strings.ReplaceAll(ref.Name, ".", "_")) || ref.Account != "123456789012" || qualifier != "" && ref.Qualifier != qualifier {
			t.Errorf("%q, %q: %+v", text, qualifier, ref)
		}
		again, err := c.reference(new(ref.ARN("eu-central-1")), &ref.Qualifier)
		if err != nil || again != ref {
			t.Errorf("%q: %+v is not %+v, %v", text, again, ref, err)
		}
	})
}

// FuzzInput: each body is either read, judged and taken over, or answered with an error of the caller's.
func FuzzInput(f *testing.F) {
	for _, body := range []string{"", "{}", "[]", `{"FunctionName":7}`, `{"Code":{"ZipFile":"%"}}`, `{"Environment":{"Variables":{"A":1}}}`, `{"Layers":"x","ImageConfig":null}`, `{"EphemeralStorage":{}}`,
		`{"FunctionName":"f","Role":"arn:aws:iam::123456789012:role/r","Code":{"ZipFile":"UEs="},"VpcConfig":{},"LoggingConfig":{},"TracingConfig":{},"DeadLetterConfig":{},"SnapStart":{}}`} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		var in wire.CreateFunctionRequest
		err := testCall(t, "CreateFunction", body).input(&in)
		var model *modelError
		if err == nil {
			created(&in).domain()
			return
		}
		if code := lambent.CodeOf(err); !errors.As(err, &model) && code != lambent.InvalidContent && code != lambent.Validation {
			t.Errorf("%q: %v", body, err)
		}
	})
}

// All that is built is an operation of Lambda's.
func TestWorkIsOfOperations(t *testing.T) {
	for name := range workOf() {
		testCall(t, name, "")
	}
}
