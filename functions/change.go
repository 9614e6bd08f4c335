package functions

import (
	"context"
	"errors"
	"fmt"

	"lambent"
	"lambent/meta"
)

// maxAttempts bounds how often a change is made anew because others were faster. Each lost race is another's success, so
// the bound is met only by a function that is changed without a pause.
const maxAttempts = 100

// change is what a decision asks to be written, all at once, if the function is still as the decision saw it.
type change struct {
	remove     bool // delete the head
	visible    bool // the catalogue shows the change
	conditions []meta.Condition
	ops        []meta.Op
}

// change runs decide on the function's head and commits what it asks for; when the function was changed meanwhile, it begins
// again. decide may read, and may change fn.head; it returns nil for nothing to do.
func (s *Service) change(ctx context.Context, ref lambent.FunctionRef, decide func(fn *stored) (*change, error)) error {
	for range maxAttempts {
		fn, err := s.load(ctx, ref)
		if err != nil {
			return err
		}
		todo, err := decide(fn)
		if err != nil || todo == nil {
			return err
		}
		err = s.commit(ctx, fn, todo)
		if !errors.Is(err, meta.ErrConflict) {
			return err
		}
	}
	return lambent.Errorf(lambent.Conflict, "The function is being changed by too many requests at once. Please try again later.")
}

// commit writes a change. meta.ErrConflict when the function or a condition has changed; a new function has revision 0.
func (s *Service) commit(ctx context.Context, fn *stored, todo *change) error {
	key := headKey(fn.name)
	conditions := append([]meta.Condition{{Key: key, Revision: fn.revision}}, todo.conditions...)
	ops := todo.ops
	// Versions and aliases come and go under the head: writing it anew orders all changes of a function, and makes each
	// fail that was decided on what is no longer so.
	if todo.remove {
		ops = append(ops, meta.Op{Key: key, Delete: true})
	} else {
		ops = append(ops, encode(key, fn.head))
	}
	if todo.visible {
		ops = append(ops, touch())
	}
	revision, err := s.options.Meta.Commit(ctx, conditions, ops)
	switch {
	case err == nil:
		s.catalog.shown(ctx, revision)
		return nil
	case errors.Is(err, meta.ErrConflict):
		return err
	case ctx.Err() != nil:
		return storeError(ctx.Err())
	}
	return lambent.Wrap(lambent.Unavailable, fmt.Errorf("functions: commit: %w", err),
		"The change could not be written, or not be confirmed. Please look before you try again.")
}

// changeable returns why a function cannot be changed now, nil when it can.
func (s *Service) changeable(fn *stored) error {
	switch {
	case fn.Latest.State == lambent.StatePending:
		return lambent.Errorf(lambent.Conflict,
			"The operation cannot be performed at this time. The function is currently in the following state: Pending")
	case fn.Latest.LastUpdateStatus == UpdateInProgress:
		return lambent.Errorf(lambent.Conflict,
			"The operation cannot be performed at this time. An update is in progress for resource: %s", s.arn(fn.name, ""))
	}
	return nil
}

// expectRevision returns the error for a RevisionId that is given and is not the one that is there.
func expectRevision(given, current string) error {
	if given == "" || given == current {
		return nil
	}
	return lambent.Errorf(lambent.PreconditionFailed, "The Revision Id provided does not match the latest Revision Id. "+
		"Call the GetFunction/GetAlias API to retrieve the latest Revision Id")
}
