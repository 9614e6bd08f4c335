package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"

	"lambent"
	"lambent/api/sigv4"
)

// shape is how Lambda says an error.
type shape struct {
	name   string
	status int
	field  string // of the message: "Message" or "message"
	user   bool   // has "Type": "User"
}

// shapes maps the codes to Lambda's errors, as its model and its recorded answers have them.
var shapes = map[lambent.Code]shape{
	lambent.Internal:            {"ServiceException", 500, "Message", false},
	lambent.InvalidParameter:    {"InvalidParameterValueException", 400, "message", true},
	lambent.Validation:          {"ValidationException", 400, "message", false},
	lambent.InvalidContent:      {"InvalidRequestContentException", 400, "message", true},
	lambent.NotFound:            {"ResourceNotFoundException", 404, "Message", true},
	lambent.Conflict:            {"ResourceConflictException", 409, "message", true},
	lambent.PreconditionFailed:  {"PreconditionFailedException", 412, "message", true},
	lambent.CodeStorageExceeded: {"CodeStorageExceededException", 400, "message", true},
	lambent.TooLarge:            {"RequestEntityTooLargeException", 413, "message", true},
	lambent.Throttled:           {"TooManyRequestsException", 429, "message", true},
	lambent.AccessDenied:        {"AccessDeniedException", 403, "Message", false},
	lambent.InvalidRuntime:      {"InvalidRuntimeException", 502, "Message", true},
	lambent.InvalidZip:          {"InvalidZipFileException", 502, "Message", true},
	lambent.NotReady:            {"ResourceNotReadyException", 502, "Message", true},
	lambent.Unavailable:         {"ServiceUnavailableException", 503, "Message", false},
	lambent.SandboxGone:         {"ServiceException", 500, "Message", false},
	lambent.HostLost:            {"EC2UnexpectedException", 502, "Message", false},
	lambent.StaleEpoch:          {"ServiceException", 500, "Message", false},
	lambent.NotImplemented:      {"NotImplementedException", 501, "Message", false},
}

// The errors that only some operations have.
var (
	serialization = shape{"SerializationException", 400, "Message", false}
	noProvisioned = shape{"ProvisionedConcurrencyConfigNotFoundException", 404, "message", true}
)

// modelError is an error of one of these shapes.
type modelError struct {
	shape
	message string
}

// Error returns the message.
func (e *modelError) Error() string { return e.message }

// errUnknownOperation is the answer to a route that Lambda does not have.
var errUnknownOperation = errors.New("unknown operation")

func (s shape) body(message string) map[string]any {
	body := map[string]any{s.field: message}
	if s.user {
		body["Type"] = "User"
	}
	return body
}

// fail answers an error. Causes go to the log, never to the caller.
func (c *call) fail(err error) {
	var refused *sigv4.Error
	var known *lambent.Error
	var model *modelError
	switch {
	case errors.As(err, &refused):
		status := http.StatusForbidden
		if refused.Type == sigv4.Incomplete {
			status = http.StatusBadRequest
		}
		c.error(refused.Type, status, map[string]any{"message": refused.Message})
	case errors.Is(err, errUnknownOperation):
		c.error("UnknownOperationException", http.StatusNotFound, map[string]any{"Message": "Unable to determine service/operation name to be authorized"})
	case errors.As(err, &model):
		c.error(model.name, model.status, model.body(model.message))
	case errors.As(err, &known):
		c.known(known)
	default:
		c.Logger.Error("a request failed", "request", c.id, "error", err)
		c.known(lambent.Errorf(lambent.Internal, "An internal error occurred."))
	}
}

func (c *call) known(e *lambent.Error) {
	s, ok := shapes[e.Code]
	if !ok {
		s = shapes[lambent.Internal]
	}
	if s.status >= 500 && e.Err != nil {
		c.Logger.Error("a request failed", "request", c.id, "error", e)
	}
	body := s.body(e.Message)
	if e.Reason != "" {
		body["Reason"] = string(e.Reason)
	}
	if e.RetryAfter > 0 {
		seconds := strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds())))
		c.w.Header().Set("Retry-After", seconds)
		if e.Code == lambent.Throttled {
			body["retryAfterSeconds"] = seconds
		}
	}
	c.error(s.name, s.status, body)
}

func (c *call) error(name string, status int, body map[string]any) {
	c.w.Header()["X-Amzn-Errortype"] = []string{name}
	out, err := marshal(body)
	if err != nil {
		panic(err) // strings always encode
	}
	c.write(status, "application/json", out)
}

// marshal encodes JSON without escaping HTML, as AWS does.
func marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}
