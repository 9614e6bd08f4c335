package isolation

import (
	"context"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"lambent/bench/isolation/payload/payloadbin"
)

// instructions write one byte, "x", to the standard output, and then wait to be killed. The byte follows them.
func instructions(architecture string) ([]byte, elf.Machine, error) {
	switch architecture {
	case "amd64":
		return []byte{
			0xb8, 1, 0, 0, 0, // mov eax, write
			0xbf, 1, 0, 0, 0, // mov edi, 1
			0x48, 0x8d, 0x35, 16, 0, 0, 0, // lea rsi, [rip+16]
			0xba, 1, 0, 0, 0, // mov edx, 1
			0x0f, 0x05, // syscall
			0xb8, 34, 0, 0, 0, // mov eax, pause
			0x0f, 0x05, // syscall
			0xeb, 0xf7, // jump to the mov of pause
		}, elf.EM_X86_64, nil
	case "arm64":
		var code []byte
		for _, instruction := range []uint32{
			0xd2800020, // mov x0, #1
			0x10000161, // adr x1, the byte behind the instructions
			0xd2800022, // mov x2, #1
			0xd2800808, // mov x8, write
			0xd4000001, // svc
			0xd2800000, // mov x0, #0
			0xd2800001, // mov x1, #0
			0xd2800002, // mov x2, #0
			0xd2800003, // mov x3, #0
			0xd2800928, // mov x8, ppoll
			0xd4000001, // svc
			0x17fffffa, // jump to the mov of x0, #0
		} {
			code = binary.LittleEndian.AppendUint32(code, instruction)
		}
		return code, elf.EM_AARCH64, nil
	}
	return nil, 0, fmt.Errorf("there is no program for %s", architecture)
}

// smallestProgram makes a static executable that says "x" with its first instructions: what starts it is all that takes time.
func smallestProgram(architecture string) ([]byte, error) {
	code, machine, err := instructions(architecture)
	if err != nil {
		return nil, err
	}
	code = append(code, 'x')
	const base, headers = 0x400000, 64 + 56
	size := uint64(headers + len(code))
	header := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT),
		Entry: base + headers, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	segment := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Paddr: base,
		Filesz: size, Memsz: size, Align: 0x10000,
	}
	image, err := binary.Append(nil, binary.LittleEndian, header)
	if err != nil {
		return nil, err
	}
	if image, err = binary.Append(image, binary.LittleEndian, segment); err != nil {
		return nil, err
	}
	return append(image, code...), nil
}

// The programs' names in a directory that writePrograms filled.
const (
	smallest = "smallest"
	payload  = "payload"
)

// writePrograms puts the programs that are measured into a directory, for everybody to run.
func writePrograms(ctx context.Context, dir string) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	image, err := smallestProgram(runtime.GOARCH)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, smallest), image, 0o755); err != nil { //nolint:gosec // everybody may run it
		return err
	}
	path := filepath.Join(dir, payload)
	if binary := payloadbin.Binary(); binary != nil {
		return os.WriteFile(path, binary, 0o755) //nolint:gosec // everybody may run it
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "lambent/bench/isolation/payload")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("this executable carries no payload; building one, which takes Lambent's source tree, failed: %w\n%s", err, out)
	}
	return nil
}
