package bench

import (
	"fmt"
	"io"
	"maps"
	"slices"
)

// preface explains the figures to readers of the written report.
const preface = `# Benchmarks

` + "`make bench`" + ` wrote this page: it starts a region of its own and measures it beside two floors in the same run. Read the figures
as ratios; machines differ, and shared ones vary from run to run.

- **net/http echo**: a plain Go server that answers each request with its body. What a request costs at all.
- **bare Runtime API loop**: the same function's process without any sandbox, in a loop with a plain net/http Runtime API
  that is called directly: no front door, no signatures, no services. Each client has a process of its own.
- **warm invoke**: a signed Invoke of 1 KiB over HTTP, through every service, into a sandbox, and back. Each client waits for
  its answer before it sends again. Functions have 1,769 MB, which is one vCPU, so that their limit does not measure itself.
- **cold invoke**: the first invoke after a change of configuration, which makes a new sandbox necessary.

AWS's own runtime interface emulator, which runs a function without isolation or an API around it, answers about 1,700
requests a second to one client on the machine of the figures below, and does not serve two clients at once.

`

// Report writes the result as the page docs/benchmarks.md.
func (r *Result) Report(w io.Writer) error {
	if _, err := io.WriteString(w, preface); err != nil {
		return err
	}
	r.Markdown(w)
	return nil
}

// Markdown writes the result as tables, with the ratios that SPECIFICATION.md promises.
func (r *Result) Markdown(w io.Writer) {
	fmt.Fprintf(w, "Machine: %s. %s.\n\n", r.Machine, r.When.UTC().Format("2006-01-02 15:04 MST"))
	fmt.Fprintln(w, "| what | clients | p50 | p99 | requests/s | errors |\n|---|---:|---:|---:|---:|---:|")
	row := func(what string, loads []Load) {
		for _, l := range loads {
			fmt.Fprintf(w, "| %s | %d | %s | %s | %.0f | %d |\n", what, l.Clients, round(l.P50), round(l.P99), l.Rate, l.Errors)
		}
	}
	row("floor: net/http echo", r.Echo)
	row("floor: bare Runtime API loop", r.Bare)
	names := slices.Sorted(maps.Keys(r.Warm))
	for _, name := range names {
		row("warm invoke, "+name, r.Warm[name])
	}
	fmt.Fprintln(w, "\n| cold invoke | starts | p50 | p99 |\n|---|---:|---:|---:|")
	for _, name := range names {
		c := r.Cold[name]
		fmt.Fprintf(w, "| %s | %d | %s | %s |\n", name, c.Requests, round(c.P50), round(c.P99))
	}
	fmt.Fprintln(w, "\n| ratio, provided.al2023 against the bare loop | measured | promised |\n|---|---:|---:|")
	warm := r.Warm["provided.al2023"]
	for i, l := range r.Bare {
		switch {
		case i >= len(warm):
		case l.Clients == 1:
			fmt.Fprintf(w, "| p50, 1 client | %.2f | at most 2 |\n", float64(warm[i].P50)/float64(l.P50))
		default:
			promise := "-"
			if l.Clients == 16 {
				promise = "at least 0.60"
			}
			fmt.Fprintf(w, "| requests/s, %d clients | %.2f | %s |\n", l.Clients, warm[i].Rate/l.Rate, promise)
		}
	}
}
