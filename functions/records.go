package functions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"lambent"
	"lambent/meta"
)

// The keys of the records; see the package's documentation.
const (
	rootPrefix    = "functions/"
	headPrefix    = rootPrefix + "head/"
	versionPrefix = rootPrefix + "version/"
	aliasPrefix   = rootPrefix + "alias/"
	accountPrefix = rootPrefix + "account/"
	sequenceKey   = rootPrefix + "sequence"
)

// head is the record of a function. Every change of the function, its versions or its aliases is a commit on it.
type head struct {
	ID       lambent.FunctionID
	Latest   version
	Next     int // the number of the next version
	Tags     map[string]string
	Reserved *int
	// Newest is the version that was published last, and Published the content that it was published from.
	Newest    string
	Published string
	// Settling are the published versions that become usable together with $LATEST.
	Settling []string
}

// version is the record of a version: its configuration without its ARN, and the revision of its content.
type version struct {
	Configuration
	Content string // with the isolation, VersionKey.Revision
}

// accountRecord is what an account's functions share.
type accountRecord struct {
	Reserved int // the sum of all reservations
}

// stored is a head as it was read, with the revision that a change of it depends on.
type stored struct {
	head
	name     lambent.FunctionName
	revision int64
}

func headKey(fn lambent.FunctionName) string { return headPrefix + fn.Account + "/" + fn.Name }

// versionsOf is the prefix of the keys of a function's versions.
func versionsOf(id lambent.FunctionID) string { return versionPrefix + string(id) + "/" }

// versionKey pads the number, so that keys sort as numbers do.
func versionKey(id lambent.FunctionID, number string) string {
	return versionsOf(id) + strings.Repeat("0", max(0, 10-len(number))) + number
}

func aliasKey(id lambent.FunctionID, name string) string {
	return aliasPrefix + string(id) + "/" + name
}

func accountKey(account string) string { return accountPrefix + account }

// splitKey takes a version's or an alias's key apart. The version's number comes without its padding.
func splitKey(prefix, key string) (id lambent.FunctionID, name string) {
	owner, name, _ := strings.Cut(strings.TrimPrefix(key, prefix), "/")
	if prefix == versionPrefix {
		name = strings.TrimLeft(name, "0")
	}
	return lambent.FunctionID(owner), name
}

// splitHeadKey takes a head's key apart.
func splitHeadKey(key string) lambent.FunctionName {
	account, name, _ := strings.Cut(strings.TrimPrefix(key, headPrefix), "/")
	return lambent.FunctionName{Account: account, Name: name}
}

// newID makes an identity that is never used again.
func newID() string { return uuid.NewString() }

// encode makes an op that puts a record. Records are plain data, so encoding them cannot fail.
func encode(key string, record any) meta.Op {
	value, err := json.Marshal(record)
	if err != nil {
		panic(fmt.Sprintf("functions: encode %s: %v", key, err))
	}
	return meta.Op{Key: key, Value: value}
}

// touch makes the op that moves the catalogue's revision.
func touch() meta.Op { return meta.Op{Key: sequenceKey} }

// decode reads a record.
func decode(item meta.Item, record any) error {
	if err := json.Unmarshal(item.Value, record); err != nil {
		return lambent.Wrap(lambent.Internal, fmt.Errorf("functions: the record %s: %w", item.Key, err), internalMessage)
	}
	return nil
}

// read reads a record; ok is false where there is none.
func (s *Service) read(ctx context.Context, key string, record any) (revision int64, ok bool, err error) {
	item, ok, err := s.options.Meta.Get(ctx, key)
	if err != nil {
		return 0, false, storeError(err)
	}
	if !ok {
		return 0, false, nil
	}
	return item.Revision, true, decode(item, record)
}

// load reads a function's head. The error names the function as the caller qualified it.
func (s *Service) load(ctx context.Context, ref lambent.FunctionRef) (*stored, error) {
	fn := &stored{name: ref.FunctionName}
	revision, ok, err := s.read(ctx, headKey(ref.FunctionName), &fn.head)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, s.notFound(ref)
	}
	fn.revision = revision
	return fn, nil
}

// loadVersion reads a published version of a function.
func (s *Service) loadVersion(ctx context.Context, fn *stored, number string) (v version, revision int64, err error) {
	revision, ok, err := s.read(ctx, versionKey(fn.ID, number), &v)
	if err == nil && !ok {
		err = s.notFound(lambent.FunctionRef{FunctionName: fn.name, Qualifier: number})
	}
	return v, revision, err
}

// storeError turns an error of the metadata store into one for the caller.
func storeError(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return lambent.Wrap(lambent.Unavailable, err, "The request was not finished in time.")
	}
	return lambent.Wrap(lambent.Unavailable, err, "The metadata store cannot be reached. Please try again later.")
}
