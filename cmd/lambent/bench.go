package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"lambent/bench"
	"lambent/runtimes"
)

// BenchCmd measures a region of its own on this host, beside floors of the same run.
type BenchCmd struct {
	Length    time.Duration `help:"Length of each measurement." default:"5s"`
	Clients   []int         `help:"Numbers of clients." default:"1,16,64"`
	Starts    int           `help:"Cold starts per runtime." default:"20"`
	Function  string        `help:"Binary of the echo function for provided runtimes (default: build it with the go command)." type:"existingfile"`
	Markdown  string        `help:"Write the report to this file as well." type:"path"`
	JSON      string        `help:"Write the figures to this file as JSON." type:"path" name:"json"`
	EchoFloor bool          `hidden:"" help:"Serve the net/http floor and nothing else."`
}

// Run starts a region and the net/http floor as processes of their own, measures, and stops them.
func (c *BenchCmd) Run(ctx context.Context, proc *Process) error {
	if c.EchoFloor {
		return bench.ServeEcho(ctx, proc.Out)
	}
	dir, err := os.MkdirTemp("", "lambent-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if c.Function == "" {
		if c.Function, err = buildEcho(ctx, dir); err != nil {
			return err
		}
	}
	echoAddr, stopEcho, err := startEchoFloor(ctx)
	if err != nil {
		return err
	}
	defer stopEcho()
	endpoint, stopRegion, err := startRegion(ctx, filepath.Join(dir, "data"), proc.Err)
	if err != nil {
		return err
	}
	defer stopRegion()
	names, err := newestRuntimes(filepath.Join(dir, "runtimes"))
	if err != nil {
		return err
	}
	result, err := bench.Run(ctx, bench.Options{
		Endpoint: endpoint.Endpoint, Region: endpoint.Region,
		Credentials: aws.Credentials{AccessKeyID: endpoint.AccessKeyID, SecretAccessKey: endpoint.SecretAccessKey},
		EchoAddr:    echoAddr, Bootstrap: c.Function, Length: c.Length, Clients: c.Clients, ColdStarts: c.Starts,
		Runtimes: names, Progress: proc.Err,
	})
	if err != nil {
		return err
	}
	return c.report(result, proc.Out)
}

func (c *BenchCmd) report(result *bench.Result, out io.Writer) error {
	result.Markdown(out)
	var errs []error
	save := func(path string, write func(io.Writer) error) {
		if path == "" {
			return
		}
		f, err := os.Create(path)
		if err == nil {
			err = errors.Join(write(f), f.Close())
		}
		errs = append(errs, err)
	}
	save(c.Markdown, result.Report)
	save(c.JSON, result.JSON)
	return errors.Join(errs...)
}

func buildEcho(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "bootstrap")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "lambent/bench/functions/echo")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the echo function (run this in Lambent's source tree, or give --function): %w\n%s", err, out)
	}
	return path, nil
}

// startSelf starts this binary with other arguments. The returned function asks it to end and waits.
func startSelf(ctx context.Context, stdout, stderr io.Writer, args ...string) (func(), error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() {
		// A process that has ended by itself has said why on stderr.
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}, nil
}

func startEchoFloor(ctx context.Context) (addr string, stop func(), err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", nil, err
	}
	defer r.Close()
	stop, err = startSelf(ctx, w, os.Stderr, "bench", "--echo-floor")
	w.Close()
	if err != nil {
		return "", nil, err
	}
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		stop()
		return "", nil, fmt.Errorf("the net/http floor did not start: %w", err)
	}
	return strings.TrimSpace(line), stop, nil
}

// startRegion runs "lambent up" on a free port and waits until it listens.
func startRegion(ctx context.Context, data string, stderr io.Writer) (Endpoint, func(), error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return Endpoint{}, nil, err
	}
	addr := listener.Addr().String()
	listener.Close()
	stop, err := startSelf(ctx, io.Discard, stderr, "up", "--data", data, "--listen", addr, "--quiet")
	if err != nil {
		return Endpoint{}, nil, err
	}
	dialer := net.Dialer{}
	for began := time.Now(); time.Since(began) < 20*time.Second; {
		if conn, err := dialer.DialContext(ctx, "tcp", addr); err == nil {
			conn.Close()
			if endpoint, err := readEndpoint(data); err == nil {
				return endpoint, stop, nil
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond): // another process's port gives no signal
		}
	}
	stop()
	return Endpoint{}, nil, errors.New("the region did not start within 20 s")
}

// newestRuntimes names the newest Python and Node.js of the host.
func newestRuntimes(dir string) ([]string, error) {
	registry, err := runtimes.Open(runtimes.Options{Dir: dir})
	if err != nil {
		return nil, err
	}
	newest := map[string]string{}
	for _, a := range registry.Available() {
		family := strings.TrimRight(a.Name, "0123456789.x")
		if old := newest[family]; len(a.Name) > len(old) || len(a.Name) == len(old) && a.Name > old {
			newest[family] = a.Name
		}
	}
	var names []string
	for _, family := range []string{"python", "nodejs"} {
		if name, ok := newest[family]; ok {
			names = append(names, name)
		}
	}
	return names, nil
}
