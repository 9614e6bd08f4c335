package remote

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"lambent/sandbox"
)

func TestErrorsTravel(t *testing.T) {
	for _, test := range []struct{ err, is error }{
		{syscall.ENOENT, syscall.ENOENT}, {os.ErrClosed, os.ErrClosed}, {errors.New("plain"), nil},
		{&os.PathError{Op: "open", Path: "x", Err: syscall.EACCES}, os.ErrPermission},
	} {
		var m message
		m.setError(test.err)
		got := m.err()
		if got == nil || got.Error() != test.err.Error() || test.is != nil && !errors.Is(got, test.is) {
			t.Errorf("%v arrives as %v", test.err, got)
		}
	}
	if err := (&message{}).err(); err != nil {
		t.Errorf("no error arrives as %v", err)
	}
}

// FuzzMessage gives what a client sends to a server without sandboxes, and what a server sends to a client.
func FuzzMessage(f *testing.F) {
	for _, seed := range []string{`{"Kind":"create","ID":1,"Driver":"x"}`, `{"Kind":"answer","ID":1,"Processes":[1,2]}`, `{`, `null`,
		`{"Kind":"exit","Process":1}`, `{"Kind":"start","Driver":"x","Command":{"Path":"/w=="}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) == 0 || len(text) > 1<<16 {
			return
		}
		link, file, err := Pair()
		if err != nil {
			t.Fatal(err)
		}
		far, err := NewUnix(file)
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error)
		go func() {
			served <- NewServer(Options{Drivers: map[string]sandbox.Driver{}}).Serve(t.Context(), link)
		}()
		if err := far.Send(text, nil); err != nil {
			t.Fatal(err)
		}
		client := Dial(far)
		if err := client.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; err == nil {
			t.Error("a server whose client has left goes on")
		}
	})
}

// FuzzMux gives any bytes to either end of a muxed link.
func FuzzMux(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 5, 255, 255, 255, 255, 9}, true)
	f.Add([]byte{0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, false)
	f.Fuzz(func(t *testing.T, text []byte, serve bool) {
		near, far := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, far) }()
		go func() {
			_, _ = far.Write(text)
			far.Close()
		}()
		var link Link
		var err error
		if serve {
			link, err = ServeMux(near)
		} else {
			link, err = DialMux(near, t.TempDir())
		}
		if err != nil {
			return
		}
		if _, files, err := link.Receive(); err == nil {
			closeFiles(files)
		}
		if err := link.Close(); err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Log(err)
		}
	})
}

// TestSources checks what may be mounted, and that a source is what it was when it was opened.
func TestSources(t *testing.T) {
	owned, dir, fixed := t.TempDir(), t.TempDir(), t.TempDir()
	for name, text := range map[string]string{"a": "first", "b": "second"} {
		if err := os.MkdirAll(owned+"/"+name, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(owned+"/"+name+"/file", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc", owned+"/link"); err != nil {
		t.Fatal(err)
	}
	s := NewSources(dir, []string{fixed}, []string{owned})
	if got, release, err := s.Source(fixed); err != nil || got != fixed {
		t.Errorf("a fixed path is %q, %v", got, err)
	} else {
		release()
	}
	for _, path := range []string{"/etc", fixed + "/..", owned, owned + "/link", owned + "/link/passwd", owned + "/../x", owned + "/a/../../x", "relative"} {
		if got, _, err := s.Source(path); err == nil {
			t.Errorf("%s may be mounted, as %s", path, got)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	got, release, err := s.Source(owned + "/a")
	if err != nil {
		t.Fatal(err)
	}
	again, releaseAgain, err := s.Source(owned + "/a")
	if err != nil || again != got {
		t.Errorf("the second user gets %s, %v", again, err)
	}
	// The client changes what the path means.
	if err := os.Rename(owned+"/a", owned+"/c"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", owned+"/a"); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(got + "/file"); err != nil || string(text) != "first" {
		t.Errorf("the mounted file is %q, %v", text, err)
	}
	if err := os.WriteFile(got+"/file", nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing it: %v", err)
	}
	release()
	release()
	if text, err := os.ReadFile(got + "/file"); err != nil || string(text) != "first" {
		t.Errorf("with one user left the file is %q, %v", text, err)
	}
	releaseAgain()
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(0, len(left)); diff != "" {
		t.Error(diff)
	}
}
