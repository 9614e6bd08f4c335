package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// measureTime is how long each loop runs.
const measureTime = 500 * time.Millisecond

// perSecond counts how often f can be called in a second; it calls it in batches, so that looking at the clock costs nothing.
func perSecond(batch int, f func() error) (float64, error) {
	began := time.Now()
	for calls := 0; ; {
		for range batch {
			if err := f(); err != nil {
				return 0, err
			}
		}
		calls += batch
		if spent := time.Since(began); spent >= measureTime {
			return float64(calls) / spent.Seconds(), nil
		}
	}
}

// cpu hashes: no system calls, little memory.
func cpu([]string) (float64, error) {
	block := make([]byte, 16<<10)
	return perSecond(4, func() error {
		sum := sha256.Sum256(block)
		copy(block, sum[:])
		return nil
	})
}

func getppid([]string) (float64, error) {
	return perSecond(1000, func() error {
		unix.Getppid()
		return nil
	})
}

func readZero([]string) (float64, error) {
	fd, err := unix.Open("/dev/zero", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	buffer := make([]byte, 1)
	return perSecond(1000, func() error {
		_, err := unix.Read(fd, buffer)
		return err
	})
}

const fileBytes = 64 << 20

// writeFile writes a file of fileBytes in a directory, to the disk, and returns the bytes per second.
func writeFile(args []string) (float64, error) {
	if len(args) != 1 {
		return 0, errors.New("write-file DIRECTORY")
	}
	path := filepath.Join(args[0], "payload-file")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	block := make([]byte, 1<<20)
	began := time.Now()
	for range fileBytes / len(block) {
		if _, err := file.Write(block); err != nil {
			return 0, err
		}
	}
	if err := file.Sync(); err != nil {
		return 0, err
	}
	return fileBytes / time.Since(began).Seconds(), nil
}

// readFile reads what writeFile wrote, which is in memory as a rule.
func readFile(args []string) (float64, error) {
	if len(args) != 1 {
		return 0, errors.New("read-file DIRECTORY")
	}
	path := filepath.Join(args[0], "payload-file")
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	block := make([]byte, 1<<20)
	rate, err := perSecond(1, func() error {
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			return err
		}
		for range fileBytes / len(block) {
			if _, err := io.ReadFull(file, block); err != nil {
				return err
			}
		}
		return nil
	})
	return rate * fileBytes, err
}

// dial connects to an address, sends 1 KiB and reads it back, many times, and returns the median in seconds.
func dial(args []string) (float64, error) {
	if len(args) != 2 {
		return 0, errors.New("dial ADDRESS COUNT")
	}
	count, err := strconv.Atoi(args[1])
	if err != nil || count < 1 {
		return 0, fmt.Errorf("%q is no count", args[1])
	}
	buffer := make([]byte, 1024)
	var took []float64
	for range count {
		began := time.Now()
		conn, err := net.Dial("tcp", args[0])
		if err != nil {
			return 0, err
		}
		_, writeErr := conn.Write(buffer)
		_, readErr := io.ReadFull(conn, buffer)
		conn.Close()
		if err := errors.Join(writeErr, readErr); err != nil {
			return 0, err
		}
		took = append(took, time.Since(began).Seconds())
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}
