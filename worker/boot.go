package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"lambent/sandbox"
	"lambent/worker/runtimeapi"
)

// killTimeout is how long a driver may take to end a sandbox's processes. Whoever waits for the answer of an invoke that failed waits for
// that too; a sandbox that takes longer is replaced.
const killTimeout = 5 * time.Second

// fullVCPU is how much CPU a function gets while it initialises, whatever its memory.
const fullVCPU = 2

// process is the runtime's process.
type process struct {
	sandbox.Process
	ended   chan struct{} // closed when exit is known and the Runtime API has been told
	exit    sandbox.Exit
	drained chan struct{} // closed when its output was read to the end
}

// dead tells whether the process has ended.
func (p *process) dead() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// vcpuShare is Lambda's share of CPU for a memory size.
func vcpuShare(memoryMiB int) float64 { return float64(memoryMiB) / 1769 }

// boot starts the runtime and waits until it asks for its first event, until the deadline. A fault is the function's, or nil;
// an error is the host's.
func (e *environment) boot(deadline time.Time) (*fault, error) {
	if e.program != nil {
		return e.program, nil
	}
	e.setVCPU(max(vcpuShare(e.version.MemoryMiB), min(fullVCPU, e.worker.options.VCPU)))
	defer e.setVCPU(vcpuShare(e.version.MemoryMiB))
	started, err := e.launchRuntime()
	if err != nil {
		if f := notStarted(e.command.Path, err); f != nil {
			return f, nil
		}
		return nil, err
	}
	p := &process{Process: started, ended: make(chan struct{}), drained: make(chan struct{})}
	if err := e.output.attach(started.Output(), e.context.Done(), func() { close(p.drained) }); err != nil {
		close(p.drained)
		return nil, errors.Join(err, started.Output().Close())
	}
	e.process = p
	if !e.worker.spawn(func() { e.watch(p) }) {
		close(p.ended)
		return nil, os.ErrClosed
	}
	failure, err := e.api.AwaitReady(deadline)
	switch {
	case err == nil && failure == nil:
		return nil, nil
	case err == nil:
		return initFailed(failure), nil
	case errors.Is(err, runtimeapi.ErrTimeout):
		return &fault{status: statusTimeout}, nil
	}
	return e.ended()
}

// launchRuntime starts the runtime, or lets the one that runs already know what it is for. One that does not take that in is
// ended, and another started.
func (e *environment) launchRuntime() (sandbox.Process, error) {
	warm := e.warm
	if warm == nil {
		return e.box.Start(e.context, e.command)
	}
	e.warm = nil
	err := warm.tell(e.command)
	if err == nil {
		return warm.process, nil
	}
	e.worker.logger.Warn("a runtime that was started ahead cannot be used", "runtime", e.launch.Class, "error", err)
	warm.release()
	if err := e.box.Kill(e.context); err != nil {
		return nil, err
	}
	return e.box.Start(e.context, e.command)
}

// setVCPU changes the CPU share.
func (e *environment) setVCPU(vcpu float64) {
	if err := e.box.SetVCPU(vcpu); err != nil {
		e.worker.logger.Warn("a sandbox's CPU share could not be set", "sandbox", string(e.request.Sandbox), "error", err)
	}
}

// watch notes a process's end.
func (e *environment) watch(p *process) {
	exit, err := p.Wait(e.context)
	if err != nil { // the environment is being destroyed
		exit = sandbox.Exit{Signal: 9}
	}
	p.exit = exit
	e.api.Interrupt()
	close(p.ended)
	e.freezeIfIdle() // what it has left behind is ended
}

// ended is why the Runtime API says that the process has ended.
func (e *environment) ended() (*fault, error) {
	if e.context.Err() != nil {
		return nil, errDestroyed
	}
	<-e.process.ended
	return exited(e.process.exit), nil
}

// errDestroyed says that the environment was destroyed while something ran in it.
var errDestroyed = errors.New("the sandbox was destroyed")

// reset ends all processes, so that the next invoke starts the runtime anew. /tmp stays.
func (e *environment) reset() error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(e.context), killTimeout)
	defer cancel()
	if err := e.box.Kill(ctx); err != nil {
		return fmt.Errorf("reset: %w", err)
	}
	if p := e.process; p != nil {
		for _, done := range []<-chan struct{}{p.ended, p.drained} {
			select {
			case <-done:
			case <-ctx.Done():
				return fmt.Errorf("reset: the processes did not end: %w", ctx.Err())
			}
		}
	}
	e.process = nil
	e.api.Reset()
	return nil
}

// initialise is the boot before the first invoke, with Lambda's limit of time. Its failure is met again by the first invoke.
func (e *environment) initialise() error {
	began := time.Now()
	e.output.system(began, e.journal.initStart(began, e.version, e.launch.Version, e.launch.VersionARN, e.output.stream.Name()))
	f, err := e.boot(began.Add(e.worker.options.InitTimeout))
	if err != nil {
		return err
	}
	now := time.Now()
	status, errorType := statusSuccess, ""
	if f == nil {
		e.initial = now.Sub(began)
	} else {
		status, errorType = f.status, f.errorType
		if err := e.reset(); err != nil {
			return err
		}
	}
	e.output.system(now, e.journal.initReport(now, "init", now.Sub(began), status, errorType))
	e.measure(now, true)
	e.meter.invokes = 0
	return nil
}

// findProgram sets the command, or why there is none: the first of the entrypoints that the function brings.
func (e *environment) findProgram(code, layers string) {
	e.command = e.launch.Command
	e.command.Env = append(e.command.Env[:len(e.command.Env):len(e.command.Env)], e.variables()...)
	if len(e.launch.Entrypoints) == 0 {
		return
	}
	for _, entrypoint := range e.launch.Entrypoints {
		for _, tree := range [...]struct{ inside, outside string }{{taskRoot, code}, {layerRoot, layers}} {
			name, ok := strings.CutPrefix(entrypoint, tree.inside+"/")
			if !ok || tree.outside == "" {
				continue
			}
			// Links are followed by the sandbox only, in its own root.
			if info, err := os.Lstat(filepath.Join(tree.outside, name)); err != nil || info.IsDir() {
				continue
			}
			e.command.Path = entrypoint
			e.command.Args = append([]string{entrypoint}, e.launch.Command.Args[min(1, len(e.launch.Command.Args)):]...)
			return
		}
	}
	e.program = noEntrypoint(e.launch.Entrypoints)
}

// Where code is inside.
const (
	taskRoot  = "/var/task"
	layerRoot = "/opt"
)

// variables are the environment variables that belong to the one sandbox. Nobody accepts the credentials: they are there
// because SDKs refuse to start without any.
func (e *environment) variables() []string {
	return []string{
		"AWS_LAMBDA_RUNTIME_API=" + sandbox.RuntimeAPIAddress,
		"AWS_LAMBDA_LOG_STREAM_NAME=" + e.output.stream.Name(),
		"AWS_LAMBDA_INITIALIZATION_TYPE=on-demand",
		"AWS_ACCESS_KEY_ID=ASIA" + randomText("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16),
		"AWS_SECRET_ACCESS_KEY=" + randomText(base64Alphabet, 40),
		"AWS_SESSION_TOKEN=" + randomText(base64Alphabet, 356),
	}
}
