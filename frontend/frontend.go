// Package frontend is Front End Invoke: it runs one invoke from the caller's request to the function's answer. It is
// stateless but for a watched copy of the function catalog, and touches no disk and no database on the way.
package frontend

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"

	"lambent"
)

// Options are what a front end needs. All of them are required but for Logger and Rand.
type Options struct {
	Region   string
	Catalog  lambent.Catalog
	Counter  lambent.Counter
	Managers func(lambent.FunctionID) lambent.Manager      // the one that owns the function now
	Workers  func(lambent.WorkerID) (lambent.Worker, bool) // false: not known any more
	Rand     func() float64                                // in [0, 1), for weighted aliases; default: math/rand
	Logger   *slog.Logger                                  // default: slog.Default()
}

// FrontEnd implements lambent.FrontEnd.
type FrontEnd struct {
	options Options
	catalog *catalog
	logger  *slog.Logger
}

var _ lambent.FrontEnd = (*FrontEnd)(nil)

// Open starts the watch of the catalog and returns at once; invokes wait for its first delivery. Close ends it.
func Open(options Options) (*FrontEnd, error) {
	if options.Catalog == nil || options.Counter == nil || options.Managers == nil || options.Workers == nil {
		return nil, errors.New("frontend: Catalog, Counter, Managers and Workers are required")
	}
	if options.Rand == nil {
		options.Rand = rand.Float64
	}
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	return &FrontEnd{options: options, catalog: openCatalog(options.Catalog, options.Logger), logger: options.Logger}, nil
}

// Close ends the watch and waits for its goroutine. Invokes that run end by themselves.
func (f *FrontEnd) Close() error {
	f.catalog.close()
	return nil
}

// Ready waits until the catalog has been delivered once.
func (f *FrontEnd) Ready(ctx context.Context) error { return f.catalog.ready(ctx) }
