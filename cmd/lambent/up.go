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
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/network"
)

// UpCmd runs a whole region in this process.
type UpCmd struct {
	DataFlag
	Listen      string              `help:"Address of the API endpoint." default:"127.0.0.1:9070" placeholder:"HOST:PORT"`
	Account     string              `help:"Account of the region's caller, 12 digits (default: as before, at first 000000000000)." placeholder:"ID"`
	Region      string              `help:"Name of the region (default: as before, at first us-east-1)."`
	Credentials string              `help:"Access key that callers sign with (default: as before, at first a generated one)." placeholder:"ID:SECRET"`
	Concurrency int                 `help:"Concurrent executions that the account may have." default:"1000"`
	Isolation   lambent.Isolation   `help:"What functions run under that ask for nothing else by the tag lambent:isolation: native, gvisor or microvm." enum:"native,gvisor,microvm" default:"native"`
	Least       lambent.Isolation   `name:"least-isolation" help:"The weakest isolation that a function may ask for (default: that of --isolation)." enum:",native,gvisor,microvm" default:""`
	ShareHosts  []lambent.Isolation `help:"Isolations under which functions of different accounts may run on one host." enum:"native,gvisor,microvm" default:"gvisor,microvm"`
	Egress      network.Policy      `help:"What functions may reach: none, internet (public addresses), all (private ones too). Never this host itself, other functions or metadata services. Default: internet; none without root." enum:",none,internet,all" default:""`
	EgressAllow []netip.Prefix      `help:"Private addresses that functions may reach with --egress internet." placeholder:"CIDR"`
	EgressDeny  []netip.Prefix      `help:"Addresses that functions may not reach." placeholder:"CIDR"`
	Drain       time.Duration       `help:"How long running invokes may take to finish after SIGTERM." default:"20s"`
	LogLevel    slog.Level          `help:"Least level of the region's own log on stderr (debug, info, warn, error)." default:"warn"`
	Quiet       bool                `help:"Do not print how to reach the region."`
}

// Run starts the privileged part and the service, and waits until they have ended; when the context ends, the service drains.
func (c *UpCmd) Run(ctx context.Context, proc *Process) error {
	inside, done, err := c.enterRootless(ctx, proc)
	if done || err != nil {
		return err
	}
	data, err := c.Dir(proc.Getenv)
	if err != nil {
		return err
	}
	if c.Least != "" && c.Isolation.WeakerThan(c.Least) {
		return fmt.Errorf("--isolation %s is weaker than --least-isolation %s: give both, and the first no weaker than the second", c.Isolation, c.Least)
	}
	if c.Egress != network.Internet && len(c.EgressAllow) > 0 {
		return fmt.Errorf("--egress-allow names what --egress internet lets functions reach beside public addresses; --egress is %s", c.Egress)
	}
	if err := enterNamespace(); err != nil {
		return err
	}
	if inside {
		followRootless(proc)
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
	socket, address, err := bindTo(c.Listen)
	if err != nil {
		return fmt.Errorf("listen on %s (choose another address with --listen): %w", c.Listen, err)
	}
	logger := slog.New(slog.NewTextHandler(proc.Err, &slog.HandlerOptions{Level: c.LogLevel}))
	h, err := openHost(ctx, hostOptions{data: data, region: endpoint.Region, egress: c.egress(inside), allow: c.EgressAllow, deny: c.EgressDeny,
		isolation: c.Isolation, rootless: inside, logger: logger})
	if err != nil {
		return errors.Join(err, socket.Close())
	}
	endpoint.Endpoint = "http://" + reachable(address)
	endpoint.Runtimes = nil
	for _, a := range h.runtimes.Available() {
		endpoint.Runtimes = append(endpoint.Runtimes, a.Name)
	}
	err = writeEndpoint(data, endpoint)
	if err == nil {
		err = h.run(ctx, serviceConfig{Data: data, Endpoint: endpoint, Concurrency: c.Concurrency,
			Offered: h.offered, Isolation: c.Isolation, Least: c.Least, Shared: c.ShareHosts, Drain: c.Drain, LogLevel: c.LogLevel,
			Quiet: c.Quiet, Runtimes: h.runtimes}, socket, proc)
	}
	socket.Close()
	return errors.Join(err, h.close())
}

// reachable is where clients of this host reach what listens on an address.
func reachable(address net.Addr) string {
	if tcp, ok := address.(*net.TCPAddr); ok && tcp.IP.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(tcp.Port))
	}
	return address.String()
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
func greet(out io.Writer, data string, e Endpoint, isolations string) {
	fmt.Fprintf(out, `Lambent listens on %s (region %s, account %s).
Data: %s
Runtimes: %s
Isolation: %s

Point any AWS client at it:
  eval "$(lambent env --data %s)"
  aws lambda list-functions
`, e.Endpoint, e.Region, e.Account, data, strings.Join(e.Runtimes, ", "), isolations, shellQuote(data))
}
