package sandboxtest

import (
	"io"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"lambent/sandbox"
)

// limits checks that every limit of a specification is in force, and that what is below it is granted.
func limits(t *testing.T, s *suite) {
	t.Run("memory", func(t *testing.T) { memory(t, s) })
	t.Run("cpu", func(t *testing.T) { cpu(t, s) })
	t.Run("processes", func(t *testing.T) {
		box := s.sandbox(t, func(spec *sandbox.Spec) { spec.Processes, spec.MemoryMiB = 64, 512 })
		if n := value(t, hold(t, box, "fork", "64"), "children"); n < 4 {
			t.Errorf("only %d processes could be started", n)
		}
	})
	t.Run("descriptors", func(t *testing.T) {
		box := s.sandbox(t, func(spec *sandbox.Spec) { spec.Descriptors = 200 })
		if n := value(t, hold(t, box, "descriptors", "200"), "descriptors"); n < 180 {
			t.Errorf("only %d files could be opened", n)
		}
	})
	t.Run("size of /tmp", func(t *testing.T) {
		for _, size := range []int{512, s.tmpMiB() + 88} { // the size of ready-made ones, and another
			box := s.sandbox(t, func(spec *sandbox.Spec) { spec.MemoryMiB, spec.EphemeralMiB = 128, size })
			if n := value(t, hold(t, box, "fill", "/tmp", "remove"), "filled"); n < size || n > size+16 {
				t.Errorf("%d MiB fitted into /tmp of %d", n, size)
			}
			hold(t, box, "touch", "/tmp/a") // there is room again
			if usage, err := box.Usage(); err != nil || usage.OOMKills > 0 {
				t.Errorf("usage is %+v, %v", usage, err)
			}
		}
	})
	t.Run("files in /tmp", func(t *testing.T) {
		box := s.sandbox(t, func(spec *sandbox.Spec) { spec.EphemeralMiB = s.tmpMiB() })
		if n := value(t, hold(t, box, "inodes", "/tmp", "100000"), "files"); n < 20*s.tmpMiB() {
			t.Errorf("only %d files fitted into /tmp", n)
		}
	})
	t.Run("shared memory", func(t *testing.T) {
		box := s.sandbox(t, nil)
		if n := value(t, hold(t, box, "fill", "/dev/shm", "remove"), "filled"); n > 128 {
			t.Errorf("%d MiB fitted into /dev/shm", n)
		}
		hold(t, box, "inodes", "/dev/shm", "100000")
	})
}

func memory(t *testing.T, s *suite) {
	limit := 128
	box := s.sandbox(t, func(spec *sandbox.Spec) {
		spec.MemoryMiB = limit
		if s.TmpInMemory {
			spec.EphemeralMiB = s.tmpMiB()
			limit += spec.EphemeralMiB
		}
	})
	granted := limit - 28
	expect(t, hold(t, box, "allocate", strconv.Itoa(granted)), "allocated "+strconv.Itoa(granted))
	if usage, err := box.Usage(); err != nil || usage.PeakMemoryBytes < int64(granted)<<20 || usage.PeakMemoryBytes > int64(limit)<<20 {
		t.Errorf("usage after %d MiB is %+v, %v", granted, usage, err)
	}
	for _, size := range []string{strconv.Itoa(limit + 32), "10240"} { // the second time in a sandbox that has been out of memory
		out, exit := run(t, box, "allocate", size)
		if exit.Signal != int(syscall.SIGKILL) || !exit.OOMKilled {
			t.Errorf("exit is %+v, output %q", exit, out)
		}
		killed(t, box)
	}
	if usage, err := box.Usage(); err != nil || usage.OOMKills < 2 {
		t.Errorf("usage is %+v, %v", usage, err)
	}
	if _, exit := run(t, box, "exit", "9"); exit != (sandbox.Exit{Code: 9}) {
		t.Errorf("the exit after an earlier shortage of memory is %+v", exit)
	}
}

// cpu gives shares, and checks what a busy process gets of them.
func cpu(t *testing.T, s *suite) {
	for _, share := range []float64{0.1, 0.5} {
		box := s.sandbox(t, func(spec *sandbox.Spec) { spec.VCPU = share })
		before, err := box.Usage()
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		lines := hold(t, box, "burn", "1000")
		got := float64(value(t, lines, "cpu")) / 1000
		if s.Kind == "gvisor" { // its kernel takes for used what the host gave to others: only the host's meter tells
			after, err := box.Usage()
			if err != nil {
				t.Fatal(err)
			}
			got = float64(after.CPU-before.CPU) / float64(time.Since(begun))
		}
		if got > share*1.3+0.03 {
			t.Errorf("a share of %.2f got %.2f", share, got)
		}
		if got < share*0.3 {
			t.Errorf("a share of %.2f got only %.2f; the host may be busy", share, got)
		}
	}
}

// neighbours checks that a sandbox goes on, at its speed, while others are hostile.
func neighbours(t *testing.T, s *suite) {
	victim := s.sandbox(t, nil)
	process := start(t, victim, "count")
	defer process.Output().Close()
	var hostile []sandbox.Process
	for _, attack := range [][]string{{"forkbomb"}, {"allocate", "10240"}, {"fill", "/tmp"}, {"kill"}} {
		box := s.sandbox(t, func(spec *sandbox.Spec) { spec.VCPU = 0.25 })
		hostile = append(hostile, start(t, box, attack...))
	}
	for _, attacker := range hostile {
		go io.Copy(io.Discard, attacker.Output())
	}
	counted, buffer := 0, make([]byte, 4096)
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		n, err := process.Output().Read(buffer)
		if err != nil {
			t.Fatalf("the victim ended: %v", err)
		}
		counted += strings.Count(string(buffer[:n]), "\n")
	}
	if counted < 200 {
		t.Errorf("in 2 s the victim counted to %s only", strconv.Itoa(counted))
	}
}
