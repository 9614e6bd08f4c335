// Command probe is a function for the worker's tests: it fails in every way there is, on command.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
)

func main() {
	if len(os.Args) > 1 { // a child that outlives its parent
		time.Sleep(time.Hour)
	}
	p := &probe{}
	lambda.Start(p.handle)
}

type probe struct {
	runs  int
	spins atomic.Int64
}

type answer struct {
	Runs  int   `json:"runs"`
	Marks int64 `json:"marks"`
}

func (p *probe) handle(_ context.Context, command string) (any, error) {
	p.runs++
	fmt.Println("command", command)
	switch command {
	case "mark":
		return p.mark()
	case "exit 7":
		os.Exit(7)
	case "exit 0":
		os.Exit(0)
	case "abort":
		return nil, syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "allocate":
		var all [][]byte
		for {
			block := make([]byte, 1<<20)
			for i := 0; i < len(block); i += 4096 {
				block[i] = 1
			}
			all = append(all, block)
			_ = len(all)
		}
	case "fork":
		for range 10 {
			child := exec.Command("/proc/self/exe", "child")
			child.Stdout, child.Stderr = os.Stdout, os.Stderr
			child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			if err := child.Start(); err != nil {
				return nil, err
			}
		}
		time.Sleep(time.Hour)
	case "sleep":
		time.Sleep(time.Hour)
	case "flood":
		line := strings.Repeat("flood ", 100) + "\n"
		for range 3_000 { // more than a pipe holds, many times over
			fmt.Print(line)
		}
		return "done", nil
	case "spin":
		go func() {
			for n := 0; ; n++ {
				p.spins.Store(int64(n))
			}
		}()
		return "spinning", nil
	}
	return nil, fmt.Errorf("no such command: %s", command)
}

// mark counts in /tmp, and in memory.
func (p *probe) mark() (any, error) {
	file, err := os.OpenFile("/tmp/marks", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if _, err := file.WriteString("x"); err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	return answer{p.runs, info.Size()}, nil
}
