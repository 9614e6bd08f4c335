package functions

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"

	"lambent"
	"lambent/functions/archive"
)

// maxEntries bounds the entries of a zip. Lambda states no bound.
const maxEntries = 100_000

// OpenCode opens the zip archive of a function version that GetFunction described, for its Code.Location. NotFound when the
// archive is gone meanwhile. The reader fails instead of giving other content; the caller closes it.
func (s *Service) OpenCode(ctx context.Context, code lambent.CodeRef) (io.ReadCloser, error) {
	reader, err := s.options.Blobs.Open(ctx, code.SHA256)
	if lambent.CodeOf(err) == lambent.NotFound && err != nil {
		return nil, lambent.Wrap(lambent.NotFound, err, "The function's code is not there any more.")
	}
	if err != nil {
		return nil, lambent.Wrap(lambent.Internal, err, internalMessage)
	}
	return reader, nil
}

// upload is code that a request is about to refer to. It is not collected before the request is done.
type upload struct {
	ref   lambent.CodeRef
	pins  *pins
	store func(ctx context.Context) error
}

// done says how the request ended that the upload was for. When it is not known whether the reference was written, the
// archive stays pinned until the next start.
func (u *upload) done(err error) {
	if err == nil || lambent.CodeOf(err) != lambent.Unavailable {
		u.pins.release(u.ref.SHA256)
	}
}

// accept judges a request's code and pins it. The caller calls done, whatever follows.
func (s *Service) accept(ctx context.Context, code Code) (*upload, error) {
	if err := checkSource(code); err != nil {
		return nil, err
	}
	if err := s.checkArchive(ctx, code.ZipFile); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(code.ZipFile)
	u := &upload{ref: lambent.CodeRef{SHA256: hex.EncodeToString(sum[:]), Size: int64(len(code.ZipFile))}, pins: &s.pins}
	u.store = func(ctx context.Context) error {
		_, err := s.options.Blobs.Put(ctx, bytes.NewReader(code.ZipFile), MaxZipBytes)
		if err != nil {
			return lambent.Wrap(lambent.Internal, fmt.Errorf("functions: store code: %w", err), internalMessage)
		}
		return nil
	}
	if err := s.pins.pin(ctx, u.ref.SHA256); err != nil {
		return nil, storeError(err)
	}
	return u, nil
}

func checkSource(code Code) error {
	switch {
	case code.ImageURI != "":
		return invalid("Please don't provide ImageUri when updating a function with packageType Zip.")
	case code.S3Bucket != "" || code.S3Key != "":
		return invalid("Error occurred while GetObject. S3 Error Code: NoSuchBucket. S3 Error Message: The specified bucket does not exist")
	case code.ZipFile == nil:
		return invalid("Please provide a source for function code.")
	case len(code.ZipFile) > MaxZipBytes:
		return lambent.Errorf(lambent.TooLarge, "Zip file must be smaller than %d bytes", MaxZipBytes)
	}
	return nil
}

// checkArchive reads the archive through, no more of them at once than there are CPUs.
func (s *Service) checkArchive(ctx context.Context, content []byte) error {
	select {
	case s.checks <- struct{}{}:
		defer func() { <-s.checks }()
	case <-ctx.Done():
		return storeError(ctx.Err())
	}
	_, err := archive.Check(ctx, content, archive.Limits{UnzippedBytes: MaxUnzippedBytes, Entries: maxEntries})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, archive.ErrEmpty):
		return invalid("Uploaded file must be a non-empty zip")
	case errors.Is(err, archive.ErrTooLarge):
		return invalid("Unzipped size must be smaller than %d bytes", MaxUnzippedBytes)
	case errors.Is(err, archive.ErrInvalid):
		return lambent.Wrap(lambent.InvalidParameter, err, "Could not unzip uploaded file. Please check your file, then try to upload again.")
	}
	return storeError(err)
}

// pins keeps archives from being collected while requests are about to refer to them.
//
// Invariant: no digest is pinned and being collected at once. A request pins before it stores; the collector takes only what
// is not pinned, and looks for references only after that. So either the collector sees the request's reference, or the
// request stores the archive anew afterwards.
type pins struct {
	mu         sync.Mutex
	pinned     map[string]int
	collecting map[string]struct{}
	collected  chan struct{} // closes when the collection that is under way ends
}

// pin waits while the digest is being collected.
func (p *pins) pin(ctx context.Context, digest string) error {
	for {
		p.mu.Lock()
		_, busy := p.collecting[digest]
		collected := p.collected
		if !busy {
			if p.pinned == nil {
				p.pinned = make(map[string]int)
			}
			p.pinned[digest]++
			p.mu.Unlock()
			return nil
		}
		p.mu.Unlock()
		select {
		case <-collected:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (p *pins) release(digest string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pinned[digest]--; p.pinned[digest] <= 0 {
		delete(p.pinned, digest)
	}
}

// collect takes those of the digests that are not pinned, until end is called. One collection runs at a time.
func (p *pins) collect(digests []string) (taken []string, end func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.collecting = make(map[string]struct{})
	p.collected = make(chan struct{})
	for _, digest := range digests {
		if p.pinned[digest] == 0 {
			p.collecting[digest] = struct{}{}
			taken = append(taken, digest)
		}
	}
	return taken, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.collecting = nil
		close(p.collected)
	}
}
