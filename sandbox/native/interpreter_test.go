package native

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lambent/sandbox"
)

// TestInterpreters runs what functions are made of, with the host's own interpreters: nothing that they do when they start,
// nor their threads, child processes, timers and sockets, may meet the system call filter.
func TestInterpreters(t *testing.T) {
	needHost(t)
	base := []sandbox.Mount{{Source: "/usr", Target: "/usr"}}
	for _, file := range []string{"/etc/ld.so.cache", "/etc/passwd", "/etc/nsswitch.conf", "/etc/alternatives"} {
		if _, err := os.Stat(file); err == nil {
			base = append(base, sandbox.Mount{Source: file, Target: file})
		}
	}
	driver, err := Open(Options{StateDir: t.TempDir(), Base: base})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := driver.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, test := range []struct{ name, program, argument, code string }{
		{"python", "/usr/bin/python3", "-c", pythonProgram},
		{"node", "/usr/bin/node", "-e", nodeProgram},
		{"shell", "/bin/sh", "-c", `set -e; echo $((6*7)) > /tmp/n; cat /tmp/n | tr -d '\n' >/dev/stdout; ls / >/dev/null; echo; echo done`},
	} {
		t.Run(test.name, func(t *testing.T) {
			program := test.program
			if _, err := filepath.EvalSymlinks(program); err != nil {
				t.Skipf("this host has no %s", program)
			}
			box, err := driver.Create(t.Context(), test.name, sandbox.Template{})
			if err != nil {
				t.Fatal(err)
			}
			err = box.Specialise(t.Context(), sandbox.Spec{MemoryMiB: 512, VCPU: 1, Processes: 1024, Descriptors: 1024,
				EphemeralMiB: 512})
			if err != nil {
				t.Fatal(err)
			}
			process, err := box.Start(t.Context(), sandbox.Command{Path: program, Args: []string{program, test.argument, test.code},
				Env: []string{"PATH=/usr/bin:/bin", "HOME=/tmp"}, Dir: "/tmp"})
			if err != nil {
				t.Fatal(err)
			}
			defer process.Output().Close()
			out, err := io.ReadAll(process.Output())
			if err != nil {
				t.Fatal(err)
			}
			exit, err := process.Wait(t.Context())
			if err != nil || exit != (sandbox.Exit{}) || !strings.HasSuffix(string(out), "42\ndone\n") {
				t.Errorf("exit %+v, %v\n%s", exit, err, out)
			}
		})
	}
}

const pythonProgram = `
import asyncio, hashlib, json, mmap, multiprocessing, os, socket, sqlite3, ssl, subprocess, tempfile, threading, time, urllib.request
results = []
t = threading.Thread(target=lambda: results.append(6 * 7)); t.start(); t.join()
assert subprocess.run(["/bin/sh", "-c", "exit 3"]).returncode == 3
assert multiprocessing.Pool(2).map(abs, [-1, -2]) == [1, 2]
async def main():
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    r, w = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    assert await r.read() == b""
    server.close()
asyncio.run(main())
with tempfile.NamedTemporaryFile() as f:
    sqlite3.connect(f.name).execute("create table t (a)")
ssl.create_default_context()
try:
    urllib.request.urlopen("http://example.com", timeout=1)
except Exception as e:
    assert "lookup" in str(e) or "resolution" in str(e) or "not known" in str(e) or "unreachable" in str(e).lower(), e
os.cpu_count(); os.getloadavg(); os.urandom(8); time.sleep(0.001); os.nice(1)
print(results[0]); print("done")
`

const nodeProgram = `
const fs = require("fs"), os = require("os"), http = require("http"), zlib = require("zlib"), cp = require("child_process");
const { Worker } = require("worker_threads");
(async () => {
  fs.writeFileSync("/tmp/a", "b"); await fs.promises.readFile("/tmp/a"); os.cpus(); os.networkInterfaces(); os.totalmem();
  if (cp.spawnSync("/bin/sh", ["-c", "exit 3"]).status !== 3) throw new Error("spawn");
  await new Promise((ok, no) => new Worker("", { eval: true }).on("exit", ok).on("error", no));
  const server = http.createServer((q, s) => s.end("hi")).listen(0, "127.0.0.1");
  await new Promise(ok => server.on("listening", ok));
  const text = await (await fetch("http://127.0.0.1:" + server.address().port)).text();
  server.close(); server.closeAllConnections();
  if (text !== "hi") throw new Error(text);
  await new Promise(ok => zlib.gzip("x".repeat(1e6), ok));
  let x = 0; for (let i = 0; i < 1e6; i++) x += i % 2;
  await WebAssembly.compile(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]));
  console.log(x > 0 ? 42 : 0); console.log("done");
})();
`
