package main

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func testEndpoint() Endpoint {
	return Endpoint{Endpoint: "http://127.0.0.1:9070", Region: "us-east-1", Account: "000000000000", AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: "s3cr$t'/+ \"x", Runtimes: []string{"python3.11"}}
}

func TestEndpointFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there", "yet")
	if _, err := readEndpoint(dir); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "lambent up") {
		t.Errorf("without a file: %v", err)
	}
	for _, region := range []string{"us-east-1", "eu-west-1"} {
		want := testEndpoint()
		want.Region = region
		if err := writeEndpoint(dir, want); err != nil {
			t.Fatal(err)
		}
		if got, err := readEndpoint(dir); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("left behind: %v, %v", entries, err)
	}
	info, err := entries[0].Info()
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v; want 0600: it holds a secret", info.Mode(), err)
	}
	for _, damaged := range []string{"", "{", "{}", `{"endpoint":"http://x"}`} {
		if err := os.WriteFile(filepath.Join(dir, endpointFile), []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readEndpoint(dir); err == nil {
			t.Errorf("file %q was read as %+v", damaged, got)
		}
	}
}

func TestWhereTheEndpointComesFrom(t *testing.T) {
	state := t.TempDir()
	own := testEndpoint()
	if err := writeEndpoint(filepath.Join(state, "lambent"), own); err != nil {
		t.Fatal(err)
	}
	other := t.TempDir()
	others := testEndpoint()
	others.Endpoint = "http://127.0.0.1:1"
	if err := writeEndpoint(other, others); err != nil {
		t.Fatal(err)
	}
	aws := map[string]string{"AWS_ENDPOINT_URL": "http://e/", "AWS_REGION": "r", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
	tests := []struct {
		name  string
		data  string
		env   map[string]string
		want  string // the endpoint's URL
		fails string
	}{
		{name: "the default directory", want: own.Endpoint},
		{name: "--data", data: other, want: others.Endpoint},
		{name: "the environment", env: aws, want: "http://e"},
		{name: "--data goes before the environment", data: other, env: aws, want: others.Endpoint},
		{name: "credentials of elsewhere stay there", env: map[string]string{"AWS_ACCESS_KEY_ID": "real"}, want: own.Endpoint},
		{name: "half an environment", env: map[string]string{"AWS_ENDPOINT_URL": "http://e"}, fails: "access key"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			getenv := func(name string) string {
				if name == "XDG_STATE_HOME" {
					return state
				}
				return test.env[name]
			}
			got, err := ClientFlags{DataFlag{test.data}}.Endpoint(getenv)
			if test.fails != "" {
				if err == nil || !strings.Contains(err.Error(), test.fails) {
					t.Errorf("got %v, want an error with %q", err, test.fails)
				}
				return
			}
			if err != nil || got.Endpoint != test.want {
				t.Errorf("got %q, %v; want %q", got.Endpoint, err, test.want)
			}
			if test.env == nil && got.AccessKeyID != own.AccessKeyID {
				t.Errorf("key %q of another place", got.AccessKeyID)
			}
		})
	}
}

func TestDataDirectory(t *testing.T) {
	for _, test := range []struct{ flag, xdg, home, want string }{
		{"/d", "/x", "/h", "/d"},
		{"", "/x", "/h", "/x/lambent"},
		{"", "relative", "/h", "/h/.local/state/lambent"},
		{"", "", "/h", "/h/.local/state/lambent"},
		{"", "", "", ""},
	} {
		env := map[string]string{"XDG_STATE_HOME": test.xdg, "HOME": test.home}
		got, err := DataFlag{test.flag}.Dir(func(name string) string { return env[name] })
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%+v: got %q, %v", test, got, err)
		}
	}
}

// A shell has to read back exactly what was exported.
func TestExportsAreForAShell(t *testing.T) {
	endpoint := testEndpoint()
	script := exports(endpoint) + `printf '%s|%s|%s|%s|%s' "$AWS_ENDPOINT_URL" "$AWS_REGION" "$AWS_DEFAULT_REGION" "$AWS_ACCESS_KEY_ID" "$AWS_SECRET_ACCESS_KEY"`
	got, err := exec.Command("sh", "-c", script).CombinedOutput()
	want := strings.Join([]string{endpoint.Endpoint, endpoint.Region, endpoint.Region, endpoint.AccessKeyID, endpoint.SecretAccessKey}, "|")
	if err != nil || string(got) != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}
