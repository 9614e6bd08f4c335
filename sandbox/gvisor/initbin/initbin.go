// Package initbin carries the init process of sandboxes inside lambent's executable.
package initbin

import (
	"embed"
	"runtime"
)

//go:embed *
var files embed.FS

// Binary returns the static executable of the init for this architecture, nil when it was not built.
func Binary() []byte {
	content, err := files.ReadFile("lambent-gvisor-init-linux-" + runtime.GOARCH)
	if err != nil {
		return nil
	}
	return content
}
