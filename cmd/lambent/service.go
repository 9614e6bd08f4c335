package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/api"
	"lambent/cmd/lambent/region"
	"lambent/network"
	"lambent/runtimes"
	"lambent/sandbox"
	"lambent/sandbox/identity"
	"lambent/sandbox/native"
	"lambent/sandbox/remote"
)

// serviceConfig is what the privileged part tells the service.
type serviceConfig struct {
	Data        string // as people know it
	Endpoint    Endpoint
	Concurrency int
	Offered     []lambent.Isolation // that the host has drivers for
	Isolation   lambent.Isolation   // of functions that ask for none
	Least       lambent.Isolation   // that functions may ask for
	Shared      []lambent.Isolation // under which accounts share hosts
	Drain       time.Duration
	LogLevel    slog.Level
	Quiet       bool
	Runtimes    *runtimes.Registry
	DNS         bool // the name server of sandboxes is to be served
}

// ServiceCmd is the service of a region. Lambent starts it by itself.
type ServiceCmd struct{}

// Run takes what the privileged part has handed down, gives up what rights there are, and serves until the context ends or the
// privileged part is gone.
func (c *ServiceCmd) Run(ctx context.Context, proc *Process) error {
	config, err := readConfig()
	if err != nil {
		return err
	}
	link, err := remote.NewUnix(os.NewFile(fdHost, "host"))
	if err != nil {
		return err
	}
	if err := dropRights(); err != nil {
		return err
	}
	client := remote.Dial(link)
	defer client.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		<-client.Done()
		cancel(remote.ErrGone)
	}()
	logger := slog.New(slog.NewTextHandler(proc.Err, &slog.HandlerOptions{Level: config.LogLevel}))
	if config.DNS {
		stop, err := serveDNS(ctx, logger)
		if err != nil {
			return err
		}
		defer stop()
	}
	r, err := region.Open(ctx, region.Options{
		Dir: serviceData, Account: config.Endpoint.Account, Region: config.Endpoint.Region, AccountConcurrency: config.Concurrency,
		AccessKeyID: config.Endpoint.AccessKeyID, SecretAccessKey: config.Endpoint.SecretAccessKey, Logger: logger,
		Runtimes: config.Runtimes, Isolation: config.Isolation, LeastIsolation: config.Least, OfferedIsolations: config.Offered, SharedHosts: config.Shared,
		Drivers: func() map[lambent.Isolation]sandbox.Driver {
			drivers := map[lambent.Isolation]sandbox.Driver{}
			for _, isolation := range config.Offered {
				drivers[isolation] = client.Driver(string(isolation))
			}
			return drivers
		},
	})
	if err != nil {
		return err
	}
	return config.serve(ctx, r, proc, logger)
}

// isolations lists what functions may run under, the region's own first.
func (c *serviceConfig) isolations() string {
	names := []string{string(c.Isolation) + " (unless a function asks for another)"}
	for _, isolation := range c.Offered {
		if isolation != c.Isolation && !isolation.WeakerThan(cmp.Or(c.Least, c.Isolation)) {
			names = append(names, string(isolation))
		}
	}
	return strings.Join(names, ", ")
}

// serveDNS answers what sandboxes ask their name server, until the returned function is called.
func serveDNS(ctx context.Context, logger *slog.Logger) (stop func(), err error) {
	packets, streams, err := network.Sockets(os.NewFile(fdDNSPackets, "dns"), os.NewFile(fdDNSStreams, "dns"))
	if err != nil {
		return nil, fmt.Errorf("take the name server's sockets: %w", err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // functions that drain still ask
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := network.ServeDNS(ctx, packets, streams, network.DNSOptions{Log: logger}); err != nil {
			logger.Error("the functions' name server has ended", "error", err)
		}
	}()
	return func() { cancel(); <-done }, nil
}

// dropRights makes all threads of the process the service's user, without capabilities, under the functions' system call filter.
func dropRights() error {
	for capability := uintptr(0); capability <= unix.CAP_LAST_CAP; capability++ {
		if _, _, errno := syscall.AllThreadsSyscall(syscall.SYS_PRCTL, unix.PR_CAPBSET_DROP, capability, 0); errno != 0 && errno != unix.EINVAL {
			return fmt.Errorf("drop capabilities: %w", errno)
		}
	}
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("become the service's user: %w", err)
	}
	if err := syscall.Setresgid(identity.ServiceID, identity.ServiceID, identity.ServiceID); err != nil {
		return fmt.Errorf("become the service's user: %w", err)
	}
	if err := syscall.Setresuid(identity.ServiceID, identity.ServiceID, identity.ServiceID); err != nil {
		return fmt.Errorf("become the service's user: %w", err)
	}
	return native.ConfineProcess()
}

func readConfig() (serviceConfig, error) {
	var config serviceConfig
	file := os.NewFile(fdConfig, "configuration")
	if _, err := file.Stat(); err != nil {
		return config, errors.New("this command is started by \"lambent up\" only")
	}
	defer file.Close()
	if err := json.NewDecoder(file).Decode(&config); err != nil {
		return config, fmt.Errorf("read the configuration: %w", err)
	}
	return config, nil
}

// serve begins to listen, tells how to reach the region, answers requests until ctx ends, lets running ones finish, and closes the
// region. It listens last: who can connect is served.
func (c *serviceConfig) serve(ctx context.Context, r *region.Region, proc *Process, logger *slog.Logger) error {
	listener, err := listenOn(fdListen)
	if err != nil {
		return errors.Join(err, r.Close(context.WithoutCancel(ctx)))
	}
	defer listener.Close()
	if !c.Quiet {
		greet(proc.Out, c.Data, c.Endpoint, c.isolations())
	}
	server := api.NewServer(r.API, logger)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case <-ctx.Done():
		if errors.Is(context.Cause(ctx), remote.ErrGone) {
			return remote.ErrGone // with its sandboxes; there is nothing to drain
		}
	case err = <-failed:
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.Drain)
	defer cancel()
	return errors.Join(err, server.Shutdown(drain), r.Close(drain))
}

// bindTo makes a socket that has the address and does not listen yet.
func bindTo(address string) (*os.File, net.Addr, error) {
	var socket *os.File
	// Package net binds and listens in one go, so it is asked for no more than to resolve the address.
	resolved, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, nil, err
	}
	family, sockaddr := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: resolved.Port})
	switch ip4 := resolved.IP.To4(); {
	case ip4 != nil:
		family, sockaddr = unix.AF_INET, &unix.SockaddrInet4{Port: resolved.Port, Addr: [4]byte(ip4)}
	case resolved.IP != nil:
		sockaddr = &unix.SockaddrInet6{Port: resolved.Port, Addr: [16]byte(resolved.IP)}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	socket = os.NewFile(uintptr(fd), "api")
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		socket.Close()
		return nil, nil, err
	}
	if err := unix.Bind(fd, sockaddr); err != nil {
		socket.Close()
		return nil, nil, err
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		socket.Close()
		return nil, nil, err
	}
	bound := &net.TCPAddr{IP: resolved.IP}
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		bound.Port = name.Port
	case *unix.SockaddrInet6:
		bound.Port = name.Port
	}
	return socket, bound, nil
}

// backlog is how many connections may wait to be accepted.
const backlog = 4096

// listenOn listens on a socket of bindTo.
func listenOn(fd int) (net.Listener, error) {
	socket := os.NewFile(uintptr(fd), "api")
	defer socket.Close()
	if err := unix.Listen(fd, backlog); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return net.FileListener(socket)
}
