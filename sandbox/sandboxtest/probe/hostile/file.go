package hostile

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func fileAttempts() []Attempt {
	return []Attempt{
		{Name: "host-files", Tries: "open files of the host and of neighbours, by plain paths, by .. and by links through /proc", Layer: OwnRoot,
			Proof: Namespace, try: hostFiles},
		{Name: "change-code", Tries: "change, rename, remove or replace its own code, which others run too", Layer: OwnRoot,
			Proof: Namespace, try: changeCode},
		{Name: "link-code", Tries: "make a hard link to the code or to an open file of it, to change it elsewhere", Layer: OwnRoot,
			Proof: Namespace, try: linkCode},
		{Name: "overwrite-self", Tries: "overwrite the program that started it, by /proc/self/exe (CVE-2019-5736)", Layer: OwnRoot,
			Proof: Namespace, try: overwriteSelf},
		{Name: "leaked-descriptors", Tries: "use open files that it was left", Layer: CleanStart, Proof: Namespace, try: leakedDescriptors,
			outside: func(o *outside) { o.leak = "/" }},
		{Name: "leaked-directory", Tries: "climb to the host's root from a directory that it was left, by /proc/self/fd/N/.. (CVE-2024-21626)",
			Layer: CleanStart, Proof: Namespace, try: leakedDirectory, outside: func(o *outside) { o.leak, o.jail = "/", true }},
		{Name: "handle-escape", Tries: "open files of the host by guessed handles (open_by_handle_at, \"shocker\")", Layer: Syscalls,
			Proof: Guest, try: byHandle},
		{Name: "fanotify", Tries: "watch and block what others open, by fanotify", Layer: Syscalls, Proof: Guest, try: watchMount},
		{Name: "give-away-file", Tries: "make a set-user-ID file that belongs to root", Layer: Capabilities, Proof: Namespace, try: giveAway},
		{Name: "trusted-attributes", Tries: "set attributes that only the kernel's parts may set", Layer: Capabilities, Proof: Guest, try: trustedAttributes},
	}
}

// holdsSecret tells whether a file can be read and holds the secret.
func holdsSecret(path, secret string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !strings.Contains(string(text), secret) {
		return errors.New("it is another file")
	}
	return nil
}

func hostFiles(t *Trial) {
	climb := strings.Repeat("../", 32)
	link := filepath.Join(t.Temp, mark+"-link")
	for _, path := range t.Files {
		name := strings.TrimPrefix(path, "/")
		os.Remove(link)
		os.Symlink(climb+name, link)
		for _, way := range []string{path, t.Code + "/" + climb + name, "/proc/self/root/" + climb + name, "/proc/1/root/" + name,
			"/proc/self/cwd/" + climb + name, "/proc/self/task/self/root/" + name, link} {
			t.got(holdsSecret(way, t.Secret), "read %s", way)
		}
	}
	os.Remove(link)
}

func changeCode(t *Trial) {
	program := filepath.Join(t.Code, "probe")
	file, err := os.OpenFile(program, os.O_WRONLY, 0)
	if errors.Is(err, unix.ETXTBSY) { // it may be written as soon as nobody runs it
		err = nil
	}
	t.got(err, "opened the code for writing")
	file.Close()
	for what, err := range map[string]error{
		"changed the code's mode":  os.Chmod(program, 0o777),
		"changed the code's times": os.Chtimes(program, noTime, noTime),
		"marked the code":          unix.Setxattr(program, "user.lambent", []byte("x"), 0),
		"made a file beside":       os.WriteFile(filepath.Join(t.Code, mark), nil, 0o600),
		"renamed the code":         os.Rename(program, program+"-moved"),
		"removed the code":         os.Remove(program),
	} {
		t.got(err, "%s", what)
	}
}

func linkCode(t *Trial) {
	program := filepath.Join(t.Code, "probe")
	file, err := os.Open(program)
	if err != nil {
		t.held("%v", err)
		return
	}
	defer file.Close()
	link := filepath.Join(t.Temp, mark+"-hard")
	t.got(os.Link(program, link), "linked the code")
	os.Remove(link)
	err = unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(int(file.Fd())), unix.AT_FDCWD, link, unix.AT_SYMLINK_FOLLOW)
	t.got(err, "linked the open code")
	os.Remove(link)
	err = unix.Linkat(int(file.Fd()), "", unix.AT_FDCWD, link, unix.AT_EMPTY_PATH)
	t.got(err, "linked the code's descriptor")
	os.Remove(link)
}

// overwriteSelf keeps a handle to each program that runs, becomes another program so that nobody runs it, and opens the
// handle for writing.
func overwriteSelf(t *Trial) {
	const stage = "LAMBENT_HOSTILE_HANDLES"
	if handles := os.Getenv(stage); handles != "" {
		for _, handle := range strings.Split(handles, ",") {
			file, err := os.OpenFile("/proc/self/fd/"+handle, os.O_WRONLY, 0)
			if t.got(err, "opened program %s for writing", handle) {
				file.Close()
			}
		}
		return
	}
	var handles []string
	for _, path := range []string{"/proc/self/exe", "/proc/1/exe", "/proc/" + strconv.Itoa(os.Getppid()) + "/exe"} {
		fd, err := unix.Open(path, unix.O_PATH, 0)
		if err != nil {
			t.held("open %s: %v", path, err)
			continue
		}
		handles = append(handles, strconv.Itoa(fd))
	}
	copied := filepath.Join(t.Temp, mark+"-copy")
	program, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(copied, program, 0o755)
	}
	if err != nil {
		t.held("%v", err)
		return
	}
	err = unix.Exec(copied, os.Args, append(os.Environ(), stage+"="+strings.Join(handles, ",")))
	t.held("exec: %v", err)
}

// leakedDescriptors looks at each descriptor beyond the standard ones that it has not opened itself.
func leakedDescriptors(t *Trial) {
	count := 0
	for fd := 3; fd < 4096; fd++ {
		var stat unix.Stat_t
		if unix.Fstat(fd, &stat) != nil {
			continue
		}
		path, _ := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
		switch {
		case strings.HasPrefix(path, "anon_inode:["), strings.HasPrefix(path, "/proc/"), strings.HasPrefix(path, "/sys/fs/cgroup/"):
			count++ // what Go's runtime opens
		default:
			t.breach("descriptor %d is %s of mode %o", fd, path, stat.Mode)
		}
	}
	t.held("%d descriptors beyond the standard ones, all of its own runtime", count)
}

func leakedDirectory(t *Trial) {
	for _, path := range t.Files {
		climb := strings.Repeat("../", 32) + strings.TrimPrefix(path, "/")
		if err := holdsSecret(climb, t.Secret); err == nil {
			t.breach("read %s from its working directory", path)
		}
	}
	if directory, err := os.Getwd(); err != nil || strings.HasPrefix(directory, "(unreachable)") {
		t.breach("its working directory is outside of its root: %s, %v", directory, err)
	}
	for fd := range 1024 {
		base := "/proc/self/fd/" + strconv.Itoa(fd) + "/" + strings.Repeat("../", 32)
		for _, path := range t.Files {
			if err := holdsSecret(base+path, t.Secret); err == nil {
				t.breach("read %s from descriptor %d", path, fd)
				return
			}
		}
		if unix.Fchdir(fd) == nil {
			if directory, err := os.Getwd(); err != nil || strings.HasPrefix(directory, "(unreachable)") {
				t.breach("descriptor %d is a directory outside of its root", fd)
			}
		}
	}
	t.held("no descriptor leads out")
}

// byHandle asks for a handle to a file that it may see, and opens the root of that file system, whose handle is known.
func byHandle(t *Trial) {
	for _, path := range []string{t.Code, t.Temp, "/"} {
		handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, path, 0)
		if !t.got(err, "had a handle for %s", path) {
			handle = unix.NewFileHandle(1, []byte{2, 0, 0, 0, 0, 0, 0, 0})
		}
		directory, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			continue
		}
		fd, err := unix.OpenByHandleAt(directory, handle, unix.O_RDONLY)
		if t.got(err, "opened a handle of %s", path) {
			unix.Close(fd)
		}
		unix.Close(directory)
	}
}

func watchMount(t *Trial) {
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT, unix.O_RDONLY)
	if !t.got(err, "made a fanotify group") {
		return
	}
	defer unix.Close(fd)
	err = unix.FanotifyMark(fd, unix.FAN_MARK_ADD|unix.FAN_MARK_MOUNT, unix.FAN_OPEN_PERM, unix.AT_FDCWD, t.Code)
	t.got(err, "watches the mount of the code")
}

func giveAway(t *Trial) {
	path := filepath.Join(t.Temp, mark+"-gift")
	if err := os.WriteFile(path, nil, 0o700); err != nil {
		t.held("%v", err)
		return
	}
	defer os.Remove(path)
	for _, id := range []int{0, 1, 0x70000000} {
		t.got(os.Chown(path, id, id), "gave a file to user %d", id)
	}
	fd, err := unix.Open(path, unix.O_WRONLY, 0)
	if err == nil {
		unix.Fchmod(fd, 0o6755)
		var stat unix.Stat_t
		if unix.Fstat(fd, &stat) == nil && stat.Mode&unix.S_ISUID != 0 && stat.Uid == 0 {
			t.breach("made a set-user-ID file of root")
		}
		unix.Close(fd)
	}
}

func trustedAttributes(t *Trial) {
	path := filepath.Join(t.Temp, mark+"-attributes")
	os.WriteFile(path, nil, 0o600)
	defer os.Remove(path)
	t.got(unix.Setxattr(path, "trusted.overlay.opaque", []byte("y"), 0), "set trusted.overlay.opaque")
}

// receiveDescriptor reads a descriptor that a peer sends, and checks that it leads to the secret.
func receiveDescriptor(fd int, secret string) error {
	data, control := make([]byte, 256), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(fd, data, control, 0)
	if err != nil {
		return err
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) == 0 {
		return errors.New("no descriptor came")
	}
	received, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(received[0]), "received")
	defer file.Close()
	text, err := io.ReadAll(io.NewSectionReader(file, 0, 4096))
	if err == nil && !strings.Contains(string(text), secret) {
		err = errors.New("it is another file")
	}
	return err
}
