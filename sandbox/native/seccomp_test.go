package native

import (
	"encoding/binary"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// filterVM runs the filter of an architecture as the kernel does, on calls with arguments.
type filterVM struct {
	info *arch.Info
	vm   *bpf.VM
}

func newFilterVM(t testing.TB, info *arch.Info) filterVM {
	t.Helper()
	code, err := assembleFilter(info)
	if err != nil {
		t.Fatal(err)
	}
	var program []bpf.Instruction
	for i := 0; i < len(code); i += 8 {
		program = append(program, bpf.RawInstruction{Op: binary.NativeEndian.Uint16(code[i:]), Jt: code[i+2], Jf: code[i+3],
			K: binary.NativeEndian.Uint32(code[i+4:])}.Disassemble())
	}
	if len(program) > unix.BPF_MAXINSNS {
		t.Fatalf("the filter has %d instructions", len(program))
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	return filterVM{info, vm}
}

// verdict returns the filter's answer. The virtual machine loads big-endian words, so each word of the data is one.
func (f filterVM) verdict(t interface{ Fatal(...any) }, architecture uint32, number int, args ...uint64) uint32 {
	data := binary.BigEndian.AppendUint32(nil, uint32(number))
	data = binary.BigEndian.AppendUint32(data, architecture)
	data = append(data, make([]byte, 8)...)
	for i := range 6 {
		var value uint64
		if i < len(args) {
			value = args[i]
		}
		data = binary.BigEndian.AppendUint32(data, uint32(value))
		data = binary.BigEndian.AppendUint32(data, uint32(value>>32))
	}
	result, err := f.vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(result)
}

func (f filterVM) call(t testing.TB, name string, args ...uint64) uint32 {
	t.Helper()
	number, ok := f.info.SyscallNames[name]
	if !ok {
		t.Fatalf("%s has no %s", f.info.Name, name)
	}
	return f.verdict(t, uint32(f.info.ID), number, args...)
}

const allowVerdict = unix.SECCOMP_RET_ALLOW

func answerVerdict(errno unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(errno) }

func TestFilter(t *testing.T) {
	for _, info := range []*arch.Info{arch.X86_64, arch.AARCH64} {
		t.Run(info.Name, func(t *testing.T) {
			f := newFilterVM(t, info)
			for _, test := range []struct {
				name string
				args []uint64
				want uint32
			}{
				{"read", nil, allowVerdict},
				{"futex", nil, allowVerdict},
				{"execve", nil, allowVerdict},
				{"clone3", nil, answerVerdict(unix.ENOSYS)},
				{"io_uring_setup", nil, answerVerdict(unix.ENOSYS)},
				{"mount", nil, answerVerdict(unix.EPERM)},
				{"ptrace", nil, answerVerdict(unix.EPERM)},
				{"unshare", nil, answerVerdict(unix.EPERM)},
				{"bpf", nil, answerVerdict(unix.EPERM)},
				{"clone", []uint64{unix.CLONE_VM | unix.CLONE_THREAD | unix.CLONE_SIGHAND}, allowVerdict},
				{"clone", []uint64{unix.CLONE_NEWUSER}, answerVerdict(unix.EPERM)},
				{"clone", []uint64{unix.CLONE_VM | unix.CLONE_NEWNET}, answerVerdict(unix.EPERM)},
				{"io_setup", nil, answerVerdict(unix.ENOSYS)},
				{"socket", []uint64{unix.AF_UNIX, unix.SOCK_SEQPACKET}, allowVerdict},
				{"socket", []uint64{unix.AF_INET, unix.SOCK_STREAM}, allowVerdict},
				{"socket", []uint64{unix.AF_INET6, unix.SOCK_DGRAM | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK, unix.IPPROTO_UDP}, allowVerdict},
				{"socket", []uint64{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP}, answerVerdict(unix.EPROTONOSUPPORT)},
				{"socket", []uint64{unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_SCTP}, answerVerdict(unix.EPROTONOSUPPORT)},
				{"socket", []uint64{unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE}, answerVerdict(unix.EPROTONOSUPPORT)},
				{"socket", []uint64{unix.AF_INET, unix.SOCK_DCCP}, answerVerdict(unix.ESOCKTNOSUPPORT)},
				{"socket", []uint64{unix.AF_INET, unix.SOCK_SEQPACKET}, answerVerdict(unix.ESOCKTNOSUPPORT)},
				{"socket", []uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE}, allowVerdict},
				{"socket", []uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER}, answerVerdict(unix.EAFNOSUPPORT)},
				{"socket", []uint64{unix.AF_PACKET}, answerVerdict(unix.EAFNOSUPPORT)},
				{"socket", []uint64{1<<32 | unix.AF_VSOCK}, answerVerdict(unix.EAFNOSUPPORT)},
				{"ioctl", []uint64{0, unix.TCGETS}, allowVerdict},
				{"ioctl", []uint64{unix.TCGETS, unix.TIOCSTI}, answerVerdict(unix.ENOTTY)},
				{"ioctl", []uint64{0, 0xffffffff<<32 | unix.TIOCSTI}, answerVerdict(unix.ENOTTY)},
				{"prctl", []uint64{unix.PR_SET_NAME}, allowVerdict},
				{"prctl", []uint64{unix.PR_SET_MM}, answerVerdict(unix.EPERM)},
				{"prlimit64", []uint64{0}, allowVerdict},
				{"prlimit64", []uint64{1}, answerVerdict(unix.EPERM)},
				{"personality", []uint64{0xffffffff}, allowVerdict},
				{"personality", []uint64{8}, answerVerdict(unix.EPERM)},
			} {
				if got := f.call(t, test.name, test.args...); got != test.want {
					t.Errorf("%s %#x is answered %#x instead of %#x", test.name, test.args, got, test.want)
				}
			}
			if got := f.verdict(t, uint32(arch.I386.ID), 20); got != answerVerdict(unix.ENOSYS) {
				t.Errorf("a foreign architecture is answered %#x", got)
			}
			if got := f.verdict(t, uint32(info.ID), x32Bit|info.SyscallNames["getpid"]); got != answerVerdict(unix.ENOSYS) {
				t.Errorf("an x32 call is answered %#x", got)
			}
		})
	}
}

// TestFilterIsItsTables checks that, whatever the arguments, no call is allowed but those that the tables name.
func TestFilterIsItsTables(t *testing.T) {
	for _, info := range []*arch.Info{arch.X86_64, arch.AARCH64} {
		f := newFilterVM(t, info)
		open, byArgument := map[int]bool{}, map[int]bool{}
		for _, group := range allowed {
			for _, name := range group.names {
				if number, ok := info.SyscallNames[name]; ok {
					open[number] = true
				}
			}
		}
		for _, rule := range allowedFor {
			byArgument[info.SyscallNames[rule.name]] = true
		}
		rapid.Check(t, func(t *rapid.T) {
			number := rapid.IntRange(0, 600).Draw(t, "number")
			args := rapid.SliceOfN(rapid.OneOf(rapid.Uint64(), rapid.Uint64Range(0, 600)), 6, 6).Draw(t, "args")
			got := f.verdict(t, uint32(info.ID), number, args...)
			switch {
			case open[number] && got != allowVerdict:
				t.Fatalf("%d is answered %#x", number, got)
			case !open[number] && !byArgument[number] && got == allowVerdict:
				t.Fatalf("%d is allowed", number)
			}
		})
	}
}

// TestFilterNames checks that each name is a call of some architecture, and stands in one table only.
func TestFilterNames(t *testing.T) {
	seen := map[string]bool{}
	for _, groups := range [][]syscallGroup{allowed, refused} {
		for _, group := range groups {
			if group.reason == "" {
				t.Errorf("%q have no reason", group.names)
			}
			for _, name := range group.names {
				if seen[name] {
					t.Errorf("%s is listed twice", name)
				}
				seen[name] = true
			}
		}
	}
	for _, rule := range allowedFor {
		if seen[rule.name] || rule.reason == "" {
			t.Errorf("%s is listed twice, or has no reason", rule.name)
		}
		seen[rule.name] = true
	}
	for name := range seen {
		_, amd64 := arch.X86_64.SyscallNames[name]
		_, arm64 := arch.AARCH64.SyscallNames[name]
		if !amd64 && !arm64 {
			t.Errorf("no architecture has %s", name)
		}
	}
}
