package functions

import (
	"context"
	"time"

	"lambent"
)

// UpdateFunctionCode gives $LATEST other code. Conflict while another update is in progress, PreconditionFailed when
// RevisionID does not match.
func (s *Service) UpdateFunctionCode(ctx context.Context, req UpdateFunctionCodeRequest) (*Configuration, error) {
	if err := checkArchitectures(req.Architectures); err != nil {
		return nil, err
	}
	if _, err := s.load(ctx, lambent.FunctionRef{FunctionName: req.Function}); err != nil {
		return nil, err // before the work on the archive
	}
	code, err := s.accept(ctx, req.Code)
	if err != nil {
		return nil, err
	}
	shown, err := s.updateCode(ctx, req, code)
	code.done(err)
	return shown, err
}

func (s *Service) updateCode(ctx context.Context, req UpdateFunctionCodeRequest, code *upload) (*Configuration, error) {
	if err := s.checkQuota(req.Function.Account, code.ref); err != nil {
		return nil, err
	}
	if !req.DryRun {
		if err := code.store(ctx); err != nil {
			return nil, err
		}
	}
	var shown *Configuration
	err := s.change(ctx, lambent.FunctionRef{FunctionName: req.Function}, func(fn *stored) (*change, error) {
		if err := s.mayUpdate(fn, req.RevisionID); err != nil {
			return nil, err
		}
		fn.Latest.Code = code.ref
		if len(req.Architectures) == 1 {
			fn.Latest.Architectures = []string{req.Architectures[0]}
		}
		if req.DryRun {
			shown = s.show(fn.name, fn.Latest, "")
			return nil, nil
		}
		todo := fn.update(time.Now())
		shown = s.show(fn.name, fn.Latest, "")
		if req.Publish {
			published := fn.publish(todo, nil, time.Now())
			fn.Settling = append(fn.Settling, published.Version)
			shown = s.show(fn.name, published, published.Version)
		}
		return todo, nil
	})
	if err != nil {
		return nil, err
	}
	s.kickCollector()
	return shown, nil
}

// UpdateFunctionConfiguration changes the configuration of $LATEST; errors as UpdateFunctionCode.
func (s *Service) UpdateFunctionConfiguration(ctx context.Context, req UpdateFunctionConfigurationRequest) (*Configuration, error) {
	if err := checkSettable(req.Settable); err != nil {
		return nil, err
	}
	var shown *Configuration
	err := s.change(ctx, lambent.FunctionRef{FunctionName: req.Function}, func(fn *stored) (*change, error) {
		if err := s.mayUpdate(fn, req.RevisionID); err != nil {
			return nil, err
		}
		apply(&fn.Latest.Configuration, req.Settable)
		if err := checkResult(&fn.Latest.Configuration, req.Logging); err != nil {
			return nil, err
		}
		todo := fn.update(time.Now())
		shown = s.show(fn.name, fn.Latest, "")
		return todo, nil
	})
	return shown, err
}

func (s *Service) mayUpdate(fn *stored, revision string) error {
	if err := expectRevision(revision, fn.Latest.RevisionID); err != nil {
		return err
	}
	return s.changeable(fn)
}

// update makes the change that $LATEST has another content.
func (fn *stored) update(now time.Time) *change {
	fn.Latest.changed(now)
	fn.Latest.updating()
	return &change{visible: true}
}
