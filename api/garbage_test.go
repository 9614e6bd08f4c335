package api_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"lambent"
)

const create = "/2015-03-31/functions"

// body is a CreateFunction request with members changed; nil removes one.
func createBody(t testing.TB, changes map[string]any) []byte {
	t.Helper()
	members := map[string]any{"FunctionName": "g", "Runtime": "python3.12", "Handler": "x.h", "Role": role, "Code": map[string]any{"ZipFile": archive(t, "g")}}
	for name, value := range changes {
		members[name] = value
		if value == nil {
			delete(members, name)
		}
	}
	body, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func TestGarbageGetsLambdasError(t *testing.T) {
	b := newBench(t)
	b.create("f")
	cases := []struct {
		name, method, target, body string
		status                     int
		kind, part                 string
	}{
		{"bad JSON", "POST", create, `{"FunctionName":`, 400, "InvalidRequestContentException", "Could not parse request body into json"},
		{"no JSON", "POST", create, "\x00\x01\xff", 400, "InvalidRequestContentException", ""},
		{"a list", "POST", create, `[]`, 400, "SerializationException", ""},
		{"a number", "POST", create, `7`, 400, "SerializationException", ""},
		{"null", "POST", create, `null`, 400, "ValidationException", "Value null at 'functionName'"},
		{"nothing", "POST", create, ``, 400, "ValidationException", "3 validation errors detected: Value null at 'functionName' failed to satisfy constraint: Member must not be null; Value null at 'role'"},
		{"a name of wrong type", "POST", create, `{"FunctionName":7}`, 400, "SerializationException", "NUMBER_VALUE can not be converted to a String"},
		{"a timeout of wrong type", "POST", create, `{"Timeout":"x"}`, 400, "SerializationException", "STRING_VALUE can not be converted to an Integer"},
		{"a fraction", "POST", create, `{"Timeout":1.5}`, 400, "SerializationException", ""},
		{"a huge number", "POST", create, `{"Timeout":99999999999999999999}`, 400, "SerializationException", ""},
		{"code of wrong type", "POST", create, `{"Code":[]}`, 400, "SerializationException", ""},
		{"bad base64", "POST", create, `{"Code":{"ZipFile":"%%%"}}`, 400, "SerializationException", ""},
		{"deep JSON", "POST", create, strings.Repeat("[", 100_000), 400, "InvalidRequestContentException", ""},
		{"deep JSON in a member", "POST", create, `{"X":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`, 400, "InvalidRequestContentException", ""},
		{"bad UTF-8", "POST", create, "{\"FunctionName\":\"\xff\xfe\"}", 400, "ValidationException", ""},
		{"bad tags", "POST", "/2017-03-31/tags/" + arnBase + "f", `{}`, 400, "ValidationException", "Value null at 'tags'"},
		{"no tag keys", "DELETE", "/2017-03-31/tags/" + arnBase + "f", ``, 400, "ValidationException", "Value null at 'tagKeys'"},
		{"alias without members", "POST", create + "/f/aliases", `{}`, 400, "ValidationException", "2 validation errors detected: Value null at 'name'"},
		{"alias of digits", "POST", create + "/f/aliases", `{"Name":"12","FunctionVersion":"1"}`, 400, "ValidationException", `Member must satisfy regular expression pattern: (?!^[0-9]+$)([a-zA-Z0-9-_]+)`},
		{"alias of an odd version", "PUT", create + "/f/aliases/a", `{"FunctionVersion":"x"}`, 400, "ValidationException", "'functionVersion'"},
		{"no concurrency", "PUT", "/2017-10-31/functions/f/concurrency", `{}`, 400, "ValidationException", "Value null at 'reservedConcurrentExecutions'"},
		{"negative concurrency", "PUT", "/2017-10-31/functions/f/concurrency", `{"ReservedConcurrentExecutions":-1}`, 400, "ValidationException", "greater than or equal to 0"},
		{"too many items", "GET", create + "?MaxItems=10001", ``, 400, "ValidationException", "less than or equal to 10000"},
		{"odd items", "GET", create + "?MaxItems=x", ``, 400, "SerializationException", ""},
		{"odd version", "GET", create + "?FunctionVersion=x", ``, 400, "ValidationException", "Value 'x' at 'functionVersion' failed to satisfy constraint: Member must satisfy enum value set: [ALL]"},
		{"unknown path", "GET", "/2015-03-31/nothing/here", ``, 404, "UnknownOperationException", ""},
		{"root", "GET", "/", ``, 404, "UnknownOperationException", ""},
		{"long path", "GET", "/" + strings.Repeat("a/", 4000), ``, 404, "UnknownOperationException", ""},
		{"unknown method", "PATCH", create, ``, 404, "UnknownOperationException", ""},
		{"odd method", "FOO", create, ``, 404, "UnknownOperationException", ""},
		{"empty name", "GET", create + "//configuration", ``, 404, "UnknownOperationException", ""},
		{"too large for the operation", "PUT", create + "/f/configuration", strings.Repeat(" ", 1<<20+1), 413, "RequestEntityTooLargeException", "Request must be smaller than 1048576 bytes for the UpdateFunctionConfiguration operation"},
		{"too large to invoke", "POST", create + "/f/invocations", strings.Repeat(" ", lambent.MaxRequestBytes+1), 413, "RequestEntityTooLargeException", "Request must be smaller than 6291456 bytes for the InvokeFunction operation"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := b.do(b.request(c.method, c.target, []byte(c.body)))
			if got.status != c.status || got.kind != c.kind || !strings.Contains(unescape(got.body), c.part) {
				t.Errorf("got %d %s %.300s", got.status, got.kind, got.body)
			}
			if len(got.header.Get("X-Amzn-Requestid")) != 36 || got.header.Get("Content-Type") != "application/json" || !json.Valid([]byte(got.body)) {
				t.Errorf("header %v", got.header)
			}
		})
	}
}

// unescape returns the message of an error.
func unescape(body string) string {
	var members struct{ Message string } // matches message, too
	if json.Unmarshal([]byte(body), &members) != nil {
		return body
	}
	return members.Message
}

func TestConstraints(t *testing.T) {
	b := newBench(t)
	cases := map[string]struct {
		changes map[string]any
		message string
	}{
		"two":         {map[string]any{"Timeout": 901, "MemorySize": 127}, "2 validation errors detected: Value '901' at 'timeout' failed to satisfy constraint: Member must have value less than or equal to 900; Value '127' at 'memorySize' failed to satisfy constraint: Member must have value greater than or equal to 128"},
		"memory":      {map[string]any{"MemorySize": 10_241}, "1 validation error detected: Value '10241' at 'memorySize' failed to satisfy constraint: Member must have value less than or equal to 10240"},
		"timeout":     {map[string]any{"Timeout": 0}, "1 validation error detected: Value '0' at 'timeout' failed to satisfy constraint: Member must have value greater than or equal to 1"},
		"handler":     {map[string]any{"Handler": "a b"}, `1 validation error detected: Value 'a b' at 'handler' failed to satisfy constraint: Member must satisfy regular expression pattern: [^\s]+`},
		"long":        {map[string]any{"Handler": strings.Repeat("h", 129)}, "1 validation error detected: Value '" + strings.Repeat("h", 129) + "' at 'handler' failed to satisfy constraint: Member must have length less than or equal to 128"},
		"role":        {map[string]any{"Role": "r"}, `1 validation error detected: Value 'r' at 'role' failed to satisfy constraint: Member must satisfy regular expression pattern: arn:(aws[a-zA-Z-]*)?:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+`},
		"no role":     {map[string]any{"Role": nil}, "1 validation error detected: Value null at 'role' failed to satisfy constraint: Member must not be null"},
		"no code":     {map[string]any{"Code": nil}, "1 validation error detected: Value null at 'code' failed to satisfy constraint: Member must not be null"},
		"description": {map[string]any{"Description": strings.Repeat("€", 257)}, "1 validation error detected: Value '" + strings.Repeat("€", 257) + "' at 'description' failed to satisfy constraint: Member must have length less than or equal to 256"},
		"name":        {map[string]any{"FunctionName": "a/b"}, "1 validation error detected: Value 'a/b' at 'functionName' failed to satisfy constraint: Member must satisfy regular expression pattern: (arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\\d{1}:)?(\\d{12}:)?(function:)?([a-zA-Z0-9-_]+)(:(\\$LATEST|[a-zA-Z0-9-_]+))?"},
		"package":     {map[string]any{"PackageType": "Jar"}, "1 validation error detected: Value 'Jar' at 'packageType' failed to satisfy constraint: Member must satisfy enum value set: [Zip, Image]"},
		"snapStart":   {map[string]any{"SnapStart": map[string]any{"ApplyOn": "invalidOption"}}, "1 validation error detected: Value 'invalidOption' at 'snapStart.applyOn' failed to satisfy constraint: Member must satisfy enum value set: [PublishedVersions, None]"},
		"ephemeral":   {map[string]any{"EphemeralStorage": map[string]any{}}, "1 validation error detected: Value null at 'ephemeralStorage.size' failed to satisfy constraint: Member must not be null"},
		"variable":    {map[string]any{"Environment": map[string]any{"Variables": map[string]any{"1A": "secret"}}}, "1 validation error detected: Value at 'environment.variables' failed to satisfy constraint: Map keys must satisfy constraint: [Member must satisfy regular expression pattern: [a-zA-Z]([a-zA-Z0-9_])+, Member must not be null]"},
		"log group":   {map[string]any{"LoggingConfig": map[string]any{"LogGroup": "a b"}}, `1 validation error detected: Value 'a b' at 'loggingConfig.logGroup' failed to satisfy constraint: Member must satisfy regular expression pattern: [\.\-_/#A-Za-z0-9]+`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got := b.do(b.request("POST", create, createBody(t, c.changes)))
			if got.status != 400 || got.kind != "ValidationException" || unescape(got.body) != c.message {
				t.Errorf("got %d %s %s", got.status, got.kind, unescape(got.body))
			}
		})
	}
	for name, value := range map[string]any{"Handler": strings.Repeat("h", 128), "Description": strings.Repeat("€", 256), "Timeout": 900, "MemorySize": 10_240,
		"Role": "arn:aws-cn:iam::123456789012:role/service-role/a@b"} {
		got := b.do(b.request("POST", create, createBody(t, map[string]any{name: value, "FunctionName": "ok" + name})))
		if got.status != 201 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestRefusalsOfSignatures(t *testing.T) {
	b := newBench(t)
	get := func(change func(*http.Request)) reply {
		req := b.request("GET", create, nil)
		change(req)
		return b.do(req)
	}
	cases := map[string]struct {
		got    reply
		status int
		kind   string
	}{
		"unsigned":     {get(func(r *http.Request) { r.Header.Del("Authorization") }), 403, "MissingAuthenticationTokenException"},
		"unknown path": {get(func(r *http.Request) { r.Header.Del("Authorization"); r.URL.Path = "/x" }), 403, "MissingAuthenticationTokenException"},
		"broken":       {get(func(r *http.Request) { r.Header.Set("Authorization", "AWS4-HMAC-SHA256 x") }), 400, "IncompleteSignatureException"},
		"another path": {get(func(r *http.Request) { r.URL.Path = "/x" }), 403, "InvalidSignatureException"},
		"another key": {get(func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), keyID, "AKIAOTHER", 1))
		}), 403, "UnrecognizedClientException"},
		"another service": {get(func(r *http.Request) { r.Header.Del("Authorization"); b.sign(r, nil, "s3") }), 403, "InvalidSignatureException"},
	}
	for name, c := range cases {
		if c.got.status != c.status || c.got.kind != c.kind || unescape(c.got.body) == "" {
			t.Errorf("%s: %+v", name, c.got)
		}
	}
	body := createBody(t, nil)
	req := b.request("POST", create, body, "X-Amz-Content-Sha256", sum(body))
	req.Body = io.NopCloser(bytes.NewReader(bytes.ToUpper(body)))
	if got := b.do(req); got.status != 403 || got.kind != "InvalidSignatureException" {
		t.Errorf("another body: %+v", got)
	}
	if got := b.do(b.request("GET", create, nil, "X-Amz-Content-Sha256", sum(nil))); got.status != 200 {
		t.Errorf("a body signed as a header: %+v", got)
	}
}

// connection is a client that sends bytes as it likes.
type connection struct {
	net.Conn
	reader *bufio.Reader
}

func (b *bench) dial() *connection {
	b.t.Helper()
	conn, err := net.Dial("tcp", b.addr)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	return &connection{conn, bufio.NewReader(conn)}
}

// answer reads one response.
func (c *connection) answer() (status int, kind string, closed bool, err error) {
	resp, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return 0, "", true, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, resp.Header.Get("X-Amzn-Errortype"), resp.Close, err
}

// head is the head of a signed request, as bytes, with the lines that its body's length needs.
func (b *bench) head(method, target string, signed []byte, length string) string {
	req := b.request(method, target, signed)
	req.Header.Del("Authorization")
	req.ContentLength = 0 // so that no length is signed
	b.sign(req, signed, "lambda")
	var head bytes.Buffer
	fmt.Fprintf(&head, "%s %s HTTP/1.1\r\nHost: %s\r\n%s", method, target, b.addr, length)
	if err := req.Header.Write(&head); err != nil {
		b.t.Fatal(err)
	}
	return head.String() + "\r\n"
}

func TestRaw(t *testing.T) {
	b := newBench(t)
	invocations := create + "/f/invocations"
	chunk := func(n int) string { return fmt.Sprintf("%x\r\n%s\r\n", n, strings.Repeat(" ", n)) }
	cases := []struct {
		name, head, body string
		status           int
		kind             string
	}{
		{"chunks", b.head("POST", invocations, []byte("{}"), "Transfer-Encoding: chunked\r\n"), "1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", 200, ""},
		{"large chunks", b.head("POST", invocations, bytes.Repeat([]byte(" "), 3<<20), "Transfer-Encoding: chunked\r\n"), chunk(3<<20) + "0\r\n\r\n", 200, ""},
		{"chunks over the limit", b.head("POST", invocations, nil, "Transfer-Encoding: chunked\r\n"), chunk(4<<20) + chunk(3<<20) + "0\r\n\r\n", 413, "RequestEntityTooLargeException"},
		{"chunks over a small limit", b.head("PUT", create+"/f/configuration", nil, "Transfer-Encoding: chunked\r\n"), chunk(2<<20) + "0\r\n\r\n", 413, "RequestEntityTooLargeException"},
		{"length over the limit", b.head("POST", create, nil, "Content-Length: 70167212\r\n"), "", 413, "RequestEntityTooLargeException"},
		{"an odd chunk", b.head("POST", invocations, nil, "Transfer-Encoding: chunked\r\n"), "zz\r\n", 400, "InvalidRequestContentException"},
		{"an odd marker", b.head("GET", create+"?MaxItems=2", nil, ""), "", 200, ""},
		{"no HTTP", "\x16\x03\x01 this is not HTTP\r\n\r\n", "", 400, ""},
		{"a huge header", "GET / HTTP/1.1\r\nHost: x\r\nX-Big: " + strings.Repeat("h", 100<<10) + "\r\n\r\n", "", 431, ""},
		{"a huge body without a signature", "POST " + create + " HTTP/1.1\r\nHost: x\r\nContent-Length: 70000000\r\n\r\n", "", 403, "MissingAuthenticationTokenException"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			conn := b.dial()
			go io.WriteString(conn, c.head+c.body)
			if status, kind, _, err := conn.answer(); status != c.status || kind != c.kind {
				t.Errorf("got %d %s, %v", status, kind, err)
			}
		})
	}
}

func TestATruncatedBodyIsNotRun(t *testing.T) {
	b := newBench(t)
	conn := b.dial()
	io.WriteString(conn, b.head("POST", create+"/f/invocations", []byte("{}"), "Content-Length: 1000\r\n")+"{}")
	conn.Conn.(*net.TCPConn).CloseWrite()
	if status, kind, _, _ := conn.answer(); status != 0 && (status != 400 || kind != "InvalidRequestContentException") {
		t.Errorf("got %d %s", status, kind)
	}
	if len(b.front.asked) != 0 {
		t.Error("it was run")
	}
}

func TestAConnectionOutlivesAnError(t *testing.T) {
	b := newBench(t)
	conn := b.dial()
	for range 3 {
		io.WriteString(conn, b.head("POST", create, nil, "Content-Length: 2\r\n")+"[]")
		if status, kind, closed, err := conn.answer(); status != 403 || closed || err != nil { // the signed body was empty
			t.Fatalf("got %d %s, closed %v, %v", status, kind, closed, err)
		}
	}
	io.WriteString(conn, b.head("GET", create, nil, ""))
	if status, _, closed, err := conn.answer(); status != 200 || closed || err != nil {
		t.Errorf("got %d, closed %v, %v", status, closed, err)
	}
}

// Clients that send large bodies slowly hold few places, and keep nobody from small requests; without a known key they hold none.
func TestSlowLargeBodies(t *testing.T) {
	b := newBench(t)
	for range 12 {
		conn := b.dial()
		io.WriteString(conn, b.head("POST", create, nil, "Content-Length: 60000000\r\n")+"x")
	}
	strangers := strings.ReplaceAll(b.head("POST", create, nil, "Content-Length: 60000000\r\n"), keyID, "AKIASTRANGER")
	conn := b.dial()
	io.WriteString(conn, strangers)
	if status, kind, _, err := conn.answer(); status != 403 || kind != "UnrecognizedClientException" {
		t.Errorf("a stranger: %d %s, %v", status, kind, err)
	}
	if got := b.do(b.request("POST", create+"/f/invocations", []byte("{}"))); got.status != 200 {
		t.Errorf("a small invoke: %+v", got)
	}
	if got := b.do(b.request("POST", create+"/f/invocations", bytes.Repeat([]byte(" "), 5<<20))); got.status != 200 {
		t.Errorf("a large invoke: %+v", got)
	}
}

func TestLinksToCode(t *testing.T) {
	b := newBench(t)
	b.create("f")
	got := b.do(b.request("GET", create+"/f", nil))
	var function struct{ Code struct{ Location string } }
	if err := json.Unmarshal([]byte(got.body), &function); err != nil {
		t.Fatal(err)
	}
	link := function.Code.Location
	for _, wrong := range []string{strings.Replace(link, "Signature=", "Signature=0", 1), strings.Replace(link, "Expires=", "Expires=9", 1),
		strings.Replace(link, keyID, "AKIAOTHER", 1), strings.Split(link, "?")[0]} {
		resp, err := b.http.Get(wrong)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 403 {
			t.Errorf("%s: %d", wrong, resp.StatusCode)
		}
	}
}

func TestPresignedInvoke(t *testing.T) {
	b := newBench(t)
	payload := []byte(`{"a":1}`)
	got := b.do(b.presign("POST", create+"/f/invocations", payload))
	if got.status != 200 || got.body != string(payload) {
		t.Errorf("got %+v", got)
	}
	req := b.presign("POST", create+"/f/invocations", payload)
	req.Body, req.ContentLength = io.NopCloser(strings.NewReader(base64.StdEncoding.EncodeToString(payload))), -1
	if got := b.do(req); got.status != 403 || got.kind != "InvalidSignatureException" {
		t.Errorf("another body: %+v", got)
	}
}
