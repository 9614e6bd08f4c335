// Package isolation measures sandbox drivers side by side, in one run, beside plain processes of the same programs: how fast a
// sandbox starts, what an idle one costs, how fast what is in it runs, and how much a neighbour can slow it down.
package isolation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"lambent/sandbox"
)

// Candidate is a driver to be measured.
type Candidate struct {
	Name string
	// Open makes the driver with a state directory of its own. It is not called where something is Missing.
	Open func(ctx context.Context, dir string) (sandbox.Driver, error)
	// Network says that its sandboxes are connected to one, so that making them takes that time too.
	Network bool
	// Missing is what this host lacks for it, one sentence for each thing.
	Missing []string
	// Flexibility says in a few words what a function may do under it.
	Flexibility string
	// Limits says, in a sentence, which of a sandbox's limits its performance runs into.
	Limits string
	// Few says that its sandboxes are slow or large, so that fewer are made. A tenth of Starts and a hundredth of Count.
	Few bool
}

// Options say what to measure. Candidates is required.
type Options struct {
	// Dir is a directory for the drivers' state. Default: a temporary one, which is removed.
	Dir        string
	Candidates []Candidate
	// Starts is how many starts of each kind are measured. Default 200.
	Starts int
	// Count is how many idle sandboxes there are at once. Default 1,000.
	Count int
	// Length of the measurement of sandboxes made and destroyed. Default 5 s.
	Length time.Duration
	// Progress is told what goes on. Default: nobody.
	Progress io.Writer
}

// Result is what one run has measured.
type Result struct {
	When   time.Time
	Host   string // kernel, architecture, processors
	Starts int
	Plain  Process
	All    []Measured
}

// Measured is what was measured of one candidate.
type Measured struct {
	Name        string
	Flexibility string
	Missing     []string
	Network     bool
	// Starts by program: the smallest one, whose first instructions report, and one in Go.
	Smallest, Go Starts
	// Limits are those of the Candidate.
	Limits string
	// PerSecond is how many sandboxes were made and destroyed in a second, by four makers for each processor.
	PerSecond float64
	Idle      Idle
	// Performance inside, and Beside, that of plain processes in turn with it.
	Performance, Beside Performance
}

// Process is the floor: processes without a sandbox.
type Process struct {
	Smallest, Go Quantiles // from fork to the first instruction's byte
	PerSecond    float64   // of the smallest program, started and ended
	Idle         Idle
	Performance  Performance
}

// Starts are the ways into a sandbox, each to the first byte that the program writes.
type Starts struct {
	FromScratch Quantiles // Create, Specialise, Start
	FromReady   Quantiles // Specialise, Start
	// The parts of these.
	Create, Specialise, Start, FirstByte Quantiles
	// Floor is plain fork and exec of the same program, measured in turn with the sandboxes.
	Floor   Quantiles
	Destroy Quantiles
}

// Ratio is how much longer a start in a ready-made sandbox takes than the plain one.
func (s Starts) Ratio() float64 { return s.FromReady.P50.Seconds() / s.Floor.P50.Seconds() }

// Quantiles of durations.
type Quantiles struct{ Min, P50, P99 time.Duration }

// quantiles sorts all.
func quantiles(all []time.Duration) Quantiles {
	if len(all) == 0 {
		return Quantiles{}
	}
	slices.Sort(all)
	return Quantiles{Min: all[0], P50: all[len(all)/2], P99: all[len(all)*99/100]}
}

func (o Options) withDefaults() Options {
	if o.Starts == 0 {
		o.Starts = 200
	}
	if o.Count == 0 {
		o.Count = 1000
	}
	if o.Length == 0 {
		o.Length = 5 * time.Second
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	return o
}

// bench is one run.
type bench struct {
	Options
	code string // the directory of the programs
	next int    // number of the next sandbox
}

// open makes the directories and programs of a run. The returned function removes them.
func open(ctx context.Context, o Options) (*bench, func(), error) {
	o = o.withDefaults()
	remove := func() {}
	if o.Dir == "" {
		dir, err := os.MkdirTemp("", "lambent-bench-isolation-")
		if err != nil {
			return nil, nil, err
		}
		remove = func() { os.RemoveAll(dir) }
		o.Dir = dir
	}
	b := &bench{Options: o, code: filepath.Join(o.Dir, "code")}
	err := os.MkdirAll(b.code, 0o755)
	if err == nil {
		err = writePrograms(ctx, b.code)
	}
	if err != nil {
		remove()
		return nil, nil, err
	}
	return b, remove, nil
}

// Run measures all candidates, one after the other. It needs what they need.
func Run(ctx context.Context, o Options) (*Result, error) {
	b, remove, err := open(ctx, o)
	if err != nil {
		return nil, err
	}
	defer remove()
	result := &Result{When: time.Now(), Host: host(), Starts: b.Starts}
	b.say("plain processes")
	if result.Plain, err = b.plain(ctx); err != nil {
		return nil, fmt.Errorf("measure plain processes: %w", err)
	}
	for _, candidate := range b.Candidates {
		measured := Measured{Name: candidate.Name, Flexibility: candidate.Flexibility, Network: candidate.Network, Limits: candidate.Limits, Missing: candidate.Missing}
		if len(candidate.Missing) == 0 {
			b.say(candidate.Name)
			if err := b.measure(ctx, candidate, &measured); err != nil {
				return nil, fmt.Errorf("measure %s: %w", candidate.Name, err)
			}
		}
		result.All = append(result.All, measured)
	}
	return result, nil
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.Progress, "bench isolation: "+format+"\n", args...)
}

// host names what the figures hold for.
func host() string {
	version, _ := os.ReadFile("/proc/sys/kernel/osrelease") // empty: it is left out
	return fmt.Sprintf("Linux %s, %s, %d processors", strings.TrimSpace(string(version)), runtime.GOARCH, runtime.NumCPU())
}

// driver opens a candidate's driver.
func (b *bench) driver(ctx context.Context, candidate Candidate) (sandbox.Driver, error) {
	driver, err := candidate.Open(ctx, filepath.Join(b.Dir, "state-"+candidate.Name))
	if err != nil {
		return nil, err
	}
	if err := driver.Recover(ctx); err != nil {
		return nil, errors.Join(err, driver.Close())
	}
	return driver, nil
}

// measure fills in what is measured of one candidate.
func (b *bench) measure(ctx context.Context, candidate Candidate, into *Measured) (err error) {
	driver, err := b.driver(ctx, candidate)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, driver.Close()) }()
	starts, count := b.Starts, b.Count
	if candidate.Few {
		starts, count = max(5, starts/10), max(4, count/100)
	}
	b.say("%s: %d starts of each kind", candidate.Name, starts)
	if into.Smallest, err = b.starts(ctx, driver, smallest, nil, starts); err != nil {
		return err
	}
	if into.Go, err = b.starts(ctx, driver, payload, []string{"idle"}, starts/2); err != nil {
		return err
	}
	b.say("%s: sandboxes made and destroyed", candidate.Name)
	if into.PerSecond, err = b.churn(ctx, driver); err != nil {
		return err
	}
	b.say("%s: performance inside", candidate.Name)
	if into.Performance, into.Beside, err = b.compare(ctx, driver); err != nil {
		return err
	}
	b.say("%s: %d idle sandboxes at once", candidate.Name, count)
	into.Idle, err = b.idle(ctx, driver, count)
	return err
}

// specification is that of the functions that are measured: one whole processor, and the /tmp that most ask for.
func (b *bench) specification() sandbox.Spec {
	return sandbox.Spec{
		MemoryMiB: 1769, VCPU: 1, Processes: 1024, Descriptors: 1024, EphemeralMiB: 512, Hostname: "169-254-100-1",
		Mounts: []sandbox.Mount{{Source: b.code, Target: "/var/task"}},
	}
}

// create makes a ready-made sandbox.
func (b *bench) create(ctx context.Context, driver sandbox.Driver) (sandbox.Sandbox, error) {
	b.next++
	return driver.Create(ctx, fmt.Sprintf("bench-%d", b.next), sandbox.Template{Class: "bench", MemoryMiB: b.specification().MemoryMiB})
}

// command runs one of the programs in a sandbox.
func command(program string, args []string) sandbox.Command {
	return sandbox.Command{Path: "/var/task/" + program, Args: append([]string{program}, args...), Env: []string{"PATH=/usr/bin"}, Dir: "/tmp"}
}
