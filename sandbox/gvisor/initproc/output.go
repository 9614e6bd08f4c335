package initproc

import (
	"os"

	"golang.org/x/sys/unix"
)

// chunk is how much of the output is passed on at once, in bytes. A pipe that has room at all has room for as much.
const chunk = 4096

// openOutput makes the pipe for a process's output, and carries what is written to it to the pipe of a name in the exchange. The
// function is not given that one: gVisor would wait for the host when it is full, whatever the function wants.
func openOutput(name string) (int, error) {
	outside, err := unix.Open(inExchange(name), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, failed("open the output", err)
	}
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		unix.Close(outside)
		return -1, failed("make a pipe", err)
	}
	// The function opens /dev/stdout and the like anew, so the pipe must be its own.
	err = unix.Fchown(ends[1], functionUID, functionGID)
	if err == nil {
		err = unix.SetNonblock(ends[0], true) // so that reading takes no thread
	}
	if err != nil {
		unix.Close(ends[0])
		unix.Close(ends[1])
		unix.Close(outside)
		return -1, failed("make a pipe", err)
	}
	go carryOutput(os.NewFile(uintptr(ends[0]), "output"), outside)
	return ends[1], nil
}

// carryOutput copies until nobody writes or nobody reads any more.
func carryOutput(from *os.File, to int) {
	defer unix.Close(to)
	defer from.Close() // the function then writes to a broken pipe
	buffer := make([]byte, chunk)
	for {
		n, err := from.Read(buffer)
		if n == 0 || err != nil {
			return
		}
		for rest := buffer[:n]; len(rest) > 0; {
			if !awaitRoom(to) {
				return
			}
			written, err := unix.Write(to, rest)
			if err != nil && err != unix.EINTR && err != unix.EAGAIN {
				return
			}
			rest = rest[max(0, written):]
		}
	}
}

// awaitRoom waits until a pipe takes something, which it does not do when nobody reads it.
func awaitRoom(fd int) bool {
	for {
		events := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		_, err := unix.Poll(events, -1)
		if err == unix.EINTR {
			continue
		}
		return err == nil && events[0].Revents&unix.POLLOUT != 0 && events[0].Revents&(unix.POLLERR|unix.POLLHUP) == 0
	}
}
