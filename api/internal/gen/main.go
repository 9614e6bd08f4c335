// Command gen makes the tables and structures of package wire from Lambda's Smithy model. What the project keeps is a
// stripped form: names, bindings and constraints, no documentation. Without a model it says so and changes nothing, so that
// "go generate" works everywhere.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	model := flag.String("model", "", "`path` of Lambda's Smithy model in JSON")
	out := flag.String("out", ".", "`directory` of the generated files")
	flag.Parse()
	if err := run(*model, *out); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(model, out string) error {
	if model == "" {
		_, err := fmt.Fprintln(os.Stderr, "gen: no model is given (set LAMBENT_AWS_MODEL): the committed form stays as it is")
		return err
	}
	files, err := generate(model)
	if err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(out, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// generate returns the generated files by name.
func generate(path string) (map[string][]byte, error) {
	m, err := load(path)
	if err != nil {
		return nil, err
	}
	structures, err := writeStructures(m)
	if err != nil {
		return nil, err
	}
	tables, err := writeTables(m)
	if err != nil {
		return nil, err
	}
	return map[string][]byte{"structures_gen.go": structures, "tables_gen.go": tables}, nil
}
