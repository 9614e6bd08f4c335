package wire

import (
	"strings"
	"testing"
)

// What requests are told: the bodies' members, and Lambda's words for what is wrong with them.
func TestCheck(t *testing.T) {
	const one = "1 validation error detected: "
	const layers = `(arn:(aws[a-zA-Z-]*)?:lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:layer:[a-zA-Z0-9-_]+:[0-9]+)|(arn:[a-zA-Z0-9-]+:lambda:::awslayer:[a-zA-Z0-9-_]+)`
	const role = `"Role":"arn:aws:iam::123456789012:role/r"`
	for _, c := range []struct{ operation, body, want string }{
		{"CreateFunction", `{"FunctionName":"f",` + role + `,"Code":{"ZipFile":""},"Timeout":900,"Runtime":"any","Handler":"a.b"}`, ""},
		{"CreateFunction", `{"FunctionName":"f",` + role + `}`, one + "Value null at 'code' failed to satisfy constraint: Member must not be null"},
		{"CreateFunction", `{` + role + `}`, "2 validation errors detected: Value null at 'functionName' failed to satisfy constraint: Member must not be null; " +
			"Value null at 'code' failed to satisfy constraint: Member must not be null"},
		{"CreateFunction", `{"FunctionName":"f",` + role + `,"Code":{},"SnapStart":{"ApplyOn":"invalidOption"}}`,
			one + "Value 'invalidOption' at 'snapStart.applyOn' failed to satisfy constraint: Member must satisfy enum value set: [PublishedVersions, None]"},
		{"CreateFunction", `{"FunctionName":"f",` + role + `,"Code":{},"Layers":["arn:aws:lambda:us-east-1:123456789012:layer:l"]}`,
			one + "Value '[arn:aws:lambda:us-east-1:123456789012:layer:l]' at 'layers' failed to satisfy constraint: Member must satisfy constraint: [Member must have length less than or equal to 2048, " +
				"Member must have length greater than or equal to 1, Member must satisfy regular expression pattern: " + layers + ", Member must not be null]"},
		{"CreateFunction", `{"FunctionName":"f",` + role + `,"Code":{},"Environment":{"Variables":{"1":"secret"}}}`,
			one + "Value at 'environment.variables' failed to satisfy constraint: Map keys must satisfy constraint: [Member must satisfy regular expression pattern: [a-zA-Z]([a-zA-Z0-9_])+, Member must not be null]"},
		{"CreateFunction", `{"FunctionName":"f",` + role + `,"Code":{},"Architectures":["mips"]}`,
			one + "Value '[mips]' at 'architectures' failed to satisfy constraint: Member must satisfy constraint: [Member must satisfy enum value set: [x86_64, arm64], Member must not be null]"},
		{"CreateFunction", `{"FunctionName":"f",` + role + `,"Code":{},"Timeout":0,"EphemeralStorage":{"Size":1}}`,
			"2 validation errors detected: Value '0' at 'timeout' failed to satisfy constraint: Member must have value greater than or equal to 1; " +
				"Value '1' at 'ephemeralStorage.size' failed to satisfy constraint: Member must have value greater than or equal to 512"},
		{"CreateEventSourceMapping", `{"FunctionName":"f","StartingPosition":"invalid"}`,
			one + "Value 'invalid' at 'startingPosition' failed to satisfy constraint: Member must satisfy enum value set: [LATEST, AT_TIMESTAMP, TRIM_HORIZON]"},
		{"CreateEventSourceMapping", `{"FunctionName":"f","FilterCriteria":{"Filters":[{},{"Pattern":"` + strings.Repeat("x", 4097) + `"}]}}`,
			one + "Value '" + strings.Repeat("x", 4096) + "...' at 'filterCriteria.filters.2.member.pattern' failed to satisfy constraint: Member must have length less than or equal to 4096"},
	} {
		op := operation(t, c.operation)
		in := op.New()
		if err := op.Read(&Request{Body: []byte(c.body)}, in); err != nil {
			t.Errorf("%s %s: %v", c.operation, c.body, err)
			continue
		}
		if got := op.Check(in); got != c.want {
			t.Errorf("%s %s:\n%s\nwant\n%s", c.operation, c.body, got, c.want)
		}
	}
}

func TestCheckMapValues(t *testing.T) {
	op := operation(t, "UpdateAlias")
	in := &UpdateAliasRequest{FunctionName: new("f"), Name: new("live"), RoutingConfig: &AliasRoutingConfiguration{AdditionalVersionWeights: map[string]float64{"2": 1.5}}}
	want := "1 validation error detected: Value '{2=1.5}' at 'routingConfig.additionalVersionWeights' failed to satisfy constraint: Map value must satisfy constraint: " +
		"[Member must have value less than or equal to 1.0, Member must have value greater than or equal to 0.0, Member must not be null]"
	if got := op.Check(in); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	in.RoutingConfig.AdditionalVersionWeights = map[string]float64{"x": 0.5}
	want = "1 validation error detected: Value '{x=0.5}' at 'routingConfig.additionalVersionWeights' failed to satisfy constraint: Map keys must satisfy constraint: " +
		"[Member must have length less than or equal to 1024, Member must have length greater than or equal to 1, Member must satisfy regular expression pattern: [0-9]+, Member must not be null]"
	if got := op.Check(in); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// Qualifiers and names as Lambda's recorded answers judge them.
func TestCheckNames(t *testing.T) {
	op := operation(t, "AddPermission")
	in := &AddPermissionRequest{FunctionName: new("f"), StatementId: new("example.com"), Action: new("lambda:InvokeFunction"), Principal: new("p"), Qualifier: new("invalid-qualifier-with-?-char")}
	want := "2 validation errors detected: Value 'example.com' at 'statementId' failed to satisfy constraint: Member must satisfy regular expression pattern: ([a-zA-Z0-9-_]+); " +
		`Value 'invalid-qualifier-with-?-char' at 'qualifier' failed to satisfy constraint: Member must satisfy regular expression pattern: \$(LATEST(\.PUBLISHED)?)|[a-zA-Z0-9-_$]+`
	if got := op.Check(in); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	alias := &CreateAliasRequest{Name: new("7"), FunctionVersion: new("1")}
	want = "2 validation errors detected: Value null at 'functionName' failed to satisfy constraint: Member must not be null; " +
		"Value '7' at 'name' failed to satisfy constraint: Member must satisfy regular expression pattern: (?!^[0-9]+$)([a-zA-Z0-9-_]+)"
	if got := operation(t, "CreateAlias").Check(alias); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	url := operation(t, "GetFunctionUrlConfig")
	for name, ok := range map[string]bool{"f": true, "f:live": true, "f:1": false, "arn:aws:lambda:us-east-1:123456789012:function:f:a1": true, "123456789012:1": true,
		"f:1a": true, "function:f:12": false, "f:": false, strings.Repeat("x", 65): false} {
		if got := url.Check(&GetFunctionUrlConfigRequest{FunctionName: &name}); (got == "") != ok {
			t.Errorf("%s: %q", name, got)
		}
	}
}
