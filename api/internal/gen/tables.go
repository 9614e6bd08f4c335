package main

import (
	"bytes"
	"fmt"
	"go/format"
	"regexp"
	"slices"
	"strings"
)

// tables collects the shapes that constraints refer to.
type tables struct {
	m        *model
	numbers  map[string]int
	order    []string
	patterns []string
}

// writeTables writes the operations, and the constraints of all that requests consist of.
func writeTables(m *model) ([]byte, error) {
	t := &tables{m: m, numbers: map[string]int{}}
	var operations bytes.Buffer
	for _, op := range m.operations {
		input := "nil"
		if !strings.Contains(op.input, "#") {
			input = "func() any { return new(" + exported(op.input) + ") }"
		}
		fmt.Fprintf(&operations, "\t{Name: %q, Method: %q, URI: %q, Success: %d, input: %d, New: %s},\n", op.name, op.method, op.uri, op.status, t.number(op.input), input)
	}
	var shapes bytes.Buffer
	for i := 0; i < len(t.order); i++ { // grows as shapes refer to others
		text, err := t.shape(t.order[i])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.order[i], err)
		}
		fmt.Fprintf(&shapes, "\t// %d %s\n\t%s,\n", i, t.order[i], text)
	}
	var b bytes.Buffer
	b.WriteString(header)
	fmt.Fprintf(&b, "\nvar operations = [...]Op{\n%s}\n", operations.String())
	fmt.Fprintf(&b, "\nvar shapes = [...]shape{\n%s}\n", shapes.String())
	b.WriteString("\n// The first is none.\nvar patterns = [...]pattern{\n\t{},\n")
	for _, p := range t.patterns {
		text, err := writePattern(p)
		if err != nil {
			return nil, err
		}
		b.WriteString(text)
	}
	b.WriteString("}\n")
	return format.Source(b.Bytes())
}

// number returns the index that a shape has in the table.
func (t *tables) number(name string) int {
	n, ok := t.numbers[name]
	if !ok {
		n = len(t.order)
		t.numbers[name] = n
		t.order = append(t.order, name)
	}
	return n
}

func (t *tables) shape(name string) (string, error) {
	s := t.m.shapes[name]
	kinds := map[string]string{"string": "String", "enum": "String", "integer": "Integer", "long": "Integer", "double": "Float", "boolean": "Boolean",
		"timestamp": "Timestamp", "blob": "Blob", "list": "List", "map": "Map", "structure": "Structure", "union": "Structure"}
	if kinds[s.Type] == "" {
		return "", fmt.Errorf("unknown type %s", s.Type)
	}
	b := "{kind: kind" + kinds[s.Type]
	if s.Traits.has("sensitive") {
		b += ", sensitive: true"
	}
	bounds, err := writeBounds(s.Traits)
	if err != nil {
		return "", err
	}
	if most := withoutProviders()[name]; most != 0 {
		bounds = fmt.Sprintf("%s%d", bounds[:strings.LastIndex(bounds, " ")+1], most)
	}
	b += bounds
	if s.Traits.has("pattern") {
		var text string
		if err := s.Traits.read("pattern", &text); err != nil {
			return "", err
		}
		if n := t.pattern(text); n > 0 {
			b += fmt.Sprintf(", pattern: %d", n)
		}
	}
	switch s.Type {
	case "enum":
		b += t.enum(name, s)
	case "list":
		b += fmt.Sprintf(", elem: %d", t.number(local(s.Member.Target)))
	case "map":
		b += fmt.Sprintf(", key: %d, elem: %d", t.number(local(s.Key.Target)), t.number(local(s.Value.Target)))
	case "structure", "union":
		fields, err := t.fields(s)
		if err != nil {
			return "", err
		}
		b += fields
	}
	return b + "}", nil
}

// withoutProviders are the greatest values of functions that do not run on capacity providers. The model has those that do.
func withoutProviders() map[string]int { return map[string]int{"Timeout": 900, "MemorySize": 10_240} }

// writeBounds writes the least and the greatest length or value.
func writeBounds(from traits) (string, error) {
	var bounds struct{ Min, Max *float64 }
	for _, trait := range []string{"length", "range"} {
		if err := from.read(trait, &bounds); err != nil {
			return "", err
		}
	}
	b := ""
	if bounds.Min != nil {
		b += fmt.Sprintf(", hasMin: true, min: %v", *bounds.Min)
	}
	if bounds.Max != nil {
		b += fmt.Sprintf(", hasMax: true, max: %v", int64(*bounds.Max))
	}
	return b, nil
}

// enum writes the values in the order in which Lambda lists them, where that is known, else in the model's.
func (t *tables) enum(name string, s *shape) string {
	if name == "Runtime" || name == "CompatibleRuntime" {
		return "" // not checked as an enum: the control plane has its own answer for what it does not know
	}
	known := map[string][]string{
		"EventSourcePosition": {"LATEST", "AT_TIMESTAMP", "TRIM_HORIZON"}, "RecursiveLoop": {"Terminate", "Allow"},
		"InvokeMode": {"RESPONSE_STREAM", "BUFFERED"}, "LogFormat": {"JSON", "Text"},
	}[name]
	if known == nil {
		for _, each := range s.Members {
			value := each.name
			if err := each.Traits.read("enumValue", &value); err != nil {
				panic(err) // the model holds a string there
			}
			known = append(known, value)
		}
	}
	return fmt.Sprintf(", enum: []string{%s}", quoted(known))
}

func quoted(list []string) string {
	q := make([]string, len(list))
	for i, s := range list {
		q[i] = fmt.Sprintf("%q", s)
	}
	return strings.Join(q, ", ")
}

func (t *tables) fields(s *shape) (string, error) {
	var b strings.Builder
	b.WriteString(", fields: []field{")
	for _, each := range s.Members {
		where, key := binding(each)
		fmt.Fprintf(&b, "{name: %q", each.name)
		if where != "Body" {
			fmt.Fprintf(&b, ", in: in%s, key: %q", where, key)
		}
		if each.Traits.has("required") {
			b.WriteString(", required: true")
		}
		number := t.number(local(each.Target))
		if each.Traits.has("range") || each.Traits.has("length") {
			bounds, err := writeBounds(each.Traits)
			if err != nil {
				return "", err
			}
			fmt.Fprintf(&b, ", own: &bounds{%s}", strings.TrimPrefix(bounds, ", "))
		}
		fmt.Fprintf(&b, ", shape: %d}, ", number)
	}
	b.WriteString("}")
	return b.String(), nil
}

// pattern returns the index of a pattern in the table, 0 for one that everything matches.
func (t *tables) pattern(text string) int {
	if text == ".*" || text == "^.*$" || text == `^[\s\S]*$` {
		return 0
	}
	if i := slices.Index(t.patterns, text); i >= 0 {
		return i + 1
	}
	t.patterns = append(t.patterns, text)
	return len(t.patterns)
}

// writePattern writes a pattern as Lambda shows it, and as an expression without look-around that matches the same whole
// strings, where the shown one is not such an expression. Lambda shows patterns without the anchors that the model has.
func writePattern(model string) (string, error) {
	shown := strings.TrimSuffix(strings.TrimPrefix(model, "^"), "$")
	if strings.HasPrefix(shown, "((arn:") { // shown so by Lambda: the outer group is the model's
		shown = strings.TrimSuffix(strings.TrimPrefix(shown, "("), ")")
	}
	translated, ok := lookaround()[model]
	if !ok {
		if _, err := regexp.Compile(`^(?:` + shown + `)$`); err != nil {
			return "", fmt.Errorf("pattern %s: %w; give its meaning without look-around", model, err)
		}
		return fmt.Sprintf("\t{shown: %q},\n", shown), nil
	}
	if _, err := regexp.Compile(`^(?:` + translated + `)$`); err != nil {
		return "", fmt.Errorf("pattern %s: %w", translated, err)
	}
	return fmt.Sprintf("\t{shown: %q, meaning: %q},\n", shown, translated), nil
}

// lookaround are the model's patterns that look ahead or behind, with expressions that accept the same strings.
func lookaround() map[string]string {
	return map[string]string{
		// Not digits alone.
		`^(?!^[0-9]+$)([a-zA-Z0-9-_]+)$`:              `[a-zA-Z0-9-_]*[a-zA-Z-_][a-zA-Z0-9-_]*`,
		`^((?!^\d+$)^[0-9a-zA-Z-_]+$)$`:               `[a-zA-Z0-9-_]*[a-zA-Z-_][a-zA-Z0-9-_]*`,
		`^[0-9A-Za-z\.\-_]*(?<!\.)$`:                  `([0-9A-Za-z\.\-_]*[0-9A-Za-z\-_])?`, // not with a full stop at its end
		`^(^(?!(system\x2e)))(^[_a-zA-Z0-9])([^$]*)$`: notSystem(),                          // not with "system." at its start
		`^(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?(function:)?([a-zA-Z0-9-_]{1,64})(:((?!\d+$)[0-9a-zA-Z-_]+))?$`: `(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?(function:)?([a-zA-Z0-9-_]{1,64})(:[0-9a-zA-Z-_]*[a-zA-Z-_][0-9a-zA-Z-_]*)?`,
	}
}

// notSystem accepts [_a-zA-Z0-9][^$]* without what begins with "system.".
func notSystem() string {
	const prefix = "system."
	alternatives := []string{`[_a-rt-zA-Z0-9][^$]*`}
	for i := 1; i < len(prefix); i++ {
		head := regexp.QuoteMeta(prefix[:i])
		alternatives = append(alternatives, head, head+`[^$`+regexp.QuoteMeta(prefix[i:i+1])+`][^$]*`)
	}
	return strings.Join(alternatives, "|")
}
