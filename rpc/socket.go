package rpc

import (
	"errors"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// bound makes the kernel give a connection up when what was sent has not been acknowledged for so long: keep-alive probes are not
// sent while there is something to send again.
func bound(conn net.Conn, silent time.Duration) error {
	tcp, ok := conn.(syscall.Conn)
	if !ok {
		return nil // in memory
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silent.Milliseconds()))
	})
	return errors.Join(err, failed)
}
