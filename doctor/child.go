package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// childName is the name of a process that tries something out, in its arguments.
const childName = "lambent-doctor-child"

// trial is what a child does. It prints what it saw.
type trial func(args []string) (string, error)

func trials() map[string]trial {
	return map[string]trial{
		"nothing": func([]string) (string, error) { return "", nil },
		"wait":    waitForEnd, "identity": showIdentity, "seccomp": trySeccomp, "no-new-privs": tryNoNewPrivs,
		"pivot-root": tryPivotRoot, "overlayfs": tryOverlay, "veth": tryVeth, "bridge": tryBridge, "nftables": tryNftables,
		"masquerade": tryMasquerade, rootTrial: becomeRoot,
	}
}

// MaybeChild does what a probe wants of a child and ends the process, when it was started for that. It returns otherwise.
// Every program that uses this package calls it before anything else.
func MaybeChild() {
	if len(os.Args) < 2 || os.Args[0] != childName {
		return
	}
	runtime.LockOSThread() // what is tried holds for the thread
	try, known := trials()[os.Args[1]]
	if !known {
		os.Exit(2)
	}
	seen, err := try(os.Args[2:])
	if err != nil {
		fmt.Fprint(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprint(os.Stdout, seen)
	os.Exit(0)
}

// child prepares a child in new namespaces, which ends with the context and with this process.
func child(ctx context.Context, namespaces uintptr, mappings []syscall.SysProcIDMap, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = slices.Concat([]string{childName, name}, args)
	cmd.Env = []string{"GOMAXPROCS=1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: namespaces, Pdeathsig: syscall.SIGKILL, UidMappings: mappings, GidMappings: mappings,
		GidMappingsEnableSetgroups: len(mappings) > 0 && os.Geteuid() == 0,
	}
	return cmd
}

// inChild has a child try something and returns what it saw. Without rights it is root of a user namespace.
func (d *doctor) inChild(ctx context.Context, namespaces uintptr, name string, args ...string) (string, error) {
	var mappings []syscall.SysProcIDMap
	if !d.root && namespaces != 0 {
		namespaces |= syscall.CLONE_NEWUSER
	}
	cmd := child(ctx, namespaces, mappings, name, args...)
	if namespaces&syscall.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
		cmd.SysProcAttr.GidMappingsEnableSetgroups = false
	}
	return output(cmd)
}

// output runs a command and returns what it printed, or the reason that it gave.
func output(cmd *exec.Cmd) (string, error) {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && errs.Len() > 0 {
		return "", errors.New(lastWords(errs.String()))
	}
	return strings.TrimSpace(out.String()), err
}

// lastWords are the end of what a program wrote to its standard error.
func lastWords(text string) string {
	const longest = 300
	text = oneLine(text)
	if len(text) > longest {
		return "..." + strings.ToValidUTF8(text[len(text)-longest:], "")
	}
	return text
}
