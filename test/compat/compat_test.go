// Package compat drives the real binary with the clients that people have: the AWS CLI, the SDKs, Terraform.
package compat

import (
	"archive/zip"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	accessKey = "AKIACOMPATTESTS00001"
	secretKey = "compat/secret/of/the/tests/0000000000000"
	account   = "123456789012"
	region    = "eu-central-1"
	runtime   = "provided.al2023"
)

// programs are what TestMain built: the binary under test and the archive of a function that answers what it was sent.
var programs struct{ lambent, archive string }

func TestMain(m *testing.M) {
	os.Exit(build(m))
}

func build(m *testing.M) int {
	if os.Getuid() != 0 {
		fmt.Println("SKIP: the tests with clients make sandboxes and need root")
		return 0
	}
	dir, err := os.MkdirTemp("", "lambent-compat-")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	echo := filepath.Join(dir, "echo")
	programs.lambent, programs.archive = filepath.Join(dir, "lambent"), filepath.Join(dir, "echo.zip")
	builds := [][2]string{{echo, "lambent/bench/functions/echo"}}
	if given := os.Getenv("LAMBENT_BINARY"); given != "" {
		programs.lambent = given
	} else {
		builds = append(builds, [2]string{programs.lambent, "lambent/cmd/lambent"})
	}
	for _, b := range builds {
		command := exec.Command("go", "build", "-trimpath", "-o", b[0], b[1])
		command.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := command.CombinedOutput(); err != nil {
			fmt.Printf("build %s: %v\n%s", b[1], err, out)
			return 1
		}
	}
	if err := pack(echo, programs.archive); err != nil {
		fmt.Println(err)
		return 1
	}
	return m.Run()
}

// pack writes the archive of a function for provided runtimes.
func pack(program, archive string) error {
	content, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	header := &zip.FileHeader{Name: "bootstrap", Method: zip.Deflate}
	header.SetMode(0o755)
	entry, err := w.CreateHeader(header)
	if err == nil {
		_, err = entry.Write(content)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return err
	}
	return os.WriteFile(archive, buf.Bytes(), 0o644)
}

// target is a region that clients talk to.
type target struct{ endpoint, region, account, keyID, secret, runtime string }

// open runs `lambent up` for one test, and returns when it serves.
func open(t *testing.T) target {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().String()
	listener.Close()
	var output bytes.Buffer
	cmd := exec.Command(programs.lambent, "up", "--data", t.TempDir(), "--listen", addr, "--account", account, "--region", region, "--credentials", accessKey+":"+secretKey)
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Logf("output of lambent up:\n%s", output.String())
		}
	})
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		if conn, err := net.Dial("tcp", addr); err == nil {
			conn.Close()
			return target{"http://" + addr, region, account, accessKey, secretKey, runtime}
		}
		select {
		case <-ended:
			t.Fatal("lambent up ended")
		case <-time.After(10 * time.Millisecond): // the port is another process's: there is no signal to wait for
		}
	}
	t.Fatal("lambent up does not answer")
	return target{}
}

// environment is what clients are pointed at a target with, and nothing of the caller's own AWS configuration.
func (g target) environment(t *testing.T, more ...string) []string {
	var kept []string
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "AWS_") {
			kept = append(kept, variable)
		}
	}
	nowhere := filepath.Join(t.TempDir(), "none")
	kept = append(kept, "AWS_ENDPOINT_URL="+g.endpoint, "AWS_REGION="+g.region, "AWS_DEFAULT_REGION="+g.region, "AWS_ACCESS_KEY_ID="+g.keyID,
		"AWS_SECRET_ACCESS_KEY="+g.secret, "AWS_EC2_METADATA_DISABLED=true", "AWS_PAGER=", "AWS_CONFIG_FILE="+nowhere, "AWS_SHARED_CREDENTIALS_FILE="+nowhere,
		"AWS_MAX_ATTEMPTS=1", "PYTHONUTF8=1", "NO_PROXY=127.0.0.1")
	return append(kept, more...)
}

// mirrored is what that function answers to the payload: the AWS library for Go leaves out no byte of it.
func mirrored() []byte { return []byte(payload) }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// client returns the path of a client: of those that LAMBENT_TEST_CLIENTS names, else of this machine.
func client(t *testing.T, name string) string {
	t.Helper()
	if dir := os.Getenv("LAMBENT_TEST_CLIENTS"); dir != "" {
		if path := filepath.Join(dir, "venv", "bin", name); exists(path) {
			return path
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("SKIP: %s is not on this machine; \"make test\" installs it", name)
	}
	return path
}

// run runs a client in a directory and returns what it printed.
func run(t *testing.T, environment []string, dir, program string, arguments ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, program, arguments...)
	command.Env, command.Dir = environment, dir
	var complaints bytes.Buffer
	command.Stderr = &complaints
	out, err := command.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s%s", program, arguments, err, out, complaints.String())
	}
	return out
}
