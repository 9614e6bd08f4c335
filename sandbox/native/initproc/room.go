package initproc

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"lambent/sandbox/native/wire"
)

// room is where a starter waits for its command. An exec has to take down the memory of who executes, which for a fork of a Go
// process takes longer than all the rest of a start. So a starter that is ready gives back whatever memory it can, ahead of need,
// and from then on uses its room, its code and the end of its stack only. It allocates nothing and grows no stack: what runs then
// is marked nosplit, down to the system calls.
type room struct {
	former    [64]span // memory that a starter does without, that of the end of its stack aside
	formers   int
	message   unix.Msghdr
	vector    unix.Iovec
	control   [64]byte
	limit     syscall.Rlimit
	pointers  [wire.MaxParts + 2]uintptr // the arguments and the environment, each with a 0 behind it
	packet    [wire.MaxMessage + 1]byte
	received  int
	output    int32 // the one file that came with it
	path, dir uintptr
	environ   int // its place in pointers
}

// span is a range of addresses.
type span struct{ from, to uintptr }

// stackKept is what of its stack a starter keeps: more than nosplit functions may use.
const stackKept = 8 << 10

// newRoom makes a room for the starters of all inits that this process forks: each has a copy of its own.
func newRoom() (*room, error) {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil, err
	}
	memory, err := unix.Mmap(-1, 0, int(unsafe.Sizeof(room{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, err
	}
	r := (*room)(unsafe.Pointer(unsafe.SliceData(memory)))
	r.formers = copy(r.former[:], parseAnonymous(string(maps)))
	return r, nil
}

// parseAnonymous lists, from the text of /proc/self/maps, the memory that is neither of a file, nor follows one (as the variables of
// a program do), nor the kernel's or the first stack.
func parseAnonymous(maps string) (found []span) {
	var fileEnd uintptr
	for line := range strings.Lines(maps) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		fromText, toText, _ := strings.Cut(fields[0], "-")
		from, fromErr := strconv.ParseUint(fromText, 16, 64)
		to, toErr := strconv.ParseUint(toText, 16, 64)
		if fromErr != nil || toErr != nil {
			continue
		}
		named := len(fields) > 5 && !strings.HasPrefix(fields[5], "[anon")
		if named || uintptr(from) == fileEnd {
			fileEnd = uintptr(to)
			continue
		}
		found = append(found, span{uintptr(from), uintptr(to)})
	}
	return slices.Clip(found)
}

// await gives memory back, waits for a command, and becomes it. When there is no becoming it, it says so to the driver. It does not
// return.
//
//go:nosplit
func (r *room) await() {
	r.giveBack()
	if r.receive() {
		step, errno := r.become()
		r.reply(step, errno)
	}
	for {
		_, _, _ = syscall.RawSyscall6(unix.SYS_EXIT_GROUP, 1, 0, 0, 0, 0, 0)
	}
}

// giveBack unmaps memory. The caller's frames are gone after it.
//
//go:nosplit
func (r *room) giveBack() {
	var here byte
	top := uintptr(unsafe.Pointer(&here))
	kept := span{(top - stackKept) &^ 4095, (top + 2*4096) &^ 4095}
	for i := 0; i < r.formers; i++ {
		s := r.former[i]
		if kept.from >= s.to || kept.to <= s.from {
			_, _, _ = syscall.RawSyscall6(unix.SYS_MUNMAP, s.from, s.to-s.from, 0, 0, 0, 0)
			continue
		}
		if s.from < kept.from {
			_, _, _ = syscall.RawSyscall6(unix.SYS_MUNMAP, s.from, kept.from-s.from, 0, 0, 0, 0)
		}
		if kept.to < s.to {
			_, _, _ = syscall.RawSyscall6(unix.SYS_MUNMAP, kept.to, s.to-kept.to, 0, 0, 0, 0)
		}
	}
}

// receive waits for a message with one file.
//
//go:nosplit
func (r *room) receive() bool {
	r.vector = unix.Iovec{Base: &r.packet[0], Len: wire.MaxMessage}
	r.message = unix.Msghdr{Iov: &r.vector, Iovlen: 1, Control: &r.control[0], Controllen: uint64(len(r.control))}
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_RECVMSG, wire.ControlFD, uintptr(unsafe.Pointer(&r.message)), unix.MSG_CMSG_CLOEXEC, 0, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		r.received = int(n)
		if errno != 0 || n == 0 {
			return false
		}
		break
	}
	header := (*unix.Cmsghdr)(unsafe.Pointer(&r.control[0]))
	r.output = -1
	if r.message.Controllen >= unix.SizeofCmsghdr+4 && header.Level == unix.SOL_SOCKET && header.Type == unix.SCM_RIGHTS {
		r.output = *(*int32)(unsafe.Pointer(&r.control[unix.SizeofCmsghdr]))
	}
	return true
}

// become executes the command of the packet. It returns only when it fails.
//
//go:nosplit
func (r *room) become() (step string, errno syscall.Errno) {
	if r.output < 0 || r.message.Flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || !r.parse() {
		return "understand the driver", unix.EBADMSG
	}
	for to := uintptr(1); to <= 2; to++ {
		if _, _, errno = syscall.RawSyscall6(unix.SYS_DUP3, uintptr(r.output), to, 0, 0, 0, 0); errno != 0 {
			return "set the output", errno
		}
	}
	limit := uintptr(unsafe.Pointer(&r.limit))
	if _, _, errno = syscall.RawSyscall6(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, limit, 0, 0, 0); errno != 0 {
		return "limit open files", errno
	}
	_, _, errno = syscall.RawSyscall6(unix.SYS_CLOSE_RANGE, wire.ControlFD, 1<<32-1, unix.CLOSE_RANGE_CLOEXEC, 0, 0, 0)
	if errno != 0 {
		return "close descriptors", errno
	}
	if _, _, errno = syscall.RawSyscall6(unix.SYS_CHDIR, r.dir, 0, 0, 0, 0, 0); errno != 0 {
		return "enter the directory", errno
	}
	arguments, environ := uintptr(unsafe.Pointer(&r.pointers[0])), uintptr(unsafe.Pointer(&r.pointers[r.environ]))
	_, _, errno = syscall.RawSyscall6(unix.SYS_EXECVE, r.path, arguments, environ, 0, 0, 0)
	return "execute", errno
}

// parse takes the packet apart in its place: each part is ended by a 0 that stands where the length of the next one was.
//
//go:nosplit
func (r *room) parse() bool {
	const fixed = 5 // the parts before the arguments: see wire.Exec
	arguments, next := -1, 0
	for part, at := 0, 0; at < r.received; part++ {
		if at+4 > r.received {
			return false
		}
		length := int(r.packet[at]) | int(r.packet[at+1])<<8 | int(r.packet[at+2])<<16 | int(r.packet[at+3])<<24
		r.packet[at] = 0
		begin, end := at+4, at+4+length
		if end > r.received || next+2 > len(r.pointers) {
			return false
		}
		text := uintptr(unsafe.Pointer(&r.packet[begin]))
		switch part {
		case 0: // the name, which is the only one there is
		case 1:
			files := r.number(begin, end)
			r.limit = syscall.Rlimit{Cur: uint64(files), Max: uint64(files)}
		case 2:
			r.path = text
		case 3:
			r.dir = text
		case 4:
			arguments = r.number(begin, end)
		default:
			if part == fixed+arguments {
				r.pointers[next] = 0
				next++
				r.environ = next
			}
			r.pointers[next] = text
			next++
		}
		at = end
	}
	r.packet[r.received] = 0
	if arguments < 0 || next < arguments {
		return false
	}
	if next == arguments { // there is no environment
		r.pointers[next] = 0
		next++
		r.environ = next
	}
	r.pointers[next] = 0
	return r.limit.Max > 0
}

// number reads a decimal number, 0 when it is none. The driver has written it.
//
//go:nosplit
func (r *room) number(begin, end int) int {
	n := 0
	for i := begin; i < end; i++ {
		digit := r.packet[i] - '0'
		if digit > 9 || n > 1<<20 {
			return 0
		}
		n = 10*n + int(digit)
	}
	return n
}

// reply sends a Failed message.
//
//go:nosplit
func (r *room) reply(step string, errno syscall.Errno) {
	digits := [4]byte{byte('0' + errno/1000%10), byte('0' + errno/100%10), byte('0' + errno/10%10), byte('0' + errno%10)}
	n := r.put(0, wire.Failed)
	n = r.put(n, step)
	n = r.put(n, unsafe.String(&digits[0], len(digits)))
	r.vector = unix.Iovec{Base: &r.packet[0], Len: uint64(n)}
	r.message = unix.Msghdr{Iov: &r.vector, Iovlen: 1}
	// A driver that is gone needs no reason.
	_, _, _ = syscall.RawSyscall6(unix.SYS_SENDMSG, wire.ControlFD, uintptr(unsafe.Pointer(&r.message)), unix.MSG_NOSIGNAL, 0, 0, 0)
}

// put writes one part of a message into the packet, and returns where it ends.
//
//go:nosplit
func (r *room) put(at int, text string) int {
	r.packet[at], r.packet[at+1], r.packet[at+2], r.packet[at+3] = byte(len(text)), 0, 0, 0
	for i := range len(text) {
		r.packet[at+4+i] = text[i]
	}
	return at + 4 + len(text)
}
