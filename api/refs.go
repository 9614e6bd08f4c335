package api

import (
	"regexp"
	"strings"

	"lambent"
)

var (
	functionPattern  = regexp.MustCompile(`^(arn:(aws[a-zA-Z-]*)?:lambda:)?([a-z]{2}(-gov)?(-iso[a-z]?)?-[a-z]+-\d:)?(\d{12}:)?(function:)?([a-zA-Z0-9-_\.]+)(:(\$LATEST|[a-zA-Z0-9-_]+))?$`)
	qualifierPattern = regexp.MustCompile(`^(\$LATEST|[a-zA-Z0-9-_$]{1,128})$`)
	namePattern      = regexp.MustCompile(`^[a-zA-Z0-9-_]{1,64}$`)
)

const functionConstraint = `Member must satisfy regular expression pattern: (arn:(aws[a-zA-Z-]*)?:lambda:)?([a-z]{2}((-gov)|(-iso(b?)))?-[a-z]+-\d{1}:)?(\d{12}:)?(function:)?([a-zA-Z0-9-_]+)(:(\$LATEST|[a-zA-Z0-9-_]+))?`

// reference reads a function's name, partial ARN or ARN, with the qualifier that it or the query names.
func (c *call) reference(text, qualifier string) (lambent.FunctionRef, error) {
	m := functionPattern.FindStringSubmatch(text)
	if m == nil || len(text) > 256 {
		return lambent.FunctionRef{}, invalid(text, "functionName", functionConstraint)
	}
	ref := lambent.FunctionRef{FunctionName: lambent.FunctionName{Account: strings.TrimSuffix(m[6], ":"), Name: m[8]}, Qualifier: m[10]}
	if ref.Account == "" {
		ref.Account = c.who.Account
	}
	if !namePattern.MatchString(ref.Name) {
		return ref, invalid(text, "functionName", functionConstraint)
	}
	if region := strings.TrimSuffix(m[3], ":"); m[1] != "" && region != "" && region != c.Region {
		return ref, lambent.Errorf(lambent.NotFound, "Functions from '%s' are not reachable in this region ('%s')", region, c.Region)
	}
	if qualifier != "" {
		if !qualifierPattern.MatchString(qualifier) {
			return ref, invalid(qualifier, "qualifier", `Member must satisfy regular expression pattern: (|[a-zA-Z0-9$_-]+)`)
		}
		if ref.Qualifier != "" && ref.Qualifier != qualifier {
			return ref, lambent.Errorf(lambent.InvalidParameter, "The derived qualifier from the function name does not match the specified qualifier.")
		}
		ref.Qualifier = qualifier
	}
	if ref.Account != c.who.Account {
		return ref, &lambent.Error{Code: lambent.AccessDenied, Message: "User: " + c.who.ARN + " is not authorized to perform: lambda:" + c.op.name +
			" on resource: " + ref.ARN(c.Region) + " because no resource-based policy allows the lambda:" + c.op.name + " action"}
	}
	return ref, nil
}

// function reads the function that the path names.
func (c *call) function() (lambent.FunctionRef, error) {
	return c.reference(c.labels["FunctionName"], c.r.URL.Query().Get("Qualifier"))
}

func invalid(value, member, constraint string) error {
	return lambent.Errorf(lambent.Validation, "1 validation error detected: Value '%s' at '%s' failed to satisfy constraint: %s", value, member, constraint)
}
