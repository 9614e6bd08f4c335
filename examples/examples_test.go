package examples

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Each example passes its own tests.
func TestExamples(t *testing.T) {
	for name, command := range map[string][]string{
		"pdf-stamp": {"python3", "-B", "-m", "unittest"},
		"markdown":  {"node", "--test"},
		"go-api":    {"go", "test", "."},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath(command[0]); err != nil {
				t.Skipf("%s is not installed: the example cannot be tested", command[0])
			}
			test := exec.CommandContext(t.Context(), command[0], command[1:]...)
			test.Dir = name
			// Each example stands alone, whatever module or flags this test runs with.
			for _, variable := range os.Environ() {
				if !strings.HasPrefix(variable, "GOFLAGS=") && !strings.HasPrefix(variable, "NODE_") {
					test.Env = append(test.Env, variable)
				}
			}
			if output, err := test.CombinedOutput(); err != nil {
				t.Errorf("%v: %v\n%s", command, err, output)
			}
		})
	}
}

// Each example has what the README of the project promises of it.
func TestExamplesAreComplete(t *testing.T) {
	readmes, err := filepath.Glob("*/README.md")
	if err != nil || len(readmes) < 3 {
		t.Fatalf("examples: %v, %v", readmes, err)
	}
	for _, readme := range readmes {
		dir := filepath.Dir(readme)
		text, err := os.ReadFile(readme)
		if err != nil || !strings.Contains(string(text), "bin/lambent deploy examples/"+dir) {
			t.Errorf("%s does not say how to deploy it: %v", readme, err)
		}
		event, err := os.ReadFile(filepath.Join(dir, "event.json"))
		if err != nil || !json.Valid(event) {
			t.Errorf("%s has no event to try it on: %v", dir, err)
		}
	}
}
