package functions

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"lambent"
	"lambent/blob"
	"lambent/meta"
)

// Options are what a Service needs.
type Options struct {
	Region string     // for ARNs; required
	Meta   meta.Store // required; stays the caller's, who closes it after the Service
	Blobs  blob.Store // required
	// AccountConcurrency is the limit of each account; 0: 1,000.
	AccountConcurrency int
	// Isolation is what functions run under that do not ask for another one by their tag; "": native.
	Isolation lambent.Isolation
	// LeastIsolation is the weakest that a function may ask for, and not stronger than Isolation; "": Isolation. When it is
	// raised, functions that have asked for less run under it.
	LeastIsolation lambent.Isolation
	// OfferedIsolations are those that hosts of the region can run: a function may not ask for another. nil: all.
	OfferedIsolations []lambent.Isolation
	// CollectInterval is how often archives that nothing refers to are deleted; 0: 10 minutes. Only one process may have
	// the blob store open with a Service.
	CollectInterval time.Duration
	Logger          *slog.Logger // nil: logs nothing
}

// Service is the control plane. Its methods may be called by many goroutines at once. Errors are *lambent.Error with
// Lambda's codes and messages, or lambent.Unavailable while the metadata store cannot be reached.
type Service struct {
	options Options
	log     *slog.Logger
	catalog *catalog
	pins    pins

	isolation isolationPolicy

	checks   chan struct{} // slots for reading archives through
	settling chan struct{} // slots for settling
	kick     chan struct{} // code may have become free

	collector sync.Mutex // held by the collection that runs

	running context.Context // ends when the Service is closed
	stop    context.CancelFunc
	done    sync.WaitGroup

	closing sync.Mutex
	closed  bool // guarded by closing; no goroutine is added to done afterwards
}

var _ lambent.Catalog = (*Service)(nil)

// Open starts the control plane over the stores: it loads the catalogue, and resumes what was under way when the last
// process ended. ctx bounds the opening only. The caller closes the Service, before the stores.
func Open(ctx context.Context, options Options) (*Service, error) {
	if options.Region == "" || options.Meta == nil || options.Blobs == nil {
		return nil, fmt.Errorf("functions: Region, Meta and Blobs are required")
	}
	options.AccountConcurrency = cmp.Or(options.AccountConcurrency, defaultConcurrency)
	options.CollectInterval = cmp.Or(options.CollectInterval, 10*time.Minute)
	policy, err := newIsolationPolicy(options.Isolation, options.LeastIsolation)
	if err != nil {
		return nil, err
	}
	policy.offered = options.OfferedIsolations
	s := &Service{
		options:   options,
		log:       cmp.Or(options.Logger, slog.New(slog.DiscardHandler)),
		catalog:   newCatalog(options.Region, policy),
		isolation: policy,
		checks:    make(chan struct{}, runtime.GOMAXPROCS(0)),
		settling:  make(chan struct{}, maxSettling),
		kick:      make(chan struct{}, 1),
	}
	s.running, s.stop = context.WithCancel(context.Background())
	revision, err := s.relist(ctx)
	if err != nil {
		s.stop()
		s.done.Wait()
		return nil, fmt.Errorf("functions: load the catalogue: %w", err)
	}
	s.done.Go(func() { s.follow(revision) })
	s.done.Go(s.collectLoop)
	return s, nil
}

// Close ends all watches and waits for the Service's goroutines.
func (s *Service) Close() error {
	s.closing.Lock()
	s.closed = true
	s.closing.Unlock()
	s.stop()
	s.done.Wait()
	return nil
}

// follow keeps the catalogue up to date, from a revision on, until the Service is closed.
func (s *Service) follow(revision int64) {
	for s.running.Err() == nil {
		for batch := range s.options.Meta.Watch(s.running, rootPrefix, revision) {
			unsettled, err := s.catalog.apply(batch)
			s.digested(unsettled, err)
		}
		// The watch ended: the store went away, or this process was too slow.
		retry(s.running, func() error {
			var err error
			if revision, err = s.relist(s.running); err != nil && s.running.Err() == nil {
				s.log.Warn("the catalogue cannot be read", "error", err)
			}
			return err
		})
	}
}

// relist reads the whole catalogue anew and returns the revision that it was read at.
func (s *Service) relist(ctx context.Context) (int64, error) {
	items, revision, err := s.options.Meta.List(ctx, rootPrefix, "", 0)
	if err != nil {
		return 0, err
	}
	unsettled, err := s.catalog.replace(items, revision)
	s.digested(unsettled, err)
	return revision, nil
}

// digested reports records that could not be read, and settles what waits for it.
func (s *Service) digested(unsettled []lambent.FunctionName, err error) {
	if err != nil {
		s.log.Error("a record of the catalogue cannot be read", "error", err)
	}
	for _, fn := range unsettled {
		s.settleSoon(fn)
	}
}

// Watch implements lambent.Catalog. It costs nothing in the metadata store, which this process watches once for all.
func (s *Service) Watch(ctx context.Context) (<-chan lambent.CatalogEvent, error) {
	s.closing.Lock()
	defer s.closing.Unlock()
	if s.closed {
		return nil, lambent.Errorf(lambent.Unavailable, "The control plane is shutting down.")
	}
	out := make(chan lambent.CatalogEvent)
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.running, cancel)
	s.done.Go(func() {
		defer cancel()
		defer stop()
		s.catalog.watch(ctx, out)
	})
	return out, nil
}

// Revision implements lambent.Catalog: the revision of the newest change that the catalogue shows. A watch has come that
// far when it has delivered an event of that revision or a later one, outside of a reset: a change's last event carries its
// revision, and those before it, and those of a full delivery before CatalogSynced, an earlier one.
func (s *Service) Revision(ctx context.Context) (int64, error) {
	item, _, err := s.options.Meta.Get(ctx, sequenceKey)
	if err != nil {
		return 0, storeError(err)
	}
	return item.Revision, nil
}
