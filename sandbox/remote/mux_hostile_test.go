package remote

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"
)

// yamuxFrame is a frame as a hostile end writes it: its kind is 0 for data, 1 for a window update, 2 for a ping.
func yamuxFrame(kind byte, flags uint16, stream, length uint32) []byte {
	frame := binary.BigEndian.AppendUint16([]byte{0, kind}, flags)
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(frame, stream), length)
}

// hostileEnd connects a client to an end that sends what the test writes, and reads nothing unless the test does.
func hostileEnd(t *testing.T) (*Client, net.Conn) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range pair {
		file := os.NewFile(uintptr(fd), "end")
		ends[i], err = net.FileConn(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
	far := ends[1]
	link, err := DialMux(ends[0], t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	client := Dial(link)
	t.Cleanup(func() {
		far.Close()
		client.Close()
	})
	return client, far
}

// writeAll writes until a frame is refused, for at most so many frames.
func writeAll(far io.Writer, frames int, frame func(i int) []byte) {
	for i := 0; i < frames; i += 64 {
		var batch []byte
		for j := range 64 {
			batch = append(batch, frame(i+j)...)
		}
		if _, err := far.Write(batch); err != nil {
			return
		}
	}
}

func TestMuxPings(t *testing.T) {
	client, far := hostileEnd(t)
	before := runtime.NumGoroutine()
	if err := far.SetWriteDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	writeAll(far, 200_000, func(i int) []byte { return yamuxFrame(2, 1, 0, uint32(i)) })
	if n := runtime.NumGoroutine() - before; n > 1000 {
		t.Errorf("pings that are not read keep %d goroutines", n)
	}
	wantGone(t, client)
}

func TestMuxManyStreams(t *testing.T) {
	client, far := hostileEnd(t)
	go func() { _, _ = io.Copy(io.Discard, far) }()
	content := make([]byte, 4096)
	writeAll(far, 4096, func(i int) []byte {
		return append(yamuxFrame(0, 1, uint32(2+2*i), uint32(len(content))), content...)
	})
	wantGone(t, client)
	// The streams of one read more may have come.
	if n := client.link.(*muxLink).session.NumStreams(); n > maxOpenStreams+4096/yamuxHeader {
		t.Errorf("the other end has %d streams open", n)
	}
}

func wantGone(t *testing.T, client *Client) {
	t.Helper()
	select {
	case <-client.Done():
	case <-time.After(10 * time.Second):
		t.Error("the link goes on")
	}
}

// TestMuxFiles has an end send files with what nobody asked for, and files that were not asked for.
func TestMuxFiles(t *testing.T) {
	for name, m := range map[string]message{"unasked": {Kind: kindAnswer, ID: 1 << 40}, "exit": {Kind: kindExit, Process: 1}} {
		t.Run(name, func(t *testing.T) {
			client, far := hostileEnd(t)
			session, err := yamux.Server(far, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer session.Close()
			control, err := session.Accept()
			if err != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			before := descriptors(t)
			for i := range 40 {
				frame := append(binary.LittleEndian.AppendUint32(nil, uint32(len(text))), maxFiles)
				for range maxFiles {
					frame = append(frame, filePipe)
				}
				frame = append(frame, text...)
				for j := range maxFiles {
					frame = binary.LittleEndian.AppendUint64(frame, uint64(1000+i*maxFiles+j))
				}
				if _, err := control.Write(frame); err != nil {
					break
				}
			}
			wantGone(t, client)
			if n := descriptors(t) - before; n > 3*maxFiles {
				t.Errorf("files that nobody asked for keep %d descriptors", n)
			}
		})
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}
