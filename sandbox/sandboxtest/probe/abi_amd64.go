package main

// getpid32 calls getpid as a 32-bit program does.
func getpid32() int32
