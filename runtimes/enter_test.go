package runtimes

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"lambent"
	"lambent/sandbox"
)

func isEtc(m sandbox.Mount) bool { return m.Target == "/etc" }

// entry tells the process that enter runs in what to become.
type entry struct {
	Root    string
	Mounts  []sandbox.Mount
	Command sandbox.Command
}

// startInside starts a function as the user of a sandbox, in a root that is made of Base and of the launch's mounts. The
// root exists in a mount namespace of the process's own, and ends with it.
func startInside(t *testing.T, r *Registry, f function) *process {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	p := &process{api: startAPI(t, f.answer), task: t.TempDir(), ended: make(chan struct{})}
	for name, content := range f.files {
		write(t, filepath.Join(p.task, name), content)
	}
	launch, err := r.Launch(&lambent.FunctionVersion{Runtime: f.runtime, Handler: f.handler, MemoryMiB: 128,
		FunctionName: lambent.FunctionName{Name: "fn"}, Environment: f.env})
	if err != nil {
		t.Fatal(err)
	}
	e := entry{Root: t.TempDir(), Command: launch.Command}
	e.Mounts = append(append(e.Mounts, r.Base()...), launch.Mounts...)
	e.Mounts = append(e.Mounts, sandbox.Mount{Source: p.task, Target: taskRoot})
	e.Command.Env = append(e.Command.Env, "AWS_LAMBDA_RUNTIME_API="+p.address, "AWS_LAMBDA_LOG_STREAM_NAME=stream")
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	p.command = exec.Command("/proc/self/exe")
	p.command.Env = []string{"RUNTIMES_TEST_ENTER=" + string(text)}
	p.command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	p.run(t)
	return p
}

// enter builds the root that RUNTIMES_TEST_ENTER describes, changes into it, drops its rights and becomes the command.
func enter() {
	runtime.LockOSThread()
	err := func() error {
		var e entry
		if err := json.Unmarshal([]byte(os.Getenv("RUNTIMES_TEST_ENTER")), &e); err != nil {
			return err
		}
		if err := buildRoot(e); err != nil {
			return err
		}
		if err := unix.Chroot(e.Root); err != nil {
			return err
		}
		if err := unix.Chdir(e.Command.Dir); err != nil {
			return err
		}
		if err := syscall.Setgroups(nil); err != nil {
			return err
		}
		if err := syscall.Setgid(990); err != nil {
			return err
		}
		if err := syscall.Setuid(993); err != nil {
			return err
		}
		return syscall.Exec(e.Command.Path, e.Command.Args, e.Command.Env)
	}()
	fmt.Fprintln(os.Stderr, "enter:", err)
	os.Exit(70)
}

func buildRoot(e entry) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("root", e.Root, "tmpfs", 0, "mode=0755"); err != nil {
		return err
	}
	for _, mount := range append(e.Mounts, sandbox.Mount{Source: "/dev/null", Target: "/dev/null"}) {
		info, err := os.Stat(mount.Source)
		if err != nil {
			return err
		}
		target := filepath.Join(e.Root, mount.Target)
		if _, err := os.Stat(target); err != nil {
			if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
				return err
			}
			if info.IsDir() {
				err = os.Mkdir(target, 0o755)
			} else {
				err = os.WriteFile(target, nil, 0o644)
			}
			if err != nil {
				return err
			}
		}
		if err := unix.Mount(mount.Source, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("%v: %w", mount, err)
		}
		const flags = unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY | unix.MS_NOSUID
		if err := unix.Mount("", target, "", flags, ""); err != nil {
			return fmt.Errorf("%v: %w", mount, err)
		}
	}
	for name, target := range map[string]string{"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"} {
		if err := os.Symlink(target, filepath.Join(e.Root, name)); err != nil && !os.IsExist(err) {
			return err
		}
	}
	return os.Mkdir(filepath.Join(e.Root, "tmp"), 0o777)
}

// Everything that a function may reach for is in the root, at the place where Lambda has it.
func TestPythonInside(t *testing.T) {
	r, found := openRegistry(t, "python")
	const code = `import ctypes, hashlib, os, pwd, ssl, subprocess, sys, zlib
def handler(event, context):
    return {"prefix": sys.prefix, "executable": sys.executable, "library": os.__file__, "user": pwd.getpwuid(os.getuid()).pw_name,
        "root": sorted(os.listdir("/")), "certificates": ssl.create_default_context().cert_store_stats()["x509_ca"] > 50 or os.path.isdir(ssl.get_default_verify_paths().capath or "/none"),
        "bundle": os.path.getsize("/etc/ssl/cert.pem") > 1000, "shell": subprocess.check_output(["/bin/sh", "-c", "echo $PWD"]).decode(),
        "hidden": [p for p in ("/etc/shadow", "/etc/hostname", "/root", "/home", "/usr/local/bin", "/etc/ssl/private", "/usr/sbin") if os.path.exists(p)],
        "zone": os.path.exists("/etc/localtime"), "encoding": sys.stdout.encoding.lower()}
`
	for _, name := range found {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startInside(t, r, function{runtime: name, handler: "app.handler", files: map[string]string{"app.py": code}})
			got := p.invoke(t, event{body: `{}`})
			version := strings.TrimPrefix(name, "python")
			want := fmt.Sprintf(`{"prefix": "/var/lang", "executable": "/var/lang/bin/python%[1]s", "library": "/var/lang/lib/python%[1]s/os.py", "user": "sbx_user1051", `+
				`"root": ["bin", "dev", "etc", "lib", "lib64", "tmp", "usr", "var"], "certificates": true, "bundle": true, "shell": "/var/task\n", "hidden": [], "zone": true, "encoding": "utf-8"}`, version)
			if got != respond(want) {
				t.Errorf("got  %s\nwant %s\n%s", got.body, want, p.stop())
			}
		})
		t.Run(name+"/error", func(t *testing.T) {
			t.Parallel()
			p := startInside(t, r, function{runtime: name, handler: "lambda_handler_error.handler", files: map[string]string{
				"lambda_handler_error.py": "def handler(event, context):\n    raise Exception(\"Handler fails\")\n"}})
			want := failed("Exception", `{"errorMessage": "Handler fails", "errorType": "Exception", "requestId": "`+requestID+`", `+
				`"stackTrace": ["  File \"/var/task/lambda_handler_error.py\", line 2, in handler\n    raise Exception(\"Handler fails\")\n"]}`)
			if got := p.invoke(t, event{body: `{}`}); got != want {
				t.Errorf("got  %s\nwant %s", got.body, want.body)
			}
		})
		t.Run(name+"/module error", func(t *testing.T) {
			t.Parallel()
			p := startInside(t, r, function{runtime: name, handler: "app.handler", files: map[string]string{
				"app.py": "raise Exception(\"Runtime startup fails\")"}})
			got := p.posted(t).body
			prefix := `{"errorMessage": "Runtime startup fails", "errorType": "Exception", "requestId": "", ` +
				`"stackTrace": ["  File \"/var/lang/lib/` + name + `/importlib/__init__.py\", line `
			suffix := `"  File \"/var/task/app.py\", line 1, in <module>\n    raise Exception(\"Runtime startup fails\")\n"]}`
			if !strings.HasPrefix(got, prefix) || !strings.HasSuffix(got, suffix) {
				t.Errorf("got %s", got)
			}
		})
	}
}

func TestNodeInside(t *testing.T) {
	r, found := openRegistry(t, "nodejs")
	const code = `const fs = require('fs'), os = require('os'), tls = require('tls');
exports.handler = async () => ({ executable: process.execPath, user: os.userInfo().username, root: fs.readdirSync('/').sort(),
  crypto: require('crypto').createHash('sha256').update('x').digest('hex').slice(0, 8), roots: tls.rootCertificates.length > 50 });`
	for _, name := range found {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startInside(t, r, function{runtime: name, handler: "index.handler", files: map[string]string{"index.js": code}})
			want := `{"executable":"/var/lang/bin/node","user":"sbx_user1051","root":["bin","dev","etc","lib","lib64","tmp","usr","var"],"crypto":"2d711642","roots":true}`
			got := p.invoke(t, event{body: `{}`})
			got.body = strings.Replace(got.body, r.interpreters[name].Path, "/var/lang/bin/node", 1) // without /proc node tells argv's
			if got != respond(want) {
				t.Errorf("got  %s\nwant %s\n%s", got.body, want, p.stop())
			}
		})
	}
}

// A wrapper gets the bootstrap's command, with the bootstrap as its last argument.
func TestWrapper(t *testing.T) {
	const wrapper = "#!/bin/bash\nexport WRAPPED=\"${@: -1}\"\nexec \"$@\"\n"
	functions := map[string]function{
		"python": {handler: "app.handler", files: map[string]string{"wrapper": wrapper,
			"app.py": "import os\ndef handler(e, c): return os.environ['WRAPPED']"}},
		"nodejs": {handler: "index.handler", files: map[string]string{"wrapper": wrapper,
			"index.js": "exports.handler = async () => process.env.WRAPPED"}},
	}
	for wanted, f := range functions {
		r, found := openRegistry(t, wanted)
		f.runtime = found[len(found)-1]
		f.env = map[string]string{"AWS_LAMBDA_EXEC_WRAPPER": "/var/task/wrapper"}
		want := map[string]string{"python": `"/var/runtime/bootstrap.py"`, "nodejs": `"/var/runtime/index.cjs"`}[wanted]
		if got := startInside(t, r, f).invoke(t, event{body: `{}`}); got != respond(want) {
			t.Errorf("%s: got %+v", f.runtime, got)
		}
		f.env = map[string]string{"AWS_LAMBDA_EXEC_WRAPPER": "/var/task/idontexist"}
		if status, log := startInside(t, r, f).exit(t); status != 127 {
			t.Errorf("%s: a missing wrapper ends with status %d: %s", f.runtime, status, log)
		}
	}
}
