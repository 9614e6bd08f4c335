package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"lambent/sandbox/identity"
	"lambent/sandbox/rootless"
)

// The probes of what "lambent up" needs without root are its own checks, which it makes for the user that starts it.

// notForRoot is what they find when root asks.
func notForRoot() finding {
	return missing("root does not need it").with("to see whether a user has it, run \"lambent doctor\" as that user")
}

func probeSubordinate(d *doctor, _ context.Context) finding {
	if d.root {
		return notForRoot()
	}
	if lacks := rootless.CheckIDs(); len(lacks) > 0 {
		return missing("%s", strings.Join(lacks, "; "))
	}
	return ok("this user has ranges in /etc/subuid and /etc/subgid, and there are newuidmap and newgidmap")
}

// probeRootNamespace starts this program as root of a user namespace, as "lambent up" does.
func probeRootNamespace(d *doctor, ctx context.Context) finding {
	if d.root {
		return notForRoot()
	}
	if lacks := rootless.CheckNamespaces(); len(lacks) > 0 {
		return missing("%s", strings.Join(lacks, "; "))
	}
	if len(rootless.CheckIDs()) > 0 {
		return missing("it needs subordinate IDs")
	}
	var out, errs bytes.Buffer
	status, err := rootless.Try(ctx, rootless.Command{Args: []string{childName, rootTrial, d.dir}, Env: os.Environ(), Stdout: &out, Stderr: &errs})
	if err == nil && status != 0 {
		err = errors.New(lastWords(errs.String()))
	}
	return tried(err, out.String())
}

// rootTrial is the child that is to become root of a user namespace.
const rootTrial = "root-of-namespace"

// becomeRoot looks at what it has become.
func becomeRoot(args []string) (string, error) {
	inside, err := rootless.Continue()
	if err == nil && !inside {
		err = errors.New("it is not root of a user namespace")
	}
	if err != nil {
		return "", err
	}
	block, err := identity.OpenMapped(filepath.Join(args[0], "ids"))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("newuidmap and newgidmap gave it IDs: a driver has %d", block.IDs()), block.Close()
}

func probeDelegation(d *doctor, _ context.Context) finding {
	if d.root {
		return notForRoot()
	}
	if lacks := rootless.CheckCgroup(); len(lacks) > 0 {
		return missing("%s", strings.Join(lacks, "; "))
	}
	return ok("the cgroup of this process belongs to its user, with the controllers memory, cpu and pids")
}
