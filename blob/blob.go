// Package blob keeps immutable content under its SHA-256. Package blobtest holds the suite that every implementation
// passes.
package blob

import (
	"context"
	"io"

	"lambent"
)

// Store keeps content by digest. It is safe for use by many goroutines. Content whose Put returned without an error survives
// the death of the process and of the host.
type Store interface {
	lambent.Blobs
	// Put stores what r gives, at most limit bytes (TooLarge beyond), and returns its reference. Storing the same content
	// again is cheap and changes nothing.
	Put(ctx context.Context, r io.Reader, limit int64) (lambent.CodeRef, error)
	// Delete removes content that nobody refers to any more. Readers that are open keep reading. Deleting what is not there
	// is no error.
	Delete(ctx context.Context, sha256 string) error
	// List calls fn for each stored content until fn returns false.
	List(ctx context.Context, fn func(lambent.CodeRef) bool) error
}
