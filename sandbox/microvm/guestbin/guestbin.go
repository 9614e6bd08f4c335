// Package guestbin carries the agent of microVMs inside lambent's executable.
package guestbin

import (
	"embed"
	"runtime"
)

//go:embed *
var files embed.FS

// Binary returns the static executable of the agent for this architecture, nil when it was not built.
func Binary() []byte {
	content, err := files.ReadFile("lambent-guest-linux-" + runtime.GOARCH)
	if err != nil {
		return nil
	}
	return content
}
