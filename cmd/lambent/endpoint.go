package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// endpointFile is the file in the data directory that tells clients on this host how to reach the region.
const endpointFile = "endpoint.json"

// Endpoint is how a client reaches a region. "lambent up" writes it to its data directory, readable by its owner only, and
// keeps its credentials over restarts.
type Endpoint struct {
	Endpoint        string `json:"endpoint"` // URL, such as http://127.0.0.1:9070
	Region          string `json:"region"`
	Account         string `json:"account"` // 12 digits
	AccessKeyID     string `json:"accessKeyId"`
	SecretAccessKey string `json:"secretAccessKey"`

	// Runtimes are the names of the runtimes that the region's host can run, such as "python3.11". Deploy picks from them.
	Runtimes []string `json:"runtimes,omitempty"`
}

// DataFlag is the flag that names the data directory of a region. Commands embed it.
type DataFlag struct {
	Data string `help:"Data directory of the region (default: lambent in the user's state directory)." placeholder:"DIR" type:"path"`
}

// Dir returns the data directory: the flag's, else lambent in $XDG_STATE_HOME, else ~/.local/state/lambent.
func (f DataFlag) Dir(getenv func(string) string) (string, error) {
	if f.Data != "" {
		return f.Data, nil
	}
	if state := getenv("XDG_STATE_HOME"); filepath.IsAbs(state) {
		return filepath.Join(state, "lambent"), nil
	}
	if home := getenv("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "state", "lambent"), nil
	}
	return "", errors.New("neither XDG_STATE_HOME nor HOME is set: name the data directory with --data DIR")
}

// writeEndpoint puts the endpoint into the data directory, which it makes if need be. A reader sees the old file or the new
// one, never a part, and so does a host that lost its power.
func writeEndpoint(dataDir string, endpoint Endpoint) error {
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	text, err := json.MarshalIndent(endpoint, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the endpoint: %w", err)
	}
	if err := replaceFile(filepath.Join(dataDir, endpointFile), append(text, '\n')); err != nil {
		return fmt.Errorf("write %s: %w", endpointFile, err)
	}
	return nil
}

// replaceFile writes a file of mode 0600 durably under a temporary name, and then gives it its own.
func replaceFile(path string, content []byte) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // CreateTemp's mode is 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(file.Name())
		}
	}()
	_, err = file.Write(content)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// readEndpoint reads the endpoint of the region in a data directory. The error says what to do when there is none.
func readEndpoint(dataDir string) (Endpoint, error) {
	text, err := os.ReadFile(filepath.Join(dataDir, endpointFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Endpoint{}, fmt.Errorf("no region has run here yet, start one with \"lambent up\": %w", err)
	}
	if err != nil {
		return Endpoint{}, fmt.Errorf("read the region's endpoint: %w", err)
	}
	var endpoint Endpoint
	if err := json.Unmarshal(text, &endpoint); err != nil {
		return Endpoint{}, fmt.Errorf("%s is damaged: %w", filepath.Join(dataDir, endpointFile), err)
	}
	return endpoint, endpoint.check()
}

func (e Endpoint) check() error {
	var missing []string
	for _, field := range []struct{ name, value string }{
		{"endpoint", e.Endpoint}, {"region", e.Region}, {"access key", e.AccessKeyID}, {"secret access key", e.SecretAccessKey},
	} {
		if field.value == "" {
			missing = append(missing, field.name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("the endpoint's settings lack: %s", strings.Join(missing, ", "))
	}
	return nil
}

// EnvCmd prints the environment variables that point AWS clients at the region.
type EnvCmd struct{ DataFlag }

// Run prints one export line per variable, quoted for a POSIX shell.
func (c *EnvCmd) Run(proc *Process) error {
	dir, err := c.Dir(proc.Getenv)
	if err != nil {
		return err
	}
	endpoint, err := readEndpoint(dir)
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(proc.Out, exports(endpoint))
	return err
}

func exports(e Endpoint) string {
	var lines strings.Builder
	for _, variable := range []struct{ name, value string }{
		{"AWS_ENDPOINT_URL", e.Endpoint},
		{"AWS_REGION", e.Region},
		{"AWS_DEFAULT_REGION", e.Region},
		{"AWS_ACCESS_KEY_ID", e.AccessKeyID},
		{"AWS_SECRET_ACCESS_KEY", e.SecretAccessKey},
	} {
		fmt.Fprintf(&lines, "export %s=%s\n", variable.name, shellQuote(variable.value))
	}
	return lines.String()
}

// shellQuote quotes a value for a POSIX shell, where it needs quotes.
func shellQuote(value string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:+=,@", r)
	}
	if value != "" && strings.IndexFunc(value, func(r rune) bool { return !plain(r) }) < 0 {
		return value
	}
	return "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
}
