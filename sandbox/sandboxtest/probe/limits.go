package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func limitAttempts() map[string]attempt {
	return map[string]attempt{
		"fork":        forkMany,
		"allocate":    allocate,
		"fill":        fill,
		"inodes":      manyFiles,
		"descriptors": manyDescriptors,
		"burn":        burn,
		"forkbomb":    forkBomb,
	}
}

func number(args []string) int {
	if len(args) == 0 {
		fail(errors.New("a number is missing"))
	}
	n, err := strconv.Atoi(args[0])
	if err != nil {
		fail(err)
	}
	return n
}

// forkMany starts children that wait, until it cannot. More than the given number is a breach.
func forkMany(args []string) (breaches []string) {
	limit := number(args)
	var children []*exec.Cmd
	for len(children) <= limit {
		cmd := exec.Command("/proc/self/exe", "pause")
		cmd.Env = os.Environ()
		if err := cmd.Start(); err != nil {
			if !errors.Is(err, unix.EAGAIN) {
				breaches = append(breaches, "fork answered "+err.Error())
			}
			break
		}
		children = append(children, cmd)
	}
	fmt.Println("children", len(children))
	if len(children) > limit {
		breaches = append(breaches, fmt.Sprintf("started %d processes", len(children)))
	}
	for _, child := range children {
		child.Process.Kill()
		child.Wait()
	}
	return breaches
}

// forkBomb doubles for ever.
func forkBomb([]string) []string {
	for {
		cmd := exec.Command("/proc/self/exe", "forkbomb")
		cmd.Env = os.Environ()
		if cmd.Start() == nil {
			go cmd.Wait()
		}
	}
}

// allocate touches a number of MiB, and says so when it has them.
func allocate(args []string) []string {
	const chunk = 1 << 20
	var held [][]byte
	for range number(args) {
		memory, err := syscall.Mmap(-1, 0, chunk, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
		if err != nil {
			return nil
		}
		for at := 0; at < chunk; at += 4096 {
			memory[at] = 1
		}
		held = append(held, memory)
	}
	fmt.Println("allocated", len(held))
	return nil
}

// fill writes to a new file in a directory until it is full, and prints the MiB that fitted.
func fill(args []string) (breaches []string) {
	file, err := os.CreateTemp(args[0], "fill")
	if err != nil {
		fail(err)
	}
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i)
	}
	written := 0
	for {
		n, err := file.Write(block)
		written += n
		if err != nil {
			if !errors.Is(err, unix.ENOSPC) {
				breaches = append(breaches, "a full disk answered "+err.Error())
			}
			break
		}
		if written > 20<<30 {
			return append(breaches, "the disk has no end")
		}
	}
	fmt.Println("filled", written>>20)
	if len(args) > 1 {
		os.Remove(file.Name())
	}
	return breaches
}

// manyFiles makes empty files in a directory until it cannot.
func manyFiles(args []string) (breaches []string) {
	limit := number(args[1:])
	count := 0
	for ; count <= limit; count++ {
		fd, err := unix.Open(args[0]+"/file"+strconv.Itoa(count), unix.O_CREAT|unix.O_WRONLY, 0o600)
		if err != nil {
			if err != unix.ENOSPC {
				breaches = append(breaches, "creating answered "+err.Error())
			}
			break
		}
		unix.Close(fd)
	}
	fmt.Println("files", count)
	if count > limit {
		breaches = append(breaches, fmt.Sprintf("made %d files", count))
	}
	return breaches
}

// manyDescriptors opens files until it cannot.
func manyDescriptors(args []string) (breaches []string) {
	limit, count := number(args), 0
	for ; count <= limit; count++ {
		if _, err := unix.Open("/dev/null", unix.O_RDONLY, 0); err != nil {
			break
		}
	}
	fmt.Println("descriptors", count)
	if count > limit {
		breaches = append(breaches, fmt.Sprintf("opened %d files", count))
	}
	return breaches
}

// burn computes for a number of milliseconds of time and prints how many of CPU time it got.
func burn(args []string) []string {
	end := time.Now().Add(time.Duration(number(args)) * time.Millisecond)
	before := used() // the start of a process takes long on a slow machine
	for time.Now().Before(end) {
	}
	fmt.Println("cpu", (used() - before).Milliseconds())
	return nil
}

// used is the time that processors have worked for this process.
func used() time.Duration {
	var usage unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
