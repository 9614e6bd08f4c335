package functions

import (
	"lambent"
)

// internalMessage is all that a caller is told of a fault of ours.
const internalMessage = "Service encountered an error. Please try again later."

// arn returns a function's ARN, qualified unless the qualifier is empty.
func (s *Service) arn(fn lambent.FunctionName, qualifier string) string {
	arn := fn.ARN(s.options.Region)
	if qualifier != "" {
		arn += ":" + qualifier
	}
	return arn
}

// notFound is Lambda's answer for a function or version that does not exist.
func (s *Service) notFound(ref lambent.FunctionRef) error {
	return lambent.Errorf(lambent.NotFound, "Function not found: %s", s.arn(ref.FunctionName, ref.Qualifier))
}

func invalid(format string, args ...any) error {
	return lambent.Errorf(lambent.InvalidParameter, format, args...)
}

// unmet is Lambda's answer for a member that does not meet a constraint of the model.
func unmet(value, member, constraint string) error {
	return lambent.Errorf(lambent.Validation,
		"1 validation error detected: Value '%s' at '%s' failed to satisfy constraint: %s", value, member, constraint)
}

func conflict(format string, args ...any) error {
	return lambent.Errorf(lambent.Conflict, format, args...)
}
