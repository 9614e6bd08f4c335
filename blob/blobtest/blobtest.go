// Package blobtest is the suite that every blob store passes.
package blobtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"lambent"
	"lambent/blob"
)

// Run runs the suite. open gives an empty store, and closes it at the end of the test that it is given.
func Run(t *testing.T, open func(*testing.T) blob.Store) {
	tests := []struct {
		name string
		run  func(*testing.T, blob.Store)
	}{
		{"RoundTrip", testRoundTrip},
		{"Limit", testLimit},
		{"NotFound", testNotFound},
		{"FailedPut", testFailedPut},
		{"Delete", testDelete},
		{"List", testList},
		{"Concurrent", testConcurrent},
		{"ContextEnded", testContext},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

func read(s blob.Store, sum string) ([]byte, error) {
	reader, err := s.Open(context.Background(), sum)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	return io.ReadAll(reader)
}

func refs(t *testing.T, s blob.Store) []lambent.CodeRef {
	t.Helper()
	var found []lambent.CodeRef
	if err := s.List(t.Context(), func(ref lambent.CodeRef) bool {
		found = append(found, ref)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(found, func(a, b lambent.CodeRef) int { return strings.Compare(a.SHA256, b.SHA256) })
	return found
}

func testRoundTrip(t *testing.T, s blob.Store) {
	rapid.Check(t, func(t *rapid.T) {
		content := rapid.SliceOfN(rapid.Byte(), 0, 5000).Draw(t, "content")
		for range 2 {
			ref, err := s.Put(context.Background(), bytes.NewReader(content), 5000)
			if err != nil {
				t.Fatal(err)
			}
			if ref.SHA256 != digest(content) || ref.Size != int64(len(content)) {
				t.Fatalf("reference %+v", ref)
			}
			if got, err := read(s, ref.SHA256); err != nil || !bytes.Equal(got, content) {
				t.Fatalf("read %d bytes, %v; want %d", len(got), err, len(content))
			}
		}
	})
}

func testLimit(t *testing.T, s blob.Store) {
	content := bytes.Repeat([]byte("x"), 1000)
	if _, err := s.Put(t.Context(), bytes.NewReader(content), 999); lambent.CodeOf(err) != lambent.TooLarge {
		t.Errorf("one byte too many: %v", err)
	}
	if found := refs(t, s); len(found) != 0 {
		t.Errorf("stored all the same: %v", found)
	}
	if _, err := s.Put(t.Context(), bytes.NewReader(content), 1000); err != nil {
		t.Errorf("the limit itself: %v", err)
	}
}

func testNotFound(t *testing.T, s blob.Store) {
	names := []string{"", "x", digest([]byte("never stored")), "../../../../etc/passwd", strings.Repeat("../", 21) + "x", strings.Repeat("A", 64)}
	for _, name := range names {
		if _, err := s.Open(t.Context(), name); lambent.CodeOf(err) != lambent.NotFound {
			t.Errorf("open %q: %v", name, err)
		}
		if err := s.Delete(t.Context(), name); err != nil {
			t.Errorf("delete %q: %v", name, err)
		}
	}
}

func testFailedPut(t *testing.T, s blob.Store) {
	broken := errors.New("the connection was lost")
	source := io.MultiReader(strings.NewReader("half"), iotest.ErrReader(broken))
	if _, err := s.Put(t.Context(), source, 1000); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	if found := refs(t, s); len(found) != 0 {
		t.Errorf("half of the content is stored: %v", found)
	}
}

func testDelete(t *testing.T, s blob.Store) {
	content := bytes.Repeat([]byte("content"), 100_000)
	ref, err := s.Put(t.Context(), bytes.NewReader(content), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	reader, err := s.Open(t.Context(), ref.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for range 2 {
		if err := s.Delete(t.Context(), ref.SHA256); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Open(t.Context(), ref.SHA256); lambent.CodeOf(err) != lambent.NotFound {
		t.Errorf("deleted content: %v", err)
	}
	if got, err := io.ReadAll(reader); err != nil || !bytes.Equal(got, content) {
		t.Errorf("a reader from before the delete: %d bytes, %v", len(got), err)
	}
	if _, err := s.Put(t.Context(), bytes.NewReader(content), 1<<20); err != nil {
		t.Errorf("stored anew: %v", err)
	}
}

func testList(t *testing.T, s blob.Store) {
	var want []lambent.CodeRef
	for _, text := range []string{"", "a", "b", "c"} {
		ref, err := s.Put(t.Context(), strings.NewReader(text), 10)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, ref)
	}
	slices.SortFunc(want, func(a, b lambent.CodeRef) int { return strings.Compare(a.SHA256, b.SHA256) })
	if got := refs(t, s); !slices.Equal(got, want) {
		t.Errorf("listed %v, want %v", got, want)
	}
	calls := 0
	if err := s.List(t.Context(), func(lambent.CodeRef) bool { calls++; return calls < 2 }); err != nil || calls != 2 {
		t.Errorf("%d calls, %v; the second one asked to stop", calls, err)
	}
}

func testConcurrent(t *testing.T, s blob.Store) {
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			content := bytes.Repeat([]byte{byte(i % 4)}, 100_000)
			ref, err := s.Put(t.Context(), bytes.NewReader(content), 1<<20)
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := read(s, ref.SHA256); err != nil || !bytes.Equal(got, content) {
				t.Errorf("read %d bytes, %v", len(got), err)
			}
		})
	}
	group.Wait()
	if found := refs(t, s); len(found) != 4 {
		t.Errorf("%d contents are stored, want 4", len(found))
	}
}

func testContext(t *testing.T, s blob.Store) {
	ref, err := s.Put(t.Context(), strings.NewReader("x"), 10)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, put := s.Put(ctx, strings.NewReader("y"), 10)
	_, open := s.Open(ctx, ref.SHA256)
	errs := map[string]error{
		"Put": put, "Open": open,
		"Delete": s.Delete(ctx, ref.SHA256),
		"List":   s.List(ctx, func(lambent.CodeRef) bool { return true }),
	}
	for name, err := range errs {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s after its context has ended: %v", name, err)
		}
	}
}
