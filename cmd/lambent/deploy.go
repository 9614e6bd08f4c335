package main

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"lambent"
)

// activeWithin is how long deploy waits for a function to become active, or for an update to be done.
const activeWithin = 2 * time.Minute

// DeployCmd creates a function, or updates the one of the same name.
type DeployCmd struct {
	ClientFlags
	Path    string            `arg:"" type:"path" help:"Directory or zip archive of the function."`
	Name    string            `help:"Name of the function (default: that of the directory or archive)."`
	Runtime string            `help:"Runtime, such as python3.11 (default: guessed from the files)." placeholder:"R"`
	Handler string            `help:"Handler, such as app.handler (default: guessed from the files)." placeholder:"H"`
	Memory  int32             `help:"Memory in MB, 128 to 10240." placeholder:"MB"`
	Timeout time.Duration     `help:"Timeout, such as 30s, up to 15m." placeholder:"D"`
	Env     map[string]string `help:"Environment variable of the function; replaces all that it has. May be repeated." placeholder:"K=V" mapsep:"none"`
	Role    string            `help:"ARN of the function's role." placeholder:"ARN"`
	Isolate lambent.Isolation `name:"isolation" help:"What the function runs under, the tag lambent:isolation: native, gvisor or microvm (default: as before, at first the region's)." enum:",native,gvisor,microvm" default:"" placeholder:"NAME"`
}

// plan is all that a deployment will send.
type plan struct {
	name    string
	runtime string
	handler string
	archive []byte
}

// Run finds out what the function is, packs it, sends it, and waits until it can be invoked.
func (c *DeployCmd) Run(ctx context.Context, proc *Process) error {
	client, err := c.Open(proc.Getenv)
	if err != nil {
		return err
	}
	if c.Timeout%time.Second != 0 {
		return errors.New("the timeout has to be whole seconds")
	}
	show := newProgress(proc.Err)
	plan, notes, err := c.prepare(ctx, show, client.Endpoint.Runtimes)
	var fn *lambda.GetFunctionConfigurationOutput
	if err == nil {
		fn, err = c.send(ctx, client, show, plan)
	}
	show.close()
	for _, note := range notes {
		fmt.Fprintln(proc.Err, "note:", note)
	}
	if err != nil {
		return client.explain(err)
	}
	return c.summarise(proc, fn)
}

func (c *DeployCmd) summarise(proc *Process, fn *lambda.GetFunctionConfigurationOutput) error {
	name := aws.ToString(fn.FunctionName)
	where := ""
	if c.Data != "" {
		where = " --data " + shellQuote(c.Data)
	}
	_, err := fmt.Fprintf(proc.Out, "%s is ready\n  ARN      %s\n  runtime  %s, handler %s\n  code     %s, sha256 %s\nnext: lambent invoke%s %s -d '{}'\n",
		name, aws.ToString(fn.FunctionArn), fn.Runtime, aws.ToString(fn.Handler), byteSize(fn.CodeSize), aws.ToString(fn.CodeSha256), where, name)
	return err
}

// prepare reads the directory or archive and makes the plan. Offered are the region's runtimes, none if they are not known.
func (c *DeployCmd) prepare(ctx context.Context, show *progress, offered []string) (plan, []string, error) {
	info, err := os.Stat(c.Path)
	if err != nil {
		return plan{}, nil, fmt.Errorf("read the function: %w", err)
	}
	p := plan{name: or(c.Name, functionName(c.Path))}
	var files fs.FS
	if info.IsDir() {
		files = os.DirFS(c.Path)
	} else if p.archive, files, err = openArchive(c.Path); err != nil {
		return plan{}, nil, err
	}
	found, err := guess(files, c.Runtime, c.Handler)
	if err != nil {
		return plan{}, nil, err
	}
	p.handler = found.Handler
	if p.runtime = c.Runtime; p.runtime == "" {
		if len(offered) == 0 {
			offered = hostRuntimes(ctx)
		}
		if p.runtime, err = chooseRuntime(found.Kind, offered); err != nil {
			return plan{}, nil, err
		}
	}
	if p.archive == nil {
		p.archive, err = c.pack(ctx, show, files, found.Kind)
	}
	return p, found.Notes, err
}

// functionName makes a function's name of a path.
func functionName(path string) string {
	base := filepath.Base(path)
	base = strings.TrimSuffix(base, filepath.Ext(base))
	return strings.Trim(regexp.MustCompile(`[^a-zA-Z0-9_-]+`).ReplaceAllString(base, "-"), "-")
}

func openArchive(path string) ([]byte, fs.FS, error) {
	archive, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read the archive: %w", err)
	}
	files, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		return nil, nil, fmt.Errorf("%s is neither a directory nor a zip archive: %w", path, err)
	}
	return archive, files, checkZipSize(len(archive))
}

// pack makes the archive of a directory. Go source is built, and the program is all that is packed.
func (c *DeployCmd) pack(ctx context.Context, show *progress, files fs.FS, kind Kind) ([]byte, error) {
	if kind == KindGo {
		dir, err := os.MkdirTemp("", "lambent-build-")
		if err != nil {
			return nil, fmt.Errorf("make a directory to build in: %w", err)
		}
		defer os.RemoveAll(dir)
		building := show.begin("building with go build", 0)
		err = buildGo(ctx, c.Path, filepath.Join(dir, "bootstrap"))
		building.end(err)
		if err != nil {
			return nil, err
		}
		files = os.DirFS(dir)
	}
	packing := show.begin("packing", 0)
	archive, err := bundle(files)
	packing.end(err)
	return archive, err
}

// buildGo builds the main package of a directory into a static program for this host's processor.
func buildGo(ctx context.Context, dir, program string) error {
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", "lambda.norpc", "-ldflags", "-s -w", "-o", program, ".")
	build.Dir = dir
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+runtime.GOARCH)
	output, err := build.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return errors.New("the function is Go source and there is no go command: install Go, or deploy a directory that holds the program under the name bootstrap")
	}
	if err != nil {
		return fmt.Errorf("go build failed:\n%s", bytes.TrimSpace(output))
	}
	return nil
}

// send creates or updates the function and waits until it is ready.
func (c *DeployCmd) send(ctx context.Context, client *Client, show *progress, p plan) (*lambda.GetFunctionConfigurationOutput, error) {
	there, err := client.Lambda.GetFunctionConfiguration(ctx, &lambda.GetFunctionConfigurationInput{FunctionName: &p.name})
	switch {
	case notFound(err):
		err = c.create(ctx, client, show, p)
	case err == nil:
		err = c.update(ctx, client, show, p, there.FunctionArn)
	}
	if err != nil {
		return nil, err
	}
	return client.Lambda.GetFunctionConfiguration(ctx, &lambda.GetFunctionConfigurationInput{FunctionName: &p.name})
}

func (c *DeployCmd) create(ctx context.Context, client *Client, show *progress, p plan) error {
	architecture := types.ArchitectureX8664
	if runtime.GOARCH == "arm64" {
		architecture = types.ArchitectureArm64
	}
	in := &lambda.CreateFunctionInput{
		FunctionName:  &p.name,
		Runtime:       types.Runtime(p.runtime),
		Handler:       &p.handler,
		Role:          aws.String(or(c.Role, "arn:aws:iam::"+or(client.Endpoint.Account, "000000000000")+":role/lambent")),
		Code:          &types.FunctionCode{ZipFile: p.archive},
		Architectures: []types.Architecture{architecture},
		Environment:   c.environment(),
		MemorySize:    c.memory(),
		Timeout:       c.timeout(),
		Tags:          c.tags(),
	}
	err := upload(client, show, p.archive, func() error {
		_, err := client.Lambda.CreateFunction(ctx, in)
		return err
	})
	if err != nil {
		return err
	}
	return c.wait(show, func() error {
		waiter := lambda.NewFunctionActiveV2Waiter(client.Lambda, func(o *lambda.FunctionActiveV2WaiterOptions) { o.MinDelay = 100 * time.Millisecond })
		return waiter.Wait(ctx, &lambda.GetFunctionInput{FunctionName: &p.name}, activeWithin)
	})
}

func (c *DeployCmd) update(ctx context.Context, client *Client, show *progress, p plan, arn *string) error {
	updated := func() error {
		return c.wait(show, func() error {
			waiter := lambda.NewFunctionUpdatedV2Waiter(client.Lambda, func(o *lambda.FunctionUpdatedV2WaiterOptions) { o.MinDelay = 100 * time.Millisecond })
			return waiter.Wait(ctx, &lambda.GetFunctionInput{FunctionName: &p.name}, activeWithin)
		})
	}
	err := upload(client, show, p.archive, func() error {
		_, err := client.Lambda.UpdateFunctionCode(ctx, &lambda.UpdateFunctionCodeInput{FunctionName: &p.name, ZipFile: p.archive})
		return err
	})
	if err != nil {
		return err
	}
	if err := updated(); err != nil {
		return err
	}
	if tags := c.tags(); tags != nil {
		if _, err := client.Lambda.TagResource(ctx, &lambda.TagResourceInput{Resource: arn, Tags: tags}); err != nil {
			return err
		}
	}
	_, err = client.Lambda.UpdateFunctionConfiguration(ctx, &lambda.UpdateFunctionConfigurationInput{
		FunctionName: &p.name,
		Runtime:      types.Runtime(p.runtime),
		Handler:      &p.handler,
		Role:         optional(c.Role),
		Environment:  c.environment(),
		MemorySize:   c.memory(),
		Timeout:      c.timeout(),
	})
	if err != nil {
		return err
	}
	return updated()
}

// upload runs a call whose body is an archive, and shows how far it has come.
func upload(client *Client, show *progress, archive []byte, call func() error) error {
	sending := show.begin("uploading "+byteSize(int64(len(archive))), int64(base64.StdEncoding.EncodedLen(len(archive))))
	plain := client.HTTP.Transport
	client.HTTP.Transport = &meteredTransport{plain, sending.add}
	err := call()
	client.HTTP.Transport = plain
	sending.end(err)
	return err
}

func (c *DeployCmd) wait(show *progress, wait func() error) error {
	waiting := show.begin("waiting until it is ready", 0)
	err := wait()
	waiting.end(err)
	return err
}

// environment, memory, timeout and tags return what was asked for, nil for nothing.
func (c *DeployCmd) environment() *types.Environment {
	if c.Env == nil {
		return nil
	}
	return &types.Environment{Variables: c.Env}
}

func (c *DeployCmd) memory() *int32 {
	if c.Memory == 0 {
		return nil
	}
	return &c.Memory
}

func (c *DeployCmd) timeout() *int32 {
	if c.Timeout == 0 {
		return nil
	}
	return aws.Int32(int32(c.Timeout / time.Second))
}

func (c *DeployCmd) tags() map[string]string {
	if c.Isolate == "" {
		return nil
	}
	return map[string]string{lambent.IsolationTag: string(c.Isolate)}
}

// hostRuntimes asks the interpreters of this host for their versions and returns the names of the runtimes that they make.
// It stands in for a region's own list where only the region's address is known.
func hostRuntimes(ctx context.Context) []string {
	var names []string
	for _, interpreter := range []struct{ program, pattern, format string }{
		{"python3", `Python (\d+\.\d+)`, "python%s"},
		{"node", `v(\d+)\.`, "nodejs%s.x"},
	} {
		output, err := exec.CommandContext(ctx, interpreter.program, "--version").Output()
		if match := regexp.MustCompile(interpreter.pattern).FindSubmatch(output); err == nil && match != nil {
			names = append(names, fmt.Sprintf(interpreter.format, match[1]))
		}
	}
	return names
}
