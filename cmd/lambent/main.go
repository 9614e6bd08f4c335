// Command lambent is the whole of Lambent: "lambent up" runs a region on this host, and the other commands are a small
// client of it.
//
// Exit codes: 0 when the command did what it was asked; 1 when it failed, or the function that it invoked failed; 2 when
// the command line is wrong.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"lambent/doctor"
	"lambent/sandbox/gvisor"
	"lambent/sandbox/native"
)

// The exit codes of the command.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// CLI is the command line.
type CLI struct {
	Up      UpCmd         `cmd:"" help:"Run a region on this host."`
	Bench   BenchCommands `cmd:"" help:"Measure a region, the sandbox drivers, or what neighbours do to each other."`
	Doctor  DoctorCmd     `cmd:"" help:"Find out what this host offers for sandboxes, by trying it."`
	Env     EnvCmd        `cmd:"" help:"Print the environment variables that point AWS clients at the region."`
	Deploy  DeployCmd     `cmd:"" help:"Create or update a function from a directory or a zip archive."`
	Invoke  InvokeCmd     `cmd:"" help:"Invoke a function and print what it answers."`
	Logs    LogsCmd       `cmd:"" help:"Print a function's log."`
	List    ListCmd       `cmd:"" help:"List the functions."`
	Delete  DeleteCmd     `cmd:"" help:"Delete a function, or one version of it."`
	Version VersionCmd    `cmd:"" help:"Print the version."`
	Service ServiceCmd    `cmd:"" hidden:"" help:"The service of a region, without rights; \"lambent up\" starts it."`
}

// Process is what a command sees of the process that it runs in. Tests put their own in its place.
type Process struct {
	In     io.Reader
	Out    io.Writer // results, for people and pipes
	Err    io.Writer // progress, warnings and errors
	Getenv func(string) string
}

func main() {
	native.MaybeInit()  // does not return in a process that is to be a sandbox's init
	gvisor.MaybeInit()  // the same for gVisor's
	doctor.MaybeChild() // nor here, in one that is to try something for "lambent doctor"
	os.Exit(run(context.Background(), os.Args[1:], &Process{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv}))
}

// run parses the arguments, runs the command and returns the exit code. The first SIGINT or SIGTERM ends the command's
// context, the second one the process.
func run(ctx context.Context, args []string, proc *Process) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	var cli CLI
	parser, err := kong.New(&cli,
		kong.Name("lambent"),
		kong.Description("A self-hosted function service that speaks the AWS Lambda API."),
		kong.Writers(proc.Out, proc.Err),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
	if err != nil {
		return fail(proc, err, exitUsage)
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	command, err := parser.Parse(args)
	if err != nil {
		return fail(proc, fmt.Errorf("%w (try: lambent --help)", err), exitUsage)
	}
	command.BindTo(ctx, (*context.Context)(nil))
	if err := command.Run(proc); err != nil {
		return fail(proc, err, exitFailed)
	}
	return exitOK
}

// errReported ends a command with exit code 1 when everything has been said already.
var errReported = errors.New("reported")

func fail(proc *Process, err error, code int) int {
	if !errors.Is(err, errReported) {
		fmt.Fprintln(proc.Err, "lambent:", err)
	}
	return code
}
