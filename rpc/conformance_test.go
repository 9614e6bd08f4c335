package rpc

import (
	"context"
	"io"
	"testing"

	"lambent"
	"lambent/blob"
	"lambent/blob/blobtest"
	"lambent/blob/memory"
	"lambent/frontend"
	"lambent/frontend/frontendtest"
	"lambent/manager"
	"lambent/manager/managertest"
	"lambent/placement"
	"lambent/placement/placementtest"
	"lambent/rpc/pki"
)

// The suites of the services pass over the wire as they do in process.

// splitPlacement calls a placement service as the host that each call is about.
type splitPlacement struct {
	lambent.Placement
	as func(lambent.WorkerID) lambent.Placement
}

func (p splitPlacement) Heartbeat(ctx context.Context, status lambent.WorkerStatus) (lambent.WorkerLease, error) {
	return p.as(status.Worker).Heartbeat(ctx, status)
}

func TestPlacementConformance(t *testing.T) {
	placementtest.Run(t, func(t *testing.T) lambent.Placement {
		service, err := placement.Open(placement.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := service.Close(); err != nil {
				t.Error(err)
			}
		})
		r := newRealm(t)
		_, address := r.serve(Services{Placement: service}, "p", pki.Placement)
		workers := map[lambent.WorkerID]lambent.Placement{}
		return splitPlacement{r.dial(address, pki.Placement, "m", pki.Manager).Placement(), func(id lambent.WorkerID) lambent.Placement {
			if id == "" {
				id = "nobody"
			}
			if workers[id] == nil {
				workers[id] = r.dial(address, pki.Placement, string(id), pki.Worker).Placement()
			}
			return workers[id]
		}}
	})
}

// The manager reaches placement and workers over the wire, and is reached over it.
func TestManagerConformance(t *testing.T) {
	managertest.Run(t, func(t *testing.T, region *managertest.Region, settings managertest.Settings) lambent.Manager {
		region.SetRemote(true)
		r := newRealm(t)
		_, placementAddress := r.serve(Services{Placement: region}, "p", pki.Placement)
		id := string(settings.ID)
		clients := map[lambent.WorkerID]lambent.Worker{}
		for _, worker := range []lambent.WorkerID{"a", "b"} {
			_, address := r.serve(Services{Worker: region.Fake(worker)}, string(worker), pki.Worker)
			clients[worker] = r.dial(address, pki.Worker, id, pki.Manager).Worker()
		}
		m, err := manager.Open(t.Context(), manager.Options{
			ID: settings.ID, ScaleRate: settings.ScaleRate, Patience: settings.Patience,
			Placement: r.dial(placementAddress, pki.Placement, id, pki.Manager).Placement(),
			Workers: func(id lambent.WorkerID) (lambent.Worker, bool) {
				_, known := region.Worker(id)
				return clients[id], known
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		})
		_, address := r.serve(Services{Manager: m}, id, pki.Manager)
		return reporting{r.manager(address, "f", pki.FrontEnd), r.manager(address, "p", pki.Placement)}
	})
}

// reporting is a manager that hears from placement what became of workers.
type reporting struct {
	lambent.Manager
	placement lambent.Manager
}

func (r reporting) Report(ctx context.Context, report lambent.WorkerReport) error {
	return r.placement.Report(ctx, report)
}

// settled waits until the manager knows of a claim's end, so that the suite can ask what is still held.
type settled struct {
	*ManagerClient
	t *testing.T
}

func (m settled) Return(claim lambent.Claim, outcome lambent.Outcome) {
	m.ManagerClient.Return(claim, outcome)
	if err := m.Flush(context.Background()); err != nil {
		m.t.Error(err)
	}
}

// The front end reaches the catalogue, the manager and the worker over the wire.
func TestFrontEndConformance(t *testing.T) {
	frontendtest.Run(t, func(t *testing.T, region *frontendtest.Region) lambent.FrontEnd {
		region.SetRemote(true)
		r := newRealm(t)
		worker, _ := region.Worker("worker")
		_, workerAddress := r.serve(Services{Worker: worker}, "worker", pki.Worker)
		_, managerAddress := r.serve(Services{Manager: region}, "manager", pki.Manager)
		_, controlAddress := r.serve(Services{Catalog: region}, "control", pki.Control)
		m := settled{r.manager(managerAddress, "f", pki.FrontEnd), t}
		w := r.dial(workerAddress, pki.Worker, "f", pki.FrontEnd).Worker()
		f, err := frontend.Open(frontend.Options{
			Region: frontendtest.Name, Counter: region, Catalog: r.dial(controlAddress, pki.Control, "f", pki.FrontEnd).Catalog(),
			Managers: func(lambent.FunctionID) lambent.Manager { return m },
			Workers: func(id lambent.WorkerID) (lambent.Worker, bool) {
				_, known := region.Worker(id)
				return w, known
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		})
		return f
	})
}

// remoteReads is a store that is read over the wire.
type remoteReads struct {
	blob.Store
	remote lambent.Blobs
}

func (s remoteReads) Open(ctx context.Context, sha256 string) (io.ReadCloser, error) {
	return s.remote.Open(ctx, sha256)
}

func TestBlobsConformance(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store {
		store := &memory.Store{}
		r := newRealm(t)
		_, address := r.serve(Services{Blobs: store}, "control", pki.Control)
		return remoteReads{store, r.dial(address, pki.Control, "w", pki.Worker).Blobs()}
	})
}
