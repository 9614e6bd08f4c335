//go:build !amd64

package main

// getpid32 has no way to call on this architecture.
func getpid32() int32 { return -1 }
