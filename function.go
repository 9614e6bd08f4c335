package lambent

import (
	"strings"
	"time"
)

// Latest is the qualifier of the unpublished version of a function.
const Latest = "$LATEST"

// FunctionID identifies one incarnation of a function. It is assigned at creation and never used again, so a function
// that is deleted and created anew under its old name has another FunctionID and shares no sandbox, slot or log stream
// with the old one.
type FunctionID string

// FunctionName names a function within a region.
type FunctionName struct {
	Account string // 12 digits
	Name    string // 1 to 64 characters of [a-zA-Z0-9-_]
}

// FunctionRef is what a caller names: a function and, possibly empty, a version number, alias or $LATEST.
type FunctionRef struct {
	FunctionName
	Qualifier string
}

// VersionKey identifies the content of a function version and the isolation that it runs under: a sandbox is bound to exactly
// one for its whole life. $LATEST gets a new Revision at each change of code or configuration, and all versions of a function get
// one when its isolation changes; but for that a published version never changes.
type VersionKey struct {
	Function FunctionID
	Version  string // "$LATEST" or a decimal number
	Revision string
}

// CodeRef points at an immutable archive in the blob store.
type CodeRef struct {
	SHA256 string // lower-case hex of the zip archive
	Size   int64  // bytes of the zip archive
}

// LogFormat is how a function's log lines are written.
type LogFormat string

// The formats of Lambda's advanced logging controls.
const (
	LogText LogFormat = "Text"
	LogJSON LogFormat = "JSON"
)

// Logging is the logging configuration of a version. The levels are empty for LogText.
type Logging struct {
	Format           LogFormat
	ApplicationLevel string // TRACE, DEBUG, INFO, WARN, ERROR, FATAL
	SystemLevel      string // DEBUG, INFO, WARN
	Group            string // "/aws/lambda/NAME" by default
}

// FunctionVersion is all that the data plane needs to know to run one version of a function. It is immutable: holders
// share it and never write to it, its maps and slices included.
type FunctionVersion struct {
	FunctionName
	Key VersionKey

	ARN          string // unqualified ARN of the function
	Runtime      string // "python3.11", "nodejs20.x", "provided.al2023", ...
	Architecture string // "x86_64" or "arm64"
	Handler      string
	Role         string
	MemoryMiB    int // 128 to 10,240
	EphemeralMiB int // size of /tmp, 512 to 10,240
	Timeout      time.Duration
	Environment  map[string]string
	Code         CodeRef
	Layers       []CodeRef // in the order they are unpacked to /opt
	Logging      Logging
	// Isolation is what the version runs under, and nothing weaker. It is always set.
	Isolation Isolation
	// PerTenant: each invoke names a tenant, and sandboxes are not shared between tenants.
	PerTenant bool

	State FunctionState // only StateActive and StateInactive may be invoked
}

// FunctionState is Lambda's State of a function.
type FunctionState string

// The states of a function.
const (
	StatePending  FunctionState = "Pending"
	StateActive   FunctionState = "Active"
	StateInactive FunctionState = "Inactive"
	StateFailed   FunctionState = "Failed"
)

// Alias points at a version, and may send a share of the invokes to a second one.
type Alias struct {
	Name    string
	Version string
	// Weights holds at most one additional version with its share in [0, 1]; the rest goes to Version.
	Weights map[string]float64
}

// Settings are what applies to a function as a whole, and changes without a new revision.
type Settings struct {
	// Reserved is the reserved concurrency, nil for none. Zero stops all invokes.
	Reserved *int
}

// CatalogKind tells what a CatalogEvent carries.
type CatalogKind int

// The kinds of catalog events.
const (
	CatalogVersion  CatalogKind = iota + 1 // Version was created or changed
	CatalogAlias                           // Alias was created or changed
	CatalogSettings                        // Settings were changed
	CatalogDeleted                         // what Deleted names is gone
	CatalogSynced                          // everything that existed when the watch began has been delivered
	CatalogReset                           // the watch fell behind: forget everything; a full delivery follows
)

// CatalogEvent is one change of the function catalog. Exactly the members that Kind names are set. Events of one function
// arrive in the order of their changes.
type CatalogEvent struct {
	Kind     CatalogKind
	Revision int64 // of the metadata store, monotonic
	Function FunctionName
	ID       FunctionID

	Version  *FunctionVersion // CatalogVersion
	Alias    *Alias           // CatalogAlias
	Settings *Settings        // CatalogSettings
	// Deleted, for CatalogDeleted: the version number or alias that is gone; empty: the whole function.
	Deleted string
}

// ARN returns the function's unqualified ARN in the region.
func (n FunctionName) ARN(region string) string {
	return "arn:aws:lambda:" + region + ":" + n.Account + ":function:" + n.Name
}

// IsLatest reports whether the qualifier means the unpublished version.
func IsLatest(qualifier string) bool { return qualifier == "" || qualifier == Latest }

// IsVersion reports whether the qualifier is a published version's number.
func IsVersion(qualifier string) bool {
	return qualifier != "" && strings.Trim(qualifier, "0123456789") == ""
}
