// Command probe is the hostile function of the conformance suite. The suite builds it, and runs it only inside a sandbox:
// each attempt tries to get at something that a sandbox must not give, and says what it got.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sort"
	"strings"

	"lambent/sandbox/sandboxtest/probe/hostile"
)

// The variable is set by the suite, and nobody else: inside a sandbox, and where attempts are proven.
const (
	placeVariable = "SANDBOX_PROBE"
	inside        = "inside"
	outside       = "outside"
)

// attempt tries one thing. It returns what it got and should not have.
type attempt func(args []string) (breaches []string)

func main() {
	if os.Getpid() == 1 && os.Getenv(placeVariable) == "" {
		fail(hostile.Boot())
	}
	place := os.Getenv(placeVariable)
	victim := len(os.Args) > 1 && os.Args[1] == "victim" // harms nobody
	if place != outside && !victim && (place != inside || os.Getuid() == 0) {
		fmt.Println("the probe runs inside a sandbox only, and never as root")
		os.Exit(2)
	}
	attempts := map[string]attempt{"try": tryOne, "victim": stand, "prove": prove}
	for _, table := range []map[string]attempt{isolationAttempts(), limitAttempts(), behaviours()} {
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
		fmt.Println(hostile.BreachPrefix + breach)
	}
	if len(breaches) > 0 {
		os.Exit(1)
	}
	fmt.Println("held")
}

// tryOne makes one attempt of the table: its name, and the scene as JSON.
func tryOne(args []string) []string {
	var scene hostile.Scene
	if len(args) < 2 {
		fail(errors.New("a name and a scene are missing"))
	}
	attempt, ok := hostile.Find(args[0])
	if !ok {
		fail(fmt.Errorf("there is no attempt %q", args[0]))
	}
	if err := json.Unmarshal([]byte(args[1]), &scene); err != nil {
		fail(err)
	}
	breaches, answers := attempt.Run(scene)
	for _, answer := range answers {
		fmt.Println("answer:", answer)
	}
	return breaches
}

// stand is a victim: its name, and directories for its files.
func stand(args []string) []string {
	if err := hostile.Stand(os.Stdout, args[0], args[1:]); err != nil {
		fail(err)
	}
	return nil
}

// prove makes attempts where nothing holds them.
func prove(names []string) []string {
	if err := hostile.Prove(os.Stdout, names); err != nil {
		fail(err)
	}
	return nil
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
