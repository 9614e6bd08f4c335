package hostile

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// outsideAddresses are those of others that a proof answers for.
var outsideAddresses = [][]byte{{169, 254, 169, 254}, {10, 0, 0, 1}, {198, 51, 100, 1}}

// raiseNetwork brings the loopback interface up and gives it the addresses of others.
func raiseNetwork() error {
	up := bytesOf(unix.IfInfomsg{Index: 1, Flags: unix.IFF_UP, Change: unix.IFF_UP})
	if err := routeRequest(unix.RTM_NEWLINK, 0, up); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	for _, address := range outsideAddresses {
		request := append(bytesOf(unix.IfAddrmsg{Family: unix.AF_INET, Prefixlen: 32, Index: 1}), attribute(unix.IFA_LOCAL, address)...)
		request = append(request, attribute(unix.IFA_ADDRESS, address)...)
		if err := routeRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE, request); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add the address %v: %w", address, err)
		}
	}
	return nil
}

// listenOutside serves on the addresses of others and on the loopback address, while the process lives, and returns those
// on the loopback address.
func listenOutside() []string {
	for _, address := range outsideAddresses {
		if listener, err := net.Listen("tcp", net.JoinHostPort(net.IP(address).String(), "80")); err == nil {
			go acceptAll(listener)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil
	}
	go acceptAll(listener)
	return []string{"tcp", listener.Addr().String()}
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
