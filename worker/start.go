package worker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"lambent"
	"lambent/sandbox"
	"lambent/worker/runtimeapi"
)

// Lambda's limits inside a sandbox.
const (
	maxProcesses   = 1024
	maxDescriptors = 1024
)

// stopPatience is how long Stop waits for a running invoke.
const stopPatience = 2 * time.Second

// Start implements lambent.Worker: a ready-made sandbox is bound to the version, its runtime started and awaited.
func (w *Worker) Start(ctx context.Context, request lambent.StartRequest) error {
	if request.Version == nil || request.Sandbox == "" {
		return lambent.Errorf(lambent.InvalidParameter, "A sandbox needs an identity and a version")
	}
	if err := w.mayStart(time.Now()); err != nil {
		return err
	}
	if isolation := request.Version.Isolation; w.options.Drivers[isolation] == nil || w.faults.withdrawn(isolation, time.Now()) {
		return lambent.Errorf(lambent.Unavailable, "The worker does not offer the isolation %s", isolation)
	}
	if request.Version.PerTenant == (request.Tenant == "") {
		return lambent.Errorf(lambent.InvalidParameter, "A sandbox has a tenant exactly if its function isolates tenants")
	}
	if !w.enter() {
		return lambent.Errorf(lambent.Unavailable, "The worker is closed")
	}
	defer w.done.Done()
	e := w.newEnvironment(request)
	if _, exists := w.environments.LoadOrStore(request.Sandbox, e); exists {
		return lambent.Errorf(lambent.Conflict, "The sandbox %s exists", request.Sandbox)
	}
	w.count.Add(1)
	err := w.options.Residents.enter(e.resident())
	if err == nil {
		e.entered = true
		err = w.start(ctx, e)
	}
	if err == nil {
		err = e.available(w)
	}
	close(e.started)
	if err == nil {
		w.faults.worked(request.Version.Isolation)
		return nil
	}
	if destroyed := w.destroy(e); destroyed != nil {
		w.logger.Error("a sandbox that failed to start could not be destroyed", "sandbox", string(request.Sandbox), "error", destroyed)
	}
	return w.startError(ctx, request.Version.Isolation, err)
}

// available makes a started environment ready for claims, unless it was stopped meanwhile.
func (e *environment) available(w *Worker) error {
	now := time.Now()
	e.end(now, now, true)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.retired || w.draining.Load() {
		return lambent.Errorf(lambent.Unavailable, "The sandbox was stopped while it started")
	}
	return nil
}

// startError gives an error its code.
func (w *Worker) startError(ctx context.Context, isolation lambent.Isolation, err error) error {
	var coded *lambent.Error
	switch {
	case errors.As(err, &coded):
		return err
	case ctx.Err() != nil, w.work.Err() != nil, errors.Is(err, errDestroyed):
		return lambent.Wrap(lambent.Unavailable, err, "The sandbox did not start in time")
	}
	w.faults.failed(isolation, time.Now())
	return lambent.Wrap(lambent.Internal, err, "The sandbox could not be started")
}

// start does the work of Start on an environment that is registered.
func (w *Worker) start(ctx context.Context, e *environment) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.context, cancel)() // Stop, Drain and Close end it
	var err error
	if e.launch, err = w.options.Runtimes.Launch(e.version); err != nil {
		return err
	}
	code, layers, err := w.gather(ctx, e)
	if err != nil {
		return err
	}
	if err := w.specialise(ctx, e, e.spec(code, layers)); err != nil {
		return fmt.Errorf("specialise: %w", err)
	}
	version := e.version
	group := version.Logging.Group
	if group == "" {
		group = defaultGroup(version)
	}
	stream := w.logs.Stream(version.Account, group, streamName(version, e.created))
	e.output = newOutput(stream, version.Logging.Format == lambent.LogJSON, w.buffers)
	e.api = runtimeapi.Open(e.box.RuntimeAPI(), runtimeapi.Options{OnReady: e.runtimeReady, Logger: w.logger})
	e.findProgram(code, layers)
	// A caller that gives up ends the environment, and with it the wait for the runtime.
	carryOn := context.AfterFunc(ctx, e.cancel)
	if err := e.initialise(); err != nil {
		return err
	}
	if !carryOn() {
		return ctx.Err()
	}
	return nil
}

// gather takes what a sandbox is made of, each part while the others come: the sandbox, the code and the layers.
func (w *Worker) gather(ctx context.Context, e *environment) (code, layers string, err error) {
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	fetch := func(path *string, refs ...lambent.CodeRef) {
		group.Go(func() error {
			tree, err := w.code.Get(ctx, refs...)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			*path, e.trees = tree.Path, append(e.trees, tree)
			return nil
		})
	}
	fetch(&code, e.version.Code)
	if len(e.version.Layers) > 0 {
		fetch(&layers, e.version.Layers...)
	}
	group.Go(func() error {
		box, err := w.pool.take(ctx, e.class(), e.launch.Warm)
		if err != nil {
			return err
		}
		e.box, e.warm, e.aged = box.Sandbox, box.warm, box.aged
		return nil
	})
	err = group.Wait()
	return code, layers, err
}

// class is that of the ready-made sandboxes that fit.
func (e *environment) class() class {
	return class{isolation: e.version.Isolation, runtime: e.launch.Class, memoryMiB: sizeClass(e.version.Isolation, e.version.MemoryMiB)}
}

// specialise binds the sandbox. One that was made ahead may have ended by itself: then another is made, once.
func (w *Worker) specialise(ctx context.Context, e *environment, spec sandbox.Spec) error {
	err := e.box.Specialise(ctx, spec)
	if err == nil || !e.aged || ctx.Err() != nil {
		return err
	}
	former := readyBox{Sandbox: e.box, warm: e.warm}
	box, failed := w.pool.fresh(ctx, e.class())
	if failed != nil {
		return errors.Join(err, failed)
	}
	e.box, e.warm, e.aged = box.Sandbox, nil, false
	w.logger.Warn("a ready-made sandbox has ended by itself", "isolation", string(e.version.Isolation), "error", errors.Join(err, former.discard()))
	return e.box.Specialise(ctx, spec)
}

// spec is what the sandbox is bound to.
func (e *environment) spec(code, layers string) sandbox.Spec {
	mounts := []sandbox.Mount{{Source: code, Target: taskRoot}}
	if layers != "" {
		mounts = append(mounts, sandbox.Mount{Source: layers, Target: layerRoot})
	}
	return sandbox.Spec{MemoryMiB: e.version.MemoryMiB, VCPU: vcpuShare(e.version.MemoryMiB), Processes: maxProcesses,
		Descriptors: maxDescriptors, EphemeralMiB: max(e.version.EphemeralMiB, 512), Mounts: append(mounts, e.launch.Mounts...)}
}

// Stop implements lambent.Worker.
func (w *Worker) Stop(ctx context.Context, id lambent.SandboxID, epoch uint64) error {
	e := w.find(id)
	if e == nil {
		return nil
	}
	if err := e.retireFor(epoch); err != nil {
		return err
	}
	timer := time.NewTimer(stopPatience)
	defer timer.Stop()
	select {
	case <-e.quiet():
	case <-timer.C:
	case <-ctx.Done():
	}
	// What has begun is finished, whether the caller waits for it or not.
	if err := w.destroy(e); err != nil {
		return lambent.Wrap(lambent.Internal, err, "The sandbox could not be removed")
	}
	return nil
}

// retireFor retires the environment on behalf of an owner of an epoch.
func (e *environment) retireFor(epoch uint64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.phase == lambent.SandboxBusy && e.epoch > epoch {
		return lambent.Errorf(lambent.StaleEpoch, "The sandbox runs a claim of epoch %d, which is newer than %d", e.epoch, epoch)
	}
	e.retired = true
	e.freezer.Stop()
	return nil
}

const base64Alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

// randomText returns n random characters of an alphabet of 32 or 64.
func randomText(alphabet string, n int) string {
	text := make([]byte, n)
	rand.Read(text)
	for i := range text {
		text[i] = alphabet[int(text[i])%len(alphabet)]
	}
	return string(text)
}
