package sandboxtest

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

// isolation makes every attempt of the probe, each in a sandbox that is used by the next one as well: what one leaves
// behind must not help another.
func isolation(t *testing.T, s *suite) {
	box := s.sandbox(t, nil)
	attempts := map[string][]string{
		"host files":       append([]string{"hostfiles"}, hostFiles(t)...),
		"proc":             {"proc"},
		"identity":         {"identity"},
		"inherited":        append([]string{"inherited"}, environment()...),
		"mount table":      {"mounts"},
		"writes":           {"writes"},
		"devices":          {"devices"},
		"set-user-ID":      {"setuid", "/var/task/setuid", "/var/task/setgid"},
		"connect":          append([]string{"connect"}, listeners(t, s)...),
		"kill all":         {"kill"},
		"processes":        {"fork", "256"},
		"file descriptors": {"descriptors", "1024"},
	}
	if s.Kind == "gvisor" { // what these look at is made up by a kernel of the sandbox's own; the named attempts judge that
		delete(attempts, "proc")
		delete(attempts, "mount table")
		delete(attempts, "devices")
		attempts["identity"] = append(attempts["identity"], "unfiltered")
	}
	for name, args := range attempts {
		t.Run(name, func(t *testing.T) { hold(t, box, args...) })
	}
	t.Run("another sandbox's files", func(t *testing.T) {
		hold(t, box, "touch", "/tmp/secret-of-one", "/dev/shm/secret-of-one")
		other := s.sandbox(t, nil)
		hold(t, other, "hostfiles", "/tmp/secret-of-one", "/dev/shm/secret-of-one")
	})
	t.Run("a process that lives on", func(t *testing.T) {
		living := start(t, box, "pause")
		defer living.Output().Close()
		hold(t, box, "kill") // it may kill its own kind, and nothing else
		await(t, living)
		hold(t, box, "echo")
	})
}

// hostFiles makes files on the host that everyone may read, and returns their paths.
func hostFiles(t *testing.T) []string {
	t.Helper()
	var paths []string
	for _, parent := range []string{t.TempDir(), "/dev/shm", "/var/tmp"} {
		directory, err := os.MkdirTemp(parent, "visible") //nolint:usetesting // some are outside of the test's directory
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(directory) })
		path := filepath.Join(directory, "host-file-of-the-suite")
		if err := os.WriteFile(path, []byte("visible"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(directory, 0o755); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}

// listeners serves on the host's loopback addresses and sockets, and on every address of its interfaces. It returns pairs of network and
// address, with those of another sandbox.
func listeners(t *testing.T, s *suite) []string {
	t.Helper()
	pairs := append([]string{"unix", "@lambent-suite-" + filepath.Base(s.stateDir)}, "unix", filepath.Join(t.TempDir(), "socket"))
	for i := 0; i < len(pairs); i += 2 {
		serve(t, pairs[i], pairs[i+1])
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range addresses {
		ip := address.(*net.IPNet).IP
		if ip.IsLinkLocalUnicast() {
			continue
		}
		pairs = append(pairs, "tcp", serve(t, "tcp", net.JoinHostPort(ip.String(), "0")))
		pairs = append(pairs, "udp", echoUDP(t, net.JoinHostPort(ip.String(), "0")))
	}
	// The other sandbox's listener has the same address as one's own, which nobody serves here on another port.
	other := s.sandbox(t, nil)
	go acceptAll(other.RuntimeAPI())
	pairs = append(pairs, "tcp", "169.254.100.1:9002", "tcp", "127.0.0.1:9001", "tcp", "8.8.8.8:53", "tcp", "169.254.169.254:80")
	return append(pairs, s.HostAddresses...)
}

// serve listens, accepts whatever comes, and returns the address.
func serve(t *testing.T, network, address string) string {
	t.Helper()
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go acceptAll(listener)
	return listener.Addr().String()
}

func acceptAll(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		conn.Close()
	}
}

// echoUDP answers each packet, and returns its address.
func echoUDP(t *testing.T, address string) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buffer := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			conn.WriteTo(buffer[:n], from)
		}
	}()
	return conn.LocalAddr().String()
}
