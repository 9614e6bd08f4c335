package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"lambent"
	"lambent/bench/isolation"
	"lambent/network"
	"lambent/runtimes"
	"lambent/sandbox"
	"lambent/sandbox/native"
)

// BenchCommands are the measurements. Without a name it is that of a region.
type BenchCommands struct {
	Region     BenchCmd           `cmd:"" default:"withargs" help:"Measure a region of its own on this host, beside floors of the same run."`
	Isolation  BenchIsolationCmd  `cmd:"" help:"Measure the sandbox drivers, beside plain processes."`
	Neighbours BenchNeighboursCmd `cmd:"" help:"Measure how much a sandbox is slowed down by what others do."`
}

// BenchIsolationCmd measures the drivers that this host can open.
type BenchIsolationCmd struct {
	Starts   int           `help:"Starts of each kind." default:"200"`
	Count    int           `help:"Idle sandboxes at once." default:"1000"`
	Length   time.Duration `help:"Length of the measurement of sandboxes made and destroyed." default:"5s"`
	Only     []string      `help:"Only these drivers."`
	Markdown string        `help:"Write the table into this page, between its markers <!-- bench isolation -->." type:"path"`
	SVG      string        `help:"Draw it into this file." type:"path" name:"svg"`
}

// BenchNeighboursCmd measures a victim beside an attacker, per driver.
type BenchNeighboursCmd struct {
	Only     []string `help:"Only these drivers."`
	Markdown string   `help:"Write the table into this page, between its markers <!-- bench neighbours -->." type:"path"`
}

// Run measures and prints.
func (c *BenchIsolationCmd) Run(ctx context.Context, proc *Process) error {
	dir, candidates, err := benchCandidates(c.Only)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	result, err := isolation.Run(ctx, isolation.Options{
		Dir: dir, Candidates: candidates, Starts: c.Starts, Count: c.Count, Length: c.Length, Progress: proc.Err,
	})
	if err != nil {
		return err
	}
	plot := ""
	if c.SVG != "" {
		if err := os.WriteFile(c.SVG, []byte(result.SVG()), 0o644); err != nil { //nolint:gosec // a picture for everybody
			return err
		}
		plot = c.SVG
		if c.Markdown != "" {
			if plot, err = filepath.Rel(filepath.Dir(c.Markdown), c.SVG); err != nil {
				return err
			}
		}
	}
	return writeBench(proc.Out, c.Markdown, isolation.IsolationMarker, result.Markdown(plot))
}

// Run measures and prints.
func (c *BenchNeighboursCmd) Run(ctx context.Context, proc *Process) error {
	dir, candidates, err := benchCandidates(c.Only)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	all, err := isolation.RunNeighbours(ctx, isolation.Options{Dir: dir, Candidates: candidates, Progress: proc.Err})
	if err != nil {
		return err
	}
	return writeBench(proc.Out, c.Markdown, isolation.NeighboursMarker, isolation.NeighboursMarkdown(all))
}

// writeBench prints a section, and puts it into a page if there is one.
func writeBench(out io.Writer, page, marker, section string) error {
	if _, err := io.WriteString(out, section); err != nil || page == "" {
		return err
	}
	return isolation.ReplaceSection(page, marker, section)
}

// benchCandidates returns the drivers, as a region has them, and a directory for their state, which the caller removes.
func benchCandidates(only []string) (dir string, chosen []isolation.Candidate, err error) {
	if err := enterNamespace(); err != nil { // no mount is seen on the host, or left there
		return "", nil, err
	}
	if dir, err = os.MkdirTemp("", "lambent-bench-isolation-"); err != nil {
		return "", nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	registry, err := runtimes.Open(runtimes.Options{Dir: filepath.Join(dir, "runtimes")})
	if err != nil {
		return "", nil, fmt.Errorf("find the runtimes: %w", err)
	}
	all := isolationCandidates(registry, slog.New(slog.DiscardHandler))
	if len(only) == 0 {
		return dir, all, nil
	}
	for _, name := range only {
		known := false
		for _, candidate := range all {
			if candidate.Name == name {
				known = true
				chosen = append(chosen, candidate)
			}
		}
		if !known {
			return "", nil, fmt.Errorf("there is no driver %q", name)
		}
	}
	return dir, chosen, nil
}

// isolationCandidates lists all drivers, with what this host lacks for them.
func isolationCandidates(registry *runtimes.Registry, logger *slog.Logger) []isolation.Candidate {
	flexibility := map[lambent.Isolation]string{
		lambent.IsolationNative:  "any program; the system calls that functions need",
		lambent.IsolationGVisor:  "any program, on a kernel that knows most of Linux",
		lambent.IsolationMicroVM: "any program, on a kernel of its own",
	}
	limits := map[lambent.Isolation]string{
		lambent.IsolationNative: fmt.Sprintf("a sandbox may write %d MiB a second to a disk, and read as much, which bounds its writes to /tmp; "+
			"empty file systems for /tmp are made ahead, a few, and are ready when one starts from scratch.", native.DefaultIO().WriteBytes>>20),
	}
	var all []isolation.Candidate
	for _, i := range lambent.Isolations() {
		kind := driverKindOf(i)
		all = append(all, isolation.Candidate{
			Name: string(i), Network: true, Few: i != lambent.IsolationNative, Missing: kind.missing(driverOptions{}), Flexibility: flexibility[i], Limits: limits[i],
			Open: func(ctx context.Context, dir string) (sandbox.Driver, error) {
				return openNetworked(ctx, dir, logger, func(connected sandbox.Network) (sandbox.Driver, error) {
					return kind.open(driverOptions{stateDir: filepath.Join(dir, "driver"), runtimes: registry, network: connected, logger: logger})
				})
			},
		})
	}
	return all
}

// networked is a driver with the network that its sandboxes are connected to.
type networked struct {
	sandbox.Driver
	network *network.Network
}

// Close closes both.
func (n networked) Close() error { return errors.Join(n.Driver.Close(), n.network.Close()) }

// openNetworked opens a network, and a driver on it.
func openNetworked(ctx context.Context, dir string, logger *slog.Logger, open func(sandbox.Network) (sandbox.Driver, error)) (sandbox.Driver, error) {
	state := filepath.Join(dir, "network")
	if err := os.MkdirAll(state, 0o700); err != nil {
		return nil, err
	}
	connected, err := network.Open(ctx, network.Options{StateDir: state, Policy: network.Internet, Log: logger})
	if err != nil {
		return nil, fmt.Errorf("open the sandboxes' network: %w", err)
	}
	driver, err := open(connected)
	if err != nil {
		return nil, errors.Join(err, connected.Close())
	}
	return networked{Driver: driver, network: connected}, nil
}
