package runtimes

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lambent"
)

// nodeCases is a function whose event names what it does.
const nodeCases = `let count = 0;
const cases = {
  echo: async (event) => event,
  nothing: async () => {},
  plain: () => ({ then: (resolve) => setTimeout(resolve, 5, 'thenable') }),
  unicode: async () => 'hé 世 😀 \n\u2028',
  counts: async () => ++count,
  trace: async () => process.env._X_AMZN_TRACE_ID,
  fn: async () => () => 1,
  bigint: async () => 1n,
  fails: async () => { throw new TypeError('no\ngood'); },
  custom: async () => { const e = new Error('m'); e.name = 'Mine'; e.code = 7; e.extra = { a: 1 }; throw e; },
  text: async () => { throw 'just text'; },
  nul: async () => { throw null; },
  shaped: async () => { throw { name: 'N', message: 'M', stack: 'S1\nS2' }; },
  never: async () => { await new Promise(() => {}); },
  ctx: async (event, c) => ({ ...c, keys: Object.keys(c).sort(), left: c.getRemainingTimeInMillis() > 50000 && c.getRemainingTimeInMillis() <= 60000 }),
};
exports.handler = async (event, context) => cases[event.case](event, context);
`

var traces = regexp.MustCompile(`,"(trace|stack|stackTrace)":\[("(\\.|[^"\\])*",?)*\]`)

// withoutTrace cuts the stack out of an error's JSON, whose frames are those of a version of Node.js.
func withoutTrace(text string) string { return traces.ReplaceAllString(text, "") }

func TestNodeAnswers(t *testing.T) {
	r, found := openRegistry(t, "nodejs")
	context := `{"callbackWaitsForEmptyEventLoop":true,"functionVersion":"$LATEST","functionName":"fn","memoryLimitInMB":"128","logGroupName":"/aws/lambda/fn","logStreamName":"stream",`
	keys := `"keys":["awsRequestId","callbackWaitsForEmptyEventLoop","clientContext","done","fail","functionName","functionVersion","getRemainingTimeInMillis","identity","invokedFunctionArn","logGroupName","logStreamName","memoryLimitInMB","succeed","tenantId"],"left":true}`
	cases := []struct {
		event event
		want  post
	}{
		{event{body: `{"case": "echo", "x": [1, 2.50, "é", null]}`}, respond(`{"case":"echo","x":[1,2.5,"é",null]}`)},
		{event{body: `{"case": "nothing"}`}, respond(`null`)},
		{event{body: `{"case": "plain"}`}, respond(`"thenable"`)},
		{event{body: `{"case": "unicode"}`}, respond(`"hé 世 😀 \n` + "\u2028" + `"`)},
		{event{body: `{"case": "counts"}`}, respond(`1`)},
		{event{body: `{"case": "counts"}`}, respond(`2`)},
		{event{body: `{"case": "trace"}`}, respond(`null`)},
		{event{`{"case": "trace"}`, map[string]string{"Lambda-Runtime-Trace-Id": "Root=1-2-3"}}, respond(`"Root=1-2-3"`)},
		{event{body: `{"case": "trace"}`}, respond(`null`)},
		{event{body: `{"case": "fn"}`}, respond(`null`)},
		{event{body: `{"case": "bigint"}`}, failed("Error", `{"errorType":"Error","errorMessage":"Unable to stringify response body"}`)},
		{event{body: `{"case": "fails"}`}, failed("TypeError", `{"errorType":"TypeError","errorMessage":"no\ngood"}`)},
		{event{body: `{"case": "custom"}`}, failed("Mine", `{"errorType":"Mine","errorMessage":"m"}`)},
		{event{body: `{"case": "text"}`}, failed("string", `{"errorType":"string","errorMessage":"just text"}`)},
		{event{body: `{"case": "nul"}`}, failed("string", `{"errorType":"string","errorMessage":"handled"}`)},
		{event{body: `{"case": "shaped"}`}, failed("N", `{"errorType":"N","errorMessage":"M"}`)},
		{event{body: `{"case": "never"}`}, failed("Runtime.NodeJsExit", `{"errorType":"Runtime.NodeJsExit","errorMessage":"The event loop is empty and the promise that the handler returned has not been settled: it never will be. See https://nodejs.org/docs/latest/api/process.html#exit-codes"}`)},
		{event{body: `{"case": }`}, failed("SyntaxError", "")},
		{event{body: `{"case": "ctx"}`}, respond(context + `"invokedFunctionArn":"` + arn + `","awsRequestId":"` + requestID + `",` + keys)},
		{event{`{"case": "ctx"}`, map[string]string{
			"Lambda-Runtime-Client-Context":   `{"custom": {"foo": "bär"}}`,
			"Lambda-Runtime-Cognito-Identity": `{"cognitoIdentityId": "i"}`}},
			respond(context + `"clientContext":{"custom":{"foo":"bär"}},"identity":{"cognitoIdentityId":"i"},"invokedFunctionArn":"` + arn + `","awsRequestId":"` + requestID + `",` + keys)},
		{event{`{"case": "ctx"}`, map[string]string{"Lambda-Runtime-Client-Context": `{`}}, failed("Error", "")},
	}
	for _, name := range found {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, r, function{runtime: name, handler: "index.handler", files: map[string]string{"index.js": nodeCases}})
			for _, c := range cases {
				got := p.invoke(t, c.event)
				var parts struct{ Trace []string }
				if got.errorType != "" {
					if err := json.Unmarshal([]byte(got.body), &parts); err != nil || parts.Trace == nil {
						t.Errorf("%s: %v: no trace in %s", c.event.body, err, got.body)
					}
				}
				got.body = withoutTrace(got.body)
				if c.want.body == "" { // the text is that of a version of V8
					got.body = ""
				}
				if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(post{})); diff != "" {
					t.Errorf("%s\n%s", c.event.body, diff)
				}
			}
		})
	}
}

// The ways in which a handler that is not an async function may answer.
func TestNodeCallbacks(t *testing.T) {
	r, found := openRegistry(t, "nodejs")
	cases := []struct {
		name, body string
		want       post
		log        string
	}{
		{"callback", `cb(null, {a: 1})`, respond(`{"a":1}`), ""},
		{"callback twice", `cb(null, 1); cb(null, 2)`, respond(`1`), ""},
		{"callback with an error", `cb(new RangeError('r'))`, failed("RangeError", `{"errorType":"RangeError","errorMessage":"r"}`),
			"TIME\t" + requestID + "\tERROR\tInvoke Error \t{\"errorType\":\"RangeError\",\"errorMessage\":\"r\"}\n"},
		{"callback with text", `cb('bad')`, failed("string", `{"errorType":"string","errorMessage":"bad"}`),
			"TIME\t" + requestID + "\tERROR\tInvoke Error \t{\"errorType\":\"Error\",\"errorMessage\":\"bad\"}\n"},
		{"waits for the event loop", `setTimeout(() => console.log('later'), 20); cb(null, 1)`, respond(`1`),
			"TIME\t" + requestID + "\tINFO\tlater\n"},
		{"does not wait", `c.callbackWaitsForEmptyEventLoop = false; setTimeout(() => console.log('later'), 60000); cb(null, 1)`, respond(`1`), ""},
		{"later", `setTimeout(() => cb(null, 'late'), 10)`, respond(`"late"`), ""},
		{"nothing", ``, respond(`null`), ""},
		{"throws", `throw new Error('thrown')`, failed("Error", `{"errorType":"Error","errorMessage":"thrown"}`),
			"TIME\t" + requestID + "\tERROR\tInvoke Error \t{\"errorType\":\"Error\",\"errorMessage\":\"thrown\"}\n"},
		{"succeed", `c.succeed(1); setTimeout(() => {}, 60000)`, respond(`1`), ""},
		{"done", `c.done(null, 2)`, respond(`2`), ""},
		{"done with an error", `c.done('e')`, failed("string", `{"errorType":"string","errorMessage":"e"}`),
			"TIME\t" + requestID + "\tERROR\tInvoke Error \t{\"errorType\":\"Error\",\"errorMessage\":\"e\"}\n"},
		{"fail", `c.fail()`, failed("string", `{"errorType":"string","errorMessage":"handled"}`),
			"TIME\t" + requestID + "\tERROR\tInvoke Error \t{\"errorType\":\"Error\",\"errorMessage\":\"handled\"}\n"},
		{"promise", `return Promise.resolve(3)`, respond(`3`), ""},
	}
	for _, name := range found {
		if compareVersions(strings.TrimPrefix(name, "nodejs"), "24") >= 0 {
			continue // which has no callbacks
		}
		for _, c := range cases {
			t.Run(name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				p := start(t, r, function{runtime: name, handler: "index.handler",
					files: map[string]string{"index.js": "exports.handler = (e, c, cb) => {" + c.body + "}"}})
				first, second := p.invoke(t, event{body: `{}`}), p.invoke(t, event{body: `{}`})
				first.body, second.body = withoutTrace(first.body), withoutTrace(second.body)
				if diff := cmp.Diff([]post{c.want, c.want}, []post{first, second}, cmp.AllowUnexported(post{})); diff != "" {
					t.Error(diff)
				}
				if diff := cmp.Diff(c.log+c.log, withoutTrace(p.stop())); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

func TestNodeLogs(t *testing.T) {
	r, found := openRegistry(t, "nodejs")
	code := map[string]string{"index.js": `console.log('at import');
exports.handler = async () => {
  console.log('two\nlines %d', 7, { a: [1] });
  console.debug('d'); console.info(); console.warn({ b: 1 }); console.error('e', new Error('x').message);
  console.trace('t'); console.fatal('f');
  process.stdout.write('raw\n'); process.stderr.write('err\n');
  console.error(new RangeError('one')); console.error('with', new RangeError('two'));
  const circle = {}; circle.circle = circle; console.log(circle);
  throw new Error('thrown');
};`}
	text := func(level, message string) string { return "TIME\t" + requestID + "\t" + level + "\t" + message + "\n" }
	line := func(level, rest string) string {
		return `{"timestamp":"TIME","level":"` + level + `","requestId":"` + requestID + `"` + rest + "}\n"
	}
	stacks := regexp.MustCompile(`(RangeError: \w+)[^\n{"]*\n`)
	cases := []struct {
		name    string
		logging lambent.Logging
		env     map[string]string
		want    string
	}{
		{"text", lambent.Logging{}, nil, "TIME\tundefined\tINFO\tat import\n" +
			text("INFO", "two\rlines 7 { a: [ 1 ] }") + text("DEBUG", "d") + text("INFO", "") + text("WARN", "{ b: 1 }") + text("ERROR", "e x") +
			text("TRACE", "t") + text("FATAL", "f") + "raw\nerr\n" +
			text("ERROR", "RangeError: one") + text("ERROR", "with RangeError: two") +
			text("INFO", "<ref *1> { circle: [Circular *1] }") +
			text("ERROR", "Invoke Error \t"+`{"errorType":"Error","errorMessage":"thrown"}`)},
		{"text, by level", lambent.Logging{}, map[string]string{"AWS_LAMBDA_LOG_LEVEL": "error"}, text("ERROR", "e x") + text("FATAL", "f") + "raw\nerr\n" +
			text("ERROR", "RangeError: one") + text("ERROR", "with RangeError: two") +
			text("ERROR", "Invoke Error \t"+`{"errorType":"Error","errorMessage":"thrown"}`)},
		{"JSON", lambent.Logging{Format: lambent.LogJSON}, nil, `{"timestamp":"TIME","level":"INFO","message":"at import"}` + "\n" +
			line("INFO", `,"message":"two\nlines 7 { a: [ 1 ] }"`) + line("INFO", ``) + line("WARN", `,"message":{"b":1}`) + line("ERROR", `,"message":"e x"`) +
			line("FATAL", `,"message":"f"`) + "raw\nerr\n" +
			line("ERROR", `,"message":{"errorType":"RangeError","errorMessage":"one"}`) +
			line("ERROR", `,"message":"with RangeError: two","errorType":"RangeError","errorMessage":"two"`) +
			line("INFO", `,"message":"<ref *1> { circle: [Circular *1] }"`) +
			line("ERROR", `,"message":{"errorType":"Error","errorMessage":"thrown"}`)},
	}
	inMessage := regexp.MustCompile(`(RangeError: two)\\n[^"]*"`)
	for _, name := range found {
		for _, c := range cases {
			t.Run(name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				p := start(t, r, function{runtime: name, handler: "index.handler", files: code, logging: c.logging, env: c.env})
				p.invoke(t, event{body: `{}`})
				got := inMessage.ReplaceAllString(withoutTrace(p.stop()), `$1"`)
				got = stacks.ReplaceAllString(got, "$1\n")
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

// Where a handler may be, and how its module may be written.
func TestNodeModules(t *testing.T) {
	r, found := openRegistry(t, "nodejs")
	const cjs, esm = "exports.handler = async () => 'cjs'; exports.nested = {deep: {handler: async () => 'nested'}}", "export const handler = async () => 'esm'"
	dependency := map[string]string{"node_modules/dep/index.js": "module.exports = 'dep'", "lib/package.json": "{}",
		"index.js": "const dep = require('dep'); exports.handler = async () => dep"}
	cases := []struct {
		name, handler string
		files         map[string]string
		want          string
	}{
		{"CommonJS", "index.handler", map[string]string{"index.js": cjs}, `"cjs"`},
		{"nested function", "index.nested.deep.handler", map[string]string{"index.js": cjs}, `"nested"`},
		{"directory", "src/deep/index.handler", map[string]string{"src/deep/index.js": cjs}, `"cjs"`},
		{"dotted directory", "a.b/index.handler", map[string]string{"a.b/index.js": cjs}, `"cjs"`},
		{"cjs", "index.handler", map[string]string{"index.cjs": cjs, "package.json": `{"type": "module"}`}, `"cjs"`},
		{"mjs", "index.handler", map[string]string{"index.mjs": esm}, `"esm"`},
		{"odd name", "in dex#1%20.handler", map[string]string{"in dex#1%20.mjs": esm}, `"esm"`},
		{"type module", "index.handler", map[string]string{"index.js": esm, "package.json": `{"type": "module"}`}, `"esm"`},
		{"type module of an outer directory", "src/index.handler", map[string]string{"src/index.js": esm, "package.json": `{"type": "module"}`}, `"esm"`},
		{"type of the nearest package", "src/index.handler", map[string]string{"src/index.js": cjs, "src/package.json": `{}`, "package.json": `{"type": "module"}`}, `"cjs"`},
		{"without an ending", "index.handler", map[string]string{"index": cjs}, `"cjs"`},
		{"directory module", "app.handler", map[string]string{"app/index.js": cjs}, `"cjs"`},
		{"js before mjs", "index.handler", map[string]string{"index.js": cjs, "index.mjs": esm}, `"cjs"`},
		{"dependency", "index.handler", dependency, `"dep"`},
		{"installed package", "dep.handler", map[string]string{"node_modules/dep/index.js": cjs}, `"cjs"`},
		{"top-level await", "index.handler", map[string]string{"index.mjs": "const v = await Promise.resolve('awaited'); export const handler = async () => v"}, `"awaited"`},
	}
	for _, name := range found {
		for _, c := range cases {
			t.Run(name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				p := start(t, r, function{runtime: name, handler: c.handler, files: c.files})
				if diff := cmp.Diff(respond(c.want), p.invoke(t, event{body: `{}`}), cmp.AllowUnexported(post{})); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

func TestNodeInitialisation(t *testing.T) {
	r, found := openRegistry(t, "nodejs")
	fault := func(kind, message string) post {
		text, _ := json.Marshal(message)
		return initFailed(kind, `{"errorType":"`+kind+`","errorMessage":`+string(text)+`}`)
	}
	cases := []struct {
		name, handler, code string
		want                post
		title               string
		status              int
	}{
		{"no module", "nope.handler", "", fault("Runtime.ImportModuleError", "Error: Cannot find module 'nope'\nRequire stack:\n- /var/runtime/index.mjs"), "Uncaught Exception", 129},
		{"no index", "index.handler", "", fault("Runtime.ImportModuleError", "Error: Cannot find module 'index'\nRequire stack:\n- /var/runtime/index.mjs"), "Uncaught Exception", 129},
		{"no dependency of the runtime's", "index.handler", "require('errors')", fault("Runtime.ImportModuleError", "Error: Cannot find module 'errors'\nRequire stack:\n- /var/task/index.js\n- /var/runtime/loader.cjs\n- /var/runtime/runtime.cjs\n- /var/runtime/index.cjs"), "Uncaught Exception", 129},
		{"no dependency", "index.handler", "require('absent')", fault("Runtime.ImportModuleError", "Error: Cannot find module 'absent'\nRequire stack:\n- /var/task/index.js\n- /var/runtime/loader.cjs\n- /var/runtime/runtime.cjs\n- /var/runtime/index.cjs"), "Uncaught Exception", 129},
		{"no handler", "index.handler", "exports.x = 1", fault("Runtime.HandlerNotFound", "index.handler is undefined or not exported"), "Uncaught Exception", 129},
		{"no function", "index.handler", "exports.handler = 1", fault("Runtime.HandlerNotFound", "index.handler is not a function"), "Uncaught Exception", 129},
		{"bad name", "index", "", fault("Runtime.MalformedHandlerName", "Bad handler"), "Uncaught Exception", 129},
		{"relative name", "../index.handler", "", fault("Runtime.MalformedHandlerName", "'../index.handler' is not a valid handler name. Use absolute paths when specifying root directories in handler names."), "Uncaught Exception", 129},
		{"syntax", "index.handler", "exports.handler = async () => {\n  return )\n}", fault("Runtime.UserCodeSyntaxError", "SyntaxError: Unexpected token ')'"), "Uncaught Exception", 129},
		{"throws", "index.handler", "throw new RangeError('top')", fault("RangeError", "top"), "Uncaught Exception", 129},
		{"streams", "index.handler", "exports.handler = awslambda.streamifyResponse(async () => {})", fault("Runtime.MalformedStreamingHandler", "index.handler is made with awslambda.streamifyResponse: response streaming is not supported here. Export a function that returns its response."), "Uncaught Exception", 129},
		{"rejects", "index.handler", "Promise.reject(new Error('early')); exports.handler = async () => {}", fault("Runtime.UnhandledPromiseRejection", "Error: early"), "Unhandled Promise Rejection", 128},
	}
	for _, name := range found {
		for _, c := range cases {
			t.Run(name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				files := map[string]string{"index.js": c.code}
				if c.code == "" {
					files = nil
				}
				p := start(t, r, function{runtime: name, handler: c.handler, files: files})
				got := p.posted(t)
				trace := traces.FindString(got.body)
				got.body = strings.ReplaceAll(withoutTrace(got.body), r.interpreters[name].Bootstrap, runtimeDir)
				status, log := p.exit(t)
				if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(post{})); diff != "" {
					t.Error(diff)
				}
				prefix := "TIME\tundefined\tERROR\t" + c.title + " \t" + `{"errorType":"` + c.want.errorType + `","errorMessage":`
				if !strings.HasPrefix(log, prefix) || strings.Count(log, "\n") != 1 || status != c.status {
					t.Errorf("status %d, log %q", status, log)
				}
				if c.name == "syntax" && !strings.Contains(trace, "/var/task/index.js:2") {
					t.Errorf("the trace does not say where: %s", trace)
				}
			})
		}
	}
}

// What is different since Node.js 24: TypeScript is loaded, and callbacks are gone.
func TestNodeSince24(t *testing.T) {
	r, found := openRegistry(t, "nodejs")
	for _, name := range found {
		since := compareVersions(strings.TrimPrefix(name, "nodejs"), "24") >= 0
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refused := start(t, r, function{runtime: name, handler: "index.handler", files: map[string]string{
				"index.js": "exports.handler = (event, context, callback) => callback(null, 1)"}})
			typed := start(t, r, function{runtime: name, handler: "index.handler", files: map[string]string{
				"index.ts": "export const handler = async (event: {x: number}): Promise<number> => event.x", "package.json": `{"type": "module"}`}})
			if !since {
				if got := refused.invoke(t, event{body: `{}`}); got != respond(`1`) {
					t.Errorf("a callback: %+v", got)
				}
				if got := typed.posted(t); got.errorType != "Runtime.ImportModuleError" {
					t.Errorf("TypeScript: %+v", got)
				}
				return
			}
			if got := refused.posted(t); got.path != "init/error" || got.errorType != "Runtime.CallbackHandlerDeprecated" {
				t.Errorf("a callback: %+v", got)
			}
			if got := typed.invoke(t, event{body: `{"x": 7}`}); got != respond(`7`) {
				t.Errorf("TypeScript: %+v", got)
			}
		})
	}
}

// What nobody catches ends the process after it was reported.
func TestNodeUncaught(t *testing.T) {
	r, found := openRegistry(t, "nodejs")
	cases := []struct {
		name, body string
		want       []post
		title      string
		status     int
	}{
		{"rejection", `Promise.reject(new Error('lost')); await new Promise((r) => setTimeout(r, 60000))`,
			[]post{failed("Runtime.UnhandledPromiseRejection", `{"errorType":"Runtime.UnhandledPromiseRejection","errorMessage":"Error: lost"}`)}, "Unhandled Promise Rejection", 128},
		{"rejection before an answer", `Promise.reject(new Error('lost')); await new Promise((r) => setImmediate(r)); return 1`,
			[]post{failed("Runtime.UnhandledPromiseRejection", `{"errorType":"Runtime.UnhandledPromiseRejection","errorMessage":"Error: lost"}`)}, "Unhandled Promise Rejection", 128},
		{"exception", `setTimeout(() => { throw new TypeError('async') }, 1); await new Promise((r) => setTimeout(r, 60000))`,
			[]post{failed("TypeError", `{"errorType":"TypeError","errorMessage":"async"}`)}, "Uncaught Exception", 129},
		{"after the response", `setTimeout(() => { throw new TypeError('afterwards') }, 20); return 1`,
			[]post{respond(`1`), failed("TypeError", `{"errorType":"TypeError","errorMessage":"afterwards"}`)}, "Uncaught Exception", 129},
	}
	for _, name := range found {
		for _, c := range cases {
			t.Run(name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				p := start(t, r, function{runtime: name, handler: "index.handler",
					files: map[string]string{"index.js": "exports.handler = async () => {" + c.body + "}"}})
				p.send(t, event{body: `{}`})
				for _, want := range c.want {
					got := p.posted(t)
					got.body = withoutTrace(got.body)
					if diff := cmp.Diff(want, got, cmp.AllowUnexported(post{})); diff != "" {
						t.Error(diff)
					}
				}
				status, log := p.exit(t)
				if status != c.status || !strings.HasPrefix(log, "TIME\t"+requestID+"\tERROR\t"+c.title+" \t{") {
					t.Errorf("status %d, log %q", status, log)
				}
			})
		}
		for body, want := range map[string]int{"process.exit(3)": 3, "process.exit()": 0} {
			t.Run(name+"/"+body, func(t *testing.T) {
				t.Parallel()
				p := start(t, r, function{runtime: name, handler: "index.handler",
					files: map[string]string{"index.js": "exports.handler = async () => { " + body + " }"}})
				p.send(t, event{body: `{}`})
				if status, _ := p.exit(t); status != want || len(p.posts) != 0 {
					t.Errorf("status %d after %d posts", status, len(p.posts))
				}
			})
		}
	}
}

func TestNodeLargePayloads(t *testing.T) {
	r, found := openRegistry(t, "nodejs")
	for _, name := range found {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tooLarge := func(p post) int {
				if len(p.body) > lambent.MaxResponseBytes {
					return 413
				}
				return 202
			}
			p := start(t, r, function{runtime: name, handler: "index.handler", answer: tooLarge, files: map[string]string{
				"index.js": "exports.handler = async (e) => typeof e === 'string' ? e : 'x'.repeat(e)"}})
			large := `"` + strings.Repeat("é", lambent.MaxRequestBytes/2-1) + `"`
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
