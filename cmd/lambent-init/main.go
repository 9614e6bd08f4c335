// Command lambent-init is process 1 of a sandbox of the native driver. It is embedded into lambent, which starts it; it is
// of no use by itself.
package main

import (
	"os"

	"lambent/sandbox/native/initproc"
)

func main() {
	status, known := initproc.Main()
	if !known {
		println("lambent-init is started by lambent in a new sandbox, and by nobody else")
		status = 2
	}
	os.Exit(status)
}
