package hostile

import (
	"net"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func networkAttempts() []Attempt {
	return []Attempt{
		{Name: "host-addresses", Tries: "connect to the host's addresses, its loopback ones too", Layer: NetNamespace, Proof: Namespace,
			try: func(t *Trial) { connect(t, t.Listened) }},
		{Name: "neighbour-addresses", Tries: "connect to neighbours", Layer: NetNamespace, Proof: Namespace, try: func(t *Trial) { connect(t, t.victimSockets("tcp")) }},
		{Name: "metadata-address", Tries: "read the cloud's credentials of the host at 169.254.169.254 and fd00:ec2::254", Layer: NetNamespace,
			Proof: Namespace, try: func(t *Trial) {
				connect(t, []string{"tcp", "169.254.169.254:80", "tcp", "[fd00:ec2::254]:80", "tcp", "169.254.170.2:80"})
			}},
		{Name: "other-networks", Tries: "reach private networks and the Internet without leave", Layer: NetNamespace, Proof: Namespace,
			try: func(t *Trial) {
				connect(t, []string{"tcp", "10.0.0.1:80", "tcp", "192.168.0.1:80", "tcp", "198.51.100.1:80", "udp", "198.51.100.1:53"})
			}},
		{Name: "abstract-sockets", Tries: "connect to abstract local sockets of the host and of neighbours", Layer: NetNamespace,
			Proof: Namespace, try: func(t *Trial) { connect(t, t.victimSockets("unix", "@")) }},
		{Name: "path-sockets", Tries: "connect to local sockets of the host by their paths", Layer: OwnRoot, Proof: Namespace,
			try: func(t *Trial) { connect(t, t.victimSockets("unix", "/")) }},
		{Name: "receive-descriptors", Tries: "have open files passed by a socket of another", Layer: NetNamespace, Proof: Namespace,
			try: receiveDescriptors},
	}
}

// victimSockets returns the victims' sockets of a network whose addresses have a prefix.
func (t *Trial) victimSockets(network string, prefix ...string) []string {
	var list []string
	for _, victim := range t.Victims {
		for i := 0; i+1 < len(victim.Sockets); i += 2 {
			address := victim.Sockets[i+1]
			if victim.Sockets[i] == network && (len(prefix) == 0 || strings.HasPrefix(address, prefix[0])) {
				list = append(list, network, address)
			}
		}
	}
	return list
}

// connect tries to reach every address. Connecting UDP sends nothing: there, an answer is the breach.
func connect(t *Trial, addresses []string) {
	const patience = 300 * time.Millisecond
	for i := 0; i+1 < len(addresses); i += 2 {
		conn, err := net.DialTimeout(addresses[i], addresses[i+1], patience)
		if err == nil && addresses[i] == "udp" {
			conn.SetDeadline(time.Now().Add(patience))
			conn.Write([]byte(mark))
			_, err = conn.Read(make([]byte, 64))
		}
		if t.got(err, "reached %s %s", addresses[i], addresses[i+1]) {
			conn.Close()
		}
	}
}

func receiveDescriptors(t *Trial) {
	for _, victim := range t.Victims {
		for i := 0; i+1 < len(victim.Sockets); i += 2 {
			if victim.Sockets[i] != "unix" {
				continue
			}
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err != nil {
				t.held("%v", err)
				return
			}
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 2})
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: victim.Sockets[i+1]})
			if err == nil {
				err = receiveDescriptor(fd, victim.Secret)
			}
			t.got(err, "had an open file from %s", victim.Sockets[i+1])
			unix.Close(fd)
		}
	}
}
