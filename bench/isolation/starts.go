package isolation

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"lambent/sandbox"
)

// starts measures the ways into a sandbox for a program, in turn with plain starts of the same program.
func (b *bench) starts(ctx context.Context, driver sandbox.Driver, program string, args []string, n int) (Starts, error) {
	parts := map[*Quantiles][]time.Duration{}
	var all Starts
	for range n {
		took, err := b.floor(program, args)
		if err != nil {
			return all, err
		}
		parts[&all.Floor] = append(parts[&all.Floor], took)
		s, err := b.start(ctx, driver, program, args)
		if err != nil {
			return all, err
		}
		for into, took := range map[*Quantiles]time.Duration{
			&all.FromScratch: s.create + s.specialise + s.start + s.firstByte,
			&all.FromReady:   s.specialise + s.start + s.firstByte,
			&all.Create:      s.create, &all.Specialise: s.specialise, &all.Start: s.start, &all.FirstByte: s.firstByte,
			&all.Destroy: s.destroy,
		} {
			parts[into] = append(parts[into], took)
		}
	}
	for into, took := range parts {
		*into = quantiles(took)
	}
	return all, nil
}

// oneStart is where the time of a start went.
type oneStart struct{ create, specialise, start, firstByte, destroy time.Duration }

// start makes a sandbox, starts the program in it, and destroys it.
func (b *bench) start(ctx context.Context, driver sandbox.Driver, program string, args []string) (s oneStart, err error) {
	last := time.Now()
	lap := func(into *time.Duration) {
		now := time.Now()
		*into, last = now.Sub(last), now
	}
	box, err := b.create(ctx, driver)
	lap(&s.create)
	if err != nil {
		return s, err
	}
	defer func() {
		last = time.Now()
		err = errors.Join(err, box.Destroy(context.WithoutCancel(ctx)))
		lap(&s.destroy)
	}()
	if err := box.Specialise(ctx, b.specification()); err != nil {
		return s, err
	}
	lap(&s.specialise)
	process, err := box.Start(ctx, command(program, args))
	lap(&s.start)
	if err != nil {
		return s, err
	}
	defer process.Output().Close()
	err = firstByte(process.Output())
	lap(&s.firstByte)
	return s, err
}

// firstByte waits for a program to say that it runs.
func firstByte(output *os.File) error {
	if _, err := output.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("the program did not run: %w", err)
	}
	return nil
}

// floor starts a program without a sandbox, to its first byte.
func (b *bench) floor(program string, args []string) (time.Duration, error) {
	began := time.Now()
	process, output, err := b.plainStart(program, args)
	if err != nil {
		return 0, err
	}
	err = firstByte(output)
	took := time.Since(began)
	return took, errors.Join(err, endPlain(process, output))
}

// plainStart starts a program as a child, with its output in a pipe.
func (b *bench) plainStart(program string, args []string) (*os.Process, *os.File, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer writer.Close()
	path := filepath.Join(b.code, program)
	process, err := os.StartProcess(path, append([]string{program}, args...), &os.ProcAttr{Env: []string{}, Files: []*os.File{nil, writer, writer}})
	if err != nil {
		return nil, nil, errors.Join(err, reader.Close())
	}
	return process, reader, nil
}

// endPlain ends a child of plainStart.
func endPlain(process *os.Process, output *os.File) error {
	process.Kill()
	_, err := process.Wait()
	return errors.Join(err, output.Close())
}

// makersPerProcessor is how many make things at once for each processor. To make and to destroy a sandbox is in good part to wait for
// the kernel, which does that for many at once.
const makersPerProcessor = 4

// churn makes and destroys sandboxes for a while, and returns how many it were per second.
func (b *bench) churn(ctx context.Context, driver sandbox.Driver) (float64, error) {
	var number atomic.Int64
	return b.together(func() error {
		box, err := driver.Create(ctx, fmt.Sprintf("churn-%d", number.Add(1)), sandbox.Template{Class: "bench", MemoryMiB: b.specification().MemoryMiB})
		if err != nil {
			return err
		}
		return box.Destroy(ctx)
	})
}

// together calls f over and over, from several goroutines, and returns how often it was per second.
func (b *bench) together(f func() error) (float64, error) {
	var done atomic.Int64
	var group sync.WaitGroup
	began := time.Now()
	failures := make([]error, makersPerProcessor*runtime.NumCPU())
	for i := range failures {
		group.Go(func() {
			for failures[i] == nil && time.Since(began) < b.Length {
				if failures[i] = f(); failures[i] == nil {
					done.Add(1)
				}
			}
		})
	}
	group.Wait()
	return float64(done.Load()) / time.Since(began).Seconds(), errors.Join(failures...)
}
