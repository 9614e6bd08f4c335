package frontend

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"lambent"
)

// Options are what a FrontEnd needs. Region, Catalog, Counter, Managers and Workers are required.
type Options struct {
	Region  string // for ARNs
	Catalog lambent.Catalog
	Counter lambent.Counter
	// Managers returns the manager that owns a function now; nil when none does.
	Managers func(lambent.FunctionID) lambent.Manager
	// Workers returns a worker by its identity; false when it is not known, or not any more.
	Workers func(lambent.WorkerID) (lambent.Worker, bool)
	// Observe is told what each invoke used, so that placement learns what functions need. It is on the way of every
	// invoke, so it is quick. Default: nobody is told.
	Observe func(key lambent.VersionKey, tenant string, result lambent.WorkerResult)
	// Rand draws a number in [0, 1), for weighted aliases. It is called by many goroutines. Default: math/rand/v2.
	Rand func() float64
	// CatalogTimeout bounds how long an invoke waits for the catalogue: for its first delivery, and for news of a name that
	// is not known. Default: 5 s.
	CatalogTimeout time.Duration
	// Logger is told about what goes wrong. Default: nothing is logged.
	Logger *slog.Logger
}

// FrontEnd implements lambent.FrontEnd. It is stateless but for its copy of the catalogue.
type FrontEnd struct {
	options   Options
	catalogue *catalogue
}

var _ lambent.FrontEnd = (*FrontEnd)(nil)

// Open starts the watch of the catalogue and returns at once; invokes wait for its first delivery. The caller closes the
// FrontEnd.
func Open(options Options) (*FrontEnd, error) {
	if options.Region == "" || options.Catalog == nil || options.Counter == nil || options.Managers == nil || options.Workers == nil {
		return nil, errors.New("frontend: Region, Catalog, Counter, Managers and Workers are required")
	}
	if options.Rand == nil {
		options.Rand = rand.Float64
	}
	options.CatalogTimeout = cmp.Or(options.CatalogTimeout, 5*time.Second)
	log := cmp.Or(options.Logger, slog.New(slog.DiscardHandler))
	return &FrontEnd{options: options, catalogue: openCatalogue(options.Catalog, options.CatalogTimeout, log)}, nil
}

// Close ends the watch and waits for the front end's goroutines. Invokes that run end by themselves.
func (f *FrontEnd) Close() error {
	f.catalogue.close()
	return nil
}

// Ready waits until the catalogue has been delivered once, or ctx ends.
func (f *FrontEnd) Ready(ctx context.Context) error { return f.catalogue.ready(ctx) }
