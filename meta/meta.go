// Package meta is the metadata store behind a small interface: linearizable transactions and watches over ordered keys,
// as etcd gives them. Package metatest holds the suite that every implementation passes.
package meta

import "context"

// Store keeps small values under keys. It is safe for use by many goroutines. A write that returned without an error
// survives the death of the process and of the host.
type Store interface {
	// Get returns the value of a key; ok is false where there is none. Reads are linearizable.
	Get(ctx context.Context, key string) (item Item, ok bool, err error)
	// List returns up to limit items (0: all) whose keys start with prefix and are not below from, in the order of keys,
	// and the revision that they were read at.
	List(ctx context.Context, prefix, from string, limit int) (items []Item, revision int64, err error)
	// Commit applies all ops at once if all conditions hold, and returns the revision. ErrConflict when one does not hold.
	Commit(ctx context.Context, conditions []Condition, ops []Op) (revision int64, err error)
	// Watch sends each committed change of keys under prefix after revision `after`, in order; all events of one commit
	// share its revision and arrive in one batch. The channel closes when ctx ends, or when the store cannot deliver from
	// there any more (compacted or too slow): the caller then lists again.
	Watch(ctx context.Context, prefix string, after int64) <-chan []Change
	// Revision returns the newest revision, linearizably.
	Revision(ctx context.Context) (int64, error)
	// Close waits for the store's goroutines.
	Close() error
}

// Item is a key with its value. Revision is that of the last change, 0 in a Condition for "does not exist".
type Item struct {
	Key      string
	Value    []byte
	Revision int64
}

// Condition holds when the key was last changed at Revision; 0: the key does not exist.
type Condition struct {
	Key      string
	Revision int64
}

// Op is a put, or, where Delete is set, a delete of one key.
type Op struct {
	Key    string
	Value  []byte
	Delete bool
}

// Change is one key's change. Item.Value is nil when Deleted.
type Change struct {
	Item
	Deleted bool
}

// Error is a constant error of a store.
type Error string

// Error returns the text.
func (e Error) Error() string { return string(e) }

// ErrConflict: a condition of a Commit does not hold, and nothing was written.
const ErrConflict = Error("meta: a condition does not hold")
