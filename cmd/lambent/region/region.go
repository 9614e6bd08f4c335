// Package region wires the services of one region into one process: three zones in name, each with a counting replica, a
// manager and a worker, and one placement service, front end and control plane for all.
package region

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/api"
	"lambent/blob"
	"lambent/blob/dir"
	"lambent/counting"
	"lambent/frontend"
	"lambent/functions"
	"lambent/manager"
	"lambent/meta/etcd"
	"lambent/placement"
	"lambent/runtimes"
	"lambent/sandbox"
	"lambent/worker"
)

// zones are the region's. In one process they exist in name.
var zones = [3]string{"a", "b", "c"}

// Zones lists the region's zones.
func Zones() []string { return zones[:] }

// Options say what the region is called, where it keeps its state, and who may call it.
type Options struct {
	Dir                string // data directory, locked by the caller
	Account, Region    string
	AccountConcurrency int // default 1,000
	AccessKeyID        string
	SecretAccessKey    string
	Runtimes           *runtimes.Registry
	Drivers            func() map[lambent.Isolation]sandbox.Driver // of one worker; recovered; closed by the region
	Isolation          lambent.Isolation                           // of functions that ask for none
	LeastIsolation     lambent.Isolation                           // that functions may ask for
	OfferedIsolations  []lambent.Isolation                         // that Drivers has drivers for
	SharedHosts        []lambent.Isolation                         // under which accounts share hosts
	Logger             *slog.Logger
}

// Region is a running region.
type Region struct {
	API http.Handler

	options   Options
	blobs     blob.Store
	functions *functions.Service
	counter   lambent.Counter
	placement *placement.Service
	workers   map[lambent.WorkerID]lambent.Worker
	managers  []*manager.Manager
	cleanups  []func(context.Context) error // run last-in, first-out
}

// Open starts the services from the state up to the API. What was started is stopped when one fails.
func Open(ctx context.Context, o Options) (_ *Region, err error) {
	r := &Region{options: o, workers: map[lambent.WorkerID]lambent.Worker{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close(context.WithoutCancel(ctx)))
		}
	}()
	for _, start := range []func(context.Context) error{r.openState, r.openCounting, r.openWorkers, r.openManagers, r.openFrontEnd} {
		if err := start(ctx); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// openState opens the stores and the control plane over them.
func (r *Region) openState(ctx context.Context) error {
	store, err := etcd.Open(ctx, etcd.Options{Dir: filepath.Join(r.options.Dir, "meta"), Logger: r.options.Logger})
	if err != nil {
		return fmt.Errorf("open the metadata store: %w", err)
	}
	r.onClose(func(context.Context) error { return store.Close() })
	blobs, err := dir.Open(dir.Options{Dir: filepath.Join(r.options.Dir, "blob")})
	if err != nil {
		return fmt.Errorf("open the blob store: %w", err)
	}
	r.blobs = blobs
	r.onClose(func(context.Context) error { return blobs.Close() })
	r.functions, err = functions.Open(ctx, functions.Options{Region: r.options.Region, Meta: store, Blobs: blobs,
		AccountConcurrency: r.options.AccountConcurrency, Isolation: r.options.Isolation, LeastIsolation: r.options.LeastIsolation,
		OfferedIsolations: r.options.OfferedIsolations,
		Logger:            r.options.Logger})
	if err != nil {
		return fmt.Errorf("open the control plane: %w", err)
	}
	r.onClose(func(context.Context) error { return r.functions.Close() })
	return nil
}

// openCounting starts the Counting Service with a replica in each zone, and the front end's session with it.
func (r *Region) openCounting(ctx context.Context) error {
	service, err := counting.Open(counting.Options{Catalog: r.functions, AccountLimit: r.options.AccountConcurrency, Logger: r.options.Logger})
	if err != nil {
		return fmt.Errorf("open the counting service: %w", err)
	}
	r.onClose(func(context.Context) error { return service.Close() })
	session, err := service.Session(ctx, "frontend-a")
	if err != nil {
		return fmt.Errorf("open a counting session: %w", err)
	}
	r.counter = session
	r.onClose(func(context.Context) error { return session.Close() })
	return nil
}

// openWorkers starts placement and a worker in each zone. The workers share the host, so each reports a third of its memory.
func (r *Region) openWorkers(ctx context.Context) error {
	var err error
	if r.placement, err = placement.Open(placement.Options{SharedHosts: r.options.SharedHosts, Logger: r.options.Logger}); err != nil {
		return fmt.Errorf("open placement: %w", err)
	}
	r.onClose(func(context.Context) error { return r.placement.Close() })
	memory, err := hostMemoryMiB()
	if err != nil {
		return err
	}
	for _, zone := range zones {
		w, err := r.openWorker(ctx, zone, memory/len(zones))
		if err != nil {
			return fmt.Errorf("open the worker of zone %s: %w", zone, err)
		}
		r.workers[lambent.WorkerID("worker-"+zone)] = w
		r.onClose(func(ctx context.Context) error { return errors.Join(w.Drain(ctx), w.Close()) })
	}
	return nil
}

func (r *Region) openWorker(_ context.Context, zone string, memoryMiB int) (*worker.Worker, error) {
	home := filepath.Join(r.options.Dir, "worker-"+zone)
	drivers := r.options.Drivers()
	for _, driver := range drivers {
		r.onClose(func(context.Context) error { return driver.Close() })
	}
	return worker.Open(worker.Options{
		ID: lambent.WorkerID("worker-" + zone), Zone: zone, Dir: home, Drivers: drivers, Isolation: r.options.Isolation, SharedHosts: r.options.SharedHosts, Runtimes: r.options.Runtimes, Blobs: r.blobs,
		Placement: r.placement, Report: r.report, MemoryMiB: memoryMiB, Logger: r.options.Logger,
	})
}

// report passes what a worker says on to the manager that it concerns.
func (r *Region) report(ctx context.Context, manager lambent.ManagerID, report lambent.WorkerReport) error {
	if i := slices.Index(zones[:], strings.TrimPrefix(string(manager), "manager-")); i >= 0 && i < len(r.managers) {
		return r.managers[i].Report(ctx, report)
	}
	return lambent.Errorf(lambent.NotFound, "Manager %s is not known.", manager)
}

// openManagers starts a manager in each zone.
func (r *Region) openManagers(ctx context.Context) error {
	for _, zone := range zones {
		m, err := manager.Open(ctx, manager.Options{ID: lambent.ManagerID("manager-" + zone), Placement: r.placement, Workers: r.worker,
			Catalog: r.functions, Logger: r.options.Logger})
		if err != nil {
			return fmt.Errorf("open the manager of zone %s: %w", zone, err)
		}
		r.managers = append(r.managers, m)
		r.onClose(func(context.Context) error { return m.Close() })
	}
	return nil
}

// openFrontEnd starts the front end and the API before it.
func (r *Region) openFrontEnd(context.Context) error {
	front, err := frontend.Open(frontend.Options{Region: r.options.Region, Catalog: r.functions, Counter: r.counter,
		Managers: func(id lambent.FunctionID) lambent.Manager { return r.manager(id) },
		Workers:  r.worker, Observe: r.observe, Logger: r.options.Logger})
	if err != nil {
		return fmt.Errorf("open the front end: %w", err)
	}
	r.onClose(func(context.Context) error { return front.Close() })
	who := lambent.Principal{Account: r.options.Account, AccessKeyID: r.options.AccessKeyID, ARN: "arn:aws:iam::" + r.options.Account + ":root"}
	r.API = api.New(api.Options{Region: r.options.Region, Functions: r.functions, FrontEnd: front, Logs: r.logs, Logger: r.options.Logger,
		Credentials: func(id string) (string, lambent.Principal, bool) {
			return r.options.SecretAccessKey, who, id == r.options.AccessKeyID
		}})
	return nil
}

// Close drains the workers until ctx ends and stops all services.
func (r *Region) Close(ctx context.Context) error {
	var errs []error
	for _, cleanup := range slices.Backward(r.cleanups) {
		errs = append(errs, cleanup(ctx))
	}
	r.cleanups = nil
	return errors.Join(errs...)
}

func (r *Region) onClose(cleanup func(context.Context) error) {
	r.cleanups = append(r.cleanups, cleanup)
}

// manager returns the one that owns a function: functions are hashed over the managers.
func (r *Region) manager(id lambent.FunctionID) *manager.Manager {
	h := fnv.New32a()
	h.Write([]byte(id))
	return r.managers[h.Sum32()%uint32(len(r.managers))]
}

// observe tells a function's manager what an invoke used.
func (r *Region) observe(key lambent.VersionKey, tenant string, result lambent.WorkerResult) {
	r.manager(key.Function).Observe(key, tenant, result)
}

func (r *Region) worker(id lambent.WorkerID) (lambent.Worker, bool) {
	w, ok := r.workers[id]
	return w, ok
}

// logs merges what the workers hold.
func (r *Region) logs(ctx context.Context, query lambent.LogQuery) ([]lambent.LogEvent, error) {
	var all []lambent.LogEvent
	for _, w := range r.workers {
		events, err := w.Logs(ctx, query)
		if err != nil {
			return nil, err
		}
		all = append(all, events...)
	}
	slices.SortFunc(all, func(a, b lambent.LogEvent) int { return cmp.Compare(a.ID, b.ID) })
	if query.Limit > 0 {
		all = all[:min(query.Limit, len(all))]
	}
	return all, nil
}

// hostMemoryMiB reads how much memory the host has.
func hostMemoryMiB() (int, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("read the host's memory: %w", err)
	}
	return int(info.Totalram * uint64(info.Unit) >> 20), nil
}
