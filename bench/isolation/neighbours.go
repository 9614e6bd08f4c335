package isolation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"lambent/sandbox"
)

// attacks are what a neighbour does, by the payload's argument.
func attacks() []struct{ Name, argument string } {
	return []struct{ Name, argument string }{
		{"CPU", "burn-cpu"}, {"memory bandwidth", "burn-memory"}, {"disk", "burn-disk"}, {"processes", "burn-processes"}, {"network", "burn-network"},
	}
}

// Neighbour is a victim's latency beside an attacker, and alone in the same run.
type Neighbour struct {
	Attack          string
	Alone, Attacked Quantiles
}

// Neighbours is what was measured of one candidate.
type Neighbours struct {
	Name    string
	Missing []string
	All     []Neighbour
}

// The rounds of each attack. The attacker is frozen and thawed in turn, so that what else happens on the host meets both.
const (
	neighbourRounds   = 5
	neighbourRequests = 100 // in each half of a round
	warmUpRequests    = 50
)

// RunNeighbours measures how much a sandbox is slowed down by what another one does, for each candidate. Of the options it uses
// Dir, Candidates and Progress.
func RunNeighbours(ctx context.Context, o Options) ([]Neighbours, error) {
	b, remove, err := open(ctx, o)
	if err != nil {
		return nil, err
	}
	defer remove()
	var all []Neighbours
	for _, candidate := range b.Candidates {
		one := Neighbours{Name: candidate.Name, Missing: candidate.Missing}
		if len(candidate.Missing) == 0 {
			if one.All, err = b.neighbours(ctx, candidate); err != nil {
				return nil, fmt.Errorf("neighbours under %s: %w", candidate.Name, err)
			}
		}
		all = append(all, one)
	}
	return all, nil
}

// neighbours makes one victim, and an attacker for each attack.
func (b *bench) neighbours(ctx context.Context, candidate Candidate) (all []Neighbour, err error) {
	driver, err := b.driver(ctx, candidate)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, driver.Close()) }()
	conn, end, err := b.victim(ctx, driver)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, end()) }()
	for _, attack := range attacks() {
		b.say("%s: a neighbour that burns %s", candidate.Name, attack.Name)
		one, err := b.attack(ctx, driver, conn, attack.argument)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", attack.Name, err)
		}
		one.Attack = attack.Name
		all = append(all, one)
	}
	return all, nil
}

// victim starts a function that answers requests over its connection.
func (b *bench) victim(ctx context.Context, driver sandbox.Driver) (_ net.Conn, end func() error, err error) {
	box, err := b.create(ctx, driver)
	if err != nil {
		return nil, nil, err
	}
	destroy := func() error { return box.Destroy(context.WithoutCancel(ctx)) }
	defer func() {
		if err != nil {
			err = errors.Join(err, destroy())
		}
	}()
	if err := box.Specialise(ctx, b.specification()); err != nil {
		return nil, nil, err
	}
	process, err := box.Start(ctx, command(payload, []string{"victim", sandbox.RuntimeAPIAddress}))
	if err != nil {
		return nil, nil, err
	}
	conn, err := accept(ctx, box.RuntimeAPI())
	if err != nil {
		return nil, nil, errors.Join(err, process.Output().Close())
	}
	return conn, func() error { return errors.Join(conn.Close(), destroy(), process.Output().Close()) }, requests(conn, warmUpRequests, nil)
}

// startTime bounds how long a victim may take to connect; emulated guests are slow.
const startTime = 30 * time.Second

// accept waits for one connection. The listener closes when the context ends.
func accept(ctx context.Context, listener net.Listener) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	return listener.Accept()
}

// attack measures the victim with an attacker frozen and thawed in turn.
func (b *bench) attack(ctx context.Context, driver sandbox.Driver, victim net.Conn, argument string) (n Neighbour, err error) {
	box, err := b.create(ctx, driver)
	if err != nil {
		return n, err
	}
	defer func() { err = errors.Join(err, box.Destroy(context.WithoutCancel(ctx))) }()
	if err := box.Specialise(ctx, b.specification()); err != nil {
		return n, err
	}
	process, err := box.Start(ctx, command(payload, []string{argument, "/tmp"}))
	if err != nil {
		return n, err
	}
	defer process.Output().Close()
	if err := firstByte(process.Output()); err != nil {
		return n, err
	}
	go io.Copy(io.Discard, process.Output()) //nolint:errcheck // what an attacker says besides is of no interest
	var alone, attacked []time.Duration
	for range neighbourRounds {
		for _, half := range []struct {
			change func() error
			into   *[]time.Duration
		}{{box.Freeze, &alone}, {box.Thaw, &attacked}} {
			if err := errors.Join(ctx.Err(), half.change()); err != nil {
				return n, err
			}
			if err := requests(victim, neighbourRequests, half.into); err != nil {
				return n, err
			}
		}
	}
	return Neighbour{Alone: quantiles(alone), Attacked: quantiles(attacked)}, nil
}

// requests sends 1 KiB and reads the answer, n times, and notes how long each took.
func requests(conn net.Conn, n int, into *[]time.Duration) error {
	buffer := make([]byte, 1024)
	for range n {
		began := time.Now()
		if err := conn.SetDeadline(began.Add(startTime)); err != nil {
			return err
		}
		if _, err := conn.Write(buffer); err != nil {
			return fmt.Errorf("send a request to the victim: %w", err)
		}
		if _, err := io.ReadFull(conn, buffer); err != nil {
			return fmt.Errorf("read the victim's answer: %w", err)
		}
		if into != nil {
			*into = append(*into, time.Since(began))
		}
	}
	return nil
}
