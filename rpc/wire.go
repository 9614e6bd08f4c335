package rpc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"lambent"
)

const (
	pathPrefix    = "/rpc/"
	headerTimeout = "Lambent-Timeout"  // microseconds that the caller waits
	headerDrains  = "Lambent-Draining" // set: nothing was run, and the server takes no more calls

	maxErrorBytes  = 64 << 10 // of an error's answer
	maxHeaderBytes = 16 << 10
	maxTimeout     = 24 * time.Hour
)

// wireError is an error between hosts. Its cause stays where it happened.
type wireError struct {
	Code       string
	Message    string
	Reason     lambent.ThrottleReason `json:",omitempty"`
	RetryAfter time.Duration          `json:",omitempty"`
	Ended      string                 `json:",omitempty"` // how the context ended that the error is about
}

// How a context ended.
const (
	endedCanceled = "canceled"
	endedDeadline = "deadline"
)

// codeNames are the codes on the wire, so that hosts of different releases agree on them.
func codeNames() []string {
	return []string{
		lambent.Internal: "Internal", lambent.InvalidParameter: "InvalidParameter", lambent.Validation: "Validation",
		lambent.InvalidContent: "InvalidContent", lambent.NotFound: "NotFound", lambent.Conflict: "Conflict",
		lambent.PreconditionFailed: "PreconditionFailed", lambent.CodeStorageExceeded: "CodeStorageExceeded", lambent.TooLarge: "TooLarge",
		lambent.Throttled: "Throttled", lambent.AccessDenied: "AccessDenied", lambent.InvalidRuntime: "InvalidRuntime",
		lambent.InvalidZip: "InvalidZip", lambent.NotReady: "NotReady", lambent.Unavailable: "Unavailable",
		lambent.SandboxGone: "SandboxGone", lambent.HostLost: "HostLost", lambent.StaleEpoch: "StaleEpoch",
		lambent.NotImplemented: "NotImplemented",
	}
}

// encodeError makes an error's answer. An error without a code has no message that is for others than the host's own logs.
func encodeError(err error) []byte {
	w := wireError{Code: codeNames()[lambent.Internal], Message: "Internal error."}
	var coded *lambent.Error
	if errors.As(err, &coded) {
		w.Message, w.Reason, w.RetryAfter = coded.Message, coded.Reason, coded.RetryAfter
		if names := codeNames(); coded.Code >= 0 && int(coded.Code) < len(names) {
			w.Code = names[coded.Code]
		}
	}
	switch {
	case errors.Is(err, context.Canceled):
		w.Ended = endedCanceled
	case errors.Is(err, context.DeadlineExceeded):
		w.Ended = endedDeadline
	}
	if len(w.Message) > maxErrorBytes/8 {
		w.Message = w.Message[:maxErrorBytes/8] // eight bytes at most for each on the wire
	}
	body, err := json.Marshal(w)
	if err != nil {
		panic(err) // strings and numbers are always encoded
	}
	return body
}

// decodeError reads an error's answer. ok is false when the body is none.
func decodeError(body []byte) (_ *lambent.Error, ok bool) {
	var w wireError
	if err := decode(body, &w); err != nil || w.Code == "" {
		return nil, false //nolint:nilerr // what cannot be read is no error's answer
	}
	e := &lambent.Error{Code: lambent.Internal, Message: w.Message, Reason: w.Reason, RetryAfter: w.RetryAfter}
	for code, name := range codeNames() {
		if name == w.Code {
			e.Code = lambent.Code(code)
		}
	}
	switch w.Ended {
	case endedCanceled:
		e.Err = context.Canceled
	case endedDeadline:
		e.Err = context.DeadlineExceeded
	}
	return e, true
}

// readAll reads a body of at most limit bytes. size is what was announced, -1 for nothing.
func readAll(body io.Reader, size, limit int64) ([]byte, error) {
	if size > limit {
		return nil, tooLarge(limit)
	}
	var content bytes.Buffer
	if size > 0 {
		content.Grow(int(min(size, 64<<10)) + bytes.MinRead)
	}
	n, err := content.ReadFrom(io.LimitReader(body, limit+1))
	if err == nil && n > limit {
		err = tooLarge(limit)
	}
	return content.Bytes(), err
}

func tooLarge(limit int64) error {
	return lambent.Errorf(lambent.TooLarge, "A message between hosts has more than %d bytes.", limit)
}

// encode makes a message of at most limit bytes.
func encode(value any, limit int64) ([]byte, error) {
	body, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("rpc: encode %T: %w", value, err)
	}
	if int64(len(body)) > limit {
		return nil, tooLarge(limit)
	}
	return body, nil
}

// decode reads a message. Members that are not known are passed over: a newer release has sent them.
func decode(body []byte, value any) error {
	if err := json.Unmarshal(body, value); err != nil {
		return lambent.Wrap(lambent.InvalidParameter, err, "A message between hosts cannot be read.")
	}
	return nil
}

// setTimeout tells the server how long the caller waits.
func setTimeout(ctx context.Context, header http.Header) {
	if deadline, ok := ctx.Deadline(); ok {
		left := max(time.Until(deadline), 0)
		header.Set(headerTimeout, strconv.FormatInt(left.Microseconds(), 10))
	}
}

// timeoutOf is how long the caller waits; ok is false when it does not say.
func timeoutOf(header http.Header) (left time.Duration, ok bool, err error) {
	text := header.Get(headerTimeout)
	if text == "" {
		return 0, false, nil
	}
	micros, err := strconv.ParseInt(text, 10, 64)
	if err != nil || micros < 0 {
		return 0, false, lambent.Errorf(lambent.InvalidParameter, "The timeout of a call cannot be read.")
	}
	return time.Duration(min(micros, maxTimeout.Microseconds())) * time.Microsecond, true, nil
}

// remaining turns a point in time into what is left until then, for a host with another clock; 0 stays none.
type remaining struct {
	Set  bool          `json:",omitempty"`
	Left time.Duration `json:",omitempty"`
}

func remainingUntil(at time.Time) remaining {
	if at.IsZero() {
		return remaining{}
	}
	return remaining{Set: true, Left: time.Until(at)}
}

func (r remaining) from(now time.Time) time.Time {
	if !r.Set {
		return time.Time{}
	}
	return now.Add(r.Left)
}
