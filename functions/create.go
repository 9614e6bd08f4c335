package functions

import (
	"context"
	"errors"
	"time"

	"lambent"
	"lambent/meta"
)

// CreateFunction makes a function, in state Pending; it becomes Active shortly afterwards. Conflict when the name is taken.
// With Publish the answer describes version 1.
func (s *Service) CreateFunction(ctx context.Context, req CreateFunctionRequest) (*Configuration, error) {
	if err := checkCreate(req); err != nil {
		return nil, err
	}
	if err := s.isolation.check(req.Tags); err != nil {
		return nil, err
	}
	configuration := defaults(req.Function, lambent.FunctionID(newID()))
	configuration.TenantIsolation = req.TenantIsolation
	apply(&configuration, req.Settable)
	if len(req.Architectures) == 1 {
		configuration.Architectures = []string{req.Architectures[0]}
	}
	if err := checkResult(&configuration, req.Logging); err != nil {
		return nil, err
	}
	if err := s.checkFree(ctx, req.Function); err != nil {
		return nil, err // before the work on the archive
	}
	code, err := s.accept(ctx, req.Code)
	if err != nil {
		return nil, err
	}
	configuration.Code = code.ref
	shown, err := s.create(ctx, req, configuration, code)
	code.done(err)
	return shown, err
}

func (s *Service) create(ctx context.Context, req CreateFunctionRequest, c Configuration, code *upload) (*Configuration, error) {
	if err := s.checkQuota(req.Function.Account, code.ref); err != nil {
		return nil, err
	}
	if err := code.store(ctx); err != nil {
		return nil, err
	}
	latest := version{Configuration: c}
	latest.changed(time.Now())
	latest.pending()
	fn := &stored{name: req.Function, head: head{ID: c.ID, Latest: latest, Next: 1, Tags: req.Tags}}
	todo := &change{visible: true}
	answer := latest
	if req.Publish {
		answer = fn.publish(todo, nil, time.Now())
		fn.Settling = []string{answer.Version}
	}
	err := s.commit(ctx, fn, todo)
	if errors.Is(err, meta.ErrConflict) {
		return nil, conflict("Function already exist: %s", req.Function.Name)
	}
	if err != nil {
		return nil, err
	}
	return s.show(req.Function, answer, ""), nil
}

// checkCreate judges what does not depend on the state of the account.
func checkCreate(req CreateFunctionRequest) error {
	if err := checkName(req.Function.Name); err != nil {
		return err
	}
	if err := checkPackage(req); err != nil {
		return err
	}
	if err := checkArchitectures(req.Architectures); err != nil {
		return err
	}
	if err := checkSettable(req.Settable); err != nil {
		return err
	}
	if mode := req.TenantIsolation; mode != "" {
		if err := checkEnum("tenancyConfig.tenantIsolationMode", &mode, tenantIsolationMode); err != nil {
			return err
		}
	}
	return checkTags(req.Tags)
}

func checkPackage(req CreateFunctionRequest) error {
	switch {
	case req.PackageType == "Image" || req.Code.ImageURI != "":
		return invalid("Functions of PackageType Image are not supported.")
	case req.PackageType != "" && req.PackageType != packageZip:
		return unmet(req.PackageType, "packageType", "Member must satisfy enum value set: [Zip, Image]")
	case req.CodeSigningConfigARN != "":
		return lambent.Errorf(lambent.NotFound, "The code signing configuration cannot be found. "+
			"Check that the provided configuration is not deleted: %s.", req.CodeSigningConfigARN)
	}
	return nil
}

// checkFree answers for a name that is taken. The commit decides; this saves the work before it.
func (s *Service) checkFree(ctx context.Context, fn lambent.FunctionName) error {
	_, taken, err := s.options.Meta.Get(ctx, headKey(fn))
	if err != nil {
		return storeError(err)
	}
	if taken {
		return conflict("Function already exist: %s", fn.Name)
	}
	return nil
}

// checkQuota bounds an account's code, up to requests that run at the same time.
func (s *Service) checkQuota(account string, code lambent.CodeRef) error {
	_, used := s.catalog.usage(account)
	if used+code.Size > MaxCodeTotalBytes {
		return lambent.Errorf(lambent.CodeStorageExceeded, "Code storage limit exceeded.")
	}
	return nil
}
