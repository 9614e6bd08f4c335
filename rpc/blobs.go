package rpc

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strings"
	"time"

	"lambent"
)

// BlobsClient is the content store on another host.
type BlobsClient struct{ peer *Peer }

var _ lambent.Blobs = (*BlobsClient)(nil)

// Blobs returns the peer's content store.
func (p *Peer) Blobs() *BlobsClient { return &BlobsClient{p} }

type openRequest struct{ SHA256 string }

// Open implements lambent.Blobs. ctx bounds the reading, too. The content is checked here, whatever the other host did.
func (c *BlobsClient) Open(ctx context.Context, digest string) (io.ReadCloser, error) {
	if !isDigest(digest) {
		return nil, lambent.Errorf(lambent.NotFound, "%.100q is not the SHA-256 of any content.", digest)
	}
	message, err := encode(openRequest{digest}, kib)
	if err != nil {
		return nil, err
	}
	answer, err := c.peer.send(ctx, "blobs.open", bytes.NewReader(message))
	if err != nil {
		return nil, err
	}
	return &content{answer: answer, digest: digest, sum: sha256.New()}, nil
}

func isDigest(text string) bool {
	return len(text) == 2*sha256.Size && strings.Trim(text, "0123456789abcdef") == ""
}

// content is what comes of a blob.
type content struct {
	answer *answer
	digest string
	sum    hash.Hash
}

// Read implements io.Reader.
func (c *content) Read(p []byte) (int, error) {
	n, err := c.answer.Body.Read(p)
	c.sum.Write(p[:n])
	switch ended := errors.Is(err, io.EOF); {
	case ended && hex.EncodeToString(c.sum.Sum(nil)) != c.digest:
		err = lambent.Errorf(lambent.Unavailable, "The content that came does not have the SHA-256 %s.", c.digest)
	case err != nil && !ended:
		err = c.answer.exchange.failure(err)
	}
	return n, err
}

// Close implements io.Closer.
func (c *content) Close() error { return c.answer.end(nil) }

func serveOpen(s *Server, w http.ResponseWriter, r *request) {
	if s.options.Blobs == nil {
		refuse(w, absent("store of content"))
		return
	}
	var req openRequest
	message, err := r.message(w)
	if err == nil {
		err = decode(message, &req)
	}
	if err == nil && !isDigest(req.SHA256) {
		err = lambent.Errorf(lambent.NotFound, "%.100q is not the SHA-256 of any content.", req.SHA256)
	}
	if err != nil {
		refuse(w, err)
		return
	}
	reader, err := s.options.Blobs.Open(r.Context(), req.SHA256)
	if err != nil {
		refuse(w, err)
		return
	}
	defer reader.Close()
	control := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/octet-stream")
	if _, err := io.CopyBuffer(struct{ io.Writer }{&patient{control, w}}, struct{ io.Reader }{reader}, make([]byte, 64*kib)); err != nil {
		s.options.Logger.Warn("content was not sent whole", "caller", r.peer.Name, "error", fmt.Errorf("%s: %w", req.SHA256, err))
		panic(http.ErrAbortHandler) // the caller must not take what came for all of it
	}
}

// patient waits for a caller who takes something from time to time.
type patient struct {
	control *http.ResponseController
	writer  io.Writer
}

// Write implements io.Writer.
func (p *patient) Write(b []byte) (int, error) {
	if err := p.control.SetWriteDeadline(time.Now().Add(stalledFor)); err != nil {
		return 0, err
	}
	return p.writer.Write(b)
}
