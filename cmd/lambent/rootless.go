package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"lambent"
	"lambent/network"
	"lambent/sandbox/rootless"
)

// enterRootless starts this program anew as root of a user namespace when an unprivileged user has started it, and returns done when
// that has ended. It returns inside in the new one, and neither for root of the host.
func (c *UpCmd) enterRootless(ctx context.Context, proc *Process) (inside, done bool, err error) {
	if inside, err = rootless.Continue(); inside || err != nil || os.Geteuid() == 0 {
		return inside, false, err
	}
	if err := c.checkRootless(); err != nil {
		return false, true, err
	}
	status, err := rootless.Run(ctx, rootless.Command{Args: os.Args, Env: os.Environ(), Stdin: proc.In, Stdout: proc.Out, Stderr: proc.Err})
	if err == nil && status != exitOK {
		err = errReported
	}
	return false, true, err
}

// checkRootless refuses what there is not without root.
func (c *UpCmd) checkRootless() error {
	for _, asked := range []lambent.Isolation{c.Isolation, c.Least} {
		if asked != "" && asked != lambent.IsolationNative {
			return fmt.Errorf("without root there is no isolation %s: %s", asked, noIsolationRootless)
		}
	}
	if c.Egress != "" && c.Egress != network.None {
		return fmt.Errorf("without root there is no --egress %s: functions reach the outside through interfaces and rules in the host's network, "+
			"which only root may make", c.Egress)
	}
	if missing := rootless.Check(); len(missing) > 0 {
		return &rootless.MissingError{Missing: missing}
	}
	return nil
}

// noIsolationRootless is why there is but one.
const noIsolationRootless = "it needs rights over the host's devices and network, which only root has"

// followRootless ties this process, which runs without root, to the one that it was started by, and says what is weaker.
func followRootless(proc *Process) {
	rootless.FollowParent()
	fmt.Fprintf(proc.Err, "lambent: running without root, which is weaker: %s. See docs/isolation.md#rootless.\n", strings.Join(rootless.Weaker(), "; "))
}

// egress is what functions may reach when nothing else is said.
func (c *UpCmd) egress(inside bool) network.Policy {
	switch {
	case c.Egress != "":
		return c.Egress
	case inside:
		return network.None
	}
	return network.Internet
}
