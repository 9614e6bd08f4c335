package frontend

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"lambent"
)

const (
	prefix = "Could not parse request body into json: Could not parse payload into json: "
	source = "[Source: REDACTED (`StreamReadFeature.INCLUDE_SOURCE_IN_LOCATION` disabled); line: "
)

func TestPayloadErrors(t *testing.T) {
	const expected = "(JSON String, Number, Array, Object or token 'null', 'true' or 'false')"
	tests := map[string]struct {
		what         string
		line, column int
	}{
		"n\x87r\x9e":              {"Invalid UTF-8 start byte 0x87", 1, 3},
		"\x99\xeb,j":              {"Unexpected character ((CTRL-CHAR, code 153)): expected a valid value " + expected, 1, 1},
		" \n ":                    {"No content to map due to end-of-input", 2, 2},
		"hello":                   {"Unrecognized token 'hello': was expecting " + expected, 1, 6},
		"[truth]":                 {"Unrecognized token 'truth': was expecting " + expected, 1, 7},
		"nul":                     {"Unrecognized token 'nul': was expecting " + expected, 1, 4},
		"'a'":                     {"Unexpected character (''' (code 39)): expected a valid value " + expected, 1, 1},
		"{":                       {"Unexpected end-of-input: expected close marker for Object (start marker at " + source + "1, column: 1])", 1, 2},
		"{\"a\":\n[1,":            {"Unexpected end-of-input: expected close marker for Array (start marker at " + source + "2, column: 1])", 2, 4},
		`{"]\"":[1],`:             {"Unexpected end-of-input: expected close marker for Object (start marker at " + source + "1, column: 1])", 1, 12},
		`"open`:                   {"Unexpected end-of-input: was expecting closing quote for a string value", 1, 6},
		`"open\`:                  {"Unexpected end-of-input: was expecting closing quote for a string value", 1, 7},
		`"\u12`:                   {"Unexpected end-of-input: was expecting closing quote for a string value", 1, 6},
		`{"open`:                  {"Unexpected end-of-input in field name", 1, 7},
		`{a:1}`:                   {"Unexpected character ('a' (code 97)): was expecting double-quote to start field name", 1, 2},
		`{"a":1,}`:                {"Unexpected character ('}' (code 125)): was expecting double-quote to start field name", 1, 8},
		`{"a" 1}`:                 {"Unexpected character ('1' (code 49)): was expecting a colon to separate field name and value", 1, 6},
		`{"a":1 "b":2}`:           {"Unexpected character ('\"' (code 34)): was expecting comma to separate Object entries", 1, 8},
		`[1 2]`:                   {"Unexpected character ('2' (code 50)): was expecting comma to separate Array entries", 1, 4},
		`[1}`:                     {"Unexpected character ('}' (code 125)): was expecting comma to separate Array entries", 1, 3},
		`[1,]`:                    {"Unexpected character (']' (code 93)): expected a valid value " + expected, 1, 4},
		`{} {}`:                   {"Unexpected character ('{' (code 123)): Expected space separating root-level values", 1, 4},
		"0D":                      {"Unexpected character ('D' (code 68)): Expected space separating root-level values", 1, 2},
		"\"a\nb\"":                {"Illegal unquoted character ((CTRL-CHAR, code 10)): has to be escaped using backslash to be included in string value", 1, 3},
		`"\x"`:                    {"Unrecognized character escape 'x' (code 120)", 1, 3},
		`"\u00g0"`:                {"Unexpected character ('g' (code 103)): expected a hex-digit for character escape sequence", 1, 6},
		"-a":                      {"Unexpected character ('a' (code 97)) in numeric value: expected digit (0-9) to follow minus sign, for valid numeric value", 1, 2},
		"-":                       {"Unexpected end-of-input within a numeric value", 1, 2},
		"01":                      {"Unexpected character ('1' (code 49)) in numeric value: Leading zeroes not allowed", 1, 2},
		"1.x":                     {"Unexpected character ('x' (code 120)) in numeric value: Decimal point not followed by a digit", 1, 3},
		"1ex":                     {"Unexpected character ('x' (code 120)) in numeric value: Exponent indicator not followed by a digit", 1, 3},
		"\"\xc3(\"":               {"Invalid UTF-8 middle byte 0x28", 1, 4},
		"\"\xe2\x82\"":            {"Invalid UTF-8 middle byte 0x22", 1, 5},
		"\"\xed\xa0\x80\"":        {"Invalid UTF-8 middle byte 0xa0", 1, 4},
		"\"\xff\"":                {"Invalid UTF-8 start byte 0xff", 1, 3},
		"[é]":                     {"Unrecognized token 'é': was expecting " + expected, 1, 4},
		"[→]":                     {"Unexpected character ('→' (code 8594 / 0x2192)): expected a valid value " + expected, 1, 2},
		strings.Repeat("[", 1001): {"Document nesting depth (1001) exceeds the maximum allowed (1000)", 1, 1001},
		strings.Repeat("x", 300):  {"Unrecognized token '" + strings.Repeat("x", 256) + "...': was expecting " + expected, 1, 257},
	}
	for payload, want := range tests {
		_, err := checkPayload([]byte(payload))
		text := fmt.Sprintf("%s%s\n at %s%d, column: %d]", prefix, want.what, source, want.line, want.column)
		if err == nil || lambent.CodeOf(err) != lambent.InvalidContent || err.Error() != text {
			t.Errorf("%.40q:\n got %v\nwant %s", payload, err, text)
		}
	}
}

func TestPayloadIsPassedOn(t *testing.T) {
	for _, payload := range []string{
		`{}`, `[]`, `null`, ` true `, `false`, `0`, `-0.5e+10`, `"ä→😀\u00e4\n"`, "\t[1, {\"a\": [[], {}]}, \"\"]\r\n",
		strings.Repeat("[", 1000) + strings.Repeat("]", 1000), `"` + strings.Repeat("long ", 1000) + `"`,
	} {
		got, err := checkPayload([]byte(payload))
		if err != nil || string(got) != payload {
			t.Errorf("%.40q: %.40q, %v", payload, got, err)
		}
	}
	if got, err := checkPayload(nil); err != nil || string(got) != "{}" {
		t.Errorf("no payload: %q, %v", got, err)
	}
}

// What is accepted is what the standard library takes for JSON, in UTF-8.
func FuzzPayload(f *testing.F) {
	for _, seed := range []string{
		`{"a":[1,-2.5e3,"x\u00e4\\"],"b":null}`, `[]`, `"`, `{"a`, "01", "[1,]", "\"\x80\"", `{"a":}`, "tru", "1.", "[[[[", `"\ud800"`,
		"\"12345678\x00\"", "\"1234567\\\"89\"", "{\"k\":\"\xe2\x82\xac\"} ", "\xef\xbb\xbf{}", "-", "1e+", "nullx",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		if len(payload) == 0 || bytes.Count(payload, []byte("["))+bytes.Count(payload, []byte("{")) > maxDepth {
			return
		}
		got, err := checkPayload(payload)
		if want := json.Valid(payload) && utf8.Valid(payload); (err == nil) != want {
			t.Fatalf("%q: %v, want valid: %v", payload, err, want)
		}
		if err == nil && !bytes.Equal(got, payload) {
			t.Fatalf("%q became %q", payload, got)
		}
		if err != nil && !strings.HasPrefix(err.Error(), prefix) {
			t.Fatalf("%q: %v", payload, err)
		}
	})
}

func benchmarkPayload(b *testing.B, payload []byte) {
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := checkPayload(payload); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPayload1KiB(b *testing.B) {
	benchmarkPayload(b, []byte(`{"message":"`+strings.Repeat("x", 1024-14)+`"}`))
}

func BenchmarkPayload6MB(b *testing.B) {
	record := `{"id":12345,"name":"a name, not too short","tags":["one","two","three"],"price":12.5,"ok":true},`
	payload := "[" + strings.Repeat(record, lambent.MaxRequestBytes/len(record)-1) + "null]"
	benchmarkPayload(b, []byte(payload))
	b.ReportMetric(float64(len(payload)), "bytes")
}
