package functions

import (
	"context"
	"time"

	"lambent"
	"lambent/meta"
)

// maxSettling bounds how many functions are settled at once; after a restart many may wait.
const maxSettling = 16

// settleSoon settles a function in the background, again and again until the stores let it.
func (s *Service) settleSoon(fn lambent.FunctionName) {
	s.done.Go(func() {
		select {
		case s.settling <- struct{}{}:
			defer func() { <-s.settling }()
		case <-s.running.Done():
			return
		}
		retry(s.running, func() error {
			err := s.settle(s.running, fn)
			if err != nil && s.running.Err() == nil {
				s.log.Warn("a function could not be settled yet", "account", fn.Account, "function", fn.Name, "error", err)
			}
			return err
		})
	})
}

// settle ends a creation or an update: the function becomes usable, or failed when its code is not there.
func (s *Service) settle(ctx context.Context, name lambent.FunctionName) error {
	err := s.change(ctx, lambent.FunctionRef{FunctionName: name}, func(fn *stored) (*change, error) {
		if !fn.Latest.inFlux() && len(fn.Settling) == 0 {
			return nil, nil
		}
		end := (*version).settled
		switch err := s.probe(ctx, fn.Latest.Code); {
		case err == nil:
		case lambent.CodeOf(err) == lambent.NotFound:
			s.log.Error("the code of a function is not in the blob store", "account", name.Account, "function", name.Name, "sha256", fn.Latest.Code.SHA256)
			end = func(v *version) { v.failed("The function's code is not there.") }
		default:
			return nil, err
		}
		return s.settleAll(ctx, fn, end)
	})
	if err != nil && lambent.CodeOf(err) != lambent.NotFound { // which it is when it was deleted meanwhile
		return err
	}
	return nil
}

// settleAll decides how $LATEST and the versions that wait for it end.
func (s *Service) settleAll(ctx context.Context, fn *stored, end func(*version)) (*change, error) {
	before := fn.Latest.State
	if fn.Latest.inFlux() {
		end(&fn.Latest)
	}
	todo := &change{visible: fn.Latest.State != before || len(fn.Settling) > 0}
	for _, number := range fn.Settling {
		v, revision, err := s.loadVersion(ctx, fn, number)
		if err != nil && lambent.CodeOf(err) == lambent.NotFound {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		end(&v)
		key := versionKey(fn.ID, number)
		todo.conditions = append(todo.conditions, meta.Condition{Key: key, Revision: revision})
		todo.ops = append(todo.ops, encode(key, v))
	}
	fn.Settling = nil
	return todo, nil
}

// probe tells whether code can be read.
func (s *Service) probe(ctx context.Context, code lambent.CodeRef) error {
	reader, err := s.options.Blobs.Open(ctx, code.SHA256)
	if err != nil {
		return err
	}
	return reader.Close()
}

// retry runs try until it succeeds or ctx ends, with growing pauses.
func retry(ctx context.Context, try func() error) {
	const longest = 5 * time.Second
	for pause := 20 * time.Millisecond; try() != nil; pause = min(2*pause, longest) {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}
