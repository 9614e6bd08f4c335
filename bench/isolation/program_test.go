package isolation

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"testing"
)

func TestSmallestProgram(t *testing.T) {
	for _, architecture := range []string{"amd64", "arm64"} {
		image, err := smallestProgram(architecture)
		if err != nil {
			t.Fatal(err)
		}
		file, err := elf.NewFile(bytes.NewReader(image))
		if err != nil {
			t.Fatalf("%s: %v", architecture, err)
		}
		if n := len(file.Progs); n != 1 || file.Progs[0].Filesz != uint64(len(image)) {
			t.Errorf("%s: %d segments, of %d bytes in %d", architecture, n, file.Progs[0].Filesz, len(image))
		}
		if image[len(image)-1] != 'x' {
			t.Errorf("%s: the byte to be written is not the last", architecture)
		}
	}
	if _, err := smallestProgram("mips"); err == nil {
		t.Error("a program for mips")
	}
}

// TestAddressOfByte checks what the instructions compute: the address of the byte behind them.
func TestAddressOfByte(t *testing.T) {
	code, _, err := instructions("amd64")
	if err != nil {
		t.Fatal(err)
	}
	if at := 17 + int(binary.LittleEndian.Uint32(code[13:])); at != len(code) {
		t.Errorf("amd64: the byte is taken from %d, not %d", at, len(code))
	}
	if code, _, err = instructions("arm64"); err != nil {
		t.Fatal(err)
	}
	adr := binary.LittleEndian.Uint32(code[4:])
	if at := 4 + int(adr>>29&3) + int(adr>>5&0x7ffff)<<2; at != len(code) {
		t.Errorf("arm64: the byte is taken from %d, not %d", at, len(code))
	}
}
