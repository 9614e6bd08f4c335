package api

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"lambent"
)

func FuzzRoute(f *testing.F) {
	for _, path := range []string{"/", "/2015-03-31/functions/", "/2015-03-31/functions/f%2F/invocations", "/2017-03-31/tags/arn%3Aaws", "//", "/%zz", "/2015-03-31/functions/f/aliases/a%00"} {
		f.Add("GET", path)
		f.Add("POST", path)
	}
	routes := newRouter()
	f.Fuzz(func(t *testing.T, method, path string) {
		u, err := url.ParseRequestURI(path)
		if err != nil {
			return
		}
		op, found := routes.find(&http.Request{Method: method, URL: u})
		if op == nil {
			return
		}
		if op.method != method || op.run == nil {
			t.Errorf("%s %s: %s", method, path, op.name)
		}
		for i, name := range found.names {
			if name != "" && (found.values[i] == "" || !strings.Contains(op.path, "{"+name+"}")) {
				t.Errorf("%s: label %s is %q", path, name, found.values[i])
			}
		}
	})
}

func testCall(body string) *call {
	return &call{handler: &handler{Options: Options{Region: "eu-central-1"}}, op: &operations[0], body: []byte(body), who: lambent.Principal{Account: "123456789012"}}
}

// FuzzReference: what is accepted names a function of the caller that the control plane could have made.
func FuzzReference(f *testing.F) {
	for _, text := range []string{"f", "f:1", "arn:aws:lambda:eu-central-1:123456789012:function:f:$LATEST", "123456789012:function:f", "function:f", ":", "arn:", "a:b:c"} {
		f.Add(text, "")
		f.Add(text, "live")
	}
	f.Fuzz(func(t *testing.T, text, qualifier string) {
		ref, err := testCall("").reference(text, qualifier)
		if err != nil {
			if code := lambent.CodeOf(err); code == lambent.Internal {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		if !plainName.MatchString(ref.Name) || ref.Account != "123456789012" || qualifier != "" && ref.Qualifier != qualifier {
			t.Errorf("%q, %q: %+v", text, qualifier, ref)
		}
		again, err := testCall("").reference(ref.ARN("eu-central-1"), ref.Qualifier)
		if err != nil || again != ref {
			t.Errorf("%q: %+v is not %+v, %v", text, again, ref, err)
		}
	})
}

// FuzzDecode: each body is either read or answered with an error of the caller's.
func FuzzDecode(f *testing.F) {
	for _, body := range []string{"", "{}", "[]", `{"FunctionName":7}`, `{"Code":{"ZipFile":"%"}}`, `{"Environment":{"Variables":{"A":1}}}`, `{"Layers":"x","ImageConfig":null}`, `{"EphemeralStorage":{}}`} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		var in createFunctionInput
		err := testCall(body).decode(&in)
		var model *modelError
		if err != nil && !errors.As(err, &model) && lambent.CodeOf(err) != lambent.InvalidContent {
			t.Errorf("%q: %v", body, err)
		}
		if err != nil {
			return
		}
		var v violations
		v.settable(&in.settable)
		if err := v.err(); err != nil && lambent.CodeOf(err) != lambent.Validation {
			t.Errorf("%q: %v", body, err)
		}
		in.domain()
		in.Code.domain()
	})
}

func TestEveryRouteIsFound(t *testing.T) {
	routes := newRouter()
	for i := range operations {
		op := &operations[i]
		path := strings.NewReplacer("{", "x-", "}", "").Replace(op.path)
		for _, sent := range []string{path, path + "/"} {
			got, _ := routes.find(&http.Request{Method: op.method, URL: &url.URL{Path: sent}})
			if got != op {
				t.Errorf("%s %s: got %+v, want %s", op.method, sent, got, op.name)
			}
		}
	}
}
