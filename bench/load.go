package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Load is what one client count gave.
type Load struct {
	Clients  int
	Requests int
	Errors   int
	P50, P99 time.Duration
	Rate     float64 // answered requests per second
}

// call does one request; each client has a call of its own, made by a factory, so that a call may keep a connection.
type call func(ctx context.Context) error

// drive runs clients in a closed loop for the given time, after a warm-up of a fifth of it.
func drive(ctx context.Context, clients int, length time.Duration, factory func() (call, func(), error)) (Load, error) {
	type tally struct {
		took   []time.Duration
		errors int
		err    error
	}
	tallies := make([]tally, clients)
	start := time.Now()
	warm, end := start.Add(length/5), start.Add(length/5+length)
	var group sync.WaitGroup
	for i := range clients {
		do, done, err := factory()
		if err != nil {
			return Load{}, err
		}
		group.Go(func() {
			defer done()
			t := &tallies[i]
			for {
				before := time.Now()
				if before.After(end) || ctx.Err() != nil {
					return
				}
				err := do(ctx)
				after := time.Now()
				switch {
				case before.Before(warm):
				case err != nil:
					t.errors++
					t.err = err
				default:
					t.took = append(t.took, after.Sub(before))
				}
				if t.errors > 100 {
					return
				}
			}
		})
	}
	group.Wait()
	load := Load{Clients: clients}
	var all []time.Duration
	var first error
	for _, t := range tallies {
		all = append(all, t.took...)
		load.Errors += t.errors
		first = cmpErr(first, t.err)
	}
	if len(all) == 0 {
		return load, fmt.Errorf("no request was answered: %w", cmpErr(first, ctx.Err()))
	}
	sum := summary(all)
	sum.Clients, sum.Errors = clients, load.Errors
	sum.Rate = float64(len(all)) / length.Seconds()
	return sum, nil
}

// summary sorts the times and takes their quantiles.
func summary(took []time.Duration) Load {
	slices.Sort(took)
	return Load{Requests: len(took), P50: took[len(took)/2], P99: took[len(took)*99/100]}
}

// cmpErr returns the first error that is not nil.
func cmpErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// httpCall keeps one connection to addr and sends the bytes that next gives, so that the client costs as little as
// possible beside what is measured. It checks the status and that the body equals want, when want is not nil.
func httpCall(addr string, next func() []byte, want []byte) (call, func(), error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	reader := bufio.NewReaderSize(conn, 64<<10)
	body := make([]byte, 0, 8<<10)
	do := func(context.Context) error {
		if _, err := conn.Write(next()); err != nil {
			return err
		}
		status, got, err := readResponse(reader, body[:0])
		body = got
		if err != nil {
			return err
		}
		if status != 200 {
			return fmt.Errorf("status %d: %s", status, got)
		}
		if want != nil && !bytes.Equal(got, want) {
			return fmt.Errorf("answered %.80q, want %.80q", got, want)
		}
		return nil
	}
	return do, func() { conn.Close() }, nil
}

// readResponse reads one HTTP/1.1 response with Content-Length or chunked body and appends the body to buf.
func readResponse(r *bufio.Reader, buf []byte) (status int, body []byte, err error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return 0, buf, err
	}
	if len(line) < 12 {
		return 0, buf, errors.New("short status line")
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, buf, err
	}
	length, chunked := -1, false
	for {
		if line, err = r.ReadSlice('\n'); err != nil {
			return 0, buf, err
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			break
		}
		switch value = bytes.TrimSpace(value); {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(value)); err != nil {
				return 0, buf, err
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = true
		}
	}
	if chunked {
		return readChunks(r, status, buf)
	}
	if length < 0 {
		return status, buf, nil
	}
	buf = slices.Grow(buf, length)[:length]
	_, err = io.ReadFull(r, buf)
	return status, buf, err
}

func readChunks(r *bufio.Reader, status int, buf []byte) (int, []byte, error) {
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return status, buf, err
		}
		size, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 32)
		if err != nil {
			return status, buf, err
		}
		at := len(buf)
		buf = slices.Grow(buf, int(size)+2)[:at+int(size)+2]
		if _, err := io.ReadFull(r, buf[at:]); err != nil {
			return status, buf, err
		}
		buf = buf[:len(buf)-2]
		if size == 0 {
			return status, buf, nil
		}
	}
}
