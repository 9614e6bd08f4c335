package functions_test

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lambent"
	"lambent/blob"
	blobmemory "lambent/blob/memory"
	"lambent/functions"
	"lambent/meta"
	metamemory "lambent/meta/memory"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(crashDirEnv); path != "" {
		createUntilKilled(path)
		return
	}
	goleak.VerifyTestMain(m)
}

const (
	account  = "111111111111"
	region   = "eu-central-1"
	role     = "arn:aws:iam::111111111111:role/r"
	patience = 20 * time.Second
)

func name(text string) lambent.FunctionName {
	return lambent.FunctionName{Account: account, Name: text}
}

func ref(text, qualifier string) lambent.FunctionRef {
	return lambent.FunctionRef{FunctionName: name(text), Qualifier: qualifier}
}

func arn(text string) string { return "arn:aws:lambda:" + region + ":" + account + ":function:" + text }

// bench is a control plane over stores in memory.
type bench struct {
	*functions.Service
	meta  meta.Store
	blobs blob.Store
}

func newBench(t *testing.T) *bench {
	t.Helper()
	store := metamemory.Open(metamemory.Options{})
	t.Cleanup(func() { store.Close() })
	b := &bench{meta: store, blobs: &blobmemory.Store{}}
	b.Service = openService(t, functions.Options{Meta: b.meta, Blobs: b.blobs})
	return b
}

func openService(t *testing.T, options functions.Options) *functions.Service {
	t.Helper()
	options.Region = region
	options.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	service, err := functions.Open(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { service.Close() })
	return service
}

func pointer[T any](value T) *T { return &value }

// code makes an archive that differs from those of other texts.
func code(t testing.TB, text string) functions.Code {
	t.Helper()
	var buffer bytes.Buffer
	writer := zip.NewWriter(&buffer)
	file, err := writer.Create("index.py")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(file, text)
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return functions.Code{ZipFile: buffer.Bytes()}
}

func request(t testing.TB, text string) functions.CreateFunctionRequest {
	return functions.CreateFunctionRequest{
		Function: name(text),
		Settable: functions.Settable{Runtime: pointer("python3.12"), Role: pointer(role), Handler: pointer("index.handler")},
		Code:     code(t, "code of "+text),
	}
}

// create makes a function and waits until it is usable.
func (b *bench) create(t *testing.T, text string) *functions.Configuration {
	t.Helper()
	if _, err := b.CreateFunction(t.Context(), request(t, text)); err != nil {
		t.Fatal(err)
	}
	return b.settle(t, ref(text, ""))
}

// settle waits until a function is neither pending nor being updated, as the SDKs' waiters do.
func (b *bench) settle(t *testing.T, what lambent.FunctionRef) *functions.Configuration {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		c, err := b.GetFunctionConfiguration(t.Context(), what)
		if err != nil {
			t.Fatal(err)
		}
		if c.State != lambent.StatePending && c.LastUpdateStatus != functions.UpdateInProgress {
			return c
		}
	}
	t.Fatalf("%v is not usable after %v", what, patience)
	return nil
}

// update changes the configuration of a function and waits until it is usable.
func (b *bench) update(t *testing.T, text string, set functions.Settable) *functions.Configuration {
	t.Helper()
	if _, err := b.UpdateFunctionConfiguration(t.Context(), functions.UpdateFunctionConfigurationRequest{Function: name(text), Settable: set}); err != nil {
		t.Fatal(err)
	}
	return b.settle(t, ref(text, ""))
}

func (b *bench) publish(t *testing.T, text string) *functions.Configuration {
	t.Helper()
	c, err := b.PublishVersion(t.Context(), functions.PublishVersionRequest{Function: name(text)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// refuse checks that an error has a code and, in full, a message.
func refuse(t *testing.T, err error, code lambent.Code, message string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error; want %q", message)
		return
	}
	text := err.Error()
	var e *lambent.Error
	if errors.As(err, &e) {
		text = e.Message
	}
	if lambent.CodeOf(err) != code || text != message {
		t.Errorf("error %d %q\nwant  %d %q", lambent.CodeOf(err), text, code, message)
	}
}

func TestCreate(t *testing.T) {
	b := newBench(t)
	created, err := b.CreateFunction(t.Context(), request(t, "f"))
	if err != nil {
		t.Fatal(err)
	}
	if created.State != lambent.StatePending || created.StateReason != "The function is being created." || created.StateReasonCode != "Creating" || created.LastUpdateStatus != "" {
		t.Errorf("state of the answer: %+v", created)
	}
	if created.ARN != arn("f") || created.Version != "$LATEST" || created.ID == "" || !strings.HasPrefix(created.RuntimeVersionARN, "arn:aws:lambda:"+region+"::runtime:") {
		t.Errorf("identity of the answer: %+v", created)
	}
	if created.Timeout != 3*time.Second || created.MemoryMiB != 128 || created.EphemeralMiB != 512 || created.PackageType != "Zip" ||
		fmt.Sprint(created.Architectures) != "[x86_64]" || created.TracingMode != "PassThrough" || created.SnapStart != (functions.SnapStart{ApplyOn: "None", Optimization: "Off"}) ||
		created.Logging != (lambent.Logging{Format: "Text", Group: "/aws/lambda/f"}) || created.Environment != nil || created.VpcConfig != nil {
		t.Errorf("defaults of the answer: %+v", created)
	}
	if text := created.LastModifiedText(); len(text) != len("2026-11-23T09:47:00.123+0000") || !strings.HasSuffix(text, "+0000") {
		t.Errorf("LastModified %q", text)
	}
	if sum := created.CodeSHA256(); len(sum) != 44 || created.Code.Size != int64(len(request(t, "f").Code.ZipFile)) {
		t.Errorf("code %q, %d bytes", sum, created.Code.Size)
	}
	active := b.settle(t, ref("f", ""))
	if active.State != lambent.StateActive || active.StateReason != "" || active.StateReasonCode != "" || active.LastUpdateStatus != functions.UpdateSuccessful {
		t.Errorf("state afterwards: %+v", active)
	}
	if active.RevisionID == created.RevisionID || !active.LastModified.Equal(created.LastModified) || active.ID != created.ID {
		t.Errorf("identity afterwards: %+v", active)
	}
	_, err = b.CreateFunction(t.Context(), request(t, "f"))
	refuse(t, err, lambent.Conflict, "Function already exist: f")
	reader, err := b.OpenCode(t.Context(), active.Code)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	var content bytes.Buffer
	if _, err := content.ReadFrom(reader); err != nil || !bytes.Equal(content.Bytes(), request(t, "f").Code.ZipFile) {
		t.Errorf("the code is not what was given: %v", err)
	}
}

func TestCreateRefused(t *testing.T) {
	b := newBench(t)
	const unzip = "Could not unzip uploaded file. Please check your file, then try to upload again."
	retired := func(runtime string) string {
		return "The runtime parameter of " + runtime + " is no longer supported for creating or updating AWS Lambda functions. We recommend you use a supported runtime while creating or updating functions."
	}
	cases := []struct {
		name    string
		edit    func(*functions.CreateFunctionRequest)
		code    lambent.Code
		message string
	}{
		{"no code", func(r *functions.CreateFunctionRequest) { r.Code = functions.Code{} }, lambent.InvalidParameter, "Please provide a source for function code."},
		{"empty zip", func(r *functions.CreateFunctionRequest) { r.Code.ZipFile = []byte{} }, lambent.InvalidParameter, "Uploaded file must be a non-empty zip"},
		{"garbage", func(r *functions.CreateFunctionRequest) { r.Code.ZipFile = []byte("garbage") }, lambent.InvalidParameter, unzip},
		{"truncated", func(r *functions.CreateFunctionRequest) { r.Code.ZipFile = r.Code.ZipFile[:50] }, lambent.InvalidParameter, unzip},
		{"large unzipped", func(r *functions.CreateFunctionRequest) { r.Code.ZipFile = bomb(t) }, lambent.InvalidParameter, "Unzipped size must be smaller than 262144000 bytes"},
		{"large zip", func(r *functions.CreateFunctionRequest) { r.Code.ZipFile = make([]byte, 50<<20+1) }, lambent.TooLarge, "Zip file must be smaller than 52428800 bytes"},
		{"bucket", func(r *functions.CreateFunctionRequest) { r.Code = functions.Code{S3Bucket: "b", S3Key: "k"} }, lambent.InvalidParameter, "Error occurred while GetObject. S3 Error Code: NoSuchBucket. S3 Error Message: The specified bucket does not exist"},
		{"image", func(r *functions.CreateFunctionRequest) { r.PackageType = "Image" }, lambent.InvalidParameter, "Functions of PackageType Image are not supported."},
		{"image config", func(r *functions.CreateFunctionRequest) { r.ImageConfig = true }, lambent.InvalidParameter, "ImageConfig is only supported for functions of PackageType Image, which are not supported."},
		{"no handler", func(r *functions.CreateFunctionRequest) { r.Handler = nil }, lambent.InvalidParameter, "Runtime and Handler are mandatory parameters for functions created with deployment packages."},
		{"no runtime", func(r *functions.CreateFunctionRequest) { r.Runtime = nil }, lambent.InvalidParameter, "Runtime and Handler are mandatory parameters for functions created with deployment packages."},
		{"python3.7", func(r *functions.CreateFunctionRequest) { r.Runtime = pointer("python3.7") }, lambent.InvalidParameter, retired("python3.7")},
		{"provided", func(r *functions.CreateFunctionRequest) { r.Runtime = pointer("provided") }, lambent.InvalidParameter, retired("provided")},
		{"java8", func(r *functions.CreateFunctionRequest) { r.Runtime = pointer("java8") }, lambent.InvalidParameter, retired("java8")},
		{"memory", func(r *functions.CreateFunctionRequest) { r.MemoryMiB = pointer(127) }, lambent.Validation, "1 validation error detected: Value '127' at 'memorySize' failed to satisfy constraint: Member must have value greater than or equal to 128"},
		{"much memory", func(r *functions.CreateFunctionRequest) { r.MemoryMiB = pointer(10_241) }, lambent.Validation, "1 validation error detected: Value '10241' at 'memorySize' failed to satisfy constraint: Member must have value less than or equal to 10240"},
		{"timeout", func(r *functions.CreateFunctionRequest) { r.Timeout = pointer(901 * time.Second) }, lambent.Validation, "1 validation error detected: Value '901' at 'timeout' failed to satisfy constraint: Member must have value less than or equal to 900"},
		{"snapstart", func(r *functions.CreateFunctionRequest) { r.SnapStart = pointer("invalidOption") }, lambent.Validation, "1 validation error detected: Value 'invalidOption' at 'snapStart.applyOn' failed to satisfy constraint: Member must satisfy enum value set: [PublishedVersions, None]"},
		{"snapstart's runtime", func(r *functions.CreateFunctionRequest) {
			r.SnapStart, r.Runtime = pointer("PublishedVersions"), pointer("nodejs20.x")
		}, lambent.InvalidParameter, "nodejs20.x is not supported for SnapStart enabled functions."},
		{"layers", func(r *functions.CreateFunctionRequest) { r.Layers = &[]string{"arn:x:1"} }, lambent.InvalidParameter, "Layer version arn:x:1 does not exist. Layers are not supported yet."},
		{"file systems", func(r *functions.CreateFunctionRequest) { r.FileSystems = 1 }, lambent.InvalidParameter, "FileSystemConfigs are not supported."},
		{"tags", func(r *functions.CreateFunctionRequest) { r.Tags = tags(51) }, lambent.InvalidParameter, "Number of tags exceeds resource tag limit."},
		{"a long name", func(r *functions.CreateFunctionRequest) { r.Function.Name = strings.Repeat("f", 65) }, lambent.Validation, "1 validation error detected: Value '" + strings.Repeat("f", 65) + "' at 'functionName' failed to satisfy constraint: Member must have length less than or equal to 64"},
		{"a slash", func(r *functions.CreateFunctionRequest) { r.Function.Name = "a/b" }, lambent.Validation, "1 validation error detected: Value 'a/b' at 'functionName' failed to satisfy constraint: Member must satisfy regular expression pattern: [a-zA-Z0-9-_]+"},
		{"architectures", func(r *functions.CreateFunctionRequest) { r.Architectures = []string{"x86_64", "arm64"} }, lambent.Validation, "1 validation error detected: Value '[x86_64, arm64]' at 'architectures' failed to satisfy constraint: Member must satisfy constraint: [Member must satisfy enum value set: [x86_64, arm64], Member must not be null]"},
		{"log level", func(r *functions.CreateFunctionRequest) {
			r.Logging = &functions.LoggingConfig{ApplicationLevel: "INFO"}
		}, lambent.InvalidParameter, "To set ApplicationLogLevel or SystemLogLevel, LogFormat must be JSON."},
		{"reserved variable", func(r *functions.CreateFunctionRequest) {
			r.Environment = &map[string]string{"AWS_REGION": "x", "OK": "x"}
		}, lambent.InvalidParameter, "Lambda was unable to configure your environment variables because the environment variables you have provided contains reserved keys that are currently not supported for modification. Reserved keys used in this request: AWS_REGION"},
		{"environment", func(r *functions.CreateFunctionRequest) {
			r.Environment = &map[string]string{"V": strings.Repeat("<", 4089)}
		}, lambent.InvalidParameter, `Lambda was unable to configure your environment variables because the environment variables you have provided exceeded the 4KB limit. String measured: {"V":"` + strings.Repeat("<", 4089) + `"}`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := request(t, "f")
			c.edit(&r)
			_, err := b.CreateFunction(t.Context(), r)
			refuse(t, err, c.code, c.message)
		})
	}
	if page, err := b.ListFunctions(t.Context(), functions.ListFunctionsRequest{Account: account}); err != nil || len(page.Configurations) != 0 {
		t.Errorf("functions are there all the same: %+v, %v", page, err)
	}
	stored := 0
	if err := b.blobs.List(t.Context(), func(lambent.CodeRef) bool { stored++; return true }); err != nil || stored != 0 {
		t.Errorf("%d archives of refused requests are stored, %v", stored, err)
	}
}

// bomb is a small archive that says of itself that it unpacks to 250 MiB.
func bomb(t *testing.T) []byte {
	t.Helper()
	var buffer bytes.Buffer
	writer := zip.NewWriter(&buffer)
	header := &zip.FileHeader{Name: "zeros", Method: zip.Deflate, UncompressedSize64: 250 << 20, CompressedSize64: 1}
	file, err := writer.CreateRaw(header)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

func tags(n int) map[string]string {
	made := make(map[string]string)
	for i := range n {
		made[fmt.Sprintf("%d_key", i)] = fmt.Sprintf("%d_value", i)
	}
	return made
}

// TestEnvironmentAtTheLimit: 4,096 bytes of JSON are accepted.
func TestEnvironmentAtTheLimit(t *testing.T) {
	b := newBench(t)
	r := request(t, "f")
	r.Environment = &map[string]string{"LARGE_VAR": strings.Repeat("x", 4080)}
	c, err := b.CreateFunction(t.Context(), r)
	if err != nil || len(c.Environment["LARGE_VAR"]) != 4080 {
		t.Errorf("%v", err)
	}
}

// TestSettleWithoutCode: a function whose code is lost fails instead of being invoked.
func TestSettleWithoutCode(t *testing.T) {
	b := newBench(t)
	forgetful := openService(t, functions.Options{Meta: b.meta, Blobs: forgetful{b.blobs}})
	if _, err := forgetful.CreateFunction(t.Context(), request(t, "f")); err != nil {
		t.Fatal(err)
	}
	c := b.settle(t, ref("f", ""))
	if c.State != lambent.StateFailed || c.StateReasonCode != "InternalError" || c.LastUpdateStatus != functions.UpdateFailed {
		t.Errorf("state %+v", c)
	}
}

// forgetful stores nothing.
type forgetful struct{ blob.Store }

func (f forgetful) Put(ctx context.Context, r io.Reader, limit int64) (lambent.CodeRef, error) {
	return lambent.CodeRef{}, nil
}
