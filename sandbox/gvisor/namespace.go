package gvisor

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// namespace is a mount namespace of the driver's own, which one locked thread lives in: nothing that is mounted there is seen on the
// host, and nothing is left when the process dies.
type namespace struct {
	work chan func()
	stop chan struct{} // closed by close
	done chan struct{} // closed when the thread has ended
}

// openNamespace makes the namespace.
func openNamespace() (*namespace, error) {
	n := &namespace{work: make(chan func()), stop: make(chan struct{}), done: make(chan struct{})}
	entered := make(chan error)
	go n.serve(entered)
	if err := <-entered; err != nil {
		<-n.done
		return nil, err
	}
	return n, nil
}

// serve is the namespace's thread. It is never unlocked, so that it ends with the goroutine. Mounts of the host go on to arrive
// here, and none of here goes there.
func (n *namespace) serve(entered chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The main thread is what /proc/self shows of the process, and cannot end. Holding it sends the next one elsewhere.
		elsewhere := make(chan error)
		go n.serve(elsewhere)
		entered <- <-elsewhere
		runtime.UnlockOSThread()
		return
	}
	defer close(n.done)
	err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "")
	}
	if err != nil {
		entered <- fmt.Errorf("make a mount namespace: %w", err)
		return
	}
	entered <- nil
	for {
		select {
		case f := <-n.work:
			f()
		case <-n.stop:
			return
		}
	}
}

// do runs f in the namespace. Processes that f starts live there. After close it fails with os.ErrClosed.
func (n *namespace) do(f func() error) error {
	result := make(chan error, 1)
	select {
	case n.work <- func() { result <- f() }:
		return <-result
	case <-n.done:
		return fmt.Errorf("mount namespace: %w", os.ErrClosed)
	}
}

// close ends the thread. The namespace ends with its last process. It is called once.
func (n *namespace) close() {
	close(n.stop)
	<-n.done
}

// newNetwork makes a network namespace that no process is in.
func newNetwork() (*os.File, error) {
	type result struct {
		file *os.File
		err  error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread() // and not unlocked: the thread is no good for anything else
		if unix.Gettid() == unix.Getpid() {
			elsewhere := make(chan result)
			go func() {
				file, err := newNetwork()
				elsewhere <- result{file, err}
			}()
			made <- <-elsewhere
			runtime.UnlockOSThread()
			return
		}
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- result{nil, fmt.Errorf("make a network namespace: %w", err)}
			return
		}
		if err := raiseLoopback(); err != nil {
			made <- result{nil, err}
			return
		}
		file, err := os.Open("/proc/thread-self/ns/net")
		made <- result{file, err}
	}()
	r := <-made
	return r.file, r.err
}

// raiseLoopback brings lo up, which gives it its address. runsc takes over what is up.
func raiseLoopback() error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("raise the loopback interface: %w", err)
	}
	defer unix.Close(socket)
	request, err := unix.NewIfreq("lo")
	if err == nil {
		request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		err = unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, request)
	}
	if err != nil {
		return fmt.Errorf("raise the loopback interface: %w", err)
	}
	return nil
}
