package hostile

import (
	"golang.org/x/sys/unix"
)

func abiAttempts() []Attempt {
	all := []Attempt{
		{Name: "personality", Tries: "become a process of another kind, with executable data or a fixed layout that eases attacks",
			Layer: Syscalls, Proof: Namespace, try: otherPersonality},
		{Name: "unknown-calls", Tries: "make system calls that came after the filter was written", Layer: Syscalls, Proof: Nowhere,
			Unproven: "no kernel at hand has calls of these numbers; a filter that answers ENOSYS to what it does not know is what is checked",
			try:      unknownCalls},
	}
	return append(all, machineAttempts()...)
}

func otherPersonality(t *Trial) {
	for name, value := range map[string]uintptr{"executable data": 0x0400000, "a map from address 0 on": 0x0100000,
		"a 32-bit machine": 0x0008, "a layout of old": 0x0200000} {
		t.call("took on "+name, unix.SYS_PERSONALITY, value)
	}
}

func unknownCalls(t *Trial) {
	for number := uintptr(600); number < 1024; number++ {
		if _, err := raw(number); !refused(err) {
			t.breach("call %d answered %v", number, err)
		}
	}
	t.held("calls 600 to 1023 do not exist")
}
