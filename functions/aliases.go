package functions

import (
	"context"
	"maps"
	"strconv"

	"lambent"
	"lambent/meta"
)

// aliasRecord is the record of an alias.
type aliasRecord struct {
	Name        string
	Version     string
	Description string
	Weights     map[string]float64
	RevisionID  string
}

func (s *Service) showAlias(fn lambent.FunctionName, record aliasRecord) *Alias {
	return &Alias{
		ARN:         s.arn(fn, record.Name),
		Name:        record.Name,
		Version:     record.Version,
		Description: record.Description,
		Weights:     maps.Clone(record.Weights),
		RevisionID:  record.RevisionID,
	}
}

// CreateAlias makes an alias. Conflict when the name is taken, NotFound when a version that it points at does not exist.
func (s *Service) CreateAlias(ctx context.Context, req CreateAliasRequest) (*Alias, error) {
	if lambent.IsVersion(req.Name) || req.Name == "" {
		return nil, unmet(req.Name, "name", `Member must satisfy regular expression pattern: (?!^[0-9]+$)([a-zA-Z0-9-_]+)`)
	}
	record := aliasRecord{
		Name: req.Name, Version: req.Version, Description: req.Description,
		Weights: routing(req.Weights), RevisionID: newID(),
	}
	err := s.change(ctx, lambent.FunctionRef{FunctionName: req.Function}, func(fn *stored) (*change, error) {
		if err := s.checkAlias(ctx, fn, record); err != nil {
			return nil, err
		}
		key := aliasKey(fn.ID, record.Name)
		_, taken, err := s.options.Meta.Get(ctx, key)
		if err != nil {
			return nil, storeError(err)
		}
		if taken {
			return nil, conflict("Alias already exists: %s", s.arn(fn.name, record.Name))
		}
		return &change{visible: true, conditions: []meta.Condition{{Key: key}}, ops: []meta.Op{encode(key, record)}}, nil
	})
	if err != nil {
		return nil, err
	}
	return s.showAlias(req.Function, record), nil
}

// routing copies weights; none at all are the same as empty ones.
func routing(weights map[string]float64) map[string]float64 {
	if len(weights) == 0 {
		return nil
	}
	return maps.Clone(weights)
}

// checkAlias judges where an alias points at.
func (s *Service) checkAlias(ctx context.Context, fn *stored, alias aliasRecord) error {
	if err := s.checkTarget(ctx, fn, alias.Version); err != nil {
		return err
	}
	if len(alias.Weights) > 1 {
		return invalid("Number of items in AdditionalVersionWeights cannot be greater than 1")
	}
	for number, weight := range alias.Weights {
		if err := checkWeight(alias.Version, number, weight); err != nil {
			return err
		}
		if err := s.checkTarget(ctx, fn, number); err != nil {
			return err
		}
	}
	return nil
}

func checkWeight(target, number string, weight float64) error {
	const member = "routingConfig.additionalVersionWeights"
	shown := "{" + number + "=" + strconv.FormatFloat(weight, 'f', -1, 64) + "}"
	switch {
	case !(weight >= 0 && weight <= 1):
		return unmet(shown, member, "Map value must satisfy constraint: [Member must have value less than or equal to 1.0, "+
			"Member must have value greater than or equal to 0.0, Member must not be null]")
	case number == target:
		return invalid("Invalid function version %s. Function version %s is already included in routing configuration.", number, number)
	case target == lambent.Latest:
		return invalid("$LATEST is not supported for an alias pointing to more than 1 version")
	case !lambent.IsVersion(number):
		return unmet(shown, member, "Map keys must satisfy constraint: [Member must have length less than or equal to 1024, "+
			"Member must have length greater than or equal to 1, Member must satisfy regular expression pattern: [0-9]+, Member must not be null]")
	}
	return nil
}

// checkTarget answers for a version that does not exist.
func (s *Service) checkTarget(ctx context.Context, fn *stored, number string) error {
	if number == lambent.Latest {
		return nil
	}
	_, _, err := s.loadVersion(ctx, fn, number)
	return err
}

// GetAlias returns an alias; ref.Qualifier is its name.
func (s *Service) GetAlias(ctx context.Context, ref lambent.FunctionRef) (*Alias, error) {
	fn, err := s.load(ctx, lambent.FunctionRef{FunctionName: ref.FunctionName})
	if err != nil && lambent.CodeOf(err) != lambent.NotFound {
		return nil, err
	}
	var record aliasRecord
	ok := false
	if err == nil {
		if _, ok, err = s.read(ctx, aliasKey(fn.ID, ref.Qualifier), &record); err != nil {
			return nil, err
		}
	}
	if !ok {
		return nil, lambent.Errorf(lambent.NotFound, "Cannot find alias arn: %s", s.arn(ref.FunctionName, ref.Qualifier))
	}
	return s.showAlias(ref.FunctionName, record), nil
}

// UpdateAlias changes an alias. PreconditionFailed when RevisionID does not match.
func (s *Service) UpdateAlias(ctx context.Context, req UpdateAliasRequest) (*Alias, error) {
	var record aliasRecord
	err := s.change(ctx, lambent.FunctionRef{FunctionName: req.Function}, func(fn *stored) (*change, error) {
		record = aliasRecord{}
		key := aliasKey(fn.ID, req.Name)
		revision, ok, err := s.read(ctx, key, &record)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, lambent.Errorf(lambent.NotFound, "Alias not found: %s", s.arn(fn.name, req.Name))
		}
		if err := expectRevision(req.RevisionID, record.RevisionID); err != nil {
			return nil, err
		}
		assign(&record.Version, req.Version)
		assign(&record.Description, req.Description)
		if req.Weights != nil {
			record.Weights = routing(*req.Weights)
		}
		if err := s.checkAlias(ctx, fn, record); err != nil {
			return nil, err
		}
		record.RevisionID = newID()
		return &change{
			visible:    true,
			conditions: []meta.Condition{{Key: key, Revision: revision}},
			ops:        []meta.Op{encode(key, record)},
		}, nil
	})
	if err != nil {
		return nil, err
	}
	return s.showAlias(req.Function, record), nil
}

// DeleteAlias deletes an alias; ref.Qualifier is its name. Deleting one that does not exist is no error.
func (s *Service) DeleteAlias(ctx context.Context, ref lambent.FunctionRef) error {
	return s.change(ctx, lambent.FunctionRef{FunctionName: ref.FunctionName}, func(fn *stored) (*change, error) {
		key := aliasKey(fn.ID, ref.Qualifier)
		item, ok, err := s.options.Meta.Get(ctx, key)
		if err != nil {
			return nil, storeError(err)
		}
		if !ok {
			return nil, nil
		}
		return &change{
			visible:    true,
			conditions: []meta.Condition{{Key: key, Revision: item.Revision}},
			ops:        []meta.Op{{Key: key, Delete: true}},
		}, nil
	})
}

// aliases reads the aliases of a function from a name on, at most limit (0: all).
func (s *Service) aliases(ctx context.Context, fn *stored, from string, limit int) ([]aliasRecord, error) {
	prefix := aliasKey(fn.ID, "")
	items, _, err := s.options.Meta.List(ctx, prefix, prefix+from, limit)
	if err != nil {
		return nil, storeError(err)
	}
	records := make([]aliasRecord, len(items))
	for i, item := range items {
		if err := decode(item, &records[i]); err != nil {
			return nil, err
		}
	}
	return records, nil
}
