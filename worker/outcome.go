package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/sandbox"
	"lambent/worker/runtimeapi"
)

// How an invoke or an initialisation ended, in the words of Lambda's logs.
const (
	statusSuccess = "success"
	statusFailure = "failure" // the function reported an error of its own
	statusError   = "error"
	statusTimeout = "timeout"
)

// fault is a failure of a function, as Lambda tells of it.
type fault struct {
	status    string
	errorType string
	plain     string // the message without the request's ID; empty: there is only payload
	payload   []byte // as the runtime sent it; nil: made of the above
}

// answer is what the caller gets.
func (f *fault) answer(now time.Time, requestID string) []byte {
	type shape struct {
		Type    string `json:"errorType,omitempty"`
		Message string `json:"errorMessage"`
	}
	var content shape
	switch {
	case f.payload != nil:
		return f.payload
	case f.status == statusTimeout:
		content = shape{Message: now.UTC().Format(logTime) + " " + requestID + " " + f.plain}
	default:
		content = shape{Type: f.errorType, Message: "RequestId: " + requestID + " Error: " + f.plain}
	}
	text, err := json.Marshal(content)
	if err != nil { // strings only
		panic(err)
	}
	return text
}

// timedOut is the fault of a function that ran longer than its timeout.
func timedOut(timeout time.Duration) *fault {
	return &fault{status: statusTimeout, plain: fmt.Sprintf("Task timed out after %.2f seconds", timeout.Seconds())}
}

// exited is the fault of a runtime that ended.
func exited(exit sandbox.Exit) *fault {
	f := &fault{status: statusError, errorType: "Runtime.ExitError"}
	switch {
	case exit.OOMKilled:
		f.errorType, f.plain = "Runtime.OutOfMemory", "Runtime exited with error: signal: killed"
	case exit.Signal != 0:
		f.plain = "Runtime exited with error: signal: " + syscall.Signal(exit.Signal).String()
	case exit.Code != 0:
		f.plain = fmt.Sprintf("Runtime exited with error: exit status %d", exit.Code)
	default:
		f.plain = "Runtime exited without providing a reason"
	}
	return f
}

// tooLarge is the fault of a function whose answer is larger than a response may be.
func tooLarge() *fault {
	return &fault{status: statusError, errorType: "Function.ResponseSizeTooLarge",
		payload: fmt.Appendf(nil, `{"errorMessage":"Response payload size exceeded maximum allowed payload size (%d bytes).",`+
			`"errorType":"Function.ResponseSizeTooLarge"}`, lambent.MaxResponseBytes)}
}

// initFailed is the fault of a runtime that said why it cannot start.
func initFailed(failure *runtimeapi.Failure) *fault {
	f := &fault{status: statusError, errorType: failure.Type, payload: failure.Body}
	if f.errorType == "" {
		f.errorType = "Runtime.Unknown"
	}
	if len(f.payload) == 0 {
		f.payload, f.plain = nil, "Runtime failed to initialise"
	}
	return f
}

// noEntrypoint is the fault of a function that brings no program.
func noEntrypoint(entrypoints []string) *fault {
	return &fault{status: statusError, errorType: "Runtime.InvalidEntrypoint",
		plain: "Couldn't find valid bootstrap(s): [" + strings.Join(entrypoints, " ") + "]"}
}

// notStarted is the fault of a function whose program cannot be executed; nil: it is not the function's fault.
func notStarted(path string, err error) *fault {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return nil
	}
	switch errno {
	case unix.ENOENT, unix.EACCES, unix.ENOEXEC, unix.ENOTDIR, unix.EISDIR, unix.ELOOP, unix.ELIBBAD, unix.EPERM:
		return &fault{status: statusError, errorType: "Runtime.InvalidEntrypoint", plain: "fork/exec " + path + ": " + errno.Error()}
	}
	return nil
}
