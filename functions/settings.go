package functions

import (
	"context"
	"maps"
	"strconv"

	"lambent"
	"lambent/meta"
)

// PutFunctionConcurrency reserves concurrency for a function and returns the reservation. InvalidParameter when fewer than
// MinUnreserved units would be left.
func (s *Service) PutFunctionConcurrency(ctx context.Context, fn lambent.FunctionName, reserved int) (int, error) {
	if reserved < 0 {
		return 0, unmet(strconv.Itoa(reserved), "reservedConcurrentExecutions", "Member must have value greater than or equal to 0")
	}
	err := s.change(ctx, lambent.FunctionRef{FunctionName: fn}, func(fn *stored) (*change, error) {
		if fn.Reserved != nil && *fn.Reserved == reserved {
			return nil, nil
		}
		todo := &change{visible: true}
		if err := s.reserve(ctx, fn, reserved, todo); err != nil {
			return nil, err
		}
		fn.Reserved = &reserved
		return todo, nil
	})
	return reserved, err
}

// reserve adds to a change that a function has `reserved` units of its account's concurrency, instead of what it has.
func (s *Service) reserve(ctx context.Context, fn *stored, reserved int, todo *change) error {
	var account accountRecord
	key := accountKey(fn.name.Account)
	revision, _, err := s.read(ctx, key, &account)
	if err != nil {
		return err
	}
	held := 0
	if fn.Reserved != nil {
		held = *fn.Reserved
	}
	account.Reserved += reserved - held
	if reserved > held && account.Reserved > s.options.AccountConcurrency-MinUnreserved {
		return invalid("Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution "+
			"below its minimum value of [%d].", MinUnreserved)
	}
	todo.conditions = append(todo.conditions, meta.Condition{Key: key, Revision: revision})
	todo.ops = append(todo.ops, encode(key, account))
	return nil
}

// GetFunctionConcurrency returns a function's reservation, nil for none.
func (s *Service) GetFunctionConcurrency(ctx context.Context, fn lambent.FunctionName) (*int, error) {
	found, err := s.load(ctx, lambent.FunctionRef{FunctionName: fn})
	if err != nil {
		return nil, err
	}
	return found.Reserved, nil
}

// DeleteFunctionConcurrency removes a function's reservation, if it has one.
func (s *Service) DeleteFunctionConcurrency(ctx context.Context, fn lambent.FunctionName) error {
	return s.change(ctx, lambent.FunctionRef{FunctionName: fn}, func(fn *stored) (*change, error) {
		if fn.Reserved == nil {
			return nil, nil
		}
		todo := &change{visible: true}
		if err := s.reserve(ctx, fn, 0, todo); err != nil {
			return nil, err
		}
		fn.Reserved = nil
		return todo, nil
	})
}

// GetAccountSettings returns an account's limits and what it uses now.
func (s *Service) GetAccountSettings(ctx context.Context, account string) (AccountSettings, error) {
	var record accountRecord
	if _, _, err := s.read(ctx, accountKey(account), &record); err != nil {
		return AccountSettings{}, err
	}
	revision, err := s.Revision(ctx)
	if err != nil {
		return AccountSettings{}, err
	}
	if err := s.catalog.reached(ctx, revision); err != nil {
		return AccountSettings{}, storeError(err)
	}
	count, used := s.catalog.usage(account)
	return AccountSettings{
		TotalCodeLimit:        MaxCodeTotalBytes,
		CodeUnzippedLimit:     MaxUnzippedBytes,
		CodeZippedLimit:       MaxZipBytes,
		ConcurrencyLimit:      s.options.AccountConcurrency,
		UnreservedConcurrency: s.options.AccountConcurrency - record.Reserved,
		TotalCodeUsed:         used,
		FunctionCount:         count,
	}, nil
}

// TagResource sets tags of a function. A qualifier in ref is refused as Lambda refuses it.
func (s *Service) TagResource(ctx context.Context, ref lambent.FunctionRef, tags map[string]string) error {
	if len(tags) == 0 {
		return invalid("An error occurred and the request cannot be processed.")
	}
	if err := s.isolation.check(tags); err != nil {
		return err
	}
	return s.changeTags(ctx, ref, func(current map[string]string) { maps.Copy(current, tags) })
}

// UntagResource removes tags of a function, if they are there.
func (s *Service) UntagResource(ctx context.Context, ref lambent.FunctionRef, keys []string) error {
	return s.changeTags(ctx, ref, func(current map[string]string) {
		for _, key := range keys {
			delete(current, key)
		}
	})
}

func (s *Service) changeTags(ctx context.Context, ref lambent.FunctionRef, edit func(map[string]string)) error {
	if err := taggable(ref); err != nil {
		return err
	}
	return s.change(ctx, ref, func(fn *stored) (*change, error) {
		if fn.Tags == nil {
			fn.Tags = make(map[string]string)
		}
		before := s.isolation.of(fn.Tags)
		edit(fn.Tags)
		if err := checkTags(fn.Tags); err != nil {
			return nil, err
		}
		fn.Latest.RevisionID = newID()
		return &change{visible: s.isolation.of(fn.Tags) != before}, nil
	})
}

// ListTags returns a function's tags, never nil.
func (s *Service) ListTags(ctx context.Context, ref lambent.FunctionRef) (map[string]string, error) {
	if err := taggable(ref); err != nil {
		return nil, err
	}
	fn, err := s.load(ctx, ref)
	if err != nil {
		return nil, err
	}
	tags := make(map[string]string, len(fn.Tags))
	maps.Copy(tags, fn.Tags)
	return tags, nil
}

func taggable(ref lambent.FunctionRef) error {
	if ref.Qualifier != "" {
		return invalid("Tags on function aliases and versions are not supported. Please specify a function ARN.")
	}
	return nil
}
