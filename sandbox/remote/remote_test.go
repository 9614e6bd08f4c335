package remote_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"lambent/sandbox"
	"lambent/sandbox/gvisor"
	"lambent/sandbox/microvm"
	"lambent/sandbox/microvm/microvmtest"
	"lambent/sandbox/native"
	"lambent/sandbox/native/nativetest"
	"lambent/sandbox/remote"
	"lambent/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	native.MaybeInit()
	gvisor.MaybeInit()
	goleak.VerifyTestMain(m)
}

func needHost(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("real sandboxes need root")
	}
	if missing := native.Check(); len(missing) > 0 {
		t.Fatal(&native.MissingError{Missing: missing})
	}
}

// links makes both ends of a link.
type links func(dir string) (client, server func() (remote.Link, error), err error)

// opener makes a driver with a state directory.
type opener func(stateDir string) (sandbox.Driver, error)

func openNative(stateDir string) (sandbox.Driver, error) {
	return native.Open(native.Options{StateDir: stateDir})
}

// openGVisor uses the runsc of the checkout, or the one in the PATH.
func openGVisor(stateDir string) (sandbox.Driver, error) {
	runsc, lookErr := filepath.Abs("../../bin/runsc")
	if _, err := os.Stat(runsc); lookErr != nil || err != nil {
		runsc = ""
	}
	return gvisor.Open(gvisor.Options{StateDir: stateDir, Runsc: runsc})
}

// behind is a driver that is used over a link.
type behind struct {
	*remote.Driver
	client *remote.Client
	served chan error
	driver sandbox.Driver
}

func (b *behind) Close() error {
	err := errors.Join(b.Driver.Close(), b.client.Close())
	served := <-b.served
	if served != nil && !errors.Is(served, io.EOF) && !errors.Is(served, unix.ECONNRESET) && !errors.Is(served, net.ErrClosed) {
		err = errors.Join(err, served)
	}
	b.served <- nil
	return errors.Join(err, b.driver.Close())
}

// open makes a driver behind a link.
func open(stateDir string, options remote.Options, driverOf opener, links links) (*behind, error) {
	driver, err := driverOf(stateDir)
	if err != nil {
		return nil, err
	}
	client, server, err := links(stateDir)
	if err != nil {
		return nil, errors.Join(err, driver.Close())
	}
	b := &behind{driver: driver, served: make(chan error, 1)}
	options.Drivers = map[string]sandbox.Driver{"driver": driver}
	go func() {
		link, err := server()
		if err == nil {
			err = remote.NewServer(options).Serve(context.Background(), link)
		}
		b.served <- err
	}()
	link, err := client()
	if err != nil {
		return nil, err
	}
	b.client = remote.Dial(link)
	b.Driver = b.client.Driver("driver")
	return b, nil
}

// overUnix passes descriptors.
func overUnix(string) (client, server func() (remote.Link, error), err error) {
	link, file, err := remote.Pair()
	return func() (remote.Link, error) { return link, nil }, func() (remote.Link, error) { return remote.NewUnix(file) }, err
}

// overMux passes streams, as a guest does.
func overMux(dir string) (client, server func() (remote.Link, error), err error) {
	near, far := net.Pipe()
	return func() (remote.Link, error) { return remote.DialMux(near, dir) }, func() (remote.Link, error) { return remote.ServeMux(far) }, nil
}

func harness(victim string, driverOf opener, links links) sandboxtest.Harness {
	options := remote.Options{Source: func(path string) (string, func(), error) { return path, func() {}, nil }}
	return sandboxtest.Harness{
		Open:       func(stateDir string) (sandbox.Driver, error) { return open(stateDir, options, driverOf, links) },
		Leftovers:  nativetest.Leftovers,
		VictimTest: victim,
	}
}

// The suite passes on sandboxes that are used over either link as it does without.

func TestConformanceUnix(t *testing.T) {
	needHost(t)
	sandboxtest.Run(t, harness("TestVictimUnix", openNative, overUnix))
}

func TestVictimUnix(t *testing.T) { sandboxtest.Victim(t, harness("", openNative, overUnix)) }

func TestConformanceMux(t *testing.T) {
	needHost(t)
	sandboxtest.Run(t, harness("TestVictimMux", openNative, overMux))
}

func TestVictimMux(t *testing.T) { sandboxtest.Victim(t, harness("", openNative, overMux)) }

// TestConformanceGVisor leaves out what is of the sandbox alone.
func TestConformanceGVisor(t *testing.T) {
	needHost(t)
	h := harness("TestVictimGVisor", openGVisor, overUnix)
	h.Kind = "gvisor"
	sandboxtest.RunBut(t, h, "Isolation", "Attempts", "Neighbours")
}

func TestVictimGVisor(t *testing.T) { sandboxtest.Victim(t, harness("", openGVisor, overUnix)) }

// TestConformanceMicroVM is of calls that go on to a driver in a guest; the rest is the sandbox's.
func TestConformanceMicroVM(t *testing.T) {
	agent := microvmtest.Agent(t)
	h := harness("", func(stateDir string) (sandbox.Driver, error) {
		return microvm.Open(microvm.Options{StateDir: stateDir, Agent: agent, Accelerator: "tcg", MemoryMiB: 1024})
	}, overUnix)
	h.Kind, h.Emulated, h.Leftovers = "microvm", true, microvmtest.Leftovers
	sandboxtest.RunBut(t, h, "Limits", "Isolation", "Attempts", "Neighbours", "Recover")
}

// TestRefusedSource checks that what the server may not show is not mounted, whatever the client asks for.
func TestRefusedSource(t *testing.T) {
	needHost(t)
	refused := errors.New("not below the code's directory")
	d, err := open(t.TempDir(), remote.Options{Source: func(string) (string, func(), error) { return "", nil, refused }}, openNative, overUnix)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	box, err := d.Create(t.Context(), "a", sandbox.Template{})
	if err != nil {
		t.Fatal(err)
	}
	err = box.Specialise(t.Context(), sandbox.Spec{MemoryMiB: 128, VCPU: 1, Processes: 10, Descriptors: 10, EphemeralMiB: 512,
		Mounts: []sandbox.Mount{{Source: "/root", Target: "/var/task"}}})
	if err == nil || !strings.Contains(err.Error(), refused.Error()) {
		t.Errorf("the error is %v", err)
	}
}

// TestServerGone checks that a client whose server is gone waits for nothing.
func TestServerGone(t *testing.T) {
	for name, links := range map[string]links{"unix": overUnix, "mux": overMux} {
		t.Run(name, func(t *testing.T) {
			client, server, err := links(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan error)
			go func() { // takes one message and leaves
				link, err := server()
				if err == nil {
					_, _, err = link.Receive()
					err = errors.Join(err, link.Close())
				}
				ended <- err
			}()
			link, err := client()
			if err != nil {
				t.Fatal(err)
			}
			c := remote.Dial(link)
			if _, err := c.Driver("x").Create(t.Context(), "a", sandbox.Template{}); !errors.Is(err, remote.ErrGone) {
				t.Errorf("the error is %v", err)
			}
			if err := <-ended; err != nil {
				t.Error(err)
			}
			<-c.Done()
			if err := c.Driver("x").Recover(t.Context()); !errors.Is(err, remote.ErrGone) {
				t.Errorf("the next error is %v", err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
