package compat

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A person's configuration is applied, shows no drift, is changed in place, and is destroyed.
func TestTerraform(t *testing.T) {
	program, err := exec.LookPath("terraform")
	if err != nil {
		t.Skip("SKIP: Terraform is not on this machine")
	}
	mirror := providers(t)
	g := open(t)
	dir := t.TempDir()
	configuration, err := os.ReadFile("testdata/main.tf")
	if err != nil {
		t.Fatal(err)
	}
	settings := filepath.Join(dir, "terraform.rc")
	files := map[string]string{filepath.Join(dir, "main.tf"): string(configuration),
		settings: "disable_checkpoint = true\nprovider_installation {\n  filesystem_mirror {\n    path = \"" + mirror + "\"\n  }\n}\n"}
	for name, content := range files {
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	variables := func(timeout, message string) []string {
		return g.environment(t, "TF_CLI_CONFIG_FILE="+settings, "TF_IN_AUTOMATION=1", "TF_INPUT=0", "TF_VAR_archive="+programs.archive, "TF_VAR_name=compat-terraform",
			"TF_VAR_runtime="+g.runtime, "TF_VAR_timeout="+timeout, "TF_VAR_message="+message)
	}
	environment := variables("7", "grüße")
	terraform := func(arguments ...string) []byte {
		t.Helper()
		return run(t, environment, dir, program, append([]string{arguments[0], "-no-color"}, arguments[1:]...)...)
	}
	noDrift := func() {
		t.Helper()
		terraform("plan", "-detailed-exitcode") // fails with 2 when something would be changed
	}
	outputs := func() (version, alias string) {
		t.Helper()
		var got map[string]struct{ Value string }
		if err := json.Unmarshal(terraform("output", "-json"), &got); err != nil {
			t.Fatal(err)
		}
		return got["version"].Value, got["alias"].Value
	}
	terraform("init")
	terraform("apply", "-auto-approve")
	noDrift()
	if version, alias := outputs(); version != "1" || !strings.HasSuffix(alias, ":function:compat-terraform:live") {
		t.Errorf("outputs: %s, %s", version, alias)
	}
	environment = variables("9", "changed")
	if out := terraform("apply", "-auto-approve"); !strings.Contains(string(out), "0 added, 2 changed, 0 destroyed") {
		t.Errorf("the change was not made in place:\n%s", out)
	}
	if version, _ := outputs(); version != "2" {
		t.Errorf("version %s after the change", version)
	}
	noDrift()
	if out := terraform("destroy", "-auto-approve"); !strings.Contains(string(out), "2 destroyed") {
		t.Errorf("destroy:\n%s", out)
	}
}

// providers finds a directory that holds Terraform's AWS provider as a file system mirror: LAMBENT_TERRAFORM_PLUGINS, or where
// such mirrors are kept.
func providers(t *testing.T) string {
	t.Helper()
	places := []string{"/usr/local/share/terraform/plugins", "/usr/share/terraform/plugins", "/opt/terraform/plugins", "/opt/tf-plugins"}
	if home, err := os.UserHomeDir(); err == nil {
		places = append(places, home+"/.terraform.d/plugins", home+"/.local/share/terraform/plugins")
	}
	if given := os.Getenv("LAMBENT_TERRAFORM_PLUGINS"); given != "" {
		places = []string{given}
	}
	for _, dir := range places {
		if found, err := filepath.Glob(filepath.Join(dir, "*", "hashicorp", "aws")); err == nil && len(found) > 0 {
			return dir
		}
	}
	t.Skip("SKIP: Terraform's AWS provider is not on this machine; LAMBENT_TERRAFORM_PLUGINS can name a mirror that has it")
	return ""
}
