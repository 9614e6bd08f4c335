package runtimes

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lambent"
)

// pythonCases is a function whose event names what it does.
const pythonCases = `import collections, decimal, json, os, sys
Point = collections.namedtuple("Point", "x y")
count = 0
def handler(event, context):
    return globals()[event["case"]](event, context)
def echo(event, context):
    return event
def nothing(event, context):
    pass
def unicode(event, context):
    return "h\u00e9 \u4e16 \U0001F600 \n"
def raw(event, context):
    return b"\x00\xff raw"
def special(event, context):
    return [decimal.Decimal("1.10"), decimal.Decimal("NaN"), decimal.Decimal("1E+3"), float("inf"), Point(1, [Point(2, 3)]), b"text", 1.5, 1e100, 2**70, True, None, (1, 2), {1: 2}]
def unserialisable(event, context):
    return {"a": {1, 2}}
def circular(event, context):
    a = []
    a.append(a)
    return a
def fails(event, context):
    raise ValueError("no\ngood")
def chained(event, context):
    try:
        {}["x"]
    except KeyError as e:
        raise RuntimeError("outer") from e
def counts(event, context):
    global count
    count += 1
    return count
def surrogate(event, context):
    return len(event["text"])
def trace(event, context):
    return os.environ.get("_X_AMZN_TRACE_ID")
def prints(event, context):
    print("multi\nline\nstring")
    print("another\rline")
    print("to stderr", file=sys.stderr)
    sys.stdout.write("unfinished")
def ctx(event, context):
    left = context.get_remaining_time_in_millis()
    client = context.client_context
    return {"id": context.aws_request_id, "arn": context.invoked_function_arn, "group": context.log_group_name,
        "stream": context.log_stream_name, "name": context.function_name, "memory": context.memory_limit_in_mb,
        "version": context.function_version, "identity": context.identity.cognito_identity_id,
        "pool": context.identity.cognito_identity_pool_id, "tenant": context.tenant_id,
        "custom": client and client.custom, "env": client and client.env, "title": client and client.client.app_title,
        "left": type(left) is int and 50000 < left <= 60000}
def exits(event, context):
    sys.exit(3)
`

// ascii is how Python before 3.12 writes what is not ASCII.
func ascii(runtime, text string) string {
	if compareVersions(strings.TrimPrefix(runtime, "python"), "3.12") >= 0 {
		return text
	}
	quoted := fmt.Sprintf("%+q", text)
	return strings.NewReplacer(`\"`, `"`, `\\`, `\`, `\U0001f600`, `\ud83d\ude00`).Replace(quoted[1 : len(quoted)-1])
}

func TestPythonAnswers(t *testing.T) {
	r, found := openRegistry(t, "python")
	for _, name := range found {
		trace := `"requestId": "` + requestID + `", "stackTrace": [`
		frame := `"  File \"/var/task/app.py\", line 5, in handler\n    return globals()[event[\"case\"]](event, context)\n", `
		cases := []struct {
			event event
			want  post
		}{
			{event{body: `{"case": "echo", "x": [1, 2.50, "é", null]}`},
				respond(ascii(name, `{"case": "echo", "x": [1, 2.5, "é", null]}`))},
			{event{body: "\n {\"case\": \"echo\"} \t"}, respond(`{"case": "echo"}`)},
			{event{body: `{"case": "nothing"}`}, respond(`null`)},
			{event{body: `{"case": "unicode"}`}, respond(ascii(name, `"hé 世 😀 \n"`))},
			{event{body: `{"case": "raw"}`},
				post{path: "invocation/" + requestID + "/response", contentType: "application/unknown", body: "\x00\xff raw"}},
			{event{body: `{"case": "special"}`},
				respond(`[1.10, NaN, 1E+3, Infinity, {"x": 1, "y": [{"x": 2, "y": 3}]}, "text", 1.5, 1e+100, 1180591620717411303424, true, null, [1, 2], {"1": 2}]`)},
			{event{body: `{"case": "counts"}`}, respond(`1`)},
			{event{body: `{"case": "counts"}`}, respond(`2`)},
			{event{body: `{"case": "surrogate", "text": "\ud83d\ude00\ud800"}`}, respond(`2`)},
			{event{body: `{"case": "trace"}`}, respond(`null`)},
			{event{`{"case": "trace"}`, map[string]string{"Lambda-Runtime-Trace-Id": "Root=1-2-3"}}, respond(`"Root=1-2-3"`)},
			{event{body: `{"case": "trace"}`}, respond(`null`)},
			{event{body: `{"case": "unserialisable"}`}, failed("Runtime.MarshalError",
				`{"errorMessage": "Unable to marshal response: Object of type set is not JSON serializable", "errorType": "Runtime.MarshalError", `+trace+`]}`)},
			{event{body: `{"case": "circular"}`}, failed("Runtime.MarshalError",
				`{"errorMessage": "Unable to marshal response: Circular reference detected", "errorType": "Runtime.MarshalError", `+trace+`]}`)},
			{event{body: `{"case": "fails"}`}, failed("ValueError",
				`{"errorMessage": "no\ngood", "errorType": "ValueError", `+trace+frame+`"  File \"/var/task/app.py\", line 23, in fails\n    raise ValueError(\"no\\ngood\")\n"]}`)},
			{event{body: `{"case": "chained"}`}, failed("RuntimeError",
				`{"errorMessage": "outer", "errorType": "RuntimeError", `+trace+frame+`"  File \"/var/task/app.py\", line 28, in chained\n    raise RuntimeError(\"outer\") from e\n"]}`)},
			{event{body: `{"case": }`}, failed("Runtime.UnmarshalError",
				`{"errorMessage": "Unable to unmarshal input: Expecting value: line 1 column 10 (char 9)", "errorType": "Runtime.UnmarshalError", `+trace+`]}`)},
			{event{body: `{"case": "ctx"}`}, respond(`{"id": "` + requestID + `", "arn": "` + arn + `", "group": "/aws/lambda/fn", "stream": "stream", ` +
				`"name": "fn", "memory": "128", "version": "$LATEST", "identity": null, "pool": null, "tenant": null, ` +
				`"custom": null, "env": null, "title": null, "left": true}`)},
			{event{`{"case": "ctx"}`, map[string]string{
				"Lambda-Runtime-Client-Context":   `{"custom": {"foo": "bär"}, "env": {"fizz": "buzz"}, "client": {"app_title": "t"}}`,
				"Lambda-Runtime-Cognito-Identity": `{"cognitoIdentityId": "i", "cognitoIdentityPoolId": "p"}`,
				"Lambda-Runtime-Aws-Tenant-Id":    "blue"}},
				respond(ascii(name, `{"id": "`+requestID+`", "arn": "`+arn+`", "group": "/aws/lambda/fn", "stream": "stream", `+
					`"name": "fn", "memory": "128", "version": "$LATEST", "identity": "i", "pool": "p", "tenant": "blue", `+
					`"custom": {"foo": "bär"}, "env": {"fizz": "buzz"}, "title": "t", "left": true}`))},
			{event{`{"case": "ctx"}`, map[string]string{"Lambda-Runtime-Client-Context": `{`}}, failed("Runtime.LambdaContextUnmarshalError",
				`{"errorMessage": "Unable to parse Client Context JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)", "errorType": "Runtime.LambdaContextUnmarshalError", `+trace+`]}`)},
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, r, function{runtime: name, handler: "app.handler", files: map[string]string{"app.py": pythonCases}})
			for _, c := range cases {
				got := p.invoke(t, c.event)
				if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(post{})); diff != "" {
					t.Errorf("%s\n%s", c.event.body, diff)
				}
			}
		})
	}
}

func TestPythonLogs(t *testing.T) {
	r, found := openRegistry(t, "python")
	text := map[string]string{"app.py": `import logging
log = logging.getLogger()
log.warning("at import")
def handler(event, context):
    log.info("hidden by the level")
    log.setLevel(logging.INFO)
    log.info("two\nlines %d", 7)
    logging.getLogger("named").error("bad")
    print("printed")
    context.log("by context")
    raise KeyError("k")
`}
	structured := map[string]string{"app.py": `import logging
log = logging.getLogger("app")
def handler(event, context):
    log.debug("hidden")
    log.info("é %s", "x", extra={"order": 7})
    try:
        1 / 0
    except ZeroDivisionError:
        log.exception("failed")
    print("printed")
    raise KeyError("k")
`}
	plain := map[string]string{"app.py": "def handler(event, context):\n    print('a', 'b')\n    print('multi\\nline\\rend')\n"}
	keyError := `{"errorMessage": "'k'", "errorType": "KeyError", "requestId": "` + requestID + `", "stackTrace": ["  File \"/var/task/app.py\", line 11, in handler\n    raise KeyError(\"k\")\n"]}`
	cases := []struct {
		name    string
		files   map[string]string
		logging lambent.Logging
		want    string
	}{
		{"print", plain, lambent.Logging{}, "a b\nmulti\nline\rend\n"},
		{"text", text, lambent.Logging{}, "[WARNING]\tTIME\t\tat import\n" +
			"[INFO]\tTIME\t" + requestID + "\ttwo\rlines 7\n" +
			"[ERROR]\tTIME\t" + requestID + "\tbad\n" +
			"printed\nby context\n" +
			"[ERROR] KeyError: 'k'\rTraceback (most recent call last):\r\u00a0\u00a0File \"/var/task/app.py\", line 11, in handler\r\u00a0\u00a0\u00a0\u00a0raise KeyError(\"k\")\n"},
		{"JSON", structured, lambent.Logging{Format: lambent.LogJSON, ApplicationLevel: "INFO"},
			`{"timestamp": "TIME", "level": "INFO", "message": "é x", "logger": "app", "requestId": "` + requestID + `", "order": 7}` + "\n" +
				`{"timestamp": "TIME", "level": "ERROR", "message": "failed", "logger": "app", "stackTrace": ["  File \"/var/task/app.py\", line 7, in handler\n    1 / 0CARETS\n"], "errorType": "ZeroDivisionError", "errorMessage": "division by zero", "requestId": "` + requestID + `", "location": "/var/task/app.py:handler:9"}` + "\n" +
				"printed\n" +
				`{"timestamp": "TIME", "log_level": "ERROR", ` + strings.TrimPrefix(keyError, "{") + "\n"},
		{"JSON level", structured, lambent.Logging{Format: lambent.LogJSON, ApplicationLevel: "FATAL"},
			"printed\n" + `{"timestamp": "TIME", "log_level": "ERROR", ` + strings.TrimPrefix(keyError, "{") + "\n"},
	}
	for _, name := range found {
		for _, c := range cases {
			t.Run(name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				p := start(t, r, function{runtime: name, handler: "app.handler", files: c.files, logging: c.logging})
				p.invoke(t, event{body: `{}`})
				got := p.stop()
				carets := "" // which part of the line is meant is shown since 3.11
				if strings.Contains(got, `~~^~~`) {
					carets = `\n    ~~^~~`
				}
				if diff := cmp.Diff(strings.ReplaceAll(c.want, "CARETS", carets), got); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

func TestPythonInitialisation(t *testing.T) {
	r, found := openRegistry(t, "python")
	fault := func(kind, message string) post {
		text, _ := json.Marshal(message)
		return initFailed("Runtime."+kind, `{"errorMessage": `+string(text)+`, "errorType": "Runtime.`+kind+`", "requestId": "", "stackTrace": []}`)
	}
	cases := []struct {
		name, handler string
		files         map[string]string
		want          post
		log           string
	}{
		{"no module", "nope.handler", nil, fault("ImportModuleError", "Unable to import module 'nope': No module named 'nope'"),
			"[ERROR] Runtime.ImportModuleError: Unable to import module 'nope': No module named 'nope'\rTraceback (most recent call last):\n"},
		{"no dependency", "app.handler", map[string]string{"app.py": "import absent"},
			fault("ImportModuleError", "Unable to import module 'app': No module named 'absent'"),
			"[ERROR] Runtime.ImportModuleError: Unable to import module 'app': No module named 'absent'\rTraceback (most recent call last):\n"},
		{"no handler", "app.handler", map[string]string{"app.py": "x = 1"},
			fault("HandlerNotFound", "Handler 'handler' missing on module 'app'"),
			"[ERROR] Runtime.HandlerNotFound: Handler 'handler' missing on module 'app'\rTraceback (most recent call last):\n"},
		{"bad name", "handler", nil,
			fault("MalformedHandlerName", "Bad handler 'handler': not enough values to unpack (expected 2, got 1)"),
			"[ERROR] Runtime.MalformedHandlerName: Bad handler 'handler': not enough values to unpack (expected 2, got 1)\rTraceback (most recent call last):\n"},
		{"built in", "sys.exit", nil,
			fault("BuiltInModuleConflict", "Cannot use built-in module sys as a handler module"),
			"[ERROR] Runtime.BuiltInModuleConflict: Cannot use built-in module sys as a handler module\rTraceback (most recent call last):\n"},
		{"syntax", "app.handler", map[string]string{"app.py": "x = 1\nreturn 7\n"},
			initFailed("Runtime.UserCodeSyntaxError", `{"errorMessage": "Syntax error in module 'app': 'return' outside function (app.py, line 2)", "errorType": "Runtime.UserCodeSyntaxError", "requestId": "", "stackTrace": ["  File \"/var/task/app.py\" Line 2\n    return 7\n"]}`),
			"[ERROR] Runtime.UserCodeSyntaxError: Syntax error in module 'app': 'return' outside function (app.py, line 2)\rTraceback (most recent call last):\r\u00a0\u00a0File \"/var/task/app.py\" Line 2\r\u00a0\u00a0\u00a0\u00a0return 7\n"},
	}
	for _, name := range found {
		for _, c := range cases {
			t.Run(name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				p := start(t, r, function{runtime: name, handler: c.handler, files: c.files})
				got := p.posted(t)
				got.body = strings.Replace(got.body, `return 7\n\n"]`, `return 7\n"]`, 1)
				status, log := p.exit(t)
				if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(post{})); diff != "" {
					t.Error(diff)
				}
				if diff := cmp.Diff(c.log, log); diff != "" || status != 1 {
					t.Errorf("status %d\n%s", status, diff)
				}
			})
		}
	}
}

// A module that raises an exception is reported with the frames of the import, as Lambda does.
func TestPythonModuleThatFails(t *testing.T) {
	r, found := openRegistry(t, "python")
	for _, name := range found {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, r, function{runtime: name, handler: "app.handler",
				files: map[string]string{"app.py": `raise Exception("Runtime startup fails")`}})
			var got struct {
				ErrorMessage, ErrorType string
				RequestID               *string `json:"requestId"`
				StackTrace              []string
			}
			posted := p.posted(t)
			if err := json.Unmarshal([]byte(posted.body), &got); err != nil {
				t.Fatal(err)
			}
			if posted.path != "init/error" || posted.errorType != "Exception" || got.ErrorType != "Exception" ||
				got.ErrorMessage != "Runtime startup fails" || got.RequestID == nil || *got.RequestID != "" {
				t.Errorf("got %+v", posted)
			}
			frames := got.StackTrace
			last := "  File \"/var/task/app.py\", line 1, in <module>\n    raise Exception(\"Runtime startup fails\")\n"
			if len(frames) < 3 || !strings.Contains(frames[0], "importlib/__init__.py") || frames[len(frames)-1] != last {
				t.Errorf("frames: %q", frames)
			}
			if status, _ := p.exit(t); status != 1 {
				t.Errorf("status %d", status)
			}
		})
	}
}

func TestPythonHandlersInDirectories(t *testing.T) {
	r, found := openRegistry(t, "python")
	files := map[string]string{
		"top.py":            "def handler(e, c): return __name__",
		"pkg/__init__.py":   "def handler(e, c): return __name__",
		"pkg/inner.py":      "from . import handler as outer\ndef handler(e, c): return [__name__, outer(e, c)]",
		"plain/deep/mod.py": "class Class:\n    def __call__(self, e, c): return __name__\nhandler = Class()",
	}
	for _, name := range found {
		for handler, want := range map[string]string{
			"top.handler": `"top"`, "pkg.handler": `"pkg"`, "pkg.inner.handler": `["pkg.inner", "pkg"]`,
			"pkg/inner.handler": `["pkg.inner", "pkg"]`, "plain/deep/mod.handler": `"plain.deep.mod"`, "plain.deep.mod.handler": `"plain.deep.mod"`,
		} {
			t.Run(name+"/"+strings.ReplaceAll(handler, "/", ":"), func(t *testing.T) {
				t.Parallel()
				p := start(t, r, function{runtime: name, handler: handler, files: files})
				if diff := cmp.Diff(respond(want), p.invoke(t, event{body: `{}`}), cmp.AllowUnexported(post{})); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

// What ends the process ends it with its own status and says nothing to the Runtime API.
func TestPythonExits(t *testing.T) {
	r, found := openRegistry(t, "python")
	for _, name := range found {
		for body, want := range map[string]int{"sys.exit(3)": 3, "sys.exit()": 0, "exit(4)": 4, "os._exit(5)": 5, "raise KeyboardInterrupt": 130} {
			t.Run(name+"/"+body, func(t *testing.T) {
				t.Parallel()
				p := start(t, r, function{runtime: name, handler: "app.handler",
					files: map[string]string{"app.py": "import os, sys\ndef handler(e, c):\n    " + body}})
				p.send(t, event{body: `{}`})
				status, _ := p.exit(t)
				if status != want && !(want == 130 && status == -1) { // Python ends itself by the signal
					t.Errorf("status %d, not %d", status, want)
				}
				if len(p.posts) != 0 {
					t.Errorf("posted %+v", <-p.posts)
				}
			})
		}
	}
}

func TestPythonLargePayloads(t *testing.T) {
	r, found := openRegistry(t, "python")
	for _, name := range found {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tooLarge := func(p post) int {
				if len(p.body) > lambent.MaxResponseBytes {
					return 413
				}
				return 202
			}
			p := start(t, r, function{runtime: name, handler: "app.handler", answer: tooLarge, files: map[string]string{
				"app.py": "def handler(e, c): return e if isinstance(e, str) else 'x' * e"}})
			large := `"` + strings.Repeat("a", lambent.MaxRequestBytes-2) + `"`
			if got := p.invoke(t, event{body: large}); got != respond(large) {
				t.Errorf("echoed %d bytes to %s", len(got.body), got.path)
			}
			if got := p.invoke(t, event{body: "6400000"}); len(got.body) != 6400002 {
				t.Errorf("posted %d bytes", len(got.body))
			}
			if got := p.invoke(t, event{body: "3"}); got != respond(`"xxx"`) {
				t.Errorf("after a response that was refused: %+v", got)
			}
		})
	}
}

// The parts of a start that cost tens of milliseconds are left out.
func TestPythonLoadsLittle(t *testing.T) {
	r, found := openRegistry(t, "python")
	for _, name := range found {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, r, function{runtime: name, handler: "app.handler", files: map[string]string{
				"app.py": "import sys\ndef handler(e, c): return [m for m in e if m in sys.modules]"}})
			heavy := `["site", "json", "re", "socket", "logging", "traceback", "http", "urllib", "enum", "functools", "threading"]`
			if got := p.invoke(t, event{body: heavy}); got != respond(`[]`) {
				t.Errorf("loaded %s", got.body)
			}
		})
	}
}

func TestPythonPath(t *testing.T) {
	r, found := openRegistry(t, "python")
	for _, name := range found {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, r, function{runtime: name, handler: "app.handler", files: map[string]string{
				"app.py": "import sys, builtins\ndef handler(e, c): return sys.path[:4] + [builtins.exit is not None]"}})
			version := strings.TrimPrefix(name, "python")
			want := `["/var/task", "/opt/python/lib/python` + version + `/site-packages", "/opt/python", "` + r.interpreters[name].Bootstrap + `", true]`
			if got := p.invoke(t, event{body: `{}`}); got != respond(want) {
				t.Errorf("got %s, not %s", got.body, want)
			}
		})
	}
}
