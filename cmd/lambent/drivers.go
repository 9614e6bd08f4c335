package main

import (
	"log/slog"

	"lambent"
	"lambent/runtimes"
	"lambent/sandbox"
	"lambent/sandbox/gvisor"
	"lambent/sandbox/microvm"
	"lambent/sandbox/native"
)

// driverOptions are what every driver is opened with.
type driverOptions struct {
	stateDir string
	runtimes *runtimes.Registry
	network  sandbox.Network // nil: none
	logger   *slog.Logger
	// Without root there is the native driver only, and these are set.
	rootless    bool
	identityDir string
}

// driverKind is how the driver of an isolation is opened.
type driverKind struct {
	missing func(driverOptions) []string // what this host lacks for it, a sentence each
	open    func(driverOptions) (sandbox.Driver, error)
}

// driverKindOf returns that of an isolation that is known.
func driverKindOf(isolation lambent.Isolation) driverKind {
	switch isolation {
	case lambent.IsolationGVisor:
		return driverKind{missing: func(driverOptions) []string { return gvisor.Check("") }, open: func(o driverOptions) (sandbox.Driver, error) {
			return gvisor.Open(gvisor.Options{StateDir: o.stateDir, Base: o.runtimes.Base(), Network: o.network, Logger: o.logger})
		}}
	case lambent.IsolationMicroVM:
		return driverKind{missing: func(o driverOptions) []string { return microvm.Check(microvm.Options{Network: o.network}) }, open: func(o driverOptions) (sandbox.Driver, error) {
			base, err := o.runtimes.ImageBase()
			if err != nil {
				return nil, err
			}
			return microvm.Open(microvm.Options{StateDir: o.stateDir, Base: base, Network: o.network, Logger: o.logger})
		}}
	default:
		return driverKind{missing: func(driverOptions) []string { return native.Check() }, open: func(o driverOptions) (sandbox.Driver, error) {
			return native.Open(native.Options{StateDir: o.stateDir, Base: o.runtimes.Base(), Network: o.network, Logger: o.logger,
				TmpInMemory: o.rootless, IdentityDir: o.identityDir})
		}}
	}
}
