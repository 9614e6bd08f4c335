package functions

import (
	"context"
	"strconv"
	"strings"
	"time"

	"lambent"
	"lambent/meta"
)

// maxInline is how many versions and aliases are deleted in one commit with their function; the rest is swept later.
const maxInline = 500

// publish makes a version of what $LATEST is now, as part of a change. description is nil for that of $LATEST.
func (fn *stored) publish(todo *change, description *string, now time.Time) version {
	number := strconv.Itoa(fn.Next)
	fn.Next++
	fn.Newest, fn.Published = number, fingerprint(fn.Latest.Configuration)

	published := fn.Latest
	published.Version = number
	published.RevisionID = newID()
	published.LastModified = now.UTC().Truncate(time.Millisecond)
	if description != nil {
		published.Description = *description
	}
	fn.Latest.RevisionID = newID()
	key := versionKey(fn.ID, number)
	todo.conditions = append(todo.conditions, meta.Condition{Key: key})
	todo.ops = append(todo.ops, encode(key, published))
	todo.visible = true
	return published
}

// PublishVersion makes a version of what $LATEST is now. When nothing has changed since the newest version, it answers that
// version and changes nothing.
func (s *Service) PublishVersion(ctx context.Context, req PublishVersionRequest) (*Configuration, error) {
	var shown *Configuration
	err := s.change(ctx, lambent.FunctionRef{FunctionName: req.Function}, func(fn *stored) (*change, error) {
		if err := mayPublish(fn, req); err != nil {
			return nil, err
		}
		if err := s.changeable(fn); err != nil {
			return nil, err
		}
		if fn.Newest != "" && fn.Published == fingerprint(fn.Latest.Configuration) {
			newest, _, err := s.loadVersion(ctx, fn, fn.Newest)
			if err == nil {
				shown = s.show(fn.name, newest, newest.Version)
				return nil, nil
			}
			if lambent.CodeOf(err) != lambent.NotFound {
				return nil, err
			}
			// The newest version was deleted: its number is not given again.
		}
		todo := &change{}
		published := fn.publish(todo, req.Description, time.Now())
		shown = s.show(fn.name, published, published.Version)
		return todo, nil
	})
	if err != nil {
		return nil, err
	}
	return shown, nil
}

func mayPublish(fn *stored, req PublishVersionRequest) error {
	if err := expectRevision(req.RevisionID, fn.Latest.RevisionID); err != nil {
		return err
	}
	if current := base64Digest(fn.Latest.Code); req.CodeSHA256 != "" && req.CodeSHA256 != current {
		return invalid("CodeSHA256 (%s) is different from current CodeSHA256 in $LATEST (%s). "+
			"Please try again with the CodeSHA256 in $LATEST.", req.CodeSHA256, current)
	}
	return nil
}

// DeleteFunction deletes a function with all that belongs to it, or, where the qualifier is a version number, that version.
func (s *Service) DeleteFunction(ctx context.Context, ref lambent.FunctionRef) error {
	var err error
	unqualified := lambent.FunctionRef{FunctionName: ref.FunctionName}
	switch {
	case ref.Qualifier == lambent.Latest:
		return invalid("$LATEST version cannot be deleted without deleting the function.")
	case ref.Qualifier == "":
		err = s.change(ctx, unqualified, func(fn *stored) (*change, error) { return s.deleteAll(ctx, fn) })
	case lambent.IsVersion(ref.Qualifier):
		err = s.change(ctx, unqualified, func(fn *stored) (*change, error) { return s.deleteVersion(ctx, fn, ref.Qualifier) })
	default:
		return invalid("Deletion of aliases is not currently supported.")
	}
	if err == nil {
		s.kickCollector()
	}
	return err
}

// deleteAll decides on the end of a function: its head goes, and with it its reservation.
func (s *Service) deleteAll(ctx context.Context, fn *stored) (*change, error) {
	todo := &change{remove: true, visible: true}
	if fn.Reserved != nil {
		if err := s.reserve(ctx, fn, 0, todo); err != nil {
			return nil, err
		}
	}
	for _, prefix := range []string{versionsOf(fn.ID), aliasKey(fn.ID, "")} {
		items, _, err := s.options.Meta.List(ctx, prefix, "", maxInline)
		if err != nil {
			return nil, storeError(err)
		}
		for _, item := range items {
			todo.ops = append(todo.ops, meta.Op{Key: item.Key, Delete: true})
		}
	}
	return todo, nil
}

// deleteVersion decides on the end of one version. One that an alias points at stays; one that is not there is no error.
func (s *Service) deleteVersion(ctx context.Context, fn *stored, number string) (*change, error) {
	_, revision, err := s.loadVersion(ctx, fn, number)
	if err != nil && lambent.CodeOf(err) == lambent.NotFound {
		return nil, nil // what is not there is deleted
	}
	if err != nil {
		return nil, err
	}
	aliases, err := s.aliases(ctx, fn, "", 0)
	if err != nil {
		return nil, err
	}
	var users []string
	for _, alias := range aliases {
		if _, weighted := alias.Weights[number]; weighted || alias.Version == number {
			users = append(users, alias.Name)
		}
	}
	if len(users) > 0 {
		return nil, conflict("Unable to delete version because the following aliases reference it: [%s]", strings.Join(users, ", "))
	}
	key := versionKey(fn.ID, number)
	return &change{
		visible:    true,
		conditions: []meta.Condition{{Key: key, Revision: revision}},
		ops:        []meta.Op{{Key: key, Delete: true}},
	}, nil
}
