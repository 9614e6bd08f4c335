package frontend

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// maxDepth is how deeply arrays and objects may be nested.
const maxDepth = 1000

// checkPayload checks that a request is JSON in UTF-8, and returns what the function gets: the payload itself, or an empty
// object for none.
//
// It is a scanner of its own because it is on the way of every invoke: it reads strings eight bytes at a time, and it says
// what is wrong as Lambda does.
func checkPayload(payload []byte) ([]byte, error) {
	if len(payload) == 0 {
		return []byte("{}"), nil
	}
	s := scanner{data: payload}
	if flaw := s.document(); flaw != nil {
		return nil, flaw.explain(payload)
	}
	return payload, nil
}

// scanner reads one JSON document. It recurses nowhere, so that nesting costs a bit per level.
type scanner struct {
	data    []byte
	at      int
	depth   int
	objects [maxDepth/64 + 1]uint64 // bit n: level n+1 is an object, not an array
}

func (s *scanner) document() *flaw {
	for {
		more, f := s.value()
		if f != nil {
			return f
		}
		if more {
			continue // the first value of an array or object that has just begun
		}
		if more, f = s.after(); !more || f != nil {
			return f
		}
	}
}

// value reads one value, or the beginning of an array or object that is not empty; then more is true, and its first value
// follows.
func (s *scanner) value() (more bool, f *flaw) {
	s.space()
	if s.at == len(s.data) {
		return false, s.flaw(flawEnd)
	}
	switch c := s.data[s.at]; c {
	case '"':
		return false, s.text(flawOpenString)
	case '{':
		if f = s.push(true); f != nil || s.closes('}') {
			return false, f
		}
		return true, s.key()
	case '[':
		if f = s.push(false); f != nil || s.closes(']') {
			return false, f
		}
		return true, nil
	case 't':
		return false, s.literal("true")
	case 'f':
		return false, s.literal("false")
	case 'n':
		return false, s.literal("null")
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		return false, s.number()
	}
	return false, s.flaw(flawValue)
}

// after reads what follows a value: the ends of arrays and objects, then a comma. more is false at the end of the document.
func (s *scanner) after() (more bool, f *flaw) {
	for {
		s.space()
		switch {
		case s.depth == 0 && s.at == len(s.data):
			return false, nil
		case s.depth == 0:
			return false, s.flaw(flawTrailing)
		case s.at == len(s.data):
			return false, s.flaw(flawEnd)
		}
		object := s.inObject()
		switch c := s.data[s.at]; {
		case c == ',' && object:
			s.at++
			return true, s.key()
		case c == ',':
			s.at++
			return true, nil
		case c == '}' && object, c == ']' && !object:
			s.at++
			s.depth--
		case object:
			return false, s.flaw(flawObjectComma)
		default:
			return false, s.flaw(flawArrayComma)
		}
	}
}

// push enters an array or object at its opening bracket.
func (s *scanner) push(object bool) *flaw {
	if s.depth == maxDepth {
		return s.flaw(flawDepth)
	}
	s.at++
	word, bit := &s.objects[s.depth/64], uint64(1)<<(s.depth%64)
	if object {
		*word |= bit
	} else {
		*word &^= bit
	}
	s.depth++
	return nil
}

func (s *scanner) inObject() bool {
	return s.objects[(s.depth-1)/64]>>((s.depth-1)%64)&1 == 1
}

// closes leaves an array or object that is empty.
func (s *scanner) closes(bracket byte) bool {
	s.space()
	if s.at == len(s.data) || s.data[s.at] != bracket {
		return false
	}
	s.at++
	s.depth--
	return true
}

// key reads the name of an object's member and its colon.
func (s *scanner) key() *flaw {
	s.space()
	switch {
	case s.at == len(s.data):
		return s.flaw(flawEnd)
	case s.data[s.at] != '"':
		return s.flaw(flawKey)
	}
	if f := s.text(flawOpenName); f != nil {
		return f
	}
	s.space()
	switch {
	case s.at == len(s.data):
		return s.flaw(flawEnd)
	case s.data[s.at] != ':':
		return s.flaw(flawColon)
	}
	s.at++
	return nil
}

func (s *scanner) space() {
	for s.at < len(s.data) {
		switch s.data[s.at] {
		case ' ', '\t', '\n', '\r':
			s.at++
		default:
			return
		}
	}
}

func (s *scanner) literal(word string) *flaw {
	end := s.at + len(word)
	if end > len(s.data) || string(s.data[s.at:end]) != word || end < len(s.data) && inToken(s.data[end]) {
		return s.flaw(flawToken)
	}
	s.at = end
	return nil
}

// inToken says whether a byte may continue a word such as true.
func inToken(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '$' || c >= utf8.RuneSelf
}

// text reads a string from its opening quote.
func (s *scanner) text(unclosed flawKind) *flaw {
	s.at++
	for {
		s.skipPlain()
		if s.at >= len(s.data) {
			return s.flaw(unclosed)
		}
		switch c := s.data[s.at]; {
		case c == '"':
			s.at++
			return nil
		case c == '\\':
			if f := s.escape(unclosed); f != nil {
				return f
			}
		case c < ' ':
			return s.flaw(flawControl)
		default:
			r, size := utf8.DecodeRune(s.data[s.at:])
			if r == utf8.RuneError && size <= 1 {
				return s.flaw(flawUTF8)
			}
			s.at += size
		}
	}
}

// skipPlain moves to the next byte of a string that needs a look: a quote, a backslash, a control character, or a part of a
// character beyond ASCII. Eight bytes are looked at together: subtracting from a byte that is too small borrows, which sets
// its highest bit.
func (s *scanner) skipPlain() {
	const (
		ones  = 0x0101010101010101
		highs = ones * 0x80
	)
	for s.at+8 <= len(s.data) {
		w := binary.LittleEndian.Uint64(s.data[s.at:])
		quote, slash := w^ones*'"', w^ones*'\\'
		special := (w | (w - ones*' ') | (quote - ones) | (slash - ones)) & highs
		if special != 0 {
			s.at += bits.TrailingZeros64(special) / 8 // exact for the first: nothing before it has borrowed
			return
		}
		s.at += 8
	}
	for s.at < len(s.data) {
		if c := s.data[s.at]; c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' {
			return
		}
		s.at++
	}
}

func (s *scanner) escape(unclosed flawKind) *flaw {
	if s.at+1 >= len(s.data) {
		s.at = len(s.data)
		return s.flaw(unclosed)
	}
	switch s.data[s.at+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.at += 2
		return nil
	case 'u':
	default:
		s.at++
		return s.flaw(flawEscape)
	}
	s.at += 2
	for range 4 {
		switch {
		case s.at == len(s.data):
			return s.flaw(unclosed)
		case !isHex(s.data[s.at]):
			return s.flaw(flawHex)
		}
		s.at++
	}
	return nil
}

func isHex(c byte) bool { return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f' }

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// number reads a number from its sign or first digit.
func (s *scanner) number() *flaw {
	if s.data[s.at] == '-' {
		s.at++
		if !s.digit() {
			return s.flaw(flawMinus)
		}
	}
	if s.data[s.at] == '0' {
		s.at++
		if s.digit() {
			return s.flaw(flawLeadingZero)
		}
	}
	s.digits()
	if s.at < len(s.data) && s.data[s.at] == '.' {
		s.at++
		if !s.digit() {
			return s.flaw(flawFraction)
		}
		s.digits()
	}
	if s.at < len(s.data) && s.data[s.at]|0x20 == 'e' {
		s.at++
		if s.at < len(s.data) && (s.data[s.at] == '+' || s.data[s.at] == '-') {
			s.at++
		}
		if !s.digit() {
			return s.flaw(flawExponent)
		}
		s.digits()
	}
	return nil
}

func (s *scanner) digit() bool { return s.at < len(s.data) && isDigit(s.data[s.at]) }

func (s *scanner) digits() {
	for s.digit() {
		s.at++
	}
}
