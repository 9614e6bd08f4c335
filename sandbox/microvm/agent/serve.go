package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"lambent/sandbox"
	"lambent/sandbox/microvm/agent/wire"
	"lambent/sandbox/microvm/stream"
	"lambent/sandbox/native"
	"lambent/sandbox/remote"
)

// serve is the agent: it answers one host after the other.
func serve() error {
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil)) // the console, of which the host keeps the end
	manifest, err := readManifest()
	if err != nil {
		return err
	}
	port, err := openPort()
	if err != nil {
		return err
	}
	guest := stream.NewGuest(port)
	if len(manifest.Program) > 0 {
		return runProgram(guest, manifest)
	}
	options := native.Options{StateDir: "/state", Base: manifest.Base, IdentityDir: "/run/ids", Logger: logger}
	network, err := findUplink()
	if err != nil {
		return err
	}
	if network != nil {
		options.Network = network
	}
	driver, err := native.Open(options)
	if err != nil {
		return err
	}
	if err := driver.Recover(context.Background()); err != nil {
		return err
	}
	server := remote.NewServer(remote.Options{Drivers: map[string]sandbox.Driver{wire.Driver: &disks{driver}}, Logger: logger})
	for {
		conn, greeting, err := guest.Accept()
		if err != nil {
			return err
		}
		if err := greet(greeting); err != nil {
			logger.Error("the host's greeting could not be used", "error", err)
		}
		if network != nil {
			if err := network.told(greeting.Note); err != nil {
				return err // with another's address it would be of no use
			}
		}
		link, err := remote.ServeMux(conn)
		if err != nil {
			logger.Error("a host's connection failed", "error", err)
			continue
		}
		if err := server.Serve(context.Background(), link); err != nil && !errors.Is(err, io.EOF) {
			logger.Info("a host's connection ended", "error", err)
		}
	}
}

// greet sets the clock, and makes the kernel's random numbers differ from those of other guests of the same snapshot.
func greet(g stream.Greeting) error {
	now := unix.NsecToTimespec(g.Time.UnixNano())
	clockErr := unix.ClockSettime(unix.CLOCK_REALTIME, &now)
	random, err := os.OpenFile("/dev/urandom", os.O_RDWR, 0)
	if err != nil {
		return errors.Join(clockErr, err)
	}
	defer random.Close()
	_, err = random.Write(g.Seed[:])
	if err == nil {
		err = unix.IoctlSetInt(int(random.Fd()), unix.RNDRESEEDCRNG, 0)
	}
	return errors.Join(clockErr, err)
}

// openPort opens the serial port to the host.
func openPort() (port, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return -1, err
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil || strings.TrimSpace(string(text)) != wire.Port {
			continue
		}
		fd, err := unix.Open("/dev/"+filepath.Base(filepath.Dir(name)), unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, fmt.Errorf("open the port to the host: %w", err)
		}
		return port(fd), nil
	}
	return -1, fmt.Errorf("there is no port %q to the host", wire.Port)
}

// port is the descriptor of the serial port. Its reads and writes block a thread each.
type port int

// absence is the pause between two looks at whether a host has the port open again. The kernel has nothing to wait for that.
const absence = 5 * time.Millisecond

// Read waits also while no host has the port open, which the kernel reports as its end.
func (p port) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(int(p), b)
		switch {
		case n > 0:
			return n, nil
		case err == nil:
			<-time.After(absence)
		case !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN):
			return 0, err
		}
	}
}

// Write implements io.Writer.
func (p port) Write(b []byte) (int, error) {
	written := 0
	for written < len(b) {
		n, err := unix.Write(int(p), b[written:])
		switch {
		case n > 0:
			written += n
		case err == nil:
			<-time.After(absence)
		case !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN):
			return written, err
		}
	}
	return written, nil
}

// runProgram runs the program of the root image, for the first host that connects.
func runProgram(guest *stream.Guest, manifest wire.Manifest) error {
	conn, greeting, err := guest.Accept()
	if err != nil {
		return err
	}
	if err := greet(greeting); err != nil {
		return err
	}
	cmd := exec.Command(manifest.Program[0], manifest.Program[1:]...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = manifest.Env, "/state", conn, conn
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(conn, err)
	}
	status := -1
	if cmd.ProcessState != nil {
		status = cmd.ProcessState.ExitCode()
	}
	fmt.Fprintf(conn, "\nexit status %d\n", status)
	return conn.Close()
}
