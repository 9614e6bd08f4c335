// Command payload is what "lambent bench" runs in sandboxes and beside them: small loops that measure themselves. It prints what
// it measured as one number.
package main

import (
	"fmt"
	"os"
	"strconv"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "payload:", err)
		os.Exit(1)
	}
}

// run does the first argument to the others.
func run(args []string) error {
	measures := map[string]func(args []string) (float64, error){
		"cpu": cpu, "getppid": getppid, "read-zero": readZero, "write-file": writeFile, "read-file": readFile,
		"dial": dial,
	}
	endless := map[string]func(args []string) error{
		"idle": idle, "victim": victim, "burn-cpu": burnCPU, "burn-memory": burnMemory, "burn-disk": burnDisk,
		"burn-processes": burnProcesses, "burn-network": burnNetwork,
	}
	if len(args) == 0 {
		return fmt.Errorf("no arguments")
	}
	if f, ok := endless[args[0]]; ok {
		return f(args[1:])
	}
	f, ok := measures[args[0]]
	if !ok {
		return fmt.Errorf("%q is unknown", args[0])
	}
	result, err := f(args[1:])
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(os.Stdout, strconv.FormatFloat(result, 'g', -1, 64))
	return err
}
