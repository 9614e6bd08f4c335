package runtimes

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lambent"
	"lambent/sandbox"
)

func testRegistry() *Registry {
	all := map[string]interpreter{}
	for _, version := range []string{"3.8.18", "3.11.7", "3.12.1"} {
		name := "python" + majorMinor(version)
		all[name] = interpreter{Name: name, Version: version, Path: "/opt/" + version + "/bin/" + name, Key: name + "-1",
			Mounts: []sandbox.Mount{{Source: "/opt/" + version, Target: "/var/lang"}}, Bootstrap: "/data/" + name + "-1"}
	}
	all["nodejs20.x"] = interpreter{Name: "nodejs20.x", Version: "20.18.1", Path: "/usr/bin/node", Key: "nodejs20.x-1",
		Mounts: []sandbox.Mount{{Source: "/usr/bin/node", Target: "/var/lang/bin/node"}}, Bootstrap: "/data/nodejs20.x-1"}
	return &Registry{region: "eu-west-1", interpreters: all}
}

func testVersion(runtime string) *lambent.FunctionVersion {
	return &lambent.FunctionVersion{FunctionName: lambent.FunctionName{Account: "000000000000", Name: "fn"},
		Key: lambent.VersionKey{Version: "7"}, Runtime: runtime, Architecture: architecture(), Handler: "app.handler", MemoryMiB: 1024,
		Environment: map[string]string{"TEST_KEY": "TEST_VAL"}, Logging: lambent.Logging{Format: lambent.LogText, Group: "/aws/lambda/fn"}}
}

// common is what functions of all runtimes have, as on Lambda. The worker adds the rest.
func common() map[string]string {
	return map[string]string{
		"AWS_DEFAULT_REGION": "eu-west-1", "AWS_REGION": "eu-west-1",
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024", "AWS_LAMBDA_FUNCTION_NAME": "fn", "AWS_LAMBDA_FUNCTION_VERSION": "7",
		"AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/fn",
		"AWS_XRAY_CONTEXT_MISSING":  "LOG_ERROR", "AWS_XRAY_DAEMON_ADDRESS": "169.254.100.1:2000",
		"LAMBDA_RUNTIME_DIR": "/var/runtime", "LAMBDA_TASK_ROOT": "/var/task", "LANG": "en_US.UTF-8",
		"LD_LIBRARY_PATH": "/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib",
		"PATH":            "/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin",
		"TEST_KEY":        "TEST_VAL", "TZ": ":UTC", "_AWS_XRAY_DAEMON_ADDRESS": "169.254.100.1", "_AWS_XRAY_DAEMON_PORT": "2000",
		"_HANDLER": "app.handler",
	}
}

func TestLaunchEnvironment(t *testing.T) {
	interpreted := map[string]string{"PWD": "/var/task", "SHLVL": "0"}
	python := map[string]string{"PYTHONPATH": "/var/runtime"}
	cases := []struct {
		name, runtime string
		change        func(*lambent.FunctionVersion)
		want          []map[string]string // on top of what is common
		without       []string
	}{
		{"python3.11", "python3.11", nil, []map[string]string{interpreted, python, {"AWS_EXECUTION_ENV": "AWS_Lambda_python3.11"}}, nil},
		{"python3.12", "python3.12", nil, []map[string]string{interpreted, python, {"AWS_EXECUTION_ENV": "AWS_Lambda_python3.12", "LC_CTYPE": "C.UTF-8"}}, nil},
		{"nodejs20.x", "nodejs20.x", nil, []map[string]string{interpreted, {"AWS_EXECUTION_ENV": "AWS_Lambda_nodejs20.x",
			"NODE_PATH": "/opt/nodejs/node20/node_modules:/opt/nodejs/node_modules:/var/runtime/node_modules:/var/runtime:/var/task"}}, nil},
		{"provided.al2023", "provided.al2023", nil, nil, nil},
		{"provided.al2", "provided.al2", nil, []map[string]string{{
			"PATH":            "/usr/local/bin:/usr/bin/:/bin:/opt/bin",
			"LD_LIBRARY_PATH": "/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib"}}, nil},
		{"JSON", "provided.al2023", func(v *lambent.FunctionVersion) { v.Logging.Format = lambent.LogJSON },
			[]map[string]string{{"AWS_LAMBDA_LOG_FORMAT": "JSON", "AWS_LAMBDA_LOG_LEVEL": "INFO"}}, nil},
		{"JSON with a level", "provided.al2023", func(v *lambent.FunctionVersion) {
			v.Logging = lambent.Logging{Format: lambent.LogJSON, ApplicationLevel: "DEBUG", Group: "own"}
		}, []map[string]string{{"AWS_LAMBDA_LOG_FORMAT": "JSON", "AWS_LAMBDA_LOG_LEVEL": "DEBUG", "AWS_LAMBDA_LOG_GROUP_NAME": "own"}}, nil},
		{"the latest version", "provided.al2023", func(v *lambent.FunctionVersion) { v.Key.Version = lambent.Latest },
			[]map[string]string{{"AWS_LAMBDA_FUNCTION_VERSION": "$LATEST"}}, nil},
		{"what a function may change", "python3.11", func(v *lambent.FunctionVersion) {
			v.Environment = map[string]string{"PATH": "/p", "LD_LIBRARY_PATH": "/l:/var/runtime/lib", "TZ": "Asia/Tokyo", "LANG": "C", "PYTHONPATH": "/opt", "EMPTY": "", "EQ": "a=b"}
		}, []map[string]string{interpreted, {"AWS_EXECUTION_ENV": "AWS_Lambda_python3.11", "PATH": "/p", "LD_LIBRARY_PATH": "/l:/var/runtime/lib:/var/lang/lib",
			"TZ": "Asia/Tokyo", "LANG": "C", "PYTHONPATH": "/opt", "EMPTY": "", "EQ": "a=b"}}, []string{"TEST_KEY"}},
		{"what it may not", "provided.al2023", func(v *lambent.FunctionVersion) {
			v.Environment = map[string]string{"_HANDLER": "x", "AWS_REGION": "x", "AWS_DEFAULT_REGION": "x", "AWS_EXECUTION_ENV": "x", "AWS_LAMBDA_FUNCTION_NAME": "x",
				"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "x", "AWS_LAMBDA_FUNCTION_VERSION": "x", "AWS_LAMBDA_INITIALIZATION_TYPE": "x",
				"AWS_LAMBDA_LOG_GROUP_NAME": "x", "AWS_LAMBDA_LOG_STREAM_NAME": "x", "AWS_ACCESS_KEY": "x", "AWS_ACCESS_KEY_ID": "x",
				"AWS_SECRET_ACCESS_KEY": "x", "AWS_SESSION_TOKEN": "x", "AWS_LAMBDA_RUNTIME_API": "x", "LAMBDA_TASK_ROOT": "x",
				"LAMBDA_RUNTIME_DIR": "x", "_X_AMZN_TRACE_ID": "x"}
		}, nil, []string{"TEST_KEY"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			v := testVersion(c.runtime)
			if c.change != nil {
				c.change(v)
			}
			launch, err := testRegistry().Launch(v)
			if err != nil {
				t.Fatal(err)
			}
			want := common()
			for _, more := range c.want {
				for name, value := range more {
					want[name] = value
				}
			}
			for _, name := range c.without {
				delete(want, name)
			}
			got := map[string]string{}
			for _, variable := range launch.Command.Env {
				name, value, _ := strings.Cut(variable, "=")
				got[name] = value
			}
			if diff := cmp.Diff(want, got); diff != "" || len(got) != len(launch.Command.Env) || !slices.IsSorted(launch.Command.Env) {
				t.Errorf("%s\n%q", diff, launch.Command.Env)
			}
		})
	}
}

func TestLaunchCommand(t *testing.T) {
	bootstrap := func(name string) sandbox.Mount {
		return sandbox.Mount{Source: "/data/" + name + "-1", Target: "/var/runtime"}
	}
	python := []sandbox.Mount{{Source: "/opt/3.11.7", Target: "/var/lang"}, bootstrap("python3.11")}
	node := []sandbox.Mount{{Source: "/usr/bin/node", Target: "/var/lang/bin/node"}, bootstrap("nodejs20.x")}
	cases := []struct {
		name, runtime, class string
		environment          map[string]string
		path                 string
		args                 []string
		entrypoints          []string
		mounts               []sandbox.Mount
		version              string
	}{
		{"Python", "python3.11", "python3.11", nil, "/var/lang/bin/python3.11", []string{"/var/lang/bin/python3.11", "-u", "-S", "/var/runtime/bootstrap.py"}, nil, python, "python:3.11.v7"},
		{"Python with site", "python3.11", "python3.11", map[string]string{"PYTHONPATH": "/opt/x"}, "/var/lang/bin/python3.11",
			[]string{"/var/lang/bin/python3.11", "-u", "/var/runtime/bootstrap.py"}, nil, python, "python:3.11.v7"},
		{"Python with a wrapper", "python3.11", "python3.11", map[string]string{"AWS_LAMBDA_EXEC_WRAPPER": "/opt/w"}, "/bin/sh",
			[]string{"sh", "-c", `exec "$0" "$@"`, "/opt/w", "/var/lang/bin/python3.11", "-u", "/var/runtime/bootstrap.py"}, nil, python, "python:3.11.v7"},
		{"Node.js", "nodejs20.x", "nodejs20.x", nil, "/var/lang/bin/node",
			[]string{"/var/lang/bin/node", "--max-semi-space-size=51", "--max-old-space-size=921", "/var/runtime/index.cjs"}, nil, node, "nodejs:20.v18"},
		{"provided", "provided.al2023", "provided", map[string]string{"AWS_LAMBDA_EXEC_WRAPPER": "/opt/w"}, "/var/task/bootstrap", []string{"/var/task/bootstrap"},
			[]string{"/var/task/bootstrap", "/opt/bootstrap"}, nil, "provided:al2023.v1"},
	}
	arns := map[string]bool{}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			v := testVersion(c.runtime)
			v.Environment = c.environment
			launch, err := testRegistry().Launch(v)
			if err != nil {
				t.Fatal(err)
			}
			command := launch.Command
			command.Env = nil
			want := Launch{Command: sandbox.Command{Path: c.path, Args: c.args, Dir: "/var/task"}, Class: c.class, Entrypoints: c.entrypoints,
				Mounts: c.mounts, Version: c.version, VersionARN: launch.VersionARN}
			launch.Command = command
			if diff := cmp.Diff(want, launch); diff != "" {
				t.Error(diff)
			}
			if !strings.HasPrefix(launch.VersionARN, "arn:aws:lambda:eu-west-1::runtime:") || len(launch.VersionARN) != 34+64 {
				t.Errorf("ARN %q", launch.VersionARN)
			}
			arns[launch.VersionARN] = true
		})
	}
	if len(arns) != 3 {
		t.Errorf("%d runtimes have %d ARNs", 3, len(arns))
	}
}

func TestLaunchRefuses(t *testing.T) {
	r := testRegistry()
	for _, runtime := range []string{"python3.9", "nodejs22.x", "java21", "", "provided"} {
		_, err := r.Launch(testVersion(runtime))
		if lambent.CodeOf(err) != lambent.InvalidRuntime || !strings.Contains(err.Error(), `this host has python3.8, python3.11, python3.12, nodejs20.x, provided.al2, provided.al2023.`) {
			t.Errorf("%q: %v", runtime, err)
		}
	}
	v := testVersion("provided.al2023")
	v.Architecture = "riscv64"
	if _, err := r.Launch(v); lambent.CodeOf(err) != lambent.InvalidRuntime || !strings.Contains(err.Error(), architecture()) {
		t.Errorf("another architecture: %v", err)
	}
}

// What a function's version holds is shared: launching it must not change it, nor the registry.
func TestLaunchLeavesItsInputAlone(t *testing.T) {
	r, v := testRegistry(), testVersion("python3.11")
	first, err := r.Launch(v)
	if err != nil {
		t.Fatal(err)
	}
	first.Mounts[0].Source = "changed"
	first.Command.Env[0] = "changed"
	second, err := r.Launch(v)
	if err != nil || second.Mounts[0].Source == "changed" || second.Command.Env[0] == "changed" {
		t.Errorf("%+v, %v", second, err)
	}
	if diff := cmp.Diff(testVersion("python3.11"), v); diff != "" {
		t.Error(diff)
	}
}
