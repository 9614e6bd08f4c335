package lambent

import (
	"errors"
	"fmt"
	"time"
)

// Code is the short list of errors that the services know. Package api maps each to Lambda's name and status, once.
type Code int

// The error codes.
const (
	Internal            Code = iota // a fault of Lambent: 500 ServiceException
	InvalidParameter                // 400 InvalidParameterValueException
	Validation                      // 400 ValidationException: a constraint of the model is not met
	InvalidContent                  // 400 InvalidRequestContentException: the request body is not JSON
	NotFound                        // 404 ResourceNotFoundException
	Conflict                        // 409 ResourceConflictException
	PreconditionFailed              // 412 PreconditionFailedException: RevisionId does not match
	CodeStorageExceeded             // 400 CodeStorageExceededException
	TooLarge                        // 413 RequestEntityTooLargeException
	Throttled                       // 429 TooManyRequestsException, with Reason
	AccessDenied                    // 403 AccessDeniedException
	InvalidRuntime                  // 502 InvalidRuntimeException
	InvalidZip                      // 502 InvalidZipFileException
	NotReady                        // 409 ResourceNotReadyException: the function cannot be invoked in its state
	Unavailable                     // 503 ServiceUnavailable: a part of Lambent cannot serve now; nothing was run
	SandboxGone                     // the claim cannot be used and nothing of the request was run: claim again
	HostLost                        // 502: the worker was lost after the request may have reached the function
	StaleEpoch                      // the claim or lease was superseded
	NotImplemented                  // the operation is not built yet
)

// ThrottleReason is the Reason member of TooManyRequestsException.
type ThrottleReason string

// The reasons for throttling.
const (
	ConcurrentLimit         ThrottleReason = "ConcurrentInvocationLimitExceeded"
	ReservedConcurrentLimit ThrottleReason = "ReservedFunctionConcurrentInvocationLimitExceeded"
	RateLimit               ThrottleReason = "FunctionInvocationRateLimitExceeded"
	ReservedRateLimit       ThrottleReason = "ReservedFunctionInvocationRateLimitExceeded"
	CallerRateLimit         ThrottleReason = "CallerRateLimitExceeded"
)

// Error is an error with a code. Message is for the caller and ends up in Lambda's error shape as it is.
type Error struct {
	Code       Code
	Message    string
	Reason     ThrottleReason // Throttled only
	RetryAfter time.Duration  // Throttled and Unavailable; zero: not known
	Err        error          // the cause, for logs; never shown to the caller
}

// Error returns the message, with the cause behind it.
func (e *Error) Error() string {
	if e.Err != nil {
		return e.Message + ": " + e.Err.Error()
	}
	return e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error with a code and a formatted message for the caller.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Wrap makes an Error with a code and a formatted message for the caller, and err as the cause that only logs show.
func Wrap(code Code, err error, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Err: err}
}

// CodeOf returns the code of the first Error in err's chain, Internal for any other error.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Internal
}
