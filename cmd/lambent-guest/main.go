// Command lambent-guest is process 1 of a microVM, and outside of it what shuts the virtual machine's monitor in. It is embedded
// into lambent, which starts it; it is of no use by itself.
package main

import (
	"fmt"
	"os"

	"lambent/sandbox/microvm/agent"
	"lambent/sandbox/microvm/jail"
	"lambent/sandbox/native"
)

func main() {
	native.MaybeInit()
	if known, err := jail.Main(); known {
		fmt.Fprintln(os.Stderr, "lambent-guest:", err)
		os.Exit(1)
	}
	inside := os.Getpid() == 1
	if !inside && os.Args[0] != agent.Role {
		fmt.Fprintln(os.Stderr, "lambent-guest is started by lambent in a new virtual machine, and by nobody else")
		os.Exit(2)
	}
	if err := agent.Main(); err != nil {
		fmt.Fprintln(os.Stderr, "lambent-guest:", err)
	}
	if inside {
		agent.PowerOff()
	}
	os.Exit(1)
}
