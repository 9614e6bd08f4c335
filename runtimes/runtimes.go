package runtimes

import (
	"lambent/sandbox"
)

// Launch is what a worker needs to start a function version's runtime in a specialised sandbox. The environment holds what
// the runtime defines (PATH, LD_LIBRARY_PATH, LANG, AWS_EXECUTION_ENV, ...), not what belongs to the function or sandbox.
type Launch struct {
	Command    sandbox.Command
	Mounts     []sandbox.Mount // beyond Base, for this runtime: interpreter at /var/lang, bootstrap at /var/runtime
	Version    string          // as in INIT_START: "python:3.11.v7"
	VersionARN string
}

// Available is a runtime that this host can run.
type Available struct {
	Name        string // "python3.11"
	Interpreter string // path on the host; empty for provided runtimes
	Version     string // "3.11.7"
}
