package wire

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOfN(rapid.String(), 1, 20).Draw(t, "parts")
		packet, err := Encode(parts...)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(packet)
		if err != nil || !slices.Equal(got, parts) {
			t.Fatalf("got %q, %v", got, err)
		}
	})
}

func TestEncodeRefuses(t *testing.T) {
	for name, parts := range map[string][]string{
		"one large part": {strings.Repeat("x", MaxMessage)},
		"many parts":     make([]string, MaxParts+1),
	} {
		if _, err := Encode(parts...); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{"", "\x00", "\x01\x00\x00\x00a", "\xff\xff\xff\xff", "\x00\x00\x00\x00\x02\x00\x00\x00a"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		parts, err := Decode(packet)
		if err != nil {
			return
		}
		again, err := Encode(parts...)
		if err != nil || string(again) != string(packet) {
			t.Errorf("%q became %q, %v", packet, again, err)
		}
	})
}

func FuzzFiles(f *testing.F) {
	f.Add([]byte{})
	f.Add(unix.UnixRights()[:0])
	f.Fuzz(func(t *testing.T, control []byte) {
		Files(control) // the numbers are not open here: only that it reads no further
	})
}

// TestConn passes messages and files between both ends, and notices the end.
func TestConn(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	one, two := NewConn(pair[0]), NewConn(pair[1])
	defer unix.Close(two.FD())
	file, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := one.Send([]int{int(file.Fd())}, "hello", ""); err != nil {
		t.Fatal(err)
	}
	if err := one.Send(nil, "again"); err != nil {
		t.Fatal(err)
	}
	parts, fds, err := two.Receive()
	if err != nil || !slices.Equal(parts, []string{"hello", ""}) || len(fds) != 1 {
		t.Fatalf("received %q, %v, %v", parts, fds, err)
	}
	if flags, err := unix.FcntlInt(uintptr(fds[0]), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("the file is passed on by exec: %v, %v", flags, err)
	}
	CloseAll(fds)
	if parts, _, err := two.Receive(); err != nil || !slices.Equal(parts, []string{"again"}) {
		t.Errorf("received %q, %v", parts, err)
	}
	if err := unix.Sendmsg(one.FD(), []byte{1, 2, 3}, nil, nil, 0); err != nil {
		t.Fatal(err)
	}
	if _, _, err := two.Receive(); !errors.Is(err, ErrMalformed) {
		t.Errorf("garbage gave %v", err)
	}
	unix.Close(one.FD())
	if parts, _, err := two.Receive(); parts != nil || err != nil {
		t.Errorf("the end gave %q, %v", parts, err)
	}
	if err := two.Send(nil, "x"); !errors.Is(err, unix.EPIPE) {
		t.Errorf("sending to nobody gave %v", err)
	}
}
