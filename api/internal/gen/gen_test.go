package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// The committed files are what the model gives.
func TestGeneratedFilesAreFresh(t *testing.T) {
	path := os.Getenv("LAMBENT_AWS_MODEL")
	if path == "" {
		t.Skip("SKIP: LAMBENT_AWS_MODEL does not name Lambda's Smithy model, so the generated code is not compared with it")
	}
	files, err := generate(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join("..", "wire", name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is stale: run go generate with LAMBENT_AWS_MODEL set", name)
		}
	}
}

const small = `{"shapes": {
	"com.amazonaws.lambda#Get": {"type": "operation", "input": {"target": "com.amazonaws.lambda#In"}, "output": {"target": "com.amazonaws.lambda#Out"},
		"traits": {"smithy.api#http": {"method": "GET", "uri": "/v/{Name}", "code": 201}, "smithy.api#documentation": "SECRET TEXT"}},
	"com.amazonaws.lambda#In": {"type": "structure", "members": {
		"Zebra": {"target": "com.amazonaws.lambda#Word", "traits": {"smithy.api#httpQuery": "z"}},
		"Name": {"target": "com.amazonaws.lambda#Word", "traits": {"smithy.api#httpLabel": {}, "smithy.api#required": {}}},
		"Again": {"target": "com.amazonaws.lambda#In"}}},
	"com.amazonaws.lambda#Out": {"type": "structure", "members": {"Sizes": {"target": "com.amazonaws.lambda#Sizes"}}},
	"com.amazonaws.lambda#Sizes": {"type": "list", "member": {"target": "smithy.api#Long"}},
	"com.amazonaws.lambda#Word": {"type": "string", "traits": {"smithy.api#pattern": "^[a-z]+$", "smithy.api#length": {"min": 1, "max": 9}}}
}}`

func TestGenerate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model.json")
	if err := os.WriteFile(path, []byte(small), 0o644); err != nil {
		t.Fatal(err)
	}
	files, err := generate(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if bytes.Contains(content, []byte("SECRET")) {
			t.Errorf("%s holds documentation of the model", name)
		}
	}
	for _, want := range []string{"Zebra *string `json:\"-\"`", "Again *In     `json:\"Again,omitzero\"`", "Sizes []int64 `json:\"Sizes,omitzero\"`"} {
		if !strings.Contains(string(files["structures_gen.go"]), want) {
			t.Errorf("no %s in\n%s", want, files["structures_gen.go"])
		}
	}
	for _, want := range []string{`{Name: "Get", Method: "GET", URI: "/v/{Name}", Success: 201, input: 0, New: func() any { return new(In) }},`,
		`{name: "Zebra", in: inQuery, key: "z", shape: 1}, {name: "Name", in: inLabel, key: "Name", required: true, shape: 1}, {name: "Again", shape: 0}`,
		`{kind: kindString, hasMin: true, min: 1, hasMax: true, max: 9, pattern: 1},`, `{shown: "[a-z]+"},`} {
		if !strings.Contains(string(files["tables_gen.go"]), want) {
			t.Errorf("no %s in\n%s", want, files["tables_gen.go"])
		}
	}
	if err := run("", ""); err != nil {
		t.Errorf("without a model: %v", err)
	}
	unknown := strings.Replace(small, "^[a-z]+$", "^(?=a)b$", 1)
	if err := os.WriteFile(path, []byte(unknown), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := generate(path); err == nil || !strings.Contains(err.Error(), "look-around") {
		t.Errorf("a pattern that cannot be translated: %v", err)
	}
}

// What stands for a pattern with look-around accepts what the words beside it say.
func TestLookaround(t *testing.T) {
	whole := func(pattern string) *regexp.Regexp { return regexp.MustCompile(`^(?:` + pattern + `)$`) }
	digits := whole(`[0-9]+`)
	all := lookaround()
	says := map[string]func(string) bool{
		`^(?!^[0-9]+$)([a-zA-Z0-9-_]+)$`: func(s string) bool { return whole(`[a-zA-Z0-9-_]+`).MatchString(s) && !digits.MatchString(s) },
		`^((?!^\d+$)^[0-9a-zA-Z-_]+$)$`:  func(s string) bool { return whole(`[a-zA-Z0-9-_]+`).MatchString(s) && !digits.MatchString(s) },
		`^[0-9A-Za-z\.\-_]*(?<!\.)$`:     func(s string) bool { return whole(`[0-9A-Za-z\.\-_]*`).MatchString(s) && !strings.HasSuffix(s, ".") },
		`^(^(?!(system\x2e)))(^[_a-zA-Z0-9])([^$]*)$`: func(s string) bool {
			return whole(`[_a-zA-Z0-9][^$]*`).MatchString(s) && !strings.HasPrefix(s, "system.")
		},
	}
	for pattern, meaning := range all {
		says, ok := says[pattern]
		if !ok {
			continue // the names of functions with URLs: tested in package wire by what they accept
		}
		delete(all, pattern)
		expression := whole(meaning)
		rapid.Check(t, func(t *rapid.T) {
			s := rapid.OneOf(rapid.StringMatching(`[a-z0-9_.$-]{0,4}`), rapid.StringMatching(`s?y?s?t?e?m?\.?[a-z0-9.$]?`), rapid.StringMatching(`[0-9]{1,3}[.a]?`)).Draw(t, "s")
			if got, want := expression.MatchString(s), says(s); got != want {
				t.Fatalf("%s on %q: %v, want %v", pattern, s, got, want)
			}
		})
	}
	if len(all) != 1 {
		t.Errorf("%d patterns are not tested", len(all)-1)
	}
}
