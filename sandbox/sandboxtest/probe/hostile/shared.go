package hostile

import (
	"bytes"
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

func sharedAttempts() []Attempt {
	return []Attempt{
		{Name: "sysv-shared-memory", Tries: "attach shared memory of the host and of neighbours", Layer: IPCNamespace, Proof: Namespace, try: attachMemory},
		{Name: "sysv-semaphores", Tries: "change semaphores of the host and of neighbours", Layer: IPCNamespace, Proof: Namespace, try: changeSemaphores},
		{Name: "sysv-messages", Tries: "take messages of the host and of neighbours", Layer: IPCNamespace, Proof: Namespace, try: takeMessages},
		{Name: "posix-messages", Tries: "take messages of POSIX queues of the host and of neighbours", Layer: IPCNamespace, Proof: Namespace,
			try: takePosixMessages},
		{Name: "neighbour-files", Tries: "read files of the host and of neighbours in /tmp and /dev/shm", Layer: OwnRoot, Proof: Namespace,
			try: func(t *Trial) {
				for _, victim := range t.Victims {
					for _, path := range victim.Files {
						t.got(holdsSecret(path, victim.Secret), "read %s", path)
					}
				}
			}},
		{Name: "list-ipc", Tries: "list the shared memory, semaphores and messages that there are", Layer: IPCNamespace, Proof: Namespace, try: listIPC},
	}
}

var errOther = errors.New("it holds something else")

func attachMemory(t *Trial) {
	for _, victim := range t.Victims {
		id, err := unix.SysvShmGet(victim.Key, 0, 0)
		if err == nil {
			var memory []byte
			if memory, err = unix.SysvShmAttach(id, 0, unix.SHM_RDONLY); err == nil {
				if !bytes.HasPrefix(memory, []byte(victim.Secret)) {
					err = errOther
				}
				unix.SysvShmDetach(memory)
			}
		}
		t.got(err, "read shared memory %#x", victim.Key)
	}
}

func changeSemaphores(t *Trial) {
	for _, victim := range t.Victims {
		id, err := raw(unix.SYS_SEMGET, uintptr(victim.Key), 0, 0)
		if err == nil {
			operation := &[3]int16{0, 1, 0}
			_, err = raw(unix.SYS_SEMOP, id, address(t, operation), 1)
		}
		t.got(err, "changed semaphore %#x", victim.Key)
	}
}

func takeMessages(t *Trial) {
	for _, victim := range t.Victims {
		id, err := raw(unix.SYS_MSGGET, uintptr(victim.Key), 0)
		if err == nil {
			buffer := &[64]uint64{}
			_, err = raw(unix.SYS_MSGRCV, id, address(t, buffer), 256, 0, unix.IPC_NOWAIT)
		}
		t.got(err, "took a message of queue %#x", victim.Key)
	}
}

func takePosixMessages(t *Trial) {
	for _, victim := range t.Victims {
		fd, err := raw(unix.SYS_MQ_OPEN, t.text(victim.Queue), unix.O_RDWR|unix.O_NONBLOCK, 0, 0)
		if err == nil {
			buffer := make([]byte, 8192)
			_, err = raw(unix.SYS_MQ_TIMEDRECEIVE, fd, address(t, &buffer[0]), 8192, 0, 0)
			unix.Close(int(fd))
		}
		t.got(err, "took a message of %s", victim.Queue)
	}
}

// listIPC asks for the number of things, which needs no right to them.
func listIPC(t *Trial) {
	const info = 14 // SHM_INFO; its first field is how many there are
	counts := &[12]uint64{}
	if _, err := raw(unix.SYS_SHMCTL, 0, info, address(t, counts)); err != nil {
		t.held("shmctl: %v", err)
		return
	}
	if used := *(*int32)(unsafe.Pointer(counts)); used > 0 {
		t.breach("counted %d pieces of shared memory", used)
		return
	}
	t.held("there is no shared memory")
}
