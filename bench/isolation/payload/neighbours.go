package main

import (
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// say tells whoever reads the output that the program runs.
func say() error {
	_, err := os.Stdout.WriteString("x")
	return err
}

// idle waits to be killed.
func idle([]string) error {
	if err := say(); err != nil {
		return err
	}
	for {
		unix.Pause() //nolint:errcheck // it returns by a signal only
	}
}

// victimBlocks of 1 KiB are hashed for each request: about a millisecond.
const victimBlocks = 900

// victim answers requests of 1 KiB over one connection to an address.
func victim(args []string) error {
	if len(args) != 1 {
		return errors.New("victim ADDRESS")
	}
	conn, err := net.Dial("tcp", args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	buffer := make([]byte, 1024)
	for {
		if _, err := io.ReadFull(conn, buffer); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		for range victimBlocks {
			sum := sha256.Sum256(buffer)
			copy(buffer, sum[:])
		}
		if _, err := conn.Write(buffer); err != nil {
			return err
		}
	}
}

// everywhere runs f without end on twice as many threads as there are processors, once the output says so.
func everywhere(f func()) error {
	if err := say(); err != nil {
		return err
	}
	for range 2 * runtime.NumCPU() {
		go func() {
			for {
				f()
			}
		}()
	}
	select {}
}

func burnCPU([]string) error {
	return everywhere(func() {
		block := make([]byte, 1024)
		for range 10_000 {
			sum := sha256.Sum256(block)
			copy(block, sum[:])
		}
	})
}

// burnMemory copies more than the caches hold.
func burnMemory([]string) error {
	return everywhere(func() {
		from, to := make([]byte, 24<<20), make([]byte, 24<<20)
		for i := range 100 {
			from[i] = byte(i)
			copy(to, from)
		}
		runtime.GC()
	})
}

// burnDisk writes and syncs, and takes what it wrote away again.
func burnDisk(args []string) error {
	if len(args) != 1 {
		return errors.New("burn-disk DIRECTORY")
	}
	if err := say(); err != nil {
		return err
	}
	file, err := os.OpenFile(filepath.Join(args[0], "burn"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	block := make([]byte, 1<<20)
	for i := 0; ; i = (i + 1) % 128 {
		if _, err := file.WriteAt(block, int64(i)<<20); err != nil {
			return err
		}
		if i%8 == 0 {
			if err := file.Sync(); err != nil {
				return err
			}
		}
	}
}

// burnProcesses starts programs without end; where the limit is reached it tries again.
func burnProcesses([]string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return everywhere(func() {
		process, err := os.StartProcess(self, []string{"payload"}, &os.ProcAttr{Env: []string{}})
		if err != nil {
			runtime.Gosched() // at the limit it tries again at once, to be a nuisance
			return
		}
		process.Wait() //nolint:errcheck // it ends with an error on purpose
	})
}

// burnNetwork opens connections to itself and pushes through them what they take.
func burnNetwork([]string) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.Copy(io.Discard, conn) //nolint:errcheck // the other end closes when it likes
			}()
		}
	}()
	block := make([]byte, 64<<10)
	return everywhere(func() {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			return
		}
		defer conn.Close()
		for range 256 {
			if _, err := conn.Write(block); err != nil {
				return
			}
		}
	})
}
