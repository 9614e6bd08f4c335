package hostile

import "golang.org/x/sys/unix"

const kexecFileLoad = unix.SYS_KEXEC_FILE_LOAD

// machineAttempts has none: the foreign ABI of this architecture needs a program of 32 bits.
func machineAttempts() []Attempt { return nil }
