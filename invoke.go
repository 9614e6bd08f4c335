package lambent

import "time"

// Sizes of payloads, in bytes, from Lambda's quotas.
const (
	MaxRequestBytes  = 6 << 20     // a synchronous request: 6,291,456
	MaxResponseBytes = 6<<20 + 100 // a synchronous response: 6,291,556
	MaxLogTailBytes  = 4 << 10     // what LogType=Tail returns
)

// InvocationType says how an invoke is run.
type InvocationType string

// The invocation types.
const (
	RequestResponse InvocationType = "RequestResponse"
	Event           InvocationType = "Event"
	DryRun          InvocationType = "DryRun"
)

// Principal is an authenticated caller.
type Principal struct {
	Account     string
	AccessKeyID string
	ARN         string
}

// InvokeRequest is one call of a function. Payload belongs to the callee until the call returns, and is not modified.
type InvokeRequest struct {
	RequestID     string // UUID, unique in the region; the same in every log line and header
	Caller        Principal
	Function      FunctionRef
	Type          InvocationType
	LogTail       bool   // return the last 4 KiB of the log
	ClientContext string // decoded JSON, empty for none; at most 3,583 bytes before decoding
	TraceID       string // value of X-Amzn-Trace-Id, empty for none
	TenantID      string
	Payload       []byte // valid JSON, at most MaxRequestBytes
}

// InvokeResponse is the answer of a function. A function that failed is an answer, not an error.
type InvokeResponse struct {
	Payload         []byte
	FunctionError   string // "" or "Unhandled"
	ExecutedVersion string
	LogTail         []byte // raw, at most MaxLogTailBytes
}

// Identities of the parts of a region. They are unique in it and never used again.
type (
	WorkerID  string
	ManagerID string
	SandboxID string
	GrantID   string
	ClaimID   uint64
)

// Claim is the right to run one invoke in a sandbox. The worker refuses it when Epoch is older than the newest that it has
// seen for the sandbox, or when a claim of the sandbox is running (invariant 2).
type Claim struct {
	ID      ClaimID
	Manager ManagerID
	Worker  WorkerID
	Sandbox SandboxID
	Epoch   uint64 // grows with each claim of the sandbox, and with each change of the manager that owns it
	Cold    bool   // this is the sandbox's first claim
}

// Outcome is what became of a claim.
type Outcome int

// The outcomes of a claim.
const (
	OutcomeIdle Outcome = iota + 1 // the sandbox is ready for the next invoke
	OutcomeGone                    // the sandbox is destroyed or lost: forget it
)

// WorkerInvoke is what a worker needs to run one invoke.
type WorkerInvoke struct {
	Claim      Claim
	Key        VersionKey // the worker refuses a sandbox of another version
	Request    InvokeRequest
	InvokedARN string    // as the caller named it, with its qualifier
	Deadline   time.Time // zero: the function's timeout from when the function starts to run
}

// WorkerResult is what an invoke gave and what it cost.
type WorkerResult struct {
	Response     InvokeResponse
	Outcome      Outcome
	Duration     time.Duration // the function's own
	Billed       time.Duration
	Init         time.Duration // non-zero for the first invoke of a sandbox
	MaxMemoryMiB int
	CPU          time.Duration // used during the invoke, for placement's demand
}
