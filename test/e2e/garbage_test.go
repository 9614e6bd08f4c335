package e2e

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// request sends a signed request with any body and returns status, error type and body.
func (s *server) request(method, path string, body []byte) (int, string, string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.endpoint+path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	digest := sha256.Sum256(body)
	err = v4.NewSigner().SignHTTP(ctx, aws.Credentials{AccessKeyID: accessKey, SecretAccessKey: secretKey}, req, hex.EncodeToString(digest[:]), "lambda", region, time.Now())
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "closed", err.Error()
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return 0, "closed", err.Error()
	}
	return resp.StatusCode, resp.Header.Get("x-amzn-ErrorType"), string(content)
}

func createBody(code []byte) []byte {
	body, err := json.Marshal(map[string]any{"FunctionName": "garbage", "Runtime": "python3.12", "Handler": "x.handler",
		"Role": "arn:aws:iam::" + account + ":role/e2e", "Code": map[string]string{"ZipFile": base64.StdEncoding.EncodeToString(code)}})
	if err != nil {
		panic(err)
	}
	return body
}

// bomb is a small archive of many zeros.
func bomb() []byte {
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	block := make([]byte, 1<<20)
	for i := range 4 {
		entry, err := w.Create(fmt.Sprint("zeros", i))
		for n := 0; err == nil && n < 80; n++ {
			_, err = entry.Write(block)
		}
		if err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

func symlink(target string) []byte {
	return archive(file{"link", []byte(target), os.ModeSymlink | 0o777})
}

// Garbage at the endpoints gets Lambda's error or a closed connection, quickly, and memory stays bounded.
func TestGarbage(t *testing.T) {
	s := start(t, t.TempDir())
	whole := archive(file{"x.py", []byte("def handler(e, c): return e\n"), 0o644})
	create := "/2015-03-31/functions"
	tests := map[string]struct {
		method, path string
		body         []byte
	}{
		"truncated zip":        {"POST", create, createBody(whole[:len(whole)/2])},
		"no zip":               {"POST", create, createBody([]byte("not a zip"))},
		"empty zip file":       {"POST", create, createBody(nil)},
		"zip bomb":             {"POST", create, createBody(bomb())},
		"path traversal":       {"POST", create, createBody(archive(file{"../../etc/x", []byte("x"), 0o644}))},
		"absolute path":        {"POST", create, createBody(archive(file{"/etc/x", []byte("x"), 0o644}))},
		"symlink out":          {"POST", create, createBody(symlink("../../../etc/passwd"))},
		"absolute symlink":     {"POST", create, createBody(symlink("/etc/passwd"))},
		"bad base64":           {"POST", create, []byte(`{"FunctionName":"x","Runtime":"python3.12","Handler":"x.h","Role":"arn:aws:iam::123456789012:role/x","Code":{"ZipFile":"%%%"}}`)},
		"bad JSON":             {"POST", create, []byte(`{"FunctionName":`)},
		"no JSON":              {"POST", create, []byte{0, 1, 2, 255}},
		"JSON of wrong type":   {"POST", create, []byte(`[]`)},
		"member of wrong type": {"POST", create, []byte(`{"FunctionName":7,"Timeout":"x","Code":[]}`)},
		"deep JSON":            {"POST", create, []byte(strings.Repeat("[", 100_000))},
		"empty body":           {"POST", create, nil},
		"unknown path":         {"GET", "/2015-03-31/nothing/here", nil},
		"unknown method":       {"PATCH", create, nil},
		"long name":            {"GET", create + "/" + strings.Repeat("n", 4000), nil},
		"escaped name":         {"GET", create + "/%2e%2e%2f%00", nil},
		"bad marker":           {"GET", create + "?Marker=%%%&MaxItems=x", nil},
		"bad payload":          {"POST", create + "/none/invocations", []byte(`{"a":`)},
		"huge payload":         {"POST", create + "/none/invocations", make([]byte, 7<<20)},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			status, kind, body := s.request(test.method, test.path, test.body)
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("took %v", took)
			}
			if status == 0 && kind == "closed" {
				return
			}
			if status < 400 || status >= 500 || kind == "" {
				t.Errorf("status %d, type %q, body %.300s", status, kind, body)
			}
		})
	}
	t.Run("300 MB of code", func(t *testing.T) {
		status, kind, body := s.request("POST", create, bytes.Repeat([]byte("A"), 300<<20))
		if status != 413 && kind != "closed" {
			t.Errorf("status %d, type %q, body %.300s", status, kind, body)
		}
	})
	t.Run("huge headers", func(t *testing.T) {
		s.raw(t, "GET /2015-03-31/functions HTTP/1.1\r\nHost: x\r\nX-Big: "+strings.Repeat("h", 2<<20)+"\r\n\r\n")
	})
	t.Run("no HTTP", func(t *testing.T) { s.raw(t, "\x16\x03\x01 this is not HTTP\r\n\r\n") })
	t.Run("slow clients", func(t *testing.T) { s.slowClients(t) })
	if status, _, body := s.request("GET", create, nil); status != 200 {
		t.Errorf("afterwards: status %d, body %s", status, body)
	}
	if peak := peakMiB(t, s.cmd.Process.Pid); peak > 1500 {
		t.Errorf("the server's memory peaked at %d MiB", peak)
	}
}

// raw writes bytes to the port and wants an HTTP error or a closed connection.
func (s *server) raw(t *testing.T, text string) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.endpoint, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(conn, text) // the server may close before it has read all
	answer, err := io.ReadAll(conn)
	if os.IsTimeout(err) {
		t.Errorf("neither an answer nor an end: %q", answer)
	}
	if len(answer) > 0 && !strings.HasPrefix(string(answer), "HTTP/1.1 4") {
		t.Errorf("answered %.200q", answer)
	}
}

// slowClients opens many connections that send half a head and wait: others are served meanwhile.
func (s *server) slowClients(t *testing.T) {
	t.Helper()
	for range 200 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.endpoint, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "POST /2015-03-31/functions HTTP/1.1\r\nHost: x\r\nContent-Le"); err != nil {
			t.Fatal(err)
		}
	}
	if status, _, body := s.request("GET", "/2015-03-31/functions", nil); status != 200 {
		t.Errorf("status %d, body %s", status, body)
	}
}

// peakMiB reads the most memory that a process had resident.
func peakMiB(t *testing.T, pid int) int {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(content), "VmHWM:")
	fields := strings.Fields(after)
	if len(fields) == 0 {
		t.Fatal("no VmHWM")
	}
	kib, err := strconv.Atoi(fields[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib >> 10
}
