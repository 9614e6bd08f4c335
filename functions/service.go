package functions

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"lambent"
	"lambent/blob"
	"lambent/meta"
)

// Options are what a Service needs.
type Options struct {
	Region string     // for ARNs; required
	Meta   meta.Store // required; stays the caller's, who closes it after the Service
	Blobs  blob.Store // required
	// AccountConcurrency is the limit of each account; 0: 1,000.
	AccountConcurrency int
	// CollectInterval is how often archives that nothing refers to are deleted; 0: 10 minutes. Only one process may have
	// the blob store open with a Service.
	CollectInterval time.Duration
	Logger          *slog.Logger // nil: logs nothing
}

// Service is the control plane. Its methods may be called by many goroutines at once. Errors are *lambent.Error with
// Lambda's codes and messages, or lambent.Unavailable while the metadata store cannot be reached.
type Service struct {
	options Options
	log     *slog.Logger
	stop    context.CancelFunc
	done    sync.WaitGroup
}

var _ lambent.Catalog = (*Service)(nil)

// Open starts the control plane over the stores: it loads the catalogue, and resumes what was under way when the last
// process ended. ctx bounds the opening only. The caller closes the Service, before the stores.
func Open(ctx context.Context, options Options) (*Service, error) {
	return nil, errUnfinished
}

// Close ends all watches and waits for the Service's goroutines. Operations under way fail.
func (s *Service) Close() error { return nil }

// CreateFunction makes a function, in state Pending; it becomes Active shortly afterwards. Conflict when the name is taken.
// With Publish the answer describes version 1.
func (s *Service) CreateFunction(ctx context.Context, req CreateFunctionRequest) (*Configuration, error) {
	return nil, errUnfinished
}

// GetFunction returns a function version with the function's tags and reservation. The qualifier is empty, $LATEST, a
// version number or an alias.
func (s *Service) GetFunction(ctx context.Context, ref lambent.FunctionRef) (*Function, error) {
	return nil, errUnfinished
}

// GetFunctionConfiguration returns a function version; the qualifier is as for GetFunction.
func (s *Service) GetFunctionConfiguration(ctx context.Context, ref lambent.FunctionRef) (*Configuration, error) {
	return nil, errUnfinished
}

// OpenCode opens the zip archive of a function version that GetFunction described, for its Code.Location. NotFound when the
// archive is gone meanwhile. The reader fails instead of giving other content; the caller closes it.
func (s *Service) OpenCode(ctx context.Context, code lambent.CodeRef) (io.ReadCloser, error) {
	return nil, errUnfinished
}

// ListFunctions returns a page of an account's functions in the order of their names, each with its versions in turn when
// AllVersions is set. InvalidParameter for a marker that no page has given.
func (s *Service) ListFunctions(ctx context.Context, req ListFunctionsRequest) (ConfigurationPage, error) {
	return ConfigurationPage{}, errUnfinished
}

// UpdateFunctionCode gives $LATEST other code. Conflict while another update is in progress, PreconditionFailed when
// RevisionID does not match.
func (s *Service) UpdateFunctionCode(ctx context.Context, req UpdateFunctionCodeRequest) (*Configuration, error) {
	return nil, errUnfinished
}

// UpdateFunctionConfiguration changes the configuration of $LATEST; errors as UpdateFunctionCode.
func (s *Service) UpdateFunctionConfiguration(ctx context.Context, req UpdateFunctionConfigurationRequest) (*Configuration, error) {
	return nil, errUnfinished
}

// DeleteFunction deletes a function with all that belongs to it, or, where the qualifier is a version number, that version.
func (s *Service) DeleteFunction(ctx context.Context, ref lambent.FunctionRef) error {
	return errUnfinished
}

// PublishVersion makes a version of what $LATEST is now. When nothing has changed since the newest version, it answers that
// version and changes nothing.
func (s *Service) PublishVersion(ctx context.Context, req PublishVersionRequest) (*Configuration, error) {
	return nil, errUnfinished
}

// ListVersionsByFunction returns a page of a function's versions, $LATEST first, then by number.
func (s *Service) ListVersionsByFunction(ctx context.Context, req ListVersionsRequest) (ConfigurationPage, error) {
	return ConfigurationPage{}, errUnfinished
}

// CreateAlias makes an alias. Conflict when the name is taken, NotFound when a version that it points at does not exist.
func (s *Service) CreateAlias(ctx context.Context, req CreateAliasRequest) (*Alias, error) {
	return nil, errUnfinished
}

// GetAlias returns an alias; ref.Qualifier is its name.
func (s *Service) GetAlias(ctx context.Context, ref lambent.FunctionRef) (*Alias, error) {
	return nil, errUnfinished
}

// UpdateAlias changes an alias. PreconditionFailed when RevisionID does not match.
func (s *Service) UpdateAlias(ctx context.Context, req UpdateAliasRequest) (*Alias, error) {
	return nil, errUnfinished
}

// DeleteAlias deletes an alias; ref.Qualifier is its name. Deleting one that does not exist is no error.
func (s *Service) DeleteAlias(ctx context.Context, ref lambent.FunctionRef) error {
	return errUnfinished
}

// ListAliases returns a page of a function's aliases in the order of their names.
func (s *Service) ListAliases(ctx context.Context, req ListAliasesRequest) (AliasPage, error) {
	return AliasPage{}, errUnfinished
}

// PutFunctionConcurrency reserves concurrency for a function and returns the reservation. InvalidParameter when fewer than
// MinUnreserved units would be left.
func (s *Service) PutFunctionConcurrency(ctx context.Context, fn lambent.FunctionName, reserved int) (int, error) {
	return 0, errUnfinished
}

// GetFunctionConcurrency returns a function's reservation, nil for none.
func (s *Service) GetFunctionConcurrency(ctx context.Context, fn lambent.FunctionName) (*int, error) {
	return nil, errUnfinished
}

// DeleteFunctionConcurrency removes a function's reservation, if it has one.
func (s *Service) DeleteFunctionConcurrency(ctx context.Context, fn lambent.FunctionName) error {
	return errUnfinished
}

// GetAccountSettings returns an account's limits and what it uses now.
func (s *Service) GetAccountSettings(ctx context.Context, account string) (AccountSettings, error) {
	return AccountSettings{}, errUnfinished
}

// TagResource sets tags of a function. A qualifier in ref is refused as Lambda refuses it.
func (s *Service) TagResource(ctx context.Context, ref lambent.FunctionRef, tags map[string]string) error {
	return errUnfinished
}

// UntagResource removes tags of a function, if they are there.
func (s *Service) UntagResource(ctx context.Context, ref lambent.FunctionRef, keys []string) error {
	return errUnfinished
}

// ListTags returns a function's tags, never nil.
func (s *Service) ListTags(ctx context.Context, ref lambent.FunctionRef) (map[string]string, error) {
	return nil, errUnfinished
}

// Watch implements lambent.Catalog.
func (s *Service) Watch(ctx context.Context) (<-chan lambent.CatalogEvent, error) {
	return nil, errUnfinished
}

// Revision implements lambent.Catalog: the revision of the newest change that the catalogue shows. A watch has come that
// far when it has delivered an event of that revision or a later one.
func (s *Service) Revision(ctx context.Context) (int64, error) { return 0, errUnfinished }

// Collect deletes archives that nothing refers to, and what is left of deleted functions. The Service calls it by itself;
// it is here for operators.
func (s *Service) Collect(ctx context.Context) error { return errUnfinished }

var errUnfinished = errors.New("functions: being written")
