package runtimes

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"lambent"
	"lambent/sandbox"
)

// Options says where to look and what to write.
type Options struct {
	// Dir is where the bootstraps, the synthesised /etc and what is known of the interpreters are kept. It is made when it
	// is missing. Running sandboxes show parts of it, so it must outlive them. Required.
	Dir string
	// Region is the region's name: AWS_REGION of every function, and a part of runtime ARNs. Default "us-east-1".
	Region string
	// Path is a list of directories to look for interpreters in, before the usual places. Default: the variable PATH.
	Path string
	// Home is where version managers (pyenv, nvm, ...) keep their directories, unless their own variables say otherwise.
	// Default: the user's home directory.
	Home string
	// Resolver is the address of the name server in functions' /etc/resolv.conf. Default: one that nobody answers at, for
	// sandboxes without a network.
	Resolver netip.Addr
	// Logger is told about interpreters that cannot be used. Default: nothing is logged.
	Logger *slog.Logger
}

// Registry holds what this host can run. It does not change, and is safe for use by many goroutines.
type Registry struct {
	region       string
	base         []sandbox.Mount
	interpreters map[string]interpreter // by the name of the runtime
}

// Available is a runtime that this host can run.
type Available struct {
	Name        string // "python3.11"
	Interpreter string // path on the host; empty for provided runtimes
	Version     string // "3.11.7"; empty for provided runtimes
}

// Launch is what a worker needs to start a function version's runtime in a specialised sandbox.
//
// Command.Env holds all that depends on the runtime and the function version, the function's own variables included. The
// worker adds what belongs to the one sandbox: AWS_LAMBDA_RUNTIME_API, AWS_LAMBDA_LOG_STREAM_NAME, AWS_ACCESS_KEY_ID,
// AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and AWS_LAMBDA_INITIALIZATION_TYPE; none of them is set here, whatever the
// function's variables say. _X_AMZN_TRACE_ID is the bootstrap's, at each invoke.
type Launch struct {
	Command sandbox.Command
	// Class is the runtime class: sandboxes that are made ahead for one version of a class fit the others.
	Class string
	// Warm, where it is not nil, is started in place of Command in sandboxes of the class, before their function is known: in a
	// root without Mounts, without the function's code and variables. It loads what every function of the class needs, connects
	// to sandbox.RuntimeAPIAddress over TCP, and reads there its environment, NAME=value with a zero byte at each one's end,
	// until the end of the connection. Then it is what Command would have started: the code and Mounts are there, and it goes
	// on in Command.Dir. It writes nothing before. After a reset, and where no such sandbox is ready, Command is started.
	Warm *sandbox.Command
	// Entrypoints, for provided runtimes, are the programs to start, in the order in which Lambda looks for them; Command is
	// that of the first. When the function has none of them it fails with Runtime.InvalidEntrypoint.
	Entrypoints []string
	Mounts      []sandbox.Mount // beyond Base, for this runtime: interpreter at /var/lang, bootstrap at /var/runtime
	Version     string          // as in INIT_START: "python:3.11.v7"
	VersionARN  string
}

// Open finds the host's interpreters and writes what sandboxes show of this package. The first time it runs every
// interpreter, which takes a second or so; later it reads back what it learnt, and runs only those that have changed.
func Open(options Options) (*Registry, error) {
	if options.Dir == "" {
		return nil, errors.New("runtimes: Options.Dir is required")
	}
	dir, err := filepath.Abs(options.Dir)
	if err != nil {
		return nil, err
	}
	if options.Region == "" {
		options.Region = "us-east-1"
	}
	if options.Path == "" {
		options.Path = os.Getenv("PATH")
	}
	if options.Home == "" {
		options.Home, _ = os.UserHomeDir() // empty: no version managers are found
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	host := hostTree("/")
	base, err := host.base(filepath.Join(dir, "etc"), options.Resolver)
	if err != nil {
		return nil, err
	}
	finder := finder{host: host, dir: dir, logger: options.Logger, probe: probe}
	found, err := finder.find(places(options.Path, options.Home, os.Getenv))
	if err != nil {
		return nil, err
	}
	return &Registry{region: options.Region, base: base, interpreters: found}, nil
}

// Base returns what every sandbox's root shows of the host, in the order in which it is to be mounted. The caller must not
// change it.
func (r *Registry) Base() []sandbox.Mount { return r.base }

// Available returns the runtimes that Launch accepts, by name: the interpreters of this host, oldest version first, then
// the provided runtimes.
func (r *Registry) Available() []Available {
	var all []Available
	for name, found := range r.interpreters {
		all = append(all, Available{Name: name, Interpreter: found.Path, Version: found.Version})
	}
	slices.SortFunc(all, func(a, b Available) int {
		if byLanguage := strings.Compare(language(b.Name), language(a.Name)); byLanguage != 0 {
			return byLanguage
		}
		return compareVersions(a.Version, b.Version)
	})
	for _, name := range providedRuntimes() {
		all = append(all, Available{Name: name})
	}
	return all
}

// Launch says how to start a function version. InvalidRuntime: this host cannot run it; the message lists what it can.
func (r *Registry) Launch(v *lambent.FunctionVersion) (Launch, error) {
	if v.Architecture != "" && v.Architecture != architecture() {
		return Launch{}, lambent.Errorf(lambent.InvalidRuntime,
			"The function's architecture is %s. This host runs %s.", v.Architecture, architecture())
	}
	if slices.Contains(providedRuntimes(), v.Runtime) {
		return r.launchProvided(v), nil
	}
	found, ok := r.interpreters[v.Runtime]
	if !ok {
		var names []string
		for _, available := range r.Available() {
			names = append(names, available.Name)
		}
		return Launch{}, lambent.Errorf(lambent.InvalidRuntime,
			"The runtime %q is not available: this host has %s. Install its interpreter, or change the function's runtime.",
			v.Runtime, strings.Join(names, ", "))
	}
	if language(v.Runtime) == "python" {
		return r.launchPython(v, found), nil
	}
	return r.launchNode(v, found), nil
}

// providedRuntimes are the runtimes that need nothing but the function's own program.
func providedRuntimes() []string { return []string{"provided.al2", "provided.al2023"} }

// language returns the leading letters of a runtime's name: "python", "nodejs", "provided".
func language(runtime string) string {
	if end := strings.IndexFunc(runtime, func(c rune) bool { return c < 'a' || c > 'z' }); end >= 0 {
		return runtime[:end]
	}
	return runtime
}
