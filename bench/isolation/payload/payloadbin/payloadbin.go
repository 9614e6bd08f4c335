// Package payloadbin carries the payload of "lambent bench isolation" inside lambent's executable.
package payloadbin

import (
	"embed"
	"runtime"
)

//go:embed *
var files embed.FS

// Binary returns the static executable of the payload for this architecture, nil when it was not built.
func Binary() []byte {
	content, err := files.ReadFile("payload-linux-" + runtime.GOARCH)
	if err != nil {
		return nil
	}
	return content
}
