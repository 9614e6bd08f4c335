package wire

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// The tables and the structures are of one model: members stand in the same order in both.
func TestTablesFitTheStructures(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var fit func(kind reflect.Type, s *shape)
	fit = func(kind reflect.Type, s *shape) {
		for kind.Kind() == reflect.Pointer {
			kind = kind.Elem()
		}
		switch s.kind {
		case kindList, kindMap:
			fit(kind.Elem(), &shapes[s.elem])
		case kindStructure:
			if seen[kind] {
				return
			}
			seen[kind] = true
			if kind.NumField() != len(s.fields) {
				t.Fatalf("%s has %d members, the table %d", kind, kind.NumField(), len(s.fields))
			}
			for i, f := range s.fields {
				if !strings.EqualFold(kind.Field(i).Name, f.name) {
					t.Errorf("member %d of %s is %s, in the table %s", i, kind, kind.Field(i).Name, f.name)
				}
				fit(kind.Field(i).Type, &shapes[f.shape])
			}
		}
	}
	for _, op := range Ops() {
		if op.New != nil {
			fit(reflect.TypeOf(op.New()), &shapes[op.input])
		}
	}
	if len(Ops()) != 85 || len(seen) < 80 {
		t.Errorf("%d operations with %d structures", len(Ops()), len(seen))
	}
	if n := len(compiled()); n != len(patterns) { // panics on a pattern that is none
		t.Errorf("%d patterns", n)
	}
}

var labelled = regexp.MustCompile(`\{(\w+)\+?\}`)

// Each operation's route leads to it, with its labels decoded.
func TestEveryRoute(t *testing.T) {
	r := NewRouter()
	const value = "arn:aws:lambda:a-b-1:123456789012:function:x/y z%"
	for _, op := range Ops() {
		path, query, _ := strings.Cut(op.URI, "?")
		path = labelled.ReplaceAllString(path, url.PathEscape(value))
		for _, sent := range []string{path, path + "/"} {
			got, labels := r.Route(op.Method, sent, "a=b&"+query)
			if got == nil || got.Name != op.Name {
				t.Errorf("%s %s led to %+v", op.Method, sent, got)
				continue
			}
			for _, label := range labelled.FindAllStringSubmatch(op.URI, -1) {
				if labels.Get(label[1]) != value {
					t.Errorf("%s: label %s is %q", op.Name, label[1], labels.Get(label[1]))
				}
			}
		}
	}
	for _, none := range []string{"GET /", "GET ", "PATCH /2015-03-31/functions/f", "GET /2015-03-31/functions//configuration", "POST /2015-03-31/functions//invocations",
		"POST /2015-03-31/functions/a/b/invocations", "GET /2015-03-31/functions/f/g/h", "GET /2015-03-31/functions/%zz", "GET /2015-03-32/functions"} {
		method, path, _ := strings.Cut(none, " ")
		if op, _ := r.Route(method, path, ""); op != nil {
			t.Errorf("%s led to %s", none, op.Name)
		}
	}
}

func operation(t *testing.T, name string) *Op {
	t.Helper()
	for i := range operations {
		if operations[i].Name == name {
			return &operations[i]
		}
	}
	t.Fatalf("no operation %s", name)
	return nil
}

func TestRead(t *testing.T) {
	r := NewRouter()
	op, labels := r.Route("DELETE", "/2017-03-31/tags/arn%3Aaws", "")
	in := new(UntagResourceRequest)
	if err := op.Read(&Request{Labels: labels, Query: "tagKeys=a%20b&tagKeys=c&x=y"}, in); err != nil || *in.Resource != "arn:aws" || !reflect.DeepEqual(in.TagKeys, []string{"a b", "c"}) {
		t.Errorf("%+v, %v", in, err)
	}
	op, labels = r.Route("POST", "/2015-03-31/functions/f/invocations", "")
	invoke := new(InvocationRequest)
	if err := op.Read(&Request{Labels: labels, Query: "Qualifier=1", Header: http.Header{"X-Amz-Log-Type": {"Tail"}}, Body: []byte("no JSON")}, invoke); err != nil ||
		*invoke.FunctionName != "f" || *invoke.Qualifier != "1" || *invoke.LogType != "Tail" || invoke.InvocationType != nil || string(invoke.Payload) != "no JSON" {
		t.Errorf("%+v, %v", invoke, err)
	}
	create := new(CreateFunctionRequest)
	body := `{"FunctionName":"f","Code":{"ZipFile":"UEs="},"Environment":{"Variables":{"A":"ü"}},"Timeout":null,"Unknown":[{}],"Publish":true,"Layers":[]}`
	if err := operation(t, "CreateFunction").Read(&Request{Body: []byte(body)}, create); err != nil || string(create.Code.ZipFile) != "PK" || create.Timeout != nil || !*create.Publish || create.Layers == nil {
		t.Errorf("%+v, %v", create, err)
	}
	out, err := json.Marshal(FunctionConfiguration{Description: new(""), Timeout: new(3), Architectures: []string{}})
	if want := `{"Description":"","Timeout":3,"Architectures":[]}`; err != nil || string(out) != want {
		t.Errorf("got %s, %v", out, err)
	}
}

func TestReadErrors(t *testing.T) {
	for body, want := range map[string]string{
		`{"Timeout":"x"}`:                 "STRING_VALUE can not be converted to an Integer",
		`{"Timeout":1.5}`:                 "NUMBER_VALUE can not be converted to an Integer",
		`{"Runtime":7}`:                   "NUMBER_VALUE can not be converted to a String",
		`{"Runtime":true}`:                "TRUE_VALUE can not be converted to a String",
		`{"Runtime":false}`:               "FALSE_VALUE can not be converted to a String",
		`{"Publish":"x"}`:                 "STRING_VALUE can not be converted to a Boolean",
		`{"Runtime":[]}`:                  "Start of list found where not expected",
		`{"Runtime":{}}`:                  "Start of structure or map found where not expected.",
		`[]`:                              "Start of list found where not expected",
		`{"Layers":"x"}`:                  "Expected list or null",
		`{"Environment":"x"}`:             "Expected map or null",
		`{"Code":{"ZipFile":"not base"}}`: "A blob is not valid Base64",
	} {
		err := operation(t, "CreateFunction").Read(&Request{Body: []byte(body)}, new(CreateFunctionRequest))
		var wrong *TypeError
		if !errors.As(err, &wrong) || wrong.Message != want {
			t.Errorf("%s: %v, want %s", body, err, want)
		}
	}
	for _, body := range []string{"{", `{"a":}`, "\xff", `{} {}`} {
		err := operation(t, "CreateFunction").Read(&Request{Body: []byte(body)}, new(CreateFunctionRequest))
		var broken *NotJSONError
		if !errors.As(err, &broken) {
			t.Errorf("%q: %v", body, err)
		}
	}
	err := operation(t, "ListFunctions").Read(&Request{Query: "MaxItems=1x"}, new(ListFunctionsRequest))
	if err == nil || err.Error() != "STRING_VALUE can not be converted to an Integer" {
		t.Errorf("%v", err)
	}
}

// FuzzRequest sends anything to every operation: it is routed, read and checked, or refused.
func FuzzRequest(f *testing.F) {
	f.Add("POST", "/2015-03-31/functions", "", `{"FunctionName":"f","Role":"r","Code":{},"Environment":{"Variables":{"1":"2"}}}`)
	f.Add("DELETE", "/2017-03-31/tags/arn%3Aaws", "tagKeys=a&tagKeys=%zz", "")
	f.Add("GET", "/2018-10-31/layers", "find=LayerVersion&Arn=x", "")
	f.Add("POST", "/2015-03-31/event-source-mappings/", "", `{"FilterCriteria":{"Filters":[{"Pattern":"{}"},{}]},"StartingPosition":"x"}`)
	f.Add("PUT", "/2015-03-31/functions/f/aliases/1", "", `{"RoutingConfig":{"AdditionalVersionWeights":{"x":7}}}`)
	r := NewRouter()
	f.Fuzz(func(t *testing.T, method, path, query, body string) {
		op, labels := r.Route(method, path, query)
		if op == nil || op.New == nil {
			return
		}
		in := op.New()
		if err := op.Read(&Request{Labels: labels, Query: query, Header: http.Header{}, Body: []byte(body)}, in); err != nil {
			return
		}
		if message := op.Check(in); message != "" && !strings.Contains(message, " detected: Value") {
			t.Errorf("%q", message)
		}
	})
}
