package wire

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
)

// Request is what an operation's input is read from.
type Request struct {
	Labels Labels
	Query  string // raw
	Header http.Header
	Body   []byte
}

// NotJSONError is the error of a body that is not JSON.
type NotJSONError struct{ Err error }

// Error says what is wrong with the body.
func (e *NotJSONError) Error() string { return e.Err.Error() }

// TypeError is the error of a member that has another type than the model says. Message is in the words of Lambda.
type TypeError struct{ Message string }

// Error returns the message.
func (e *TypeError) Error() string { return e.Message }

// Read fills the structure of an operation's input, which in points at. The body's bytes are used, and not kept, unless the
// body itself is the input's payload. The error is a *NotJSONError or a *TypeError.
func (op *Op) Read(r *Request, in any) error {
	s := &shapes[op.input]
	v := reflect.ValueOf(in).Elem()
	var query url.Values
	body := len(s.fields) == 0
	for i := range s.fields {
		f := &s.fields[i]
		var err error
		switch f.in {
		case inBody:
			body = true
		case inPayload:
			if v.Field(i).Kind() == reflect.Slice {
				v.Field(i).SetBytes(r.Body)
			} else {
				err = Decode(r.Body, v.Field(i).Addr().Interface())
			}
		case inLabel:
			err = set(v.Field(i), r.Labels.Get(f.key))
		case inHeader:
			if values := r.Header.Values(f.key); len(values) > 0 {
				err = set(v.Field(i), values[0])
			}
		case inQuery:
			if query == nil {
				query = parseQuery(r.Query)
			}
			if values, ok := query[f.key]; ok {
				err = setAll(v.Field(i), values)
			}
		}
		if err != nil {
			return err
		}
	}
	if body {
		return Decode(r.Body, in)
	}
	return nil
}

// parseQuery reads what can be read of a query.
func parseQuery(raw string) url.Values {
	values, err := url.ParseQuery(raw)
	if err != nil && values == nil {
		return url.Values{}
	}
	return values
}

// setAll sets a list to all values, anything else to the first.
func setAll(v reflect.Value, values []string) error {
	if list, ok := v.Addr().Interface().(*[]string); ok {
		*list = values
		return nil
	}
	return set(v, values[0])
}

// set gives a member that travels as text its value.
func set(v reflect.Value, text string) error {
	switch to := v.Addr().Interface().(type) {
	case **string:
		*to = &text
		return nil
	case **int:
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return &TypeError{"STRING_VALUE can not be converted to an Integer"}
		}
		*to = new(int(n))
		return nil
	case **int64:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return &TypeError{"STRING_VALUE can not be converted to a Long"}
		}
		*to = &n
		return nil
	case **bool:
		b, err := strconv.ParseBool(strings.ToLower(text))
		if err != nil {
			return &TypeError{"STRING_VALUE can not be converted to a Boolean"}
		}
		*to = &b
		return nil
	case **float64:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return &TypeError{"STRING_VALUE can not be converted to a Timestamp"}
		}
		*to = &f
		return nil
	}
	panic(fmt.Sprintf("wire: no text becomes a %s", v.Type()))
}

// Decode reads JSON; nothing at all is an empty object. The error is a *NotJSONError or a *TypeError.
func Decode(body []byte, into any) error {
	if len(body) == 0 {
		return nil
	}
	err := json.Unmarshal(body, into)
	if err == nil {
		return nil
	}
	var wrong *json.UnmarshalTypeError
	var broken *json.SyntaxError
	var base base64.CorruptInputError
	switch {
	case errors.As(err, &broken):
		return &NotJSONError{err}
	case errors.As(err, &base):
		return &TypeError{"A blob is not valid Base64"}
	case errors.As(err, &wrong):
		return &TypeError{mismatch(wrong, body)}
	}
	return &NotJSONError{err}
}

func mismatch(wrong *json.UnmarshalTypeError, body []byte) string {
	found, _, _ := strings.Cut(wrong.Value, " ")
	switch found {
	case "array":
		return "Start of list found where not expected"
	case "object":
		return "Start of structure or map found where not expected."
	case "bool":
		found = "TRUE_VALUE"
		if end := int(wrong.Offset); end >= 2 && end <= len(body) && body[end-2] == 's' {
			found = "FALSE_VALUE"
		}
	default:
		found = strings.ToUpper(found) + "_VALUE"
	}
	switch wrong.Type.Kind() {
	case reflect.Slice:
		return "Expected list or null"
	case reflect.Struct, reflect.Map:
		return "Expected map or null"
	case reflect.String:
		return found + " can not be converted to a String"
	case reflect.Bool:
		return found + " can not be converted to a Boolean"
	case reflect.Int:
		return found + " can not be converted to an Integer"
	case reflect.Int64:
		return found + " can not be converted to a Long"
	}
	return found + " can not be converted to a Double"
}
