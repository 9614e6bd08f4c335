package hostile

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// standing is what a victim has to take away when it ends.
type standing struct {
	Victim
	kept  Trial
	paths []string
	ids   [3]uintptr // shared memory, semaphores, messages
}

// Stand has what attackers are after: memory, files in the directories, sockets, and things of IPC. It says so on w as one
// line of JSON, and waits for SIGTERM. Then it removes all of it. Under kernels that lack some of it, it has the rest.
func Stand(w io.Writer, name string, directories []string) error {
	end := make(chan os.Signal, 1)
	signal.Notify(end, unix.SIGTERM)
	hash := fnv.New32()
	io.WriteString(hash, name)
	s := &standing{Victim: Victim{PID: os.Getpid(), Secret: "secret-of-" + name, Key: int(hash.Sum32()>>2 | 1), Queue: mark + "-" + name}}
	defer s.fall()
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("victim: %w", err)
	}
	copy(page, s.Secret)
	s.Address = uint64(uintptr(unsafe.Pointer(&page[0])))
	for _, directory := range directories {
		if err := s.standIn(directory, name); err != nil {
			return fmt.Errorf("victim: %w", err)
		}
	}
	s.share()
	if err := s.serve(name); err != nil {
		return fmt.Errorf("victim: %w", err)
	}
	if err := json.NewEncoder(w).Encode(s.Victim); err != nil {
		return fmt.Errorf("victim: %w", err)
	}
	<-end
	runtime.KeepAlive(page)
	return nil
}

// standIn has a file in a directory.
func (s *standing) standIn(directory, name string) error {
	path := filepath.Join(directory, "lambent-victim-"+name)
	if err := os.WriteFile(path, []byte(s.Secret), 0o644); err != nil {
		return err
	}
	s.paths, s.Files = append(s.paths, path), append(s.Files, path)
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	s.kept.kept = append(s.kept.kept, file)
	s.Descriptor = int(file.Fd())
	s.Sockets = append(s.Sockets, "unix", path+".socket")
	s.paths = append(s.paths, path+".socket")
	return s.listen("unix", path+".socket")
}

// serve listens on an abstract socket and on every address.
func (s *standing) serve(name string) error {
	s.Sockets = append(s.Sockets, "unix", "@lambent-victim-"+name)
	if err := s.listen("unix", "@lambent-victim-"+name); err != nil {
		return err
	}
	addresses, _ := net.InterfaceAddrs()
	for _, address := range addresses {
		network, ok := address.(*net.IPNet)
		if !ok || network.IP.To4() == nil {
			continue
		}
		listener, err := net.Listen("tcp", net.JoinHostPort(network.IP.String(), "0"))
		if err != nil {
			continue
		}
		s.Sockets = append(s.Sockets, "tcp", listener.Addr().String())
		go s.accept(listener)
	}
	return nil
}

func (s *standing) listen(network, address string) error {
	listener, err := net.Listen(network, address)
	if err != nil {
		return err
	}
	if strings.HasPrefix(address, "/") {
		os.Chmod(address, 0o666)
	}
	go s.accept(listener)
	return nil
}

// accept passes an open file to whoever comes.
func (s *standing) accept(listener net.Listener) {
	s.kept.kept = append(s.kept.kept, listener)
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		if local, ok := conn.(*net.UnixConn); ok && s.Descriptor > 0 {
			local.WriteMsgUnix([]byte("x"), unix.UnixRights(s.Descriptor), nil)
		}
		conn.Close()
	}
}

// share has things of IPC that everyone may use.
func (s *standing) share() {
	t := &s.kept
	if id, err := unix.SysvShmGet(s.Key, 4096, unix.IPC_CREAT|0o666); err == nil {
		s.ids[0] = uintptr(id) + 1
		if memory, err := unix.SysvShmAttach(id, 0, 0); err == nil {
			copy(memory, s.Secret)
		}
	}
	if id, err := raw(unix.SYS_SEMGET, uintptr(s.Key), 1, unix.IPC_CREAT|0o666); err == nil {
		s.ids[1] = id + 1
	}
	if id, err := raw(unix.SYS_MSGGET, uintptr(s.Key), unix.IPC_CREAT|0o666); err == nil {
		s.ids[2] = id + 1
		message := &[9]uint64{1}
		for range 4 {
			raw(unix.SYS_MSGSND, id, address(t, message), 64, unix.IPC_NOWAIT)
		}
	}
	old := unix.Umask(0)
	queue, err := raw(unix.SYS_MQ_OPEN, t.text(s.Queue), unix.O_RDWR|unix.O_CREAT|unix.O_NONBLOCK, 0o666, 0)
	unix.Umask(old)
	if err == nil {
		for range 4 {
			raw(unix.SYS_MQ_TIMEDSEND, queue, t.text(s.Secret), uintptr(len(s.Secret)), 1, 0)
		}
	}
}

// fall removes what share and standIn made.
func (s *standing) fall() {
	for _, path := range s.paths {
		os.Remove(path)
	}
	for i, number := range []uintptr{unix.SYS_SHMCTL, unix.SYS_SEMCTL, unix.SYS_MSGCTL} {
		if s.ids[i] == 0 {
			continue
		}
		if number == unix.SYS_SEMCTL {
			raw(number, s.ids[i]-1, 0, unix.IPC_RMID)
		} else {
			raw(number, s.ids[i]-1, unix.IPC_RMID, 0)
		}
	}
	raw(unix.SYS_MQ_UNLINK, s.kept.text(s.Queue))
}
