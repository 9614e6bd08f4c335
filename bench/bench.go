package bench

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed" // the functions' source
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
)

//go:embed functions/echo.py
var echoPython []byte

//go:embed functions/echo.mjs
var echoNode []byte

// Options say what to measure. The region at Endpoint is used as any client would use it.
type Options struct {
	Endpoint    string // "http://127.0.0.1:9070"
	Region      string
	Credentials aws.Credentials
	EchoAddr    string        // of the net/http echo
	Bootstrap   string        // path of the provided echo function's binary
	Length      time.Duration // of each measurement
	Clients     []int         // default 1, 16, 64
	ColdStarts  int           // per runtime, default 20
	Runtimes    []string      // beside provided.al2023; those that the host has
	Progress    io.Writer
}

// Result is one run's figures.
type Result struct {
	When    time.Time
	Machine string
	Echo    []Load            // floor: net/http
	Bare    []Load            // floor: Runtime API loop
	Warm    map[string][]Load // by runtime
	Cold    map[string]Load   // by runtime: whole invokes that started a sandbox
}

type runner struct {
	Options
	client *lambda.Client
	event  []byte
}

// Run measures the floors and the region in turn.
func Run(ctx context.Context, o Options) (*Result, error) {
	if len(o.Clients) == 0 {
		o.Clients = []int{1, 16, 64}
	}
	if o.ColdStarts == 0 {
		o.ColdStarts = 20
	}
	r := &runner{Options: o, event: []byte(`{"message":"` + strings.Repeat("x", 1024-14) + `"}`)}
	r.client = lambda.New(lambda.Options{
		BaseEndpoint: &o.Endpoint, Region: o.Region, RetryMaxAttempts: 1,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return o.Credentials, nil }),
	})
	result := &Result{When: time.Now(), Machine: fmt.Sprintf("%d CPUs, %s/%s, %s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version()),
		Warm: map[string][]Load{}, Cold: map[string]Load{}}
	var err error
	if result.Echo, err = r.each(ctx, "floor: net/http echo", r.echoCalls()); err != nil {
		return nil, err
	}
	if result.Bare, err = r.each(ctx, "floor: bare Runtime API loop", bareCalls(ctx, o.Bootstrap, r.event)); err != nil {
		return nil, err
	}
	for _, name := range append([]string{"provided.al2023"}, o.Runtimes...) {
		if err := r.runtime(ctx, name, result); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return result, nil
}

func (r *runner) each(ctx context.Context, what string, factory func() (call, func(), error)) ([]Load, error) {
	var loads []Load
	for _, clients := range r.Clients {
		load, err := drive(ctx, clients, r.Length, factory)
		if err != nil {
			return nil, fmt.Errorf("%s with %d clients: %w", what, clients, err)
		}
		fmt.Fprintf(r.Progress, "%-34s %3d clients  p50 %8s  p99 %8s  %8.0f/s  %d errors\n", what, clients, round(load.P50), round(load.P99), load.Rate, load.Errors)
		loads = append(loads, load)
	}
	return loads, nil
}

func (r *runner) echoCalls() func() (call, func(), error) {
	request := []byte(fmt.Sprintf("POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s", r.EchoAddr, len(r.event), r.event))
	return func() (call, func(), error) {
		return httpCall(r.EchoAddr, func() []byte { return request }, r.event)
	}
}

// runtime measures one runtime, warm and cold, and deletes its functions.
func (r *runner) runtime(ctx context.Context, name string, result *Result) error {
	archive, handler, err := r.archive(name)
	if err != nil {
		return err
	}
	function := "bench-" + strings.NewReplacer(".", "-").Replace(name)
	if err := r.create(ctx, function, name, handler, archive); err != nil {
		return err
	}
	defer func() {
		if _, err := r.client.DeleteFunction(context.WithoutCancel(ctx), &lambda.DeleteFunctionInput{FunctionName: &function}); err != nil {
			fmt.Fprintf(r.Progress, "delete %s: %v\n", function, err)
		}
	}()
	answer, err := r.firstAnswer(ctx, function)
	if err != nil {
		return err
	}
	calls := r.invokeCalls(ctx, function, answer)
	loads, err := r.each(ctx, "warm invoke, "+name, calls)
	if err != nil {
		return err
	}
	result.Warm[name] = loads
	cold, err := r.cold(ctx, function, calls)
	if err != nil {
		return err
	}
	result.Cold[name] = cold
	fmt.Fprintf(r.Progress, "%-34s %3d starts   p50 %8s  p99 %8s\n", "cold invoke, "+name, cold.Requests, round(cold.P50), round(cold.P99))
	return nil
}

// cold invokes a function after each change of its configuration, which makes a sandbox of the new revision necessary.
func (r *runner) cold(ctx context.Context, function string, factory func() (call, func(), error)) (Load, error) {
	var took []time.Duration
	for run := range r.ColdStarts {
		env := &types.Environment{Variables: map[string]string{"RUN": fmt.Sprint(run)}}
		if _, err := r.client.UpdateFunctionConfiguration(ctx, &lambda.UpdateFunctionConfigurationInput{FunctionName: &function, Environment: env}); err != nil {
			return Load{}, err
		}
		waiter := lambda.NewFunctionUpdatedV2Waiter(r.client, func(o *lambda.FunctionUpdatedV2WaiterOptions) { o.MinDelay = 50 * time.Millisecond })
		if err := waiter.Wait(ctx, &lambda.GetFunctionInput{FunctionName: &function}, time.Minute); err != nil {
			return Load{}, err
		}
		do, done, err := factory()
		if err != nil {
			return Load{}, err
		}
		before := time.Now()
		err = do(ctx)
		took = append(took, time.Since(before))
		done()
		if err != nil {
			return Load{}, err
		}
	}
	return summary(took), nil
}

// firstAnswer invokes a function once. Each runtime writes JSON with spaces of its own, and all later answers must be like
// this one.
func (r *runner) firstAnswer(ctx context.Context, function string) ([]byte, error) {
	out, err := r.client.Invoke(ctx, &lambda.InvokeInput{FunctionName: &function, Payload: r.event})
	if err != nil {
		return nil, err
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, out.Payload); err != nil || !bytes.Equal(compact.Bytes(), r.event) {
		return nil, fmt.Errorf("the echo function answered %.200q", out.Payload)
	}
	return out.Payload, nil
}

func (r *runner) create(ctx context.Context, function, name, handler string, archive []byte) error {
	_, err := r.client.CreateFunction(ctx, &lambda.CreateFunctionInput{
		FunctionName: &function, Runtime: types.Runtime(name), Handler: &handler, Code: &types.FunctionCode{ZipFile: archive},
		Role: aws.String("arn:aws:iam::000000000000:role/bench"), Timeout: aws.Int32(10), MemorySize: aws.Int32(1769),
	})
	if err != nil {
		return err
	}
	waiter := lambda.NewFunctionActiveV2Waiter(r.client, func(o *lambda.FunctionActiveV2WaiterOptions) { o.MinDelay = 50 * time.Millisecond })
	return waiter.Wait(ctx, &lambda.GetFunctionInput{FunctionName: &function}, time.Minute)
}

func (r *runner) archive(name string) (archive []byte, handler string, err error) {
	switch {
	case strings.HasPrefix(name, "python"):
		return zipped("echo.py", echoPython, 0o644), "echo.handler", nil
	case strings.HasPrefix(name, "nodejs"):
		return zipped("echo.mjs", echoNode, 0o644), "echo.handler", nil
	}
	program, err := os.ReadFile(r.Bootstrap)
	return zipped("bootstrap", program, 0o755), "bootstrap", err
}

func zipped(name string, content []byte, mode os.FileMode) []byte {
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	header := &zip.FileHeader{Name: name, Method: zip.Deflate}
	header.SetMode(mode)
	entry, err := w.CreateHeader(header)
	if err == nil {
		_, err = entry.Write(content)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		panic(err) // a bytes.Buffer does not fail
	}
	return buf.Bytes()
}

// invokeCalls makes calls that sign as an SDK does. All clients share a request, which is signed anew each second: the
// region verifies each one in full, and the load costs the machine as little as it can.
func (r *runner) invokeCalls(ctx context.Context, function string, want []byte) func() (call, func(), error) {
	type signed struct {
		second int64
		bytes  []byte
	}
	var current atomic.Pointer[signed]
	digest := sha256.Sum256(r.event)
	hash := hex.EncodeToString(digest[:])
	signer := v4.NewSigner()
	addr := strings.TrimPrefix(r.Endpoint, "http://")
	next := func() []byte {
		now := time.Now()
		if s := current.Load(); s != nil && s.second == now.Unix() {
			return s.bytes
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.Endpoint+"/2015-03-31/functions/"+function+"/invocations", bytes.NewReader(r.event))
		if err != nil {
			panic(err) // the URL is ours
		}
		if err := signer.SignHTTP(ctx, r.Credentials, req, hash, "lambda", r.Region, now); err != nil {
			panic(err) // static credentials do not fail
		}
		var buf bytes.Buffer
		if err := req.Write(&buf); err != nil {
			panic(err) // a bytes.Buffer does not fail
		}
		current.Store(&signed{now.Unix(), buf.Bytes()})
		return buf.Bytes()
	}
	return func() (call, func(), error) { return httpCall(addr, next, want) }
}

func round(d time.Duration) string {
	if d < 10*time.Millisecond {
		return d.Round(time.Microsecond).String()
	}
	return d.Round(100 * time.Microsecond).String()
}

// JSON writes the result for other programs.
func (r *Result) JSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}
