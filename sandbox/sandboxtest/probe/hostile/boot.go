package hostile

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// BootNames begins the parameter of the kernel that names the attempts which a guest is to prove, separated by commas.
const BootNames = "lambent.prove="

// Boot is the first process of a throw-away guest: it proves the attempts that the kernel's command line names, and turns
// the machine off. It returns only where it must not run.
func Boot() error {
	if err := os.MkdirAll("/proc", 0o755); err == nil {
		unix.Mount("proc", "/proc", "proc", 0, "")
	}
	if os.Getpid() != 1 || !inGuest() {
		return errors.New("this is not a throw-away guest")
	}
	for _, mount := range [][3]string{{"sysfs", "/sys", "sysfs"}, {"dev", "/dev", "devtmpfs"}, {"pts", "/dev/pts", "devpts"},
		{"cgroup", "/sys/fs/cgroup", "cgroup2"}} {
		os.MkdirAll(mount[1], 0o755)
		if err := unix.Mount(mount[0], mount[1], mount[2], 0, ""); err != nil {
			fmt.Println("mount", mount[1], err)
		}
	}
	loadModules("/modules/order")
	line, _ := os.ReadFile("/proc/cmdline")
	var names []string
	for _, field := range strings.Fields(string(line)) {
		if list, ok := strings.CutPrefix(field, BootNames); ok {
			names = strings.Split(list, ",")
		}
	}
	if err := Prove(os.Stdout, names); err != nil {
		fmt.Println(err)
	}
	unix.Sync()
	return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// loadModules loads the modules that a file names, one a line.
func loadModules(list string) {
	file, err := os.Open(list)
	if err != nil {
		return
	}
	defer file.Close()
	scanner := bufio.NewScanner(file)
	for scanner.Scan() {
		module, err := os.Open(scanner.Text())
		if err != nil {
			fmt.Println(err)
			continue
		}
		flags := 0
		if !strings.HasSuffix(scanner.Text(), ".ko") {
			flags = unix.MODULE_INIT_COMPRESSED_FILE
		}
		if err := unix.FinitModule(int(module.Fd()), "", flags); err != nil {
			fmt.Println("load", scanner.Text(), err)
		}
		module.Close()
	}
}
