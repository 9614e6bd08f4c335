package functions

import (
	"context"
	"encoding/base64"
	"maps"
	"strings"

	"lambent"
)

// pageSize is how many items a page of a list has at most.
const pageSize = 50

// GetFunction returns a function version with the function's tags and reservation. The qualifier is empty, $LATEST, a
// version number or an alias.
func (s *Service) GetFunction(ctx context.Context, ref lambent.FunctionRef) (*Function, error) {
	fn, v, err := s.resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	function := &Function{Configuration: *s.show(ref.FunctionName, v, ref.Qualifier), Reserved: fn.Reserved}
	if len(fn.Tags) > 0 {
		function.Tags = maps.Clone(fn.Tags)
	}
	return function, nil
}

// GetFunctionConfiguration returns a function version; the qualifier is as for GetFunction.
func (s *Service) GetFunctionConfiguration(ctx context.Context, ref lambent.FunctionRef) (*Configuration, error) {
	_, v, err := s.resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	return s.show(ref.FunctionName, v, ref.Qualifier), nil
}

// resolve finds what a reference names.
func (s *Service) resolve(ctx context.Context, ref lambent.FunctionRef) (*stored, version, error) {
	fn, err := s.load(ctx, ref)
	if err != nil {
		return nil, version{}, err
	}
	s.catalog.shown(ctx, fn.revision)
	number := ref.Qualifier
	if !lambent.IsLatest(number) && !lambent.IsVersion(number) {
		var alias aliasRecord
		_, ok, err := s.read(ctx, aliasKey(fn.ID, ref.Qualifier), &alias)
		if err != nil {
			return nil, version{}, err
		}
		if !ok {
			return nil, version{}, s.notFound(ref)
		}
		number = alias.Version
	}
	if lambent.IsLatest(number) {
		return fn, fn.Latest, nil
	}
	v, _, err := s.loadVersion(ctx, fn, number)
	if err != nil && lambent.CodeOf(err) == lambent.NotFound {
		err = s.notFound(ref)
	}
	return fn, v, err
}

// limit returns how many items a page has that the caller asks for with MaxItems.
func limit(maxItems int) int {
	if maxItems <= 0 || maxItems > pageSize {
		return pageSize
	}
	return maxItems
}

// marker makes an opaque marker of the place where the next page begins.
func marker(place string) string { return base64.URLEncoding.EncodeToString([]byte(place)) }

// place takes a marker apart; it is empty for the first page.
func place(marker string) (string, error) {
	text, err := base64.URLEncoding.DecodeString(marker)
	if err != nil {
		return "", invalid("Invalid pagination token.")
	}
	return string(text), nil
}

// ListFunctions returns a page of an account's functions in the order of their names, each with its versions in turn when
// AllVersions is set. InvalidParameter for a marker that no page has given.
func (s *Service) ListFunctions(ctx context.Context, req ListFunctionsRequest) (ConfigurationPage, error) {
	if region := req.MasterRegion; region != "" && region != "ALL" && region != s.options.Region {
		return ConfigurationPage{}, nil
	}
	start, err := place(req.Marker)
	if err != nil {
		return ConfigurationPage{}, err
	}
	// A place is a function's name and, with all versions, the number of a version behind a slash.
	name, number, _ := strings.Cut(start, "/")
	size := limit(req.MaxItems)
	prefix := headPrefix + req.Account + "/"
	items, _, err := s.options.Meta.List(ctx, prefix, prefix+name, size+1)
	if err != nil {
		return ConfigurationPage{}, storeError(err)
	}
	var page ConfigurationPage
	for _, item := range items {
		fn := &stored{name: splitHeadKey(item.Key)}
		if err := decode(item, &fn.head); err != nil {
			return ConfigurationPage{}, err
		}
		if len(page.Configurations) == size {
			page.NextMarker = marker(fn.name.Name)
			break
		}
		if !req.AllVersions {
			page.Configurations = append(page.Configurations, s.showListed(fn.name, fn.Latest, ""))
			continue
		}
		if fn.name.Name != name {
			number = ""
		}
		next, err := s.listVersions(ctx, fn, number, size, &page)
		if err != nil {
			return ConfigurationPage{}, err
		}
		if next != "" {
			page.NextMarker = marker(fn.name.Name + "/" + next)
			break
		}
	}
	return page, nil
}

// listVersions adds a function's versions to a page, from a number on ("": $LATEST), until the page has size items. next is
// the number where the next page begins, "" when all versions are there.
func (s *Service) listVersions(ctx context.Context, fn *stored, from string, size int, page *ConfigurationPage) (next string, err error) {
	if from == "" {
		page.Configurations = append(page.Configurations, s.showListed(fn.name, fn.Latest, lambent.Latest))
	}
	items, _, err := s.options.Meta.List(ctx, versionsOf(fn.ID), versionKey(fn.ID, from), size-len(page.Configurations)+1)
	if err != nil {
		return "", storeError(err)
	}
	for _, item := range items {
		var v version
		if err := decode(item, &v); err != nil {
			return "", err
		}
		if len(page.Configurations) == size {
			return v.Version, nil
		}
		page.Configurations = append(page.Configurations, s.showListed(fn.name, v, v.Version))
	}
	return "", nil
}

// ListVersionsByFunction returns a page of a function's versions, $LATEST first, then by number.
func (s *Service) ListVersionsByFunction(ctx context.Context, req ListVersionsRequest) (ConfigurationPage, error) {
	from, err := place(req.Marker)
	if err != nil {
		return ConfigurationPage{}, err
	}
	fn, err := s.load(ctx, lambent.FunctionRef{FunctionName: req.Function})
	if err != nil {
		return ConfigurationPage{}, err
	}
	var page ConfigurationPage
	next, err := s.listVersions(ctx, fn, from, limit(req.MaxItems), &page)
	if err != nil {
		return ConfigurationPage{}, err
	}
	if next != "" {
		page.NextMarker = marker(next)
	}
	return page, nil
}

// ListAliases returns a page of a function's aliases in the order of their names.
func (s *Service) ListAliases(ctx context.Context, req ListAliasesRequest) (AliasPage, error) {
	from, err := place(req.Marker)
	if err != nil {
		return AliasPage{}, err
	}
	fn, err := s.load(ctx, lambent.FunctionRef{FunctionName: req.Function})
	if err != nil {
		return AliasPage{}, err
	}
	records, err := s.aliases(ctx, fn, from, 0)
	if err != nil {
		return AliasPage{}, err
	}
	var page AliasPage
	for _, record := range records {
		if req.Version != "" && record.Version != req.Version {
			continue
		}
		if len(page.Aliases) == limit(req.MaxItems) {
			page.NextMarker = marker(record.Name)
			break
		}
		page.Aliases = append(page.Aliases, *s.showAlias(fn.name, record))
	}
	return page, nil
}
