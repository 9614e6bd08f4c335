// Command probe is the hostile function of the conformance suite. The suite builds it, and runs it only inside a sandbox:
// each attempt tries to get at something that a sandbox must not give, and says what it got.
package main

import (
	"fmt"
	"os"
	"sort"
	"strings"
)

// insideVariable is set by the suite, and nobody else.
const insideVariable = "SANDBOX_PROBE"

// attempt tries one thing. It returns what it got and should not have.
type attempt func(args []string) (breaches []string)

func main() {
	if os.Getenv(insideVariable) != "inside" || os.Getuid() == 0 {
		fmt.Println("the probe runs inside a sandbox only, and never as root")
		os.Exit(2)
	}
	attempts := map[string]attempt{}
	for _, table := range []map[string]attempt{isolationAttempts(), kernelAttempts(), limitAttempts(), behaviours()} {
		for name, try := range table {
			attempts[name] = try
		}
	}
	if len(os.Args) < 2 || attempts[os.Args[1]] == nil {
		fmt.Println("unknown attempt; known are", strings.Join(names(attempts), ", "))
		os.Exit(2)
	}
	breaches := attempts[os.Args[1]](os.Args[2:])
	for _, breach := range breaches {
		fmt.Println("BREACH:", breach)
	}
	if len(breaches) > 0 {
		os.Exit(1)
	}
	fmt.Println("held")
}

func names(attempts map[string]attempt) []string {
	var list []string
	for name := range attempts {
		list = append(list, name)
	}
	sort.Strings(list)
	return list
}

// fail ends a probe that could not even try.
func fail(err error) {
	fmt.Println("probe failed:", err)
	os.Exit(3)
}
