package rootless

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"lambent/sandbox/cgroup"
	"lambent/sandbox/identity"
)

// stageVariable is the environment variable that says how far a process has come, and the values of it.
const (
	stageVariable = "LAMBENT_ROOTLESS"
	stageWaiting  = "waiting"
	stageInside   = "inside"
)

// lifeline is the descriptor of a pipe that the user's process holds the other end of: one byte says that the IDs are there, the
// end that it is gone.
const lifeline = 3

// Command is what Run starts: this program.
type Command struct {
	Args           []string // os.Args
	Env            []string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Run starts this program anew as root of namespaces of its own, waits for its end, and returns its exit status. The first thing
// that the program does with these arguments has to be Continue. When the context ends it is sent SIGTERM. It is killed when this
// process is. Check is to have found nothing missing.
func Run(ctx context.Context, command Command) (status int, err error) {
	hierarchy, _, err := cgroup.Find()
	if err != nil {
		return 0, err
	}
	if err := hierarchy.Occupy(); err != nil {
		return 0, err
	}
	return Try(ctx, command)
}

// Try is Run without cgroups, in which sandboxes cannot be made.
func Try(ctx context.Context, command Command) (status int, err error) {
	u, err := currentUser()
	if err != nil {
		return 0, err
	}
	theirs, ours, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer ours.Close()
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: command.Args, Stdin: command.Stdin, Stdout: command.Stdout, Stderr: command.Stderr,
		Env: append(withoutStage(command.Env), stageVariable+"="+stageWaiting), ExtraFiles: []*os.File{theirs}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		Setpgid:    true, // a terminal's interrupt comes through this process, once
	}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return 0, fmt.Errorf("start in a user namespace: %w", err)
	}
	if err = giveIDs(cmd.Process.Pid, u); err == nil {
		_, err = ours.Write([]byte{1})
	}
	if err != nil {
		return 0, errors.Join(err, cmd.Process.Kill(), ignoreExit(cmd.Wait()))
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(unix.SIGTERM) }) // one that has ended needs no signal
	defer stop()
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 0, fmt.Errorf("what runs in the user namespace ended: %w", err)
	}
	return 0, nil
}

func ignoreExit(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil
	}
	return err
}

func withoutStage(env []string) []string {
	var rest []string
	for _, variable := range env {
		if !strings.HasPrefix(variable, stageVariable+"=") {
			rest = append(rest, variable)
		}
	}
	return rest
}

// Continue is called first by a program that Run may start. In one that it has started, Continue executes the program as root of
// the namespaces, and returns true there. It returns false in every other one.
func Continue() (inside bool, err error) {
	switch os.Getenv(stageVariable) {
	case stageInside:
		// Whoever sets the variable by hand has not become root by it.
		return os.Geteuid() == 0 && identity.Restricted(), nil
	case stageWaiting:
	default:
		return false, nil
	}
	var ready [1]byte
	if n, err := unix.Read(lifeline, ready[:]); n != 1 {
		return false, fmt.Errorf("wait for the user IDs: the process that was to give them has ended: %w", cmp.Or(err, io.EOF))
	}
	// An exec is what makes the user 0 of the namespace its root.
	env := append(withoutStage(os.Environ()), stageVariable+"="+stageInside)
	return false, fmt.Errorf("become root of the user namespace: %w", syscall.Exec("/proc/self/exe", os.Args, env))
}

// FollowParent kills this process, which Continue has returned true in, when the process that called Run has ended. It is called
// once, and not before this program executes anything in its own place.
func FollowParent() {
	os.Unsetenv(stageVariable)
	unix.CloseOnExec(lifeline)
	pipe := os.NewFile(lifeline, "lifeline")
	go func() {
		_, _ = io.Copy(io.Discard, pipe)
		_ = unix.Kill(os.Getpid(), unix.SIGKILL) // as it was
	}()
}
