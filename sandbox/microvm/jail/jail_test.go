package jail_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"lambent/sandbox/microvm/jail"
)

// program is the path, in its jail, of a program that opens a file by its handle.
const program = "/program"

func TestMain(m *testing.M) {
	if known, err := jail.Main(); known {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if os.Args[0] == program {
		fmt.Println(openByHandle(os.Args[1], os.Args[2]))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func openByHandle(kind, text string) error {
	number, err := strconv.Atoi(kind)
	if err != nil {
		return err
	}
	bytes, err := hex.DecodeString(text)
	if err != nil {
		return err
	}
	directory, err := unix.Open("/out", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	_, err = unix.OpenByHandleAt(directory, unix.NewFileHandle(int32(number), bytes), unix.O_RDWR)
	return err
}

// TestHandles has a program that may read all that it is shown ask for what is elsewhere in the same file system.
func TestHandles(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a jail needs root")
	}
	dir := t.TempDir()
	root, out, secret := filepath.Join(dir, "root"), filepath.Join(dir, "out"), filepath.Join(dir, "secret")
	if err := errors.Join(os.Mkdir(root, 0o700), os.Mkdir(out, 0o700), os.WriteFile(secret, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, secret, 0)
	if err != nil {
		t.Skipf("files have no handles: %v", err)
	}
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd, err := jail.Command(executable, jail.Plan{
		Root: root, Show: jail.Libraries(executable), Files: map[string]string{program: executable}, Writable: out,
		Args: []string{program, strconv.Itoa(int(handle.Type())), hex.EncodeToString(handle.Bytes())},
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin = strings.NewReader("x")
	said, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	// The race detector's runtime may say something of its own before.
	if got := strings.TrimSpace(string(said)); !strings.HasSuffix("\n"+got, "\n"+unix.EPERM.Error()) {
		t.Errorf("a file that is not shown: %s", got)
	}
}
