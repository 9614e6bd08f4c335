package frontend

import (
	"bytes"
	"fmt"
	"unicode"
	"unicode/utf8"

	"lambent"
)

// flawKind is what is wrong with a payload.
type flawKind int

const (
	flawEnd         flawKind = iota // it ends before a value or within an array or object
	flawOpenString                  // it ends within a string
	flawOpenName                    // it ends within a member's name
	flawValue                       // no value begins here
	flawToken                       // a word that is not true, false or null
	flawTrailing                    // something follows the value
	flawObjectComma                 // neither a comma nor the end of the object
	flawArrayComma                  // neither a comma nor the end of the array
	flawKey                         // no member's name begins here
	flawColon                       // no colon after a member's name
	flawControl                     // a control character in a string
	flawEscape                      // an unknown escape in a string
	flawHex                         // an incomplete \u escape in a string
	flawUTF8                        // not UTF-8
	flawMinus                       // a sign without digits
	flawLeadingZero
	flawFraction // a decimal point without digits
	flawExponent // an exponent without digits
	flawDepth    // nested too deeply
)

// flaw is what is wrong, and at which byte.
type flaw struct {
	kind flawKind
	at   int
}

func (s *scanner) flaw(kind flawKind) *flaw { return &flaw{kind, s.at} }

const values = "(JSON String, Number, Array, Object or token 'null', 'true' or 'false')"

// explain says what is wrong in the words that Lambda uses.
func (f *flaw) explain(data []byte) error {
	what, at := f.describe(data)
	return lambent.Errorf(lambent.InvalidContent, "Could not parse request body into json: Could not parse payload into json: %s\n at %s",
		what, place(data, at))
}

// describe returns what is wrong, and the byte to point at.
func (f *flaw) describe(data []byte) (what string, at int) {
	found := ""
	if f.at < len(data) {
		found = "Unexpected character (" + character(data, f.at) + ")"
	}
	if found == "" && f.kind >= flawMinus && f.kind <= flawExponent {
		return "Unexpected end-of-input within a numeric value", f.at
	}
	switch f.kind {
	case flawEnd:
		return f.ended(data), f.at
	case flawOpenString:
		return "Unexpected end-of-input: was expecting closing quote for a string value", f.at
	case flawOpenName:
		return "Unexpected end-of-input in field name", f.at
	case flawToken:
		return token(data, f.at)
	case flawValue:
		if r, _ := utf8.DecodeRune(data[f.at:]); unicode.IsLetter(r) || r == '_' || r == '$' {
			return token(data, f.at)
		}
		return found + ": expected a valid value " + values, f.at
	case flawControl:
		return fmt.Sprintf("Illegal unquoted character (%s): has to be escaped using backslash to be included in string value", character(data, f.at)), f.at
	case flawEscape:
		return "Unrecognized character escape " + character(data, f.at), f.at
	case flawUTF8:
		return notUTF8(data, f.at)
	case flawDepth:
		return fmt.Sprintf("Document nesting depth (%d) exceeds the maximum allowed (%d)", maxDepth+1, maxDepth), f.at
	}
	return found + f.expectation(), f.at
}

// expectation says what should have stood instead of a character.
func (f *flaw) expectation() string {
	switch f.kind {
	case flawTrailing:
		return ": Expected space separating root-level values"
	case flawObjectComma:
		return ": was expecting comma to separate Object entries"
	case flawArrayComma:
		return ": was expecting comma to separate Array entries"
	case flawKey:
		return ": was expecting double-quote to start field name"
	case flawColon:
		return ": was expecting a colon to separate field name and value"
	case flawHex:
		return ": expected a hex-digit for character escape sequence"
	case flawMinus:
		return " in numeric value: expected digit (0-9) to follow minus sign, for valid numeric value"
	case flawLeadingZero:
		return " in numeric value: Leading zeroes not allowed"
	case flawFraction:
		return " in numeric value: Decimal point not followed by a digit"
	default:
		return " in numeric value: Exponent indicator not followed by a digit"
	}
}

// ended says what the payload's end leaves open.
func (f *flaw) ended(data []byte) string {
	start, object, ok := innermost(data[:f.at])
	switch {
	case !ok:
		return "No content to map due to end-of-input"
	case object:
		return "Unexpected end-of-input: expected close marker for Object (start marker at " + place(data, start) + ")"
	}
	return "Unexpected end-of-input: expected close marker for Array (start marker at " + place(data, start) + ")"
}

// innermost returns where the innermost array or object begins that is open at the end of what has no flaw so far.
func innermost(data []byte) (start int, object, ok bool) {
	var open []int
	quoted := false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			open = append(open, i)
		case c == '}' || c == ']':
			open = open[:len(open)-1]
		}
	}
	if len(open) == 0 {
		return 0, false, false
	}
	start = open[len(open)-1]
	return start, data[start] == '{', true
}

// token describes a word that means nothing.
func token(data []byte, at int) (what string, end int) {
	const longest = 256
	end = at
	for end < len(data) && end < at+longest && inToken(data[end]) {
		r, size := utf8.DecodeRune(data[end:])
		if r == utf8.RuneError && size <= 1 {
			return notUTF8(data, end)
		}
		end += size
	}
	word := string(data[at:end])
	if end < len(data) && inToken(data[end]) {
		word += "..."
	}
	return fmt.Sprintf("Unrecognized token '%s': was expecting %s", word, values), end
}

// notUTF8 describes bytes that are not UTF-8: a byte that begins no character, or one that does not continue it.
func notUTF8(data []byte, at int) (what string, where int) {
	var size int
	switch c := data[at]; {
	case c >= 0xC2 && c <= 0xDF:
		size = 2
	case c >= 0xE0 && c <= 0xEF:
		size = 3
	case c >= 0xF0 && c <= 0xF4:
		size = 4
	default:
		return fmt.Sprintf("Invalid UTF-8 start byte 0x%x", c), at + 1
	}
	for i := 1; i < size; i++ {
		if at+i >= len(data) {
			return "Unexpected end-of-input within a UTF-8 character", len(data)
		}
		if c := data[at+i]; c&0xC0 != 0x80 {
			return fmt.Sprintf("Invalid UTF-8 middle byte 0x%x", c), at + i + 1
		}
	}
	// All of them continue a character, but one that could be written in fewer, or that does not exist.
	return fmt.Sprintf("Invalid UTF-8 middle byte 0x%x", data[at+1]), at + 2
}

// character describes the byte or character at a place.
func character(data []byte, at int) string {
	c := data[at]
	r, size := utf8.DecodeRune(data[at:])
	switch {
	case c < ' ' || c >= 0x7F && c <= 0x9F:
		return fmt.Sprintf("(CTRL-CHAR, code %d)", c)
	case c < utf8.RuneSelf, r == utf8.RuneError && size <= 1:
		return fmt.Sprintf("'%c' (code %d)", rune(c), c)
	}
	return fmt.Sprintf("'%c' (code %d / 0x%x)", r, r, r)
}

// place says where a byte is.
func place(data []byte, at int) string {
	before := data[:at]
	line := bytes.Count(before, []byte("\n")) + 1
	column := at - bytes.LastIndexByte(before, '\n')
	return fmt.Sprintf("[Source: REDACTED (`StreamReadFeature.INCLUDE_SOURCE_IN_LOCATION` disabled); line: %d, column: %d]", line, column)
}
