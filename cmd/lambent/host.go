package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/cmd/lambent/region"
	"lambent/network"
	"lambent/runtimes"
	"lambent/sandbox"
	"lambent/sandbox/identity"
	"lambent/sandbox/remote"
	"lambent/sandbox/rootless"
)

// host is the privileged part of a region: it makes and destroys sandboxes, and nothing else. Everything that parses what clients
// and functions send is in the service, a process of an unprivileged user, which uses the sandboxes over a socket. The host reads
// from that: calls with an ID, limits and paths, which Sources checks.
type host struct {
	data     string
	logger   *slog.Logger
	network  *network.Network // nil: no egress
	runtimes *runtimes.Registry
	drivers  map[string]sandbox.Driver // by isolation; the workers of all zones share them
	offered  []lambent.Isolation       // that there are drivers for, the weakest first
}

// hostOptions say what sandboxes are like.
type hostOptions struct {
	data   string
	region string
	egress network.Policy
	allow  []netip.Prefix // private prefixes that egress may reach nevertheless
	deny   []netip.Prefix
	// isolation is the one that there has to be a driver for. The others are offered where the host can.
	isolation lambent.Isolation
	rootless  bool // this process is root of a user namespace only
	logger    *slog.Logger
}

// ownNamespace is the environment variable that says that this process has a mount namespace of its own.
const ownNamespace = "LAMBENT_MOUNT_NAMESPACE"

// enterNamespace starts this program anew in a mount namespace of its own, so that no mount of it is ever seen on the host, or left
// there. It returns in the new one.
func enterNamespace() error {
	if os.Getenv(ownNamespace) != "" {
		return nil
	}
	runtime.LockOSThread()
	if err := remote.EnterNamespace(); err != nil {
		return err
	}
	executable, err := os.Executable()
	if err != nil {
		return err
	}
	return fmt.Errorf("start in a mount namespace: %w", syscall.Exec(executable, os.Args, append(os.Environ(), ownNamespace+"=own")))
}

// openHost opens the network, finds the runtimes and opens the drivers. What an earlier start left is removed.
func openHost(ctx context.Context, o hostOptions) (_ *host, err error) {
	h := &host{data: o.data, logger: o.logger, drivers: map[string]sandbox.Driver{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	resolver, err := h.openNetwork(ctx, o)
	if err != nil {
		return nil, err
	}
	h.runtimes, err = runtimes.Open(runtimes.Options{Dir: filepath.Join(o.data, "runtimes"), Region: o.region, Resolver: resolver, Logger: o.logger})
	if err != nil {
		return nil, fmt.Errorf("find the runtimes: %w", err)
	}
	for _, isolation := range lambent.Isolations() {
		if err := h.openDriver(ctx, o, isolation); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// openNetwork opens the sandboxes' way out and returns the address of its name server. Without egress it removes what an earlier
// start with it left.
func (h *host) openNetwork(ctx context.Context, o hostOptions) (resolver netip.Addr, err error) {
	state := filepath.Join(o.data, "network")
	if o.rootless {
		return resolver, nil // the host's network is not this process's to change
	}
	if err := os.MkdirAll(state, 0o700); err != nil {
		return resolver, err
	}
	if o.egress == network.None {
		return resolver, network.Recover(state, nil)
	}
	h.network, err = network.Open(ctx, network.Options{StateDir: state, Policy: o.egress, Allow: o.allow, Deny: o.deny, Log: o.logger})
	if err != nil {
		return resolver, fmt.Errorf("open the functions' network (without one: --egress none): %w", err)
	}
	return h.network.Resolver(), nil
}

// openDriver opens the driver for an isolation, and recovers what an earlier start left. Where the host lacks what an isolation needs,
// that is not offered, and an error only when it is the one that functions run under.
func (h *host) openDriver(ctx context.Context, o hostOptions, isolation lambent.Isolation) error {
	made := driverOptions{stateDir: filepath.Join(o.data, "sandboxes", string(isolation)), runtimes: h.runtimes, logger: o.logger, rootless: o.rootless}
	if h.network != nil {
		made.network = h.network
	}
	if o.rootless {
		var err error
		if made.identityDir, err = rootless.LockDirectory(os.Getenv); err != nil {
			return err
		}
	}
	kind := driverKindOf(isolation)
	missing := kind.missing(made)
	if o.rootless && isolation != lambent.IsolationNative {
		missing = []string{noIsolationRootless}
	}
	if len(missing) > 0 {
		if isolation == o.isolation {
			return fmt.Errorf("this host cannot run functions under --isolation %s: %s (\"lambent doctor\" looks at all that is needed)",
				isolation, strings.Join(missing, "; "))
		}
		h.logger.Info("an isolation is not offered", "isolation", string(isolation), "missing", strings.Join(missing, "; "))
		return nil
	}
	driver, err := kind.open(made)
	if err != nil {
		return err
	}
	h.drivers[string(isolation)] = driver
	if err := driver.Recover(ctx); err != nil {
		return fmt.Errorf("clean up after an earlier start: %w", err)
	}
	h.offered = append(h.offered, isolation)
	return nil
}

// close destroys all sandboxes.
func (h *host) close() error {
	var all []error
	for _, driver := range h.drivers {
		all = append(all, driver.Close())
	}
	if h.network != nil {
		all = append(all, h.network.Close())
	}
	return errors.Join(all...)
}

// serviceDirectories are those below the data directory that belong to the service.
func serviceDirectories() []string {
	names := []string{"meta", "blob"}
	for _, zone := range region.Zones() {
		names = append(names, "worker-"+zone)
	}
	return names
}

// giveDirectories makes the service's directories, and gives it those that an earlier start of another user made.
func (h *host) giveDirectories() error {
	root, err := os.OpenRoot(h.data)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Chmod(".", 0o711); err != nil { // its names are known to everybody; what is in them is not
		return err
	}
	for _, name := range serviceDirectories() {
		if err := root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		info, err := root.Lstat(name)
		if err != nil {
			return err
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid == identity.ServiceID {
			continue
		}
		err = fs.WalkDir(root.FS(), name, func(path string, _ fs.DirEntry, err error) error {
			return errors.Join(err, root.Lchown(path, identity.ServiceID, identity.ServiceID))
		})
		if err != nil {
			return fmt.Errorf("give %s to the service: %w", name, err)
		}
	}
	return nil
}

// The service sees the data directory as its working directory, because nobody but root may pass through the directories above.
const serviceData = "/proc/self/cwd"

// sources says what the service may have mounted: what the runtimes consist of, and the code that its workers have unpacked.
func (h *host) sources() (func(string) (string, func(), error), error) {
	points := filepath.Join(h.data, "sources")
	if err := os.RemoveAll(points); err != nil { // of a start that was killed; its mounts went with its namespace
		return nil, err
	}
	if err := os.MkdirAll(points, 0o700); err != nil {
		return nil, err
	}
	var owned []string
	for _, zone := range region.Zones() {
		owned = append(owned, filepath.Join(h.data, "worker-"+zone))
	}
	sources := remote.NewSources(points, h.runtimes.Sources(), owned)
	return func(path string) (string, func(), error) {
		if rest, ok := strings.CutPrefix(path, serviceData+"/"); ok {
			path = filepath.Join(h.data, rest)
		}
		return sources.Source(path)
	}, nil
}

// The descriptors of the service beside the standard ones.
const (
	fdConfig = 3 + iota
	fdHost
	fdListen
	fdDNSPackets // with serviceConfig.DNS
	fdDNSStreams
)

// run starts the service with its configuration and the socket of the API, which it takes over, and makes sandboxes for it until it ends. When the
// context ends, the service is asked to end.
func (h *host) run(ctx context.Context, config serviceConfig, listen *os.File, proc *Process) error {
	if err := h.giveDirectories(); err != nil {
		return err
	}
	source, err := h.sources()
	if err != nil {
		return err
	}
	link, theirs, err := remote.Pair()
	if err != nil {
		return err
	}
	cmd, err := h.startService(config, theirs, listen, proc)
	if err != nil {
		return errors.Join(err, link.Close())
	}
	refuse := func(string) error { return errors.New("snapshots are not kept yet") }
	server := remote.NewServer(remote.Options{Drivers: h.drivers, Source: source, Directory: refuse, Logger: h.logger})
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(unix.SIGTERM) }) // one that has ended needs no signal
	defer stop()
	served := server.Serve(context.WithoutCancel(ctx), link)
	err = cmd.Wait() // it ends when its connection does
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == exitFailed:
		return errReported
	case err != nil:
		return fmt.Errorf("the service ended: %w", err)
	case served != nil && !errors.Is(served, io.EOF) && !errors.Is(served, unix.ECONNRESET):
		return served
	}
	return nil
}

// startService starts the service, which becomes an unprivileged user before it does anything else: as one it might not be allowed
// to execute this program, wherever that lies.
func (h *host) startService(config serviceConfig, theirs, listen *os.File, proc *Process) (*exec.Cmd, error) {
	defer theirs.Close()
	defer listen.Close()
	config.DNS = h.network != nil
	text, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	executable, err := os.Executable()
	if err != nil {
		writer.Close()
		return nil, err
	}
	cmd := exec.Command(executable, "service")
	cmd.Dir = h.data
	cmd.Env = serviceEnvironment(os.Environ())
	cmd.Stdout, cmd.Stderr = proc.Out, proc.Err
	cmd.ExtraFiles = []*os.File{reader, theirs, listen}
	if h.network != nil {
		packets, streams, err := h.network.DNS()
		if err != nil {
			writer.Close()
			return nil, err
		}
		defer packets.Close()
		defer streams.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, packets, streams)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's interrupt comes through this process, once
	if err := cmd.Start(); err != nil {
		writer.Close()
		return nil, fmt.Errorf("start the service: %w", err)
	}
	_, err = writer.Write(text)
	if err = errors.Join(err, writer.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("configure the service: %w", err), cmd.Process.Kill(), cmd.Wait())
	}
	return cmd, nil
}

// serviceEnvironment keeps what sets the Go runtime and the time zone.
func serviceEnvironment(all []string) []string {
	keep := []string{"GOGC", "GOMAXPROCS", "GOMEMLIMIT", "GODEBUG", "GOTRACEBACK", "TZ", "LANG"}
	return slices.DeleteFunc(slices.Clone(all), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return !slices.Contains(keep, name)
	})
}
