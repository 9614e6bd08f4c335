package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// behaviours are what well-behaved functions do.
func behaviours() map[string]attempt {
	return map[string]attempt{
		"echo":   echo,
		"whoami": whoami,
		"order":  order,
		"exit":   exitWith,
		"signal": signalSelf,
		"count":  count,
		"orphan": orphan,
		"pause":  func([]string) []string { pause(); return nil },
		"touch":  touch,
		"read":   read,
		"get":    get,
		"dial":   dial,
		"ip":     ip,
		"stdout": reopenStdout,
		"where":  where,
	}
}

func pause() {
	wait := make(chan os.Signal, 1)
	signal.Notify(wait, syscall.SIGTERM)
	<-wait
}

// echo prints its arguments, one a line.
func echo(args []string) []string {
	for _, arg := range args {
		fmt.Printf("%q\n", arg)
	}
	return nil
}

func whoami([]string) []string {
	fmt.Println(os.Getuid(), os.Geteuid(), os.Getgid(), os.Getegid())
	return nil
}

// where prints the working directory and the host name.
func where([]string) []string {
	directory, err := os.Getwd()
	if err != nil {
		fail(err)
	}
	name, err := os.Hostname()
	if err != nil {
		fail(err)
	}
	fmt.Println(directory, name)
	return nil
}

// order writes numbered lines to stdout and stderr by turns.
func order(args []string) []string {
	for i := range number(args) {
		to := os.Stdout
		if i%2 == 1 {
			to = os.Stderr
		}
		fmt.Fprintln(to, i)
	}
	return nil
}

func exitWith(args []string) []string {
	os.Exit(number(args))
	return nil
}

// signalSelf ends by a signal.
func signalSelf(args []string) []string {
	which := syscall.Signal(number(args))
	syscall.Kill(os.Getpid(), which)
	time.Sleep(10 * time.Second) // the signal comes first
	return []string{"survived the signal"}
}

// count prints growing numbers for ever.
func count([]string) []string {
	out := bufio.NewWriter(os.Stdout)
	for i := 0; ; i++ {
		fmt.Fprintln(out, i)
		out.Flush()
		time.Sleep(time.Millisecond)
	}
}

// orphan leaves a child behind that holds the output open.
func orphan([]string) []string {
	cmd := exec.Command("/proc/self/exe", "pause")
	cmd.Env = os.Environ()
	cmd.Stdout = os.Stdout
	if err := cmd.Start(); err != nil {
		fail(err)
	}
	fmt.Println("child", cmd.Process.Pid)
	return nil
}

func touch(paths []string) []string {
	for _, path := range paths {
		if err := os.WriteFile(path, []byte("touched"), 0o600); err != nil {
			fail(err)
		}
	}
	return nil
}

func read(paths []string) []string {
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			fail(err)
		}
		fmt.Printf("%s\n", text)
	}
	return nil
}

// get asks the Runtime API for a path, and prints the answer.
func get(args []string) []string {
	response, err := http.Get("http://" + os.Getenv("AWS_LAMBDA_RUNTIME_API") + args[0])
	if err != nil {
		fail(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		fail(err)
	}
	fmt.Println(strconv.Itoa(response.StatusCode), string(text))
	return nil
}

// dial connects to an address and prints the first line that comes, or "nothing".
func dial(args []string) []string {
	const patience = 3 * time.Second
	conn, err := net.DialTimeout("tcp", args[0], patience)
	if err != nil {
		fmt.Println("nothing:", err)
		return nil
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		fmt.Println("nothing:", err)
		return nil
	}
	fmt.Print(line)
	return nil
}

// ip prints the addresses of an interface, its largest packet and whether it is up.
func ip(args []string) []string {
	link, err := net.InterfaceByName(args[0])
	if err != nil {
		fail(err)
	}
	addresses, err := link.Addrs()
	if err != nil {
		fail(err)
	}
	fmt.Println(addresses, link.MTU, link.Flags&net.FlagUp != 0)
	return nil
}

// reopenStdout writes to the names of the standard streams, as shell scripts do.
func reopenStdout([]string) (breaches []string) {
	for _, name := range []string{"/dev/stdout", "/dev/stderr", "/proc/self/fd/1"} {
		file, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			breaches = append(breaches, "cannot write "+name+": "+err.Error())
			continue
		}
		fmt.Fprintln(file, name)
		file.Close()
	}
	return breaches
}
