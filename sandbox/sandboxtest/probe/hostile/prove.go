package hostile

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Throwaway is what the command line of a kernel holds that attempts may be made under without a sandbox.
const Throwaway = "lambent.throwaway"

// ProofPrefix begins each line of Prove's output that is a Finding.
const ProofPrefix = "PROOF "

// Finding is what an attempt got where nothing held it.
type Finding struct {
	Name     string
	Breaches []string
	Answers  []string
}

// outside is how an attempt is started where nothing holds it.
type outside struct {
	cmd      *exec.Cmd
	uid      uint32
	leak     string // a directory that is left open
	jail     bool   // its root is a directory
	terminal bool   // it has a terminal
	limited  bool   // its limits are low
	inCgroup bool   // it is in a cgroup
}

// unprivileged starts the attempt as a user without rights.
func unprivileged(o *outside) { o.uid = 1000 }

// Prove makes attempts where nothing holds them, and writes what they got to w, as lines of JSON after ProofPrefix. It
// refuses to run anywhere but in namespaces or a machine that were made for it.
func Prove(w io.Writer, names []string) error {
	guest := inGuest()
	if !guest && (os.Getpid() != 1 || !inUserNamespace()) {
		return errors.New("attempts are proven in throw-away namespaces and machines only")
	}
	if !guest {
		if err := buildRoot(); err != nil {
			return fmt.Errorf("prove: %w", err)
		}
	}
	if err := arrange(); err != nil {
		return fmt.Errorf("prove: %w", err)
	}
	for _, name := range names {
		attempt, ok := Find(name)
		if !ok {
			return fmt.Errorf("prove: there is no attempt %q", name)
		}
		finding, err := prove(attempt, guest)
		if err != nil {
			finding.Answers = append(finding.Answers, "failed: "+err.Error())
		}
		line, err := json.Marshal(finding)
		if err != nil {
			return fmt.Errorf("prove: %w", err)
		}
		if _, err := fmt.Fprintf(w, "%s%s\n", ProofPrefix, line); err != nil {
			return fmt.Errorf("prove: %w", err)
		}
	}
	return nil
}

func inGuest() bool {
	line, err := os.ReadFile("/proc/cmdline")
	return err == nil && strings.Contains(string(line), Throwaway)
}

// inUserNamespace tells whether root here is somebody else on the machine.
func inUserNamespace() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	fields := strings.Fields(string(text))
	return err == nil && len(fields) >= 3 && (fields[0] != "0" || fields[1] != "0")
}

// The places of a proof's root.
const (
	codeDirectory = "/code"
	jailDirectory = "/jail"
	secretFile    = "/home/secret-of-the-host"
	secretText    = "secret-of-the-host"
)

// buildRoot makes a root in memory, and forgets the machine's.
func buildRoot() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	const root = "/tmp"
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("read the probe: %w", err)
	}
	if err := unix.Mount("root", root, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount a root: %w", err)
	}
	for _, name := range []string{"old", "proc", "sys", "dev"} {
		os.Mkdir(filepath.Join(root, name), 0o755)
	}
	for _, name := range []string{"null", "zero", "urandom", "tty"} {
		path := filepath.Join(root, "dev", name)
		os.WriteFile(path, nil, 0o666)
		if err := unix.Mount("/dev/"+name, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("show /dev/%s: %w", name, err)
		}
	}
	for _, kind := range []string{"proc", "sysfs"} {
		at := filepath.Join(root, strings.TrimSuffix(kind, "fs"))
		if err := unix.Mount(kind, at, kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", kind, err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "probe"), program, 0o755); err != nil {
		return fmt.Errorf("copy the probe: %w", err)
	}
	if err := unix.PivotRoot(root, filepath.Join(root, "old")); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	return unix.Unmount("/old", unix.MNT_DETACH)
}

// arrange has what attempts look for: the code, directories of one's own, a secret of the host, and addresses.
func arrange() error {
	program, err := os.ReadFile("/probe")
	if err != nil {
		return err
	}
	for _, directory := range []string{"/tmp", "/dev/shm", "/home", codeDirectory, jailDirectory + "/proc", jailDirectory + "/tmp",
		jailDirectory + "/dev/shm", jailDirectory + codeDirectory} {
		if err := os.MkdirAll(directory, 0o755); err != nil {
			return err
		}
	}
	for _, directory := range []string{"/tmp", jailDirectory + "/tmp"} {
		os.Chmod(directory, 0o777|os.ModeSticky)
	}
	unix.Mount("proc", jailDirectory+"/proc", "proc", 0, "")
	unix.Mount("shm", "/dev/shm", "tmpfs", 0, "size=2g,mode=1777")
	for path, mode := range map[string]os.FileMode{codeDirectory + "/probe": 0, codeDirectory + "/setuid": os.ModeSetuid,
		codeDirectory + "/setgid": os.ModeSetgid, jailDirectory + codeDirectory + "/probe": 0} {
		if err := os.WriteFile(path, program, 0o755); err != nil {
			return err
		}
		os.Chmod(path, 0o755|mode)
	}
	os.WriteFile("/proc/sys/vm/nr_hugepages", []byte("8"), 0)
	return os.WriteFile(secretFile, []byte(secretText), 0o644)
}

// prove makes one attempt beside a victim of its own.
func prove(attempt Attempt, guest bool) (Finding, error) {
	finding := Finding{Name: attempt.Name}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := raiseNetwork(); err != nil {
		return finding, err
	}
	victim, end, err := startVictim(ctx)
	if err != nil {
		return finding, err
	}
	defer end()
	scene := Scene{
		Victims: []Victim{victim}, Files: []string{secretFile}, Secret: secretText, Code: codeDirectory, Temp: "/tmp", Shared: "/dev/shm",
		Listened:  append(listenOutside(), "tcp", "127.0.0.1:9"),
		MemoryMiB: 128, Processes: 64, Descriptors: 300, EphemeralMiB: 64, FilesMax: 100_000,
	}
	text, err := json.Marshal(scene)
	if err != nil {
		return finding, err
	}
	o := &outside{cmd: exec.CommandContext(ctx, codeDirectory+"/probe", "try", attempt.Name, string(text))}
	o.cmd.Env = []string{"SANDBOX_PROBE=outside"}
	o.cmd.Dir = "/tmp"
	o.cmd.SysProcAttr = &syscall.SysProcAttr{}
	if guest {
		o.cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNS
	}
	if attempt.outside != nil {
		attempt.outside(o)
	}
	out, err := o.run()
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		if breach, ok := strings.CutPrefix(line, BreachPrefix); ok {
			finding.Breaches = append(finding.Breaches, breach)
		} else if len(finding.Answers) < 20 {
			finding.Answers = append(finding.Answers, line[:min(len(line), 200)])
		}
	}
	if len(finding.Breaches) > 8 {
		finding.Breaches = finding.Breaches[:8]
	}
	return finding, err
}

// BreachPrefix begins each line of an attempt's output that says what it got.
const BreachPrefix = "BREACH: "

// run starts the attempt as it is to be, and returns its output.
func (o *outside) run() ([]byte, error) {
	attributes := o.cmd.SysProcAttr
	if o.uid != 0 {
		attributes.Credential = &syscall.Credential{Uid: o.uid, Gid: o.uid}
	}
	if o.leak != "" {
		left, err := os.Open(o.leak)
		if err != nil {
			return nil, err
		}
		defer left.Close()
		o.cmd.ExtraFiles = []*os.File{left}
	}
	if o.jail {
		attributes.Chroot, o.cmd.Dir = jailDirectory, "/"
	}
	if o.limited {
		for _, which := range []int{unix.RLIMIT_NOFILE, unix.RLIMIT_NPROC, unix.RLIMIT_MEMLOCK, unix.RLIMIT_CORE} {
			unix.Setrlimit(which, &unix.Rlimit{Cur: 1000, Max: 1000})
		}
	}
	if o.inCgroup {
		const group = "/sys/fs/cgroup/proof"
		os.Mkdir(group, 0o755)
		directory, err := os.Open(group)
		if err != nil {
			return nil, err
		}
		defer directory.Close()
		attributes.UseCgroupFD, attributes.CgroupFD = true, int(directory.Fd())
	}
	if o.terminal {
		return o.runInTerminal()
	}
	path := "/tmp/proof-output"
	file, err := os.Create(path) // a file takes as much as comes
	if err != nil {
		return nil, err
	}
	defer os.Remove(path)
	defer file.Close()
	o.cmd.Stdout, o.cmd.Stderr = file, file
	runErr := o.cmd.Run()
	var exit *exec.ExitError
	if errors.As(runErr, &exit) {
		runErr = nil
		if exit.ExitCode() != 1 {
			runErr = exit
		}
	}
	out, err := lastPart(file)
	return out, errors.Join(runErr, err)
}

// lastPart reads the end of a file: what is before is an attempt's flood.
func lastPart(file *os.File) ([]byte, error) {
	const most = 1 << 16
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(file, max(0, size-most), most))
}

// runInTerminal gives the attempt a terminal, as a person's shell does.
func (o *outside) runInTerminal() ([]byte, error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer master.Close()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return nil, err
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		return nil, err
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer slave.Close()
	var out bytes.Buffer
	o.cmd.Stdin, o.cmd.Stdout, o.cmd.Stderr = slave, &out, &out
	o.cmd.SysProcAttr.Setsid, o.cmd.SysProcAttr.Setctty = true, true
	runErr := o.cmd.Run()
	var exit *exec.ExitError
	if errors.As(runErr, &exit) && exit.ExitCode() == 1 {
		runErr = nil
	}
	return out.Bytes(), runErr
}

// startVictim starts a victim. End ends it.
func startVictim(ctx context.Context) (victim Victim, end func(), err error) {
	cmd := exec.CommandContext(ctx, "/probe", "victim", "proof", "/home")
	cmd.Env = []string{"SANDBOX_PROBE=outside"}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return victim, nil, err
	}
	if err := cmd.Start(); err != nil {
		return victim, nil, fmt.Errorf("start the victim: %w", err)
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &victim)
	}
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return victim, nil, fmt.Errorf("the victim said %q: %w", line, err)
	}
	done := make(chan struct{})
	go func() { // whoever kills it must see it gone
		defer close(done)
		cmd.Wait()
	}()
	return victim, func() {
		cmd.Process.Signal(unix.SIGTERM)
		cmd.Process.Signal(unix.SIGCONT)
		<-done
	}, nil
}
