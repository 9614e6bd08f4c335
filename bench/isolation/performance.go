package isolation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"lambent/sandbox"
)

// Performance is how fast a program runs.
type Performance struct {
	CPU        float64       // blocks of 16 KiB hashed per second
	GetPPID    float64       // calls per second of the cheapest system call
	ReadZero   float64       // reads of one byte of /dev/zero per second
	WriteFile  float64       // bytes per second to a file in /tmp, synced
	ReadFile   float64       // bytes per second from it
	RuntimeAPI time.Duration // median of connecting to the Runtime API and 1 KiB there and back
}

// dials is how often the Runtime API is connected to.
const dials = 500

// echo answers each connection with what it sends, until the listener closes.
func echo(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			buffer := make([]byte, 1024)
			for {
				if _, err := io.ReadFull(conn, buffer); err != nil {
					return
				}
				if _, err := conn.Write(buffer); err != nil {
					return
				}
			}
		}()
	}
}

// rounds of each loop; the best of them counts, because all that disturbs a loop makes it slower.
const rounds = 3

// runner runs the payload with arguments, and returns the number that it prints.
type runner struct {
	run          func(args ...string) (float64, error)
	tmp, address string
	into         *Performance
}

// performance runs the loops of the payload by each of the runners in turn.
func performance(runners []runner) error {
	for _, loop := range []struct {
		args func(r runner) []string
		note func(p *Performance, number float64)
	}{
		{func(runner) []string { return []string{"cpu"} }, func(p *Performance, n float64) { p.CPU = max(p.CPU, n) }},
		{func(runner) []string { return []string{"getppid"} }, func(p *Performance, n float64) { p.GetPPID = max(p.GetPPID, n) }},
		{func(runner) []string { return []string{"read-zero"} }, func(p *Performance, n float64) { p.ReadZero = max(p.ReadZero, n) }},
		{func(r runner) []string { return []string{"write-file", r.tmp} }, func(p *Performance, n float64) { p.WriteFile = max(p.WriteFile, n) }},
		{func(r runner) []string { return []string{"read-file", r.tmp} }, func(p *Performance, n float64) { p.ReadFile = max(p.ReadFile, n) }},
		{func(r runner) []string { return []string{"dial", r.address, strconv.Itoa(dials)} }, noteDial},
	} {
		for range rounds {
			for _, r := range runners {
				number, err := r.run(loop.args(r)...)
				if err != nil {
					return fmt.Errorf("%s: %w", loop.args(r)[0], err)
				}
				loop.note(r.into, number)
			}
		}
	}
	return nil
}

// noteDial keeps the shortest of the rounds' medians.
func noteDial(p *Performance, seconds float64) {
	if took := time.Duration(seconds * float64(time.Second)); p.RuntimeAPI == 0 || took < p.RuntimeAPI {
		p.RuntimeAPI = took
	}
}

// plainRunner runs the payload as a process, with a directory and an echo of the host's own. The returned function ends them.
func (b *bench) plainRunner(into *Performance) (r runner, end func() error, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return r, nil, err
	}
	go echo(listener)
	tmp := filepath.Join(b.Dir, "tmp")
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		return r, nil, errors.Join(err, listener.Close())
	}
	return runner{tmp: tmp, address: listener.Addr().String(), into: into, run: func(args ...string) (float64, error) {
		process, output, err := b.plainStart(payload, args)
		if err != nil {
			return 0, err
		}
		number, err := readNumber(output)
		return number, errors.Join(err, endPlain(process, output))
	}}, listener.Close, nil
}

// compare measures processes in a sandbox, in turn with plain ones.
func (b *bench) compare(ctx context.Context, driver sandbox.Driver) (inside, beside Performance, err error) {
	box, err := b.create(ctx, driver)
	if err != nil {
		return inside, beside, err
	}
	defer func() { err = errors.Join(err, box.Destroy(context.WithoutCancel(ctx))) }()
	spec := b.specification()
	spec.VCPU = 2 // the quota is not what is measured
	if err := box.Specialise(ctx, spec); err != nil {
		return inside, beside, err
	}
	plain, end, err := b.plainRunner(&beside)
	if err != nil {
		return inside, beside, err
	}
	defer func() { err = errors.Join(err, end()) }()
	go echo(box.RuntimeAPI())
	boxed := runner{tmp: "/tmp", address: sandbox.RuntimeAPIAddress, into: &inside, run: func(args ...string) (float64, error) {
		process, err := box.Start(ctx, command(payload, args))
		if err != nil {
			return 0, err
		}
		defer process.Output().Close()
		number, err := readNumber(process.Output())
		_, waitErr := process.Wait(ctx)
		return number, errors.Join(err, waitErr)
	}}
	err = performance([]runner{boxed, plain})
	return inside, beside, err
}

// readNumber reads all that a program writes, which is one number.
func readNumber(output io.Reader) (float64, error) {
	text, err := io.ReadAll(io.LimitReader(output, 4096))
	if err != nil {
		return 0, err
	}
	number, err := strconv.ParseFloat(strings.TrimSpace(string(text)), 64)
	if err != nil {
		return 0, fmt.Errorf("the payload says %.200q", text)
	}
	return number, nil
}

// plain measures processes without a sandbox.
func (b *bench) plain(ctx context.Context) (p Process, err error) {
	for program, into := range map[string]*Quantiles{smallest: &p.Smallest, payload: &p.Go} {
		var all []time.Duration
		for range b.Starts {
			took, err := b.floor(program, []string{"idle"})
			if err != nil {
				return p, err
			}
			all = append(all, took)
		}
		*into = quantiles(all)
	}
	if p.PerSecond, err = b.together(func() error {
		_, err := b.floor(smallest, nil)
		return err
	}); err != nil {
		return p, err
	}
	alone, end, err := b.plainRunner(&p.Performance)
	if err != nil {
		return p, err
	}
	if err := errors.Join(performance([]runner{alone}), end()); err != nil {
		return p, err
	}
	p.Idle, err = b.plainIdle(ctx, b.Count)
	return p, err
}
