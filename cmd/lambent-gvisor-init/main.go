// Command lambent-gvisor-init is process 1 of a sandbox of the gvisor driver. It is embedded into lambent, which starts it; it is
// of no use by itself.
package main

import (
	"os"

	"lambent/sandbox/gvisor/initproc"
)

func main() {
	status, known := initproc.Main()
	if !known {
		println("lambent-gvisor-init is started by lambent in a new sandbox, and by nobody else")
		status = 2
	}
	os.Exit(status)
}
