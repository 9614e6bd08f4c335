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

// performance runs the loops of the payload one after the other.
func performance(run func(args ...string) (float64, error), tmp, address string) (p Performance, err error) {
	var seconds float64
	for _, loop := range []struct {
		args []string
		into *float64
	}{
		{[]string{"cpu"}, &p.CPU},
		{[]string{"getppid"}, &p.GetPPID},
		{[]string{"read-zero"}, &p.ReadZero},
		{[]string{"write-file", tmp}, &p.WriteFile},
		{[]string{"read-file", tmp}, &p.ReadFile},
		{[]string{"dial", address, strconv.Itoa(dials)}, &seconds},
	} {
		if *loop.into, err = run(loop.args...); err != nil {
			return p, fmt.Errorf("%s: %w", loop.args[0], err)
		}
	}
	p.RuntimeAPI = time.Duration(seconds * float64(time.Second))
	return p, nil
}

// outside measures plain processes, with /tmp and the Runtime API of the host's own.
func (b *bench) outside() (Performance, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return Performance{}, err
	}
	defer listener.Close()
	go echo(listener)
	tmp := filepath.Join(b.Dir, "tmp")
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		return Performance{}, err
	}
	return performance(func(args ...string) (float64, error) {
		process, output, err := b.plainStart(payload, args)
		if err != nil {
			return 0, err
		}
		number, err := readNumber(output)
		return number, errors.Join(err, endPlain(process, output))
	}, tmp, listener.Addr().String())
}

// inside measures processes in a sandbox.
func (b *bench) inside(ctx context.Context, driver sandbox.Driver, _ bool) (_ Performance, err error) {
	box, err := b.create(ctx, driver)
	if err != nil {
		return Performance{}, err
	}
	defer func() { err = errors.Join(err, box.Destroy(context.WithoutCancel(ctx))) }()
	spec := b.specification()
	spec.VCPU = 2 // the quota is not what is measured
	if err := box.Specialise(ctx, spec); err != nil {
		return Performance{}, err
	}
	go echo(box.RuntimeAPI())
	return performance(func(args ...string) (float64, error) {
		process, err := box.Start(ctx, command(payload, args))
		if err != nil {
			return 0, err
		}
		defer process.Output().Close()
		number, err := readNumber(process.Output())
		_, waitErr := process.Wait(ctx)
		return number, errors.Join(err, waitErr)
	}, "/tmp", sandbox.RuntimeAPIAddress)
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
	if p.Performance, err = b.outside(); err != nil {
		return p, err
	}
	p.Idle, err = b.plainIdle(ctx, b.Count)
	return p, err
}
