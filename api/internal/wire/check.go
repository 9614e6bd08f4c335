package wire

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// maxShown is how many bytes of a value a message repeats.
const maxShown = 4 << 10

// Check returns Lambda's message for an input that does not meet the model's constraints, with all violations in it; empty
// when it meets them. In is a pointer to the operation's input.
func (op *Op) Check(in any) string {
	var c checker
	c.structure(reflect.ValueOf(in).Elem(), &shapes[op.input], "")
	if len(c.found) == 0 {
		return ""
	}
	noun := "errors"
	if len(c.found) == 1 {
		noun = "error"
	}
	return strconv.Itoa(len(c.found)) + " validation " + noun + " detected: " + strings.Join(c.found, "; ")
}

// checker collects violations.
type checker struct{ found []string }

// add notes a violation. A value that is nil was absent.
func (c *checker) add(value *string, sensitive bool, at, constraint string) {
	shown := "Value "
	switch {
	case value == nil:
		shown += "null "
	case !sensitive:
		shown += "'" + clip(*value) + "' "
	}
	c.found = append(c.found, shown+"at '"+at+"' failed to satisfy constraint: "+constraint)
}

func clip(s string) string {
	if len(s) <= maxShown {
		return s
	}
	s = s[:maxShown]
	for len(s) > 0 && !utf8.ValidString(s[max(0, len(s)-utf8.UTFMax):]) {
		s = s[:len(s)-1]
	}
	return s + "..."
}

func (c *checker) structure(v reflect.Value, s *shape, path string) {
	for i := range s.fields {
		f := &s.fields[i]
		at := path + strings.ToLower(f.name[:1]) + f.name[1:]
		member := v.Field(i)
		if member.IsNil() {
			if f.required && f.in != inPayload {
				c.add(nil, false, at, "Member must not be null")
			}
			continue
		}
		if member.Kind() == reflect.Pointer {
			member = member.Elem()
		}
		target := shapes[f.shape]
		if f.own != nil {
			target.hasMin, target.hasMax, target.min, target.max = f.own.hasMin, f.own.hasMax, f.own.min, f.own.max
		}
		c.value(member, &target, at)
	}
}

func (c *checker) value(v reflect.Value, s *shape, at string) {
	switch s.kind {
	case kindStructure:
		c.structure(v, s, at+".")
		return
	case kindList:
		c.list(v, s, at)
		return
	case kindMap:
		c.mapping(v, s, at)
		return
	case kindBlob, kindBoolean, kindTimestamp:
		return
	}
	for _, constraint := range s.violations(v) {
		c.add(new(text(v)), s.sensitive, at, constraint)
	}
}

func (c *checker) list(v reflect.Value, s *shape, at string) {
	c.length(v, s, at)
	elem := &shapes[s.elem]
	for i := range v.Len() {
		if elem.kind >= kindList {
			c.value(v.Index(i), elem, at+"."+strconv.Itoa(i+1)+".member")
		} else if len(elem.violations(v.Index(i))) > 0 {
			c.add(new(text(v)), s.sensitive || elem.sensitive, at, "Member must satisfy constraint: "+elem.constraints())
			return
		}
	}
}

func (c *checker) mapping(v reflect.Value, s *shape, at string) {
	c.length(v, s, at)
	key, elem := &shapes[s.key], &shapes[s.elem]
	badKey, badValue := false, false
	for _, k := range sortedKeys(v) {
		badKey = badKey || len(key.violations(reflect.ValueOf(k))) > 0
		value := v.MapIndex(reflect.ValueOf(k))
		if elem.kind >= kindList {
			c.value(value, elem, at+"."+k+".member")
		} else {
			badValue = badValue || len(elem.violations(value)) > 0
		}
	}
	sensitive := s.sensitive || key.sensitive || elem.sensitive
	if badKey {
		c.add(new(text(v)), sensitive, at, "Map keys must satisfy constraint: "+key.constraints())
	}
	if badValue {
		c.add(new(text(v)), sensitive, at, "Map value must satisfy constraint: "+elem.constraints())
	}
}

func (c *checker) length(v reflect.Value, s *shape, at string) {
	for _, constraint := range s.outOfBounds(float64(v.Len()), "length") {
		c.add(new(text(v)), s.sensitive, at, constraint)
	}
}

func (s *shape) outOfBounds(n float64, what string) (violated []string) {
	if s.hasMax && !(n <= s.max) {
		violated = append(violated, "Member must have "+what+" less than or equal to "+s.number(s.max))
	}
	if s.hasMin && !(n >= s.min) {
		violated = append(violated, "Member must have "+what+" greater than or equal to "+s.number(s.min))
	}
	return violated
}

// number writes a bound as Java does.
func (s *shape) number(n float64) string {
	if s.kind == kindFloat && n == float64(int64(n)) {
		return strconv.FormatFloat(n, 'f', 1, 64)
	}
	return strconv.FormatFloat(n, 'f', -1, 64)
}

// violations returns the constraints that a text or number does not meet.
func (s *shape) violations(v reflect.Value) []string {
	switch s.kind {
	case kindInteger:
		return s.outOfBounds(float64(v.Int()), "value")
	case kindFloat:
		return s.outOfBounds(v.Float(), "value")
	case kindString:
	default:
		return nil
	}
	value := v.String()
	violated := s.outOfBounds(float64(utf16Length(value)), "length")
	if s.pattern > 0 && !matches(s.pattern, value) {
		violated = append(violated, "Member must satisfy regular expression pattern: "+patterns[s.pattern].shown)
	}
	if s.enum != nil && !slices.Contains(s.enum, value) {
		violated = append(violated, s.enumText())
	}
	return violated
}

func (s *shape) enumText() string {
	return "Member must satisfy enum value set: [" + strings.Join(s.enum, ", ") + "]"
}

// constraints returns all that elements have to meet, as Lambda lists it.
func (s *shape) constraints() string {
	var all []string
	what := "value"
	if s.kind == kindString {
		what = "length"
	}
	if s.hasMax {
		all = append(all, "Member must have "+what+" less than or equal to "+s.number(s.max))
	}
	if s.hasMin {
		all = append(all, "Member must have "+what+" greater than or equal to "+s.number(s.min))
	}
	if s.pattern > 0 {
		all = append(all, "Member must satisfy regular expression pattern: "+patterns[s.pattern].shown)
	}
	if s.enum != nil {
		all = append(all, s.enumText())
	}
	return "[" + strings.Join(append(all, "Member must not be null"), ", ") + "]"
}

func utf16Length(s string) (n int) {
	for _, r := range s {
		n++
		if r > 0xffff {
			n++
		}
	}
	return n
}

// text writes a value as Java does.
func text(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Slice:
		items := make([]string, v.Len())
		for i := range items {
			items[i] = text(v.Index(i))
		}
		return "[" + strings.Join(items, ", ") + "]"
	case reflect.Map:
		items := make([]string, 0, v.Len())
		for _, k := range sortedKeys(v) {
			items = append(items, k+"="+text(v.MapIndex(reflect.ValueOf(k))))
		}
		return "{" + strings.Join(items, ", ") + "}"
	case reflect.Struct:
		return v.Type().Name()
	}
	return fmt.Sprint(v.Interface())
}

func sortedKeys(v reflect.Value) []string {
	keys := make(map[string]bool, v.Len())
	for _, k := range v.MapKeys() {
		keys[k.String()] = true
	}
	return slices.Sorted(maps.Keys(keys))
}

// compiled are the patterns, compiled when the first of them is needed.
var compiled = sync.OnceValue(func() []*regexp.Regexp {
	all := make([]*regexp.Regexp, len(patterns))
	for i, p := range patterns {
		expression := p.meaning
		if expression == "" {
			expression = p.shown
		}
		all[i] = regexp.MustCompile(`^(?:` + expression + `)$`)
	}
	return all
})

func matches(pattern int, value string) bool { return compiled()[pattern].MatchString(value) }
