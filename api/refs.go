package api

import (
	"regexp"
	"strings"

	"lambent"
)

// maxName is how many characters a function's name has at most.
const maxName = 64

// functionPattern takes apart what names a function, after the model's pattern has accepted it. The groups are the region,
// the account, the name and the qualifier.
var functionPattern = regexp.MustCompile(`^(?:arn:(?:aws[a-zA-Z-]*)?:lambda:)?((?:eusc-)?[a-z]{2}(?:-gov|-iso[a-z]?)?-[a-z]+-\d:)?(?:(\d{12}):)?(?:function:)?([a-zA-Z0-9-_\.]+)(?::(\$LATEST(?:\.PUBLISHED)?|[a-zA-Z0-9-_]+))?$`)

// isPlain tells whether a text is a function's name and nothing more.
func isPlain(text string) bool {
	for i := range len(text) {
		c := text[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return text != "" && len(text) <= maxName
}

// split reads a function's name, partial ARN or ARN.
func (c *call) split(text string) (ref lambent.FunctionRef, region string, err error) {
	ref.Account = c.who.Account
	if isPlain(text) {
		ref.Name = text
		return ref, "", nil
	}
	m := functionPattern.FindStringSubmatch(text)
	if m == nil {
		return ref, "", lambent.Errorf(lambent.InvalidParameter, "%s does not name a function.", text)
	}
	if m[2] != "" {
		ref.Account = m[2]
	}
	ref.Name, ref.Qualifier = m[3], m[4]
	if len(ref.Name) > maxName {
		return ref, "", &lambent.Error{Code: lambent.Validation, Message: "1 validation error detected: Value '" + text +
			"' at 'functionName' failed to satisfy constraint: Member must have length less than or equal to 64"}
	}
	return ref, strings.TrimSuffix(m[1], ":"), nil
}

// reference reads a function's name, partial ARN or ARN, with the qualifier that it or the query names. Both have met the
// model's constraints.
func (c *call) reference(text, qualifier *string) (lambent.FunctionRef, error) {
	ref, region, err := c.split(*text)
	if err != nil {
		return ref, err
	}
	if region != "" && region != c.Region {
		return ref, lambent.Errorf(lambent.NotFound, "Functions from '%s' are not reachable in this region ('%s')", region, c.Region)
	}
	if qualifier != nil {
		if ref.Qualifier != "" && ref.Qualifier != *qualifier {
			return ref, lambent.Errorf(lambent.InvalidParameter, "The derived qualifier from the function name does not match the specified qualifier.")
		}
		ref.Qualifier = *qualifier
	}
	if ref.Account != c.who.Account {
		return ref, c.denied(ref)
	}
	return ref, nil
}

func (c *call) denied(ref lambent.FunctionRef) error {
	action := "lambda:" + c.op.Name
	if c.op.Name == "Invoke" {
		action = "lambda:InvokeFunction"
	}
	return &lambent.Error{Code: lambent.AccessDenied, Message: "User: " + c.who.ARN + " is not authorized to perform: " + action +
		" on resource: " + ref.ARN(c.Region) + " because no resource-based policy allows the " + action + " action"}
}
