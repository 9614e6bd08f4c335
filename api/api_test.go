package api_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/smithy-go"
	"go.uber.org/goleak"

	"lambent"
	"lambent/api"
	blobmemory "lambent/blob/memory"
	"lambent/functions"
	metamemory "lambent/meta/memory"
)

func TestMain(m *testing.M) {
	// A server lingers for half a second on a connection that it has closed before its end.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

const (
	account = "123456789012"
	region  = "eu-central-1"
	keyID   = "AKIATESTTESTTEST0001"
	secret  = "a/secret/of/the/tests/000000000000000000"
	role    = "arn:aws:iam::123456789012:role/r"
	arnBase = "arn:aws:lambda:" + region + ":" + account + ":function:"
)

// frontEnd answers invokes as its answer says; by default with the payload.
type frontEnd struct {
	mu     sync.Mutex
	asked  []lambent.InvokeRequest
	answer func(lambent.InvokeRequest) (lambent.InvokeResponse, error)
}

func (f *frontEnd) Invoke(_ context.Context, req lambent.InvokeRequest) (lambent.InvokeResponse, error) {
	f.mu.Lock()
	f.asked = append(f.asked, req)
	answer := f.answer
	f.mu.Unlock()
	if answer != nil {
		return answer(req)
	}
	return lambent.InvokeResponse{Payload: req.Payload, ExecutedVersion: lambent.Latest}, nil
}

// last returns the last request.
func (f *frontEnd) last() lambent.InvokeRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[len(f.asked)-1]
}

// logs are the events that a test's functions wrote.
type logs struct {
	mu     sync.Mutex
	query  lambent.LogQuery
	events []lambent.LogEvent
}

func (l *logs) read(_ context.Context, q lambent.LogQuery) ([]lambent.LogEvent, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.query = q
	var found []lambent.LogEvent
	for _, e := range l.events {
		if (q.Group == "" || q.Group == e.Group) && (q.Stream == "" || q.Stream == e.Stream) && e.ID > q.After && (q.Limit == 0 || len(found) < q.Limit) {
			found = append(found, e)
		}
	}
	return found, nil
}

// bench is the API over a control plane in memory.
type bench struct {
	t         testing.TB
	handler   http.Handler
	functions *functions.Service
	front     *frontEnd
	logs      *logs
	addr      string
	http      *http.Client
	client    *lambda.Client
}

func newBench(t testing.TB) *bench {
	t.Helper()
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	store := metamemory.Open(metamemory.Options{})
	service, err := functions.Open(t.Context(), functions.Options{Region: region, Meta: store, Blobs: &blobmemory.Store{}, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, functions: service, front: &frontEnd{}, logs: &logs{}}
	b.handler = api.New(api.Options{Region: region, Functions: service, FrontEnd: b.front, Logs: b.logs.read, Logger: logger,
		Credentials: func(id string) (string, lambent.Principal, bool) {
			return secret, lambent.Principal{Account: account, AccessKeyID: id, ARN: "arn:aws:iam::" + account + ":user/u"}, id == keyID
		}})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := api.NewServer(b.handler, logger)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	b.addr = listener.Addr().String()
	b.http = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: 20 * time.Second}
	endpoint := "http://" + b.addr
	b.client = lambda.New(lambda.Options{BaseEndpoint: &endpoint, Region: region, RetryMaxAttempts: 1, HTTPClient: b.http,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: keyID, SecretAccessKey: secret}, nil
		})})
	t.Cleanup(func() {
		b.http.CloseIdleConnections()
		server.Close()
		<-served
		service.Close()
		store.Close()
	})
	return b
}

func sum(body []byte) string {
	digest := sha256.Sum256(body)
	return hex.EncodeToString(digest[:])
}

func archive(t testing.TB, text string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	file, err := w.Create("index.py")
	if err == nil {
		_, err = io.WriteString(file, text)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func creation(t testing.TB, name string) *lambda.CreateFunctionInput {
	return &lambda.CreateFunctionInput{FunctionName: &name, Role: aws.String(role), Runtime: types.RuntimePython312, Handler: aws.String("index.handler"),
		Code: &types.FunctionCode{ZipFile: archive(t, "code of "+name)}}
}

// create makes a function and waits until it is active.
func (b *bench) create(name string, set ...func(*lambda.CreateFunctionInput)) {
	b.t.Helper()
	in := creation(b.t, name)
	for _, s := range set {
		s(in)
	}
	if _, err := b.client.CreateFunction(b.t.Context(), in); err != nil {
		b.t.Fatal(err)
	}
	b.wait(name)
}

func (b *bench) wait(name string) {
	b.t.Helper()
	active := lambda.NewFunctionActiveV2Waiter(b.client, func(o *lambda.FunctionActiveV2WaiterOptions) {
		o.MinDelay, o.MaxDelay = 5*time.Millisecond, 20*time.Millisecond
	})
	if err := active.Wait(b.t.Context(), &lambda.GetFunctionInput{FunctionName: &name}, 10*time.Second); err != nil {
		b.t.Fatal(err)
	}
	updated := lambda.NewFunctionUpdatedV2Waiter(b.client, func(o *lambda.FunctionUpdatedV2WaiterOptions) {
		o.MinDelay, o.MaxDelay = 5*time.Millisecond, 20*time.Millisecond
	})
	if err := updated.Wait(b.t.Context(), &lambda.GetFunctionInput{FunctionName: &name}, 10*time.Second); err != nil {
		b.t.Fatal(err)
	}
}

// reply is what a raw request got.
type reply struct {
	status int
	kind   string // x-amzn-ErrorType
	body   string
	header http.Header
}

// request makes a signed request with any body.
func (b *bench) request(method, target string, body []byte, headers ...string) *http.Request {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, "http://"+b.addr+target, bytes.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	b.sign(req, body, "lambda")
	return req
}

func (b *bench) sign(req *http.Request, body []byte, service string) {
	b.t.Helper()
	if err := v4.NewSigner().SignHTTP(b.t.Context(), aws.Credentials{AccessKeyID: keyID, SecretAccessKey: secret}, req, sum(body), service, region, time.Now()); err != nil {
		b.t.Fatal(err)
	}
}

// presign is request with the signature in the URL.
func (b *bench) presign(method, target string, body []byte) *http.Request {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, "http://"+b.addr+target+"?X-Amz-Expires=60", bytes.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	link, headers, err := v4.NewSigner().PresignHTTP(b.t.Context(), aws.Credentials{AccessKeyID: keyID, SecretAccessKey: secret}, req, sum(body), "lambda", region, time.Now())
	if err == nil {
		req.URL, err = url.Parse(link)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header = headers
	return req
}

func (b *bench) do(req *http.Request) reply {
	b.t.Helper()
	resp, err := b.http.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header.Get("X-Amzn-Errortype"), string(body), resp.Header}
}

// wantError checks the type that the SDK makes of an error, and a part of its message.
func wantError[E error](t testing.TB, err error, part string) {
	t.Helper()
	var want E
	if !errors.As(err, &want) || !strings.Contains(err.Error(), part) {
		t.Errorf("got %v, want %T with %q", err, want, part)
	}
}

// wantCode is wantError for errors that the model does not have.
func wantCode(t testing.TB, err error, code, part string) {
	t.Helper()
	var got smithy.APIError
	if !errors.As(err, &got) || got.ErrorCode() != code || !strings.Contains(got.ErrorMessage(), part) {
		t.Errorf("got %v, want %s with %q", err, code, part)
	}
}
