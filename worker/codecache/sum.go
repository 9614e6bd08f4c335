package codecache

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"

	"golang.org/x/sys/unix"
)

// sum is the digest of an archive that is being copied.
type sum struct{ hash.Hash }

func newSum() sum { return sum{sha256.New()} }

// check compares the digest.
func (s sum) check(want string) error {
	if got := hex.EncodeToString(s.Sum(nil)); got != want {
		return fmt.Errorf("code cache: the archive %s arrived damaged, as %s", want, got)
	}
	return nil
}

// entryCounter counts what looks like an entry of an archive's directory, before the directory is read into memory as a whole.
// Stored content may hold some more of these signatures.
type entryCounter struct {
	n    int
	tail [3]byte
}

// Write counts signatures, those included that are split between writes.
func (c *entryCounter) Write(p []byte) (int, error) {
	const signature = "PK\x01\x02"
	edge := append(c.tail[:len(c.tail):len(c.tail)], p[:min(3, len(p))]...)
	c.n += bytes.Count(edge, []byte(signature)) + bytes.Count(p, []byte(signature))
	last := append(c.tail[:len(c.tail):len(c.tail)], p[max(0, len(p)-3):]...)
	copy(c.tail[:], last[len(last)-3:])
	return len(p), nil
}

// isStructure tells whether a path could not be made because of what the archive has put in its way.
func isStructure(err error) bool {
	for _, e := range []error{unix.ENOTDIR, unix.EISDIR, unix.ELOOP, unix.ENAMETOOLONG} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
