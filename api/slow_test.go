package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"lambent"
)

type large struct{}

func (large) Invoke(context.Context, lambent.InvokeRequest) (lambent.InvokeResponse, error) {
	return lambent.InvokeResponse{Payload: make([]byte, lambent.MaxResponseBytes), ExecutedVersion: "1"}, nil
}

// A client that does not read its answer loses the connection, and the answer's memory comes back.
func TestAClientThatDoesNotRead(t *testing.T) {
	credentials := aws.Credentials{AccessKeyID: "AKIATEST", SecretAccessKey: "secret"}
	h := New(Options{Region: "eu-central-1", FrontEnd: large{}, Logger: slog.New(slog.DiscardHandler), Credentials: func(id string) (string, lambent.Principal, bool) {
		return credentials.SecretAccessKey, lambent.Principal{Account: "123456789012"}, id == credentials.AccessKeyID
	}}).(*handler)
	h.patience = 50 * time.Millisecond
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan struct{}, 1)
	server := NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r)
		answered <- struct{}{}
	}), h.Logger)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() {
		server.Close()
		<-served
	}()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+listener.Addr().String()+"/2015-03-31/functions/f/invocations", nil)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(nil)
	if err := v4.NewSigner().SignHTTP(t.Context(), credentials, req, hex.EncodeToString(sum[:]), "lambda", "eu-central-1", time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := req.Write(conn); err != nil {
		t.Fatal(err)
	}
	select {
	case <-answered:
	case <-time.After(10 * time.Second):
		t.Fatal("the answer waits for its reader")
	}
	if n, err := io.Copy(io.Discard, conn); n >= lambent.MaxResponseBytes {
		t.Errorf("%d bytes came, %v: the client's buffers hold more than the test expects", n, err)
	}
}
