package api

import (
	"regexp"
	"strings"

	"lambent"
)

const maxReference = 256 // characters of a function's name, partial ARN or ARN where a qualifier may be in it

var (
	// The groups are the account, the name and the qualifier; the first two what makes it an ARN and the region.
	functionPattern = whole(`(arn:(?:aws[a-zA-Z-]*)?:lambda:)?((?:eusc-)?[a-z]{2}(?:-gov|-iso[a-z]?)?-[a-z]+-\d:)?(?:(\d{12}):)?(?:function:)?([a-zA-Z0-9-_]{1,64})(?::(\$LATEST(?:\.PUBLISHED)?|[a-zA-Z0-9-_]+))?`)
	plainName       = regexp.MustCompile(`^[a-zA-Z0-9-_]{1,64}$`)
)

const (
	namespacedShown = "Member must satisfy regular expression pattern: " + arnPrefix + `([a-zA-Z0-9-_\.]+)(:(\$LATEST(\.PUBLISHED)?|[a-zA-Z0-9-_]+))?`
	tooLongShown    = "Member must have length less than or equal to 64"
)

// split reads a function's name, partial ARN or ARN.
func (c *call) split(text string) (ref lambent.FunctionRef, region string, err error) {
	if plainName.MatchString(text) {
		return lambent.FunctionRef{FunctionName: lambent.FunctionName{Account: c.who.Account, Name: text}}, "", nil
	}
	m := functionPattern.FindStringSubmatch(text)
	if m == nil || len(text) > maxReference {
		return ref, "", unmatched(text)
	}
	ref = lambent.FunctionRef{FunctionName: lambent.FunctionName{Account: m[3], Name: m[4]}, Qualifier: m[5]}
	if ref.Account == "" {
		ref.Account = c.who.Account
	}
	return ref, strings.TrimSuffix(m[2], ":"), nil
}

// unmatched is the error of a text that names no function.
func unmatched(text string) error {
	var v violations
	shown := "'" + clip(text) + "'"
	if rules["functionName"].pattern.MatchString(text) {
		v.add(shown, "functionName", tooLongShown)
	} else {
		v.add(shown, "functionName", namespacedShown)
	}
	if len(text) > maxReference {
		v.add(shown, "functionName", "Member must have length less than or equal to 256")
	}
	return v.err()
}

// reference reads a function's name, partial ARN or ARN, with the qualifier that it or the query names.
func (c *call) reference(text, qualifier string) (lambent.FunctionRef, error) {
	ref, region, err := c.split(text)
	if err != nil {
		return ref, err
	}
	if region != "" && region != c.Region {
		return ref, lambent.Errorf(lambent.NotFound, "Functions from '%s' are not reachable in this region ('%s')", region, c.Region)
	}
	if qualifier != "" {
		var v violations
		v.text("qualifier", &qualifier)
		if err := v.err(); err != nil {
			return ref, err
		}
		if ref.Qualifier != "" && ref.Qualifier != qualifier {
			return ref, lambent.Errorf(lambent.InvalidParameter, "The derived qualifier from the function name does not match the specified qualifier.")
		}
		ref.Qualifier = qualifier
	}
	if ref.Account != c.who.Account {
		return ref, c.denied(ref)
	}
	return ref, nil
}

func (c *call) denied(ref lambent.FunctionRef) error {
	action := "lambda:" + c.op.name
	if c.op.name == "Invoke" {
		action = "lambda:InvokeFunction"
	}
	return &lambent.Error{Code: lambent.AccessDenied, Message: "User: " + c.who.ARN + " is not authorized to perform: " + action +
		" on resource: " + ref.ARN(c.Region) + " because no resource-based policy allows the " + action + " action"}
}

// function reads the function that the path names.
func (c *call) function() (lambent.FunctionRef, error) {
	qualifier := ""
	if c.r.URL.RawQuery != "" {
		qualifier = c.r.URL.Query().Get("Qualifier")
	}
	return c.reference(c.labels.get("FunctionName"), qualifier)
}
