// Package doctor finds out what a host offers for sandboxes by doing it: it makes a cgroup, loads a filter, boots a guest. What
// cannot be undone, or reaches beyond a namespace of its own, is read and not tried.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

// Result is how a check ended.
type Result string

// The results. Weak is what works, though slower or less safely than it could.
const (
	OK      Result = "ok"
	Weak    Result = "weak"
	Missing Result = "missing"
)

// Use is what something of the host is needed for.
type Use string

// The uses. The first three are drivers.
const (
	Native   Use = "native"
	GVisor   Use = "gvisor"
	MicroVM  Use = "microvm"
	Egress   Use = "egress"
	Rootless Use = "rootless"
)

// Check is what one probe found.
type Check struct {
	Name   string `json:"check"`
	Result Result `json:"result"`
	Seen   string `json:"seen"`
	For    []Use  `json:"neededFor"`
	Advice string `json:"advice,omitempty"` // what to do about it; empty when it is OK
}

// Usable is whether there is all that something needs.
type Usable struct {
	Use    Use      `json:"use"`
	Usable bool     `json:"usable"`
	Lacks  []string `json:"lacks,omitempty"` // names of checks
	Note   string   `json:"note,omitempty"`
}

// Report is what the host offers.
type Report struct {
	Checks []Check  `json:"checks"`
	Usable []Usable `json:"usable"`
}

// Offers tells whether a use is possible.
func (r *Report) Offers(use Use) bool {
	for _, u := range r.Usable {
		if u.Use == use {
			return u.Usable
		}
	}
	return false
}

// Options say where to look.
type Options struct {
	// Data is the region's data directory, or where it will be: its disk is measured. It need not exist. Default: /var/lib/lambent.
	Data string
	// Runsc is gVisor's program. Default: "runsc" beside this executable, else in the PATH.
	Runsc string
	// QEMU is the emulator. Default: qemu-system-x86_64 or qemu-system-aarch64, in the PATH.
	QEMU string
	// Kernel is the image that guests boot. Default: the newest in /boot, those for clouds first.
	Kernel string
	// Timeout bounds each probe. Default 20 s; booting a guest without KVM takes three or four, on a busy host more.
	Timeout time.Duration
}

func (o Options) withDefaults() Options {
	if o.Data == "" {
		o.Data = "/var/lib/lambent"
	}
	if o.Runsc == "" {
		o.Runsc = besideOrInPath("runsc")
	}
	if o.QEMU == "" {
		o.QEMU = besideOrInPath(map[string]string{"amd64": "qemu-system-x86_64", "arm64": "qemu-system-aarch64"}[runtime.GOARCH])
	}
	if o.Kernel == "" {
		o.Kernel = guestKernel()
	}
	if o.Timeout == 0 {
		o.Timeout = 20 * time.Second
	}
	return o
}

// doctor is one examination.
type doctor struct {
	Options
	root   bool   // this process is root
	dir    string // scratch, removed at the end
	logger *slog.Logger
}

// finding is what a probe says. Without advice for something that is not OK the table's own is taken.
type finding struct {
	result Result
	seen   string
	advice string
}

func ok(format string, args ...any) finding {
	return finding{result: OK, seen: fmt.Sprintf(format, args...)}
}

func weak(format string, args ...any) finding {
	return finding{result: Weak, seen: fmt.Sprintf(format, args...)}
}

func missing(format string, args ...any) finding {
	return finding{result: Missing, seen: fmt.Sprintf(format, args...)}
}

func (f finding) with(advice string) finding {
	f.advice = advice
	return f
}

// tried is OK with what was seen, or Missing with the error.
func tried(err error, seen string) finding {
	if err != nil {
		return missing("%v", err)
	}
	return ok("%s", seen)
}

// probe is one entry of the table of probes.
type probe struct {
	name   string
	uses   []Use
	advice string // for what is not OK
	run    func(d *doctor, ctx context.Context) finding
}

// Run runs all probes, one after the other, so that they do not disturb each other's measurements. It works without rights, and
// then says what needs them. Nothing of the probes is left when it returns. The program must call MaybeChild before anything else.
func Run(ctx context.Context, o Options) (*Report, error) {
	dir, err := os.MkdirTemp(scratchParent(o.withDefaults().Data), "lambent-doctor-")
	if err != nil {
		return nil, fmt.Errorf("make a directory to try things in: %w", err)
	}
	defer os.RemoveAll(dir)
	d := &doctor{Options: o.withDefaults(), root: os.Geteuid() == 0, dir: dir, logger: slog.New(slog.DiscardHandler)}
	report := &Report{}
	for _, p := range probes() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		report.Checks = append(report.Checks, d.run(ctx, p))
	}
	report.Usable = judge(report.Checks)
	return report, nil
}

// run runs one probe in its time.
func (d *doctor) run(ctx context.Context, p probe) Check {
	ctx, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	f := p.run(d, ctx)
	if f.result == Missing && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		f.seen += fmt.Sprintf(" (not done within %v)", d.Timeout)
		f.advice = "try again with a longer --timeout, or when the host is less busy"
	}
	check := Check{Name: p.name, Result: f.result, Seen: f.seen, For: p.uses, Advice: f.advice}
	if check.Result != OK && check.Advice == "" {
		check.Advice = p.advice
	}
	if check.Result == OK {
		check.Advice = ""
	}
	return check
}

// scratchParent is the nearest directory above the data that exists and can be written to, for the same disk is to be measured;
// empty, for the usual place, when there is none.
func scratchParent(data string) string {
	for dir := filepath.Clean(data); dir != "/" && dir != "."; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err == nil && info.IsDir() && writable(dir) {
			return dir
		}
	}
	return ""
}
