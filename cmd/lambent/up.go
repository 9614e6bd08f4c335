package main

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"lambent/api"
	"lambent/cmd/lambent/region"
)

// UpCmd runs a whole region in this process.
type UpCmd struct {
	DataFlag
	Listen      string        `help:"Address of the API endpoint." default:"127.0.0.1:9070" placeholder:"HOST:PORT"`
	Account     string        `help:"Account of the region's caller, 12 digits (default: as before, at first 000000000000)." placeholder:"ID"`
	Region      string        `help:"Name of the region (default: as before, at first us-east-1)."`
	Credentials string        `help:"Access key that callers sign with (default: as before, at first a generated one)." placeholder:"ID:SECRET"`
	Concurrency int           `help:"Concurrent executions that the account may have." default:"1000"`
	Drain       time.Duration `help:"How long running invokes may take to finish after SIGTERM." default:"20s"`
	LogLevel    slog.Level    `help:"Least level of the region's own log on stderr (debug, info, warn, error)." default:"warn"`
	Quiet       bool          `help:"Do not print how to reach the region."`
}

// Run starts the region, says how to reach it, and serves until the context ends; then it drains.
func (c *UpCmd) Run(ctx context.Context, proc *Process) error {
	data, err := c.Dir(proc.Getenv)
	if err != nil {
		return err
	}
	unlock, err := lockData(data)
	if err != nil {
		return err
	}
	defer unlock()
	endpoint, err := c.endpoint(data)
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewTextHandler(proc.Err, &slog.HandlerOptions{Level: c.LogLevel}))
	r, err := region.Open(ctx, region.Options{
		Dir: data, Account: endpoint.Account, Region: endpoint.Region, AccountConcurrency: c.Concurrency,
		AccessKeyID: endpoint.AccessKeyID, SecretAccessKey: endpoint.SecretAccessKey, Logger: logger,
	})
	if err != nil {
		return err
	}
	if err := c.open(ctx, r, endpoint, proc, data, logger); err != nil {
		return errors.Join(err, r.Close(context.WithoutCancel(ctx)))
	}
	return nil
}

// open listens, tells how to reach the region, and serves. The port is opened last: who can connect is served.
func (c *UpCmd) open(ctx context.Context, r *region.Region, endpoint Endpoint, proc *Process, data string, logger *slog.Logger) error {
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("listen on %s (choose another address with --listen): %w", c.Listen, err)
	}
	defer listener.Close()
	endpoint.Endpoint = "http://" + listener.Addr().String()
	endpoint.Runtimes = nil
	for _, a := range r.Runtimes() {
		endpoint.Runtimes = append(endpoint.Runtimes, a.Name)
	}
	if err := writeEndpoint(data, endpoint); err != nil {
		return err
	}
	if !c.Quiet {
		greet(proc.Out, data, endpoint)
	}
	return c.serve(ctx, listener, r, logger)
}

// serve answers requests until ctx ends, lets running ones finish, and closes the region.
func (c *UpCmd) serve(ctx context.Context, listener net.Listener, r *region.Region, logger *slog.Logger) error {
	server := api.NewServer(r.API, logger)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.Drain)
	defer cancel()
	return errors.Join(err, server.Shutdown(drain), r.Close(drain))
}

// endpoint settles what the region is called and who may call it: flags before what an earlier start wrote, before
// defaults.
func (c *UpCmd) endpoint(data string) (Endpoint, error) {
	e, err := readEndpoint(data)
	if errors.Is(err, os.ErrNotExist) {
		e = Endpoint{Region: "us-east-1", Account: "000000000000"}
		e.AccessKeyID, e.SecretAccessKey = newCredentials()
	} else if err != nil {
		return Endpoint{}, err
	}
	if c.Credentials != "" {
		id, secret, ok := strings.Cut(c.Credentials, ":")
		if !ok || id == "" || secret == "" {
			return Endpoint{}, errors.New("--credentials wants ID:SECRET")
		}
		e.AccessKeyID, e.SecretAccessKey = id, secret
	}
	if c.Region != "" {
		e.Region = c.Region
	}
	if c.Account != "" {
		e.Account = c.Account
	}
	if len(e.Account) != 12 || strings.Trim(e.Account, "0123456789") != "" {
		return Endpoint{}, fmt.Errorf("--account wants 12 digits, not %q", e.Account)
	}
	return e, nil
}

// newCredentials makes an access key of AWS's form.
func newCredentials() (id, secret string) {
	var random [10 + 30]byte
	rand.Read(random[:])
	return "AKIA" + base32.StdEncoding.EncodeToString(random[:10]), base64.StdEncoding.EncodeToString(random[10:])
}

// lockData makes sure that no other process uses the data directory. The kernel ends the lock with the process.
func lockData(data string) (unlock func(), err error) {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(data, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another \"lambent up\" runs on %s: stop it, or choose another directory with --data", data)
	}
	return func() { f.Close() }, nil
}

// greet tells a person how to use the region.
func greet(out io.Writer, data string, e Endpoint) {
	fmt.Fprintf(out, `Lambent listens on %s (region %s, account %s).
Data: %s
Runtimes: %s

Point any AWS client at it:
  eval "$(lambent env --data %s)"
  aws lambda list-functions
`, e.Endpoint, e.Region, e.Account, data, strings.Join(e.Runtimes, ", "), shellQuote(data))
}
