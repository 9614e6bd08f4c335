package blob

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"strings"

	"lambent"
)

// IsDigest tells whether the text is a SHA-256 as references have it: 64 lower-case hex digits.
func IsDigest(text string) bool {
	return len(text) == 2*sha256.Size && strings.Trim(text, "0123456789abcdef") == ""
}

// ErrNotFound makes the error for content that is not stored.
func ErrNotFound(digest string) error {
	return lambent.Errorf(lambent.NotFound, "no content with the SHA-256 %s is stored", digest)
}

// ErrTooLarge makes the error for content of more than limit bytes.
func ErrTooLarge(limit int64) error {
	return lambent.Errorf(lambent.TooLarge, "content of more than %d bytes", limit)
}

// Verify returns a reader of source that fails at its end, instead of reporting io.EOF, when what was read does not have the
// digest. Closing it closes source.
func Verify(source io.ReadCloser, digest string) io.ReadCloser {
	return &verifier{source: source, digest: digest, sum: sha256.New()}
}

type verifier struct {
	source io.ReadCloser
	digest string
	sum    hash.Hash
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.source.Read(p)
	v.sum.Write(p[:n])
	if err == io.EOF && hex.EncodeToString(v.sum.Sum(nil)) != v.digest {
		return n, fmt.Errorf("blob: stored content is damaged: its SHA-256 is not %s", v.digest)
	}
	return n, err
}

func (v *verifier) Close() error { return v.source.Close() }
