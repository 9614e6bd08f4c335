package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
)

// model is the part of a Smithy model that is read (https://smithy.io/2.0/spec/json-ast.html).
type model struct {
	shapes     map[string]*shape
	operations []*operation // in the order of their URIs
	// reachable are the structures that requests and answers consist of, in the order of their names.
	reachable []string
}

type shape struct {
	Type    string  `json:"type"`
	Traits  traits  `json:"traits"`
	Members members `json:"members"`
	Member  target  `json:"member"` // of lists
	Key     target  `json:"key"`    // of maps
	Value   target  `json:"value"`
	Input   target  `json:"input"` // of operations
	Output  target  `json:"output"`
}

type target struct {
	Target string `json:"target"`
}

type member struct {
	name   string
	Target string `json:"target"`
	Traits traits `json:"traits"`
}

type traits map[string]json.RawMessage

// members keep the order that they have in the model: Lambda reports violations in it.
type members []member

// UnmarshalJSON reads an object in the order of its members.
func (m *members) UnmarshalJSON(text []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	if _, err := decoder.Token(); err != nil {
		return err
	}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return err
		}
		next := member{name: fmt.Sprint(name)}
		if err := decoder.Decode(&next); err != nil {
			return err
		}
		*m = append(*m, next)
	}
	return nil
}

func (t traits) has(name string) bool { return t["smithy.api#"+name] != nil }

// read decodes a trait; what the trait is not there for stays as it is.
func (t traits) read(name string, into any) error {
	raw := t["smithy.api#"+name]
	if raw == nil {
		return nil
	}
	return json.Unmarshal(raw, into)
}

type operation struct {
	name          string
	method, uri   string
	status        int
	input, output string // names of structures
}

const namespace = "com.amazonaws.lambda#"

func local(target string) string { return strings.TrimPrefix(target, namespace) }

func load(path string) (*model, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var file struct{ Shapes map[string]*shape }
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	m := &model{shapes: map[string]*shape{}}
	for name, s := range file.Shapes {
		m.shapes[local(name)] = s
	}
	for name, kind := range map[string]string{"String": "string", "Integer": "integer", "Long": "long", "Boolean": "boolean", "Double": "double", "Blob": "blob", "Timestamp": "timestamp"} {
		m.shapes["smithy.api#"+name] = &shape{Type: kind}
	}
	m.shapes["smithy.api#Unit"] = &shape{Type: "structure"}
	for name, s := range m.shapes {
		if s.Type != "operation" {
			continue
		}
		op := &operation{name: name, input: local(s.Input.Target), output: local(s.Output.Target)}
		var http struct {
			Method, URI string
			Code        int
		}
		if err := s.Traits.read("http", &http); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		op.method, op.uri, op.status = http.Method, http.URI, cmp.Or(http.Code, 200)
		if name == "DeleteFunction" { // the model leaves open what has always been so
			op.status = 204
		}
		m.operations = append(m.operations, op)
	}
	slices.SortFunc(m.operations, func(a, b *operation) int { return strings.Compare(a.uri+a.method, b.uri+b.method) })
	m.reach()
	return m, nil
}

// reach collects the structures of all requests and answers.
func (m *model) reach() {
	seen := map[string]bool{}
	var visit func(name string)
	visit = func(name string) {
		s := m.shapes[name]
		if seen[name] || s == nil {
			return
		}
		seen[name] = true
		if (s.Type == "structure" || s.Type == "union") && !strings.Contains(name, "#") {
			m.reachable = append(m.reachable, name)
		}
		for _, each := range s.Members {
			if s.Type != "enum" {
				visit(local(each.Target))
			}
		}
		for _, t := range []target{s.Member, s.Key, s.Value} {
			visit(local(t.Target))
		}
	}
	for _, op := range m.operations {
		visit(op.input)
		visit(op.output)
	}
	slices.Sort(m.reachable)
}
