package functions

import (
	"encoding/base64"
	"encoding/hex"
	"time"

	"lambent"
)

// Limits of an account, from Lambda's quotas.
const (
	MinUnreserved      = 100       // units of concurrency that reservations must leave
	MaxZipBytes        = 50 << 20  // 52,428,800: a zip in a request
	MaxUnzippedBytes   = 250 << 20 // 262,144,000: code and layers, unpacked
	MaxCodeTotalBytes  = 75 << 30  // all zips of an account
	MaxTags            = 50        // of one function
	defaultConcurrency = 1000      // units of an account
	defaultTimeout     = 3 * time.Second
	defaultMemoryMiB   = 128
	defaultEphemeral   = 512
)

// UpdateStatus is Lambda's LastUpdateStatus.
type UpdateStatus string

// The values of LastUpdateStatus.
const (
	UpdateSuccessful UpdateStatus = "Successful"
	UpdateInProgress UpdateStatus = "InProgress"
	UpdateFailed     UpdateStatus = "Failed"
)

// Configuration is a function version as Lambda's FunctionConfiguration describes it. An empty string, nil pointer or nil
// map stands for a member that is absent from Lambda's answer; a map that is empty and not nil is present. It is a copy that
// belongs to the caller.
type Configuration struct {
	Function lambent.FunctionName
	ID       lambent.FunctionID
	ARN      string // qualified as the operation's answer is: none, a version number, $LATEST or an alias
	Version  string // "$LATEST" or a number

	Runtime       string
	Role          string
	Handler       string
	Description   string // always present, also when empty
	Architectures []string
	PackageType   string // "Zip"
	Timeout       time.Duration
	MemoryMiB     int
	EphemeralMiB  int
	Environment   map[string]string
	KMSKeyARN     string
	VpcConfig     *VpcConfig
	DeadLetter    *DeadLetter
	TracingMode   string // "PassThrough" or "Active"
	SnapStart     SnapStart
	Logging       lambent.Logging
	// TenantIsolation is TenancyConfig.TenantIsolationMode: "PER_TENANT", or empty for none. It does not change.
	TenantIsolation string `json:",omitzero"`

	RuntimeVersionARN string // RuntimeVersionConfig.RuntimeVersionArn; empty in lists
	Code              lambent.CodeRef
	LastModified      time.Time // UTC, to the millisecond
	RevisionID        string

	State           lambent.FunctionState // empty in lists, with its reasons
	StateReason     string
	StateReasonCode string

	LastUpdateStatus           UpdateStatus // empty in lists and while the function is being created
	LastUpdateStatusReason     string
	LastUpdateStatusReasonCode string
}

// CodeSHA256 returns the digest of the zip archive as Lambda writes it: base64 of the 32 bytes.
func (c *Configuration) CodeSHA256() string { return base64Digest(c.Code) }

// LastModifiedText returns LastModified in Lambda's form, for example 2026-11-23T09:47:00.123+0000.
func (c *Configuration) LastModifiedText() string {
	return c.LastModified.UTC().Format("2006-01-02T15:04:05.000") + "+0000"
}

// VpcConfig is kept as it was given. VpcID is empty: there is no VPC to look it up in.
type VpcConfig struct {
	SubnetIDs        []string
	SecurityGroupIDs []string
	IPv6Allowed      bool // Ipv6AllowedForDualStack
	VpcID            string
}

// DeadLetter names the queue or topic for events that failed. An empty TargetARN in an update removes it.
type DeadLetter struct{ TargetARN string }

// SnapStart is Lambda's SnapStartResponse. Optimization is "On" or "Off".
type SnapStart struct {
	ApplyOn      string // "None" or "PublishedVersions"
	Optimization string
}

// Function is the answer of GetFunction. Tags is nil unless the function itself (not a version or an alias) has some.
type Function struct {
	Configuration Configuration
	Tags          map[string]string
	Reserved      *int // Concurrency.ReservedConcurrentExecutions; nil: absent
}

// Alias is an alias as Lambda's AliasConfiguration describes it.
type Alias struct {
	ARN         string
	Name        string
	Version     string // FunctionVersion
	Description string
	Weights     map[string]float64 // RoutingConfig.AdditionalVersionWeights; nil: RoutingConfig is absent
	RevisionID  string
}

// AccountSettings is the answer of GetAccountSettings. Sizes are in bytes.
type AccountSettings struct {
	TotalCodeLimit        int64
	CodeUnzippedLimit     int64
	CodeZippedLimit       int64
	ConcurrencyLimit      int
	UnreservedConcurrency int
	TotalCodeUsed         int64 // zips of all versions, $LATEST included
	FunctionCount         int64
}

// Code is where a function's code comes from. Exactly ZipFile is supported; the other members get Lambda's error for a
// source that cannot be read.
type Code struct {
	ZipFile         []byte // not modified, not kept after the call
	S3Bucket        string
	S3Key           string
	S3ObjectVersion string
	ImageURI        string
}

// LoggingConfig is a request's LoggingConfig. Empty members keep what is there (update) or get Lambda's defaults (create).
type LoggingConfig struct {
	Format           lambent.LogFormat
	ApplicationLevel string
	SystemLevel      string
	Group            string
}

// Settable is what CreateFunction and UpdateFunctionConfiguration have in common. A nil member is absent from the
// request: create uses Lambda's default, update keeps what is there.
type Settable struct {
	Runtime      *string
	Role         *string
	Handler      *string
	Description  *string
	Timeout      *time.Duration // whole seconds
	MemoryMiB    *int
	EphemeralMiB *int
	Environment  *map[string]string // an empty map removes all variables
	KMSKeyARN    *string
	VpcConfig    *VpcConfig
	DeadLetter   *DeadLetter
	TracingMode  *string
	SnapStart    *string // ApplyOn
	Logging      *LoggingConfig
	Layers       *[]string // ARNs of layer versions; only an empty list is accepted
	FileSystems  int       // number of FileSystemConfigs in the request; only 0 is accepted
	ImageConfig  bool      // an ImageConfig was given; rejected
}

// CreateFunctionRequest asks for a new function.
type CreateFunctionRequest struct {
	Function lambent.FunctionName
	Settable
	Code                 Code
	PackageType          string   // "" or "Zip"
	Architectures        []string // empty: x86_64
	Publish              bool     // publish version 1 as well
	Tags                 map[string]string
	TenantIsolation      string // TenancyConfig.TenantIsolationMode; "" or "PER_TENANT"
	CodeSigningConfigARN string // rejected unless empty
}

// UpdateFunctionCodeRequest asks for new code of $LATEST.
type UpdateFunctionCodeRequest struct {
	Function      lambent.FunctionName
	Code          Code
	Architectures []string // empty: unchanged
	Publish       bool     // publish the result as a version
	DryRun        bool     // validate, answer, change nothing
	RevisionID    string   // empty: any
}

// UpdateFunctionConfigurationRequest asks for a new configuration of $LATEST.
type UpdateFunctionConfigurationRequest struct {
	Function lambent.FunctionName
	Settable
	RevisionID string // empty: any
}

// PublishVersionRequest asks for a version of what $LATEST is now.
type PublishVersionRequest struct {
	Function    lambent.FunctionName
	CodeSHA256  string  // base64; empty: any
	Description *string // nil: that of $LATEST
	RevisionID  string  // empty: any
}

// ListFunctionsRequest asks for a page of an account's functions.
type ListFunctionsRequest struct {
	Account      string
	MasterRegion string // of replicated functions; there are none, so any value but "" and "ALL" and the region gives none
	AllVersions  bool   // FunctionVersion=ALL
	Marker       string // empty: from the start
	MaxItems     int    // 0: 50; more than 50 gives 50
}

// ListVersionsRequest asks for a page of a function's versions, $LATEST first.
type ListVersionsRequest struct {
	Function lambent.FunctionName
	Marker   string
	MaxItems int // as in ListFunctionsRequest
}

// ConfigurationPage is a page of configurations. NextMarker is empty on the last page.
type ConfigurationPage struct {
	Configurations []Configuration
	NextMarker     string
}

// CreateAliasRequest asks for a new alias.
type CreateAliasRequest struct {
	Function    lambent.FunctionName
	Name        string
	Version     string // "$LATEST" or a number
	Description string
	Weights     map[string]float64
}

// UpdateAliasRequest asks to change an alias. A nil member keeps what is there; an empty Weights removes the routing.
type UpdateAliasRequest struct {
	Function    lambent.FunctionName
	Name        string
	Version     *string
	Description *string
	Weights     *map[string]float64
	RevisionID  string // empty: any
}

// ListAliasesRequest asks for a page of a function's aliases.
type ListAliasesRequest struct {
	Function lambent.FunctionName
	Version  string // empty: aliases of all versions
	Marker   string
	MaxItems int // as in ListFunctionsRequest
}

// AliasPage is a page of aliases. NextMarker is empty on the last page.
type AliasPage struct {
	Aliases    []Alias
	NextMarker string
}

func base64Digest(code lambent.CodeRef) string {
	sum, err := hex.DecodeString(code.SHA256)
	if err != nil {
		return ""
	}
	return base64.StdEncoding.EncodeToString(sum)
}
