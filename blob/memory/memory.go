// Package memory is a blob store in memory, for tests.
package memory

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"sync"

	"lambent"
	"lambent/blob"
)

// Store is a blob.Store in memory. The zero value is empty and ready.
type Store struct {
	mu      sync.Mutex
	content map[string][]byte
}

var _ blob.Store = (*Store)(nil)

// Open implements lambent.Blobs.
func (s *Store) Open(ctx context.Context, digest string) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	content, ok := s.content[digest]
	if !ok {
		return nil, blob.ErrNotFound(digest)
	}
	return blob.Verify(io.NopCloser(bytes.NewReader(content)), digest), nil
}

// Put implements blob.Store.
func (s *Store) Put(ctx context.Context, r io.Reader, limit int64) (lambent.CodeRef, error) {
	content, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return lambent.CodeRef{}, err
	}
	if int64(len(content)) > limit {
		return lambent.CodeRef{}, blob.ErrTooLarge(limit)
	}
	sum := sha256.Sum256(content)
	digest := hex.EncodeToString(sum[:])
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.content == nil {
		s.content = make(map[string][]byte)
	}
	s.content[digest] = content
	return lambent.CodeRef{SHA256: digest, Size: int64(len(content))}, nil
}

// Delete implements blob.Store.
func (s *Store) Delete(ctx context.Context, digest string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.content, digest)
	return nil
}

// List implements blob.Store.
func (s *Store) List(ctx context.Context, fn func(lambent.CodeRef) bool) error {
	s.mu.Lock()
	var refs []lambent.CodeRef
	for digest, content := range s.content {
		refs = append(refs, lambent.CodeRef{SHA256: digest, Size: int64(len(content))})
	}
	s.mu.Unlock()
	for _, ref := range refs {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !fn(ref) {
			break
		}
	}
	return nil
}
