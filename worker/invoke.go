package worker

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"time"

	"lambent"
	"lambent/worker/runtimeapi"
)

// Invoke implements lambent.Worker. Once it has begun it lasts until the function has answered or its time is up, whatever
// becomes of ctx: the caller's slot and claim are in use until then, and a caller who has gone throws the result away. It
// returns with an error when nothing was run (SandboxGone, StaleEpoch), or when the sandbox was destroyed under it (HostLost).
func (w *Worker) Invoke(ctx context.Context, invoke lambent.WorkerInvoke) (lambent.WorkerResult, error) {
	e := w.find(invoke.Claim.Sandbox)
	now := time.Now()
	switch {
	case ctx.Err() != nil:
		return lambent.WorkerResult{}, lambent.Wrap(lambent.SandboxGone, ctx.Err(), "The caller is gone")
	case e == nil:
		return lambent.WorkerResult{}, lambent.Errorf(lambent.SandboxGone, "The sandbox %s is not on this worker", invoke.Claim.Sandbox)
	case !w.mayInvoke(now):
		return lambent.WorkerResult{}, lambent.Errorf(lambent.SandboxGone, "The worker is draining")
	}
	if err := e.begin(&invoke); err != nil {
		return lambent.WorkerResult{}, err
	}
	r := run{began: now, usable: true}
	e.run(&r, &invoke)
	if r.err != nil {
		e.end(time.Now(), time.Time{}, false)
		w.discardLater(e, r.err)
		return lambent.WorkerResult{Outcome: lambent.OutcomeGone}, r.lost(e)
	}
	result := e.result(&r)
	e.end(r.ended, r.deadline, r.usable)
	if !r.usable {
		w.discardLater(e, errUnusable)
	}
	return result, nil
}

// discardLater destroys an environment that has failed, behind the caller. One that is being destroyed is left to who does it.
func (w *Worker) discardLater(e *environment, cause error) {
	if errors.Is(cause, errDestroyed) {
		return
	}
	w.spawn(func() { w.discard(e, cause) })
}

var errUnusable = errors.New("the sandbox could not be reset")

// run is one invoke in an environment.
type run struct {
	began, ended time.Time
	answer       runtimeapi.Result
	fault        *fault // instead of an answer
	started      bool   // the START line is written
	rebooted     bool   // the runtime was started within the invoke
	deadline     time.Time
	init         time.Duration
	delivered    bool  // the function may have seen the request
	usable       bool  // the environment can run another
	err          error // the host's fault, or the environment was destroyed
}

// lost is the error for an invoke that the host failed.
func (r *run) lost(e *environment) error {
	if r.delivered {
		return lambent.Wrap(lambent.HostLost, r.err, "The sandbox was lost while the function ran")
	}
	return lambent.Wrap(lambent.SandboxGone, r.err, "The sandbox %s was lost before the function ran", e.request.Sandbox)
}

// run boots the runtime if need be, hands it the event, and deals with how it ended.
func (e *environment) run(r *run, invoke *lambent.WorkerInvoke) {
	r.deadline = invoke.Deadline
	if r.deadline.IsZero() {
		r.deadline = r.began.Add(e.version.Timeout)
	}
	e.output.begin(invoke.Request.LogTail)
	e.prepareEvent(invoke, r.deadline)
	if e.process != nil && e.process.dead() {
		r.err = e.reset()
	}
	for r.err == nil && r.fault == nil {
		if e.process == nil {
			e.reboot(r)
			continue
		}
		if e.exchange(r) {
			break
		}
	}
	r.ended = time.Now()
	if r.err != nil {
		return
	}
	if r.fault != nil && r.fault.status == statusTimeout {
		r.ended = minTime(r.ended, maxTime(r.deadline, r.began))
	}
	e.settle(r)
}

// reboot starts the runtime within an invoke: its initialisation had failed, or its processes were ended.
func (e *environment) reboot(r *run) {
	began := time.Now()
	r.rebooted = true
	r.fault, r.err = e.boot(r.deadline)
	if r.fault == nil || r.err != nil {
		return
	}
	now := time.Now()
	e.output.system(now, e.journal.initReport(now, "invoke", now.Sub(began), r.fault.status, r.fault.errorType))
	if r.fault.status == statusTimeout {
		r.fault = timedOut(e.version.Timeout)
	}
	e.begun(r)
}

// begun writes the START line, once.
func (e *environment) begun(r *run) {
	if !r.started {
		r.started = true
		now := time.Now()
		e.line = e.journal.start(e.line[:0], now, e.event.RequestID, e.version.Key.Version)
		if r.rebooted {
			e.output.system(now, e.line)
		} else {
			e.output.follow(now, e.line)
		}
	}
}

// exchange hands the event to the runtime and takes its answer. false: the runtime had ended before, and is to be started anew.
func (e *environment) exchange(r *run) bool {
	e.begun(r)
	var err error
	r.answer, r.delivered, err = e.api.Invoke(&e.event)
	switch {
	case err == nil && r.answer.TooLarge:
		r.fault = tooLarge()
	case err == nil:
	case errors.Is(err, runtimeapi.ErrTimeout):
		r.fault = timedOut(e.version.Timeout)
	case errors.Is(err, runtimeapi.ErrEnded) && !r.delivered && e.context.Err() == nil:
		r.err = e.reset()
		return false
	case errors.Is(err, runtimeapi.ErrEnded):
		r.fault, r.err = e.ended()
	default:
		r.err = err
	}
	return true
}

// settle brings the environment into a state from which the next invoke can begin.
func (e *environment) settle(r *run) {
	r.init, e.initial = e.initial, 0
	if r.fault == nil || r.answer.TooLarge {
		return
	}
	e.measure(r.ended, true) // before its processes are gone
	if err := e.reset(); err != nil {
		e.worker.logger.Error("a sandbox could not be reset", "sandbox", string(e.request.Sandbox), "error", err)
		r.usable = false
	}
}

// result writes the last log lines, and says what the invoke gave and cost.
func (e *environment) result(r *run) lambent.WorkerResult {
	duration := r.ended.Sub(r.began)
	if r.fault == nil || r.answer.TooLarge { // else it has been done
		e.measure(r.ended, duration >= meterEvery || r.init > 0)
	}
	response := lambent.InvokeResponse{Payload: r.answer.Payload, ExecutedVersion: e.version.Key.Version}
	rep := report{requestID: e.event.RequestID, duration: duration, billed: billed(duration), init: r.init,
		memoryMiB: e.version.MemoryMiB, maxMiB: e.meter.peakMiB, status: statusSuccess}
	switch {
	case r.fault != nil:
		response.Payload, response.FunctionError = r.fault.answer(r.ended, rep.requestID), "Unhandled"
		rep.status, rep.errorType = r.fault.status, r.fault.errorType
	case r.answer.Failed:
		response.FunctionError = "Unhandled"
		rep.status, rep.errorType = statusFailure, r.answer.ErrorType
	}
	response.LogTail = e.writeEnd(r, &rep, len(response.Payload))
	result := lambent.WorkerResult{Response: response, Outcome: lambent.OutcomeIdle, Duration: duration, Billed: rep.billed,
		Init: r.init, MaxMemoryMiB: rep.maxMiB, CPU: e.meter.share}
	if !r.usable {
		result.Outcome = lambent.OutcomeGone
	}
	e.event = runtimeapi.Event{}
	return result
}

// writeEnd writes the lines after an invoke, and returns the tail.
func (e *environment) writeEnd(r *run, rep *report, produced int) []byte {
	now := time.Now()
	var failure []byte
	if r.fault != nil {
		failure = e.journal.failure(r.ended, rep.requestID, r.fault)
	}
	done := e.journal.runtimeDone(now, rep, produced)
	e.line = e.journal.end(e.line[:0], rep.requestID)
	split := len(e.line)
	e.line = append(e.line, e.journal.report(e.line[split:split], now, rep)...)
	e.output.system(now, failure, done, e.line[:split], e.line[split:])
	return e.output.end()
}

// prepareEvent makes the event for the runtime.
func (e *environment) prepareEvent(invoke *lambent.WorkerInvoke, deadline time.Time) {
	arn := invoke.InvokedARN
	if arn == "" {
		arn = e.version.ARN
	}
	trace := invoke.Request.TraceID
	if trace == "" {
		trace = newTrace(time.Now())
	}
	e.event = runtimeapi.Event{RequestID: invoke.Request.RequestID, FunctionARN: arn, TraceID: trace,
		ClientContext: invoke.Request.ClientContext, TenantID: invoke.Request.TenantID, Deadline: deadline, Payload: invoke.Request.Payload}
}

// newTrace makes the trace header of a request that came without one: runtimes expect it.
func newTrace(now time.Time) string {
	var random [20]byte
	binary.LittleEndian.PutUint64(random[:], rand.Uint64())
	binary.LittleEndian.PutUint64(random[8:], rand.Uint64())
	binary.LittleEndian.PutUint32(random[16:], rand.Uint32())
	out := make([]byte, 0, 80)
	out = append(out, "Root=1-"...)
	out = hex.AppendEncode(out, binary.BigEndian.AppendUint32(nil, uint32(now.Unix())))
	out = append(out, '-')
	out = hex.AppendEncode(out, random[:12])
	out = append(out, ";Parent="...)
	out = hex.AppendEncode(out, random[12:])
	return string(append(out, ";Sampled=0"...))
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func maxTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
