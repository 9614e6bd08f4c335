package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
)

// A hostile function gets nothing, and its neighbour does not notice.
func TestHostileFunction(t *testing.T) {
	data := t.TempDir()
	secret := filepath.Join(data, "secret-of-the-host")
	if err := os.WriteFile(secret, []byte("the host's secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LAMBENT_E2E_SECRET", "environment of the host")
	s := start(t, data)
	s.function("hostile", func(in *lambda.CreateFunctionInput) {
		provided(programs.probe)(in)
		in.Timeout, in.MemorySize = aws.Int32(60), aws.Int32(512)
	})
	s.function("neighbour", provided(programs.echo))
	s.invoke("neighbour", `0`)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	abstract, err := net.Listen("unix", "@lambent-e2e-abstract")
	if err != nil {
		t.Fatal(err)
	}
	defer abstract.Close()

	attempts := []struct{ try, arg string }{
		{"read", secret}, {"read", "/etc/shadow"}, {"read", "/root/.bashrc"}, {"read", "/proc/1/environ"}, {"read", "/proc/kcore"},
		{"read", "/proc/1/root" + secret}, {"write", "/proc/sys/kernel/core_pattern"}, {"read", "/sys/kernel/uevent_helper"}, {"read", "/proc/keys"},
		{"walk", "secret-of-the-host"}, {"processes", ""}, {"environment", ""}, {"forks", ""}, {"fill", ""},
		{"socket", "raw"}, {"socket", "packet"}, {"socket", "uevent"}, {"socket", "audit"}, {"socket", "vsock"}, {"mount", ""}, {"ptrace", ""},
		{"unshare", ""}, {"setuid", ""}, {"write", "/var/task/x"}, {"write", "/x"}, {"write", "/etc/x"}, {"write", "/usr/bin/x"}, {"write", "/opt/x"},
		{"write", "/var/runtime/x"}, {"write", "/proc/sys/kernel/hostname"}, {"write", "/proc/1/oom_score_adj"}, {"write", "/dev/x"},
		{"connect", "tcp!" + listener.Addr().String()}, {"connect", "tcp!" + strings.TrimPrefix(s.endpoint, "http://")},
		{"connect", "unix!@lambent-e2e-abstract"}, {"connect", "tcp!169.254.169.254:80"}, {"connect", "tcp!169.254.100.2:9001"},
	}
	stop := watchNeighbour(t, s)
	for _, a := range attempts {
		event, err := json.Marshal(map[string]string{"try": a.try, "arg": a.arg})
		if err != nil {
			t.Fatal(err)
		}
		out := s.invoke("hostile", string(event))
		var answer struct {
			Reached bool
			Detail  string
		}
		if out.FunctionError != nil || json.Unmarshal(out.Payload, &answer) != nil {
			t.Errorf("%s %s: no answer: %s", a.try, a.arg, out.Payload)
			continue
		}
		if answer.Reached {
			t.Errorf("%s %s reached: %.300s", a.try, a.arg, answer.Detail)
		}
	}
	for _, try := range []string{"kill", "allocate"} { // these end the function's own processes, or are survived
		out := s.invoke("hostile", fmt.Sprintf(`{"try":%q}`, try))
		if strings.Contains(string(out.Payload), `"reached":true`) {
			t.Errorf("%s reached: %s", try, out.Payload)
		}
	}
	if n := stop(); n == 0 {
		t.Error("the neighbour never answered")
	}
}

// watchNeighbour invokes the neighbour until the returned function is called, which gives the number of answers.
func watchNeighbour(t *testing.T, s *server) func() int64 {
	quit, done := make(chan struct{}), make(chan struct{})
	var answers atomic.Int64
	ctx := t.Context()
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			default:
			}
			began := time.Now()
			out, err := s.client.Invoke(ctx, &lambda.InvokeInput{FunctionName: aws.String("neighbour"), Payload: []byte(`"hello"`)})
			if err != nil || out.FunctionError != nil || string(out.Payload) != `"hello"` {
				t.Errorf("the neighbour: %v %v", out, err)
				return
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("the neighbour waited %v", took)
			}
			answers.Add(1)
		}
	}()
	return func() int64 { close(quit); <-done; return answers.Load() }
}
