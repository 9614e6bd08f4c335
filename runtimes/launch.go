package runtimes

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"lambent"
	"lambent/sandbox"
)

// Where things are in a sandbox, as on Lambda.
const (
	taskRoot   = "/var/task"
	runtimeDir = "/var/runtime"
	langDir    = "/var/lang"

	searchPath  = langDir + "/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin"
	libraryPath = langDir + "/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib"
)

func (r *Registry) launchPython(v *lambent.FunctionVersion, found interpreter) Launch {
	env := map[string]string{"PYTHONPATH": runtimeDir}
	if minor(found.Version) >= 12 {
		env["LC_CTYPE"] = "C.UTF-8" // what Python itself sets where the locale of LANG is not installed
	}
	// Output is unbuffered: what a function prints is in the log even if the function is killed. Without its site module
	// Python starts in half the time; the bootstrap does what functions need of it. A wrapper, or a PYTHONPATH of the
	// function's own, may rely on sitecustomize, which site loads.
	args := []string{langDir + "/bin/python" + majorMinor(found.Version), "-u"}
	_, ownPath := v.Environment["PYTHONPATH"]
	if v.Environment["AWS_LAMBDA_EXEC_WRAPPER"] == "" && !ownPath {
		args = append(args, "-S")
	}
	launch := r.launchInterpreter(v, found, append(args, runtimeDir+"/bootstrap.py"), env)
	launch.Version = fmt.Sprintf("python:%s.v%s", majorMinor(found.Version), lastPart(found.Version))
	return r.withARN(launch, found.Key)
}

func (r *Registry) launchNode(v *lambent.FunctionVersion, found interpreter) Launch {
	major, rest, _ := strings.Cut(found.Version, ".")
	env := map[string]string{
		"NODE_PATH": fmt.Sprintf("/opt/nodejs/node%s/node_modules:/opt/nodejs/node_modules:%[2]s/node_modules:%[2]s:%s",
			major, runtimeDir, taskRoot),
	}
	args := []string{langDir + "/bin/node"}
	if v.MemoryMiB > 0 { // V8 sizes its heap by the host's memory, of which the function has a part
		args = append(args, "--max-semi-space-size="+strconv.Itoa(max(1, v.MemoryMiB*5/100)),
			"--max-old-space-size="+strconv.Itoa(v.MemoryMiB*90/100))
	}
	launch := r.launchInterpreter(v, found, append(args, runtimeDir+"/index.cjs"), env)
	minor, _, _ := strings.Cut(rest, ".")
	launch.Version = fmt.Sprintf("nodejs:%s.v%s", major, minor)
	return r.withARN(launch, found.Key)
}

// launchInterpreter composes what the interpreted languages share. The bootstrap is the last argument, which is what
// wrapper scripts count on.
func (r *Registry) launchInterpreter(v *lambent.FunctionVersion, found interpreter, args []string, env map[string]string) Launch {
	env["AWS_EXECUTION_ENV"] = "AWS_Lambda_" + v.Runtime
	env["PATH"], env["LD_LIBRARY_PATH"] = searchPath, libraryPath
	env["PWD"], env["SHLVL"] = taskRoot, "0"
	command := sandbox.Command{Path: args[0], Args: args, Env: r.environment(v, env), Dir: taskRoot}
	if wrapper := v.Environment["AWS_LAMBDA_EXEC_WRAPPER"]; wrapper != "" {
		// The shell ends with status 127 when there is no such wrapper, as it does on Lambda.
		command.Path = "/bin/sh"
		command.Args = append([]string{"sh", "-c", `exec "$0" "$@"`, wrapper}, args...)
	}
	mounts := append(slices.Clone(found.Mounts), sandbox.Mount{Source: found.Bootstrap, Target: runtimeDir})
	return Launch{Command: command, Class: v.Runtime, Mounts: mounts}
}

func (r *Registry) launchProvided(v *lambent.FunctionVersion) Launch {
	env := map[string]string{"PATH": searchPath, "LD_LIBRARY_PATH": libraryPath}
	if v.Runtime == "provided.al2" { // has no /var/lang
		env["PATH"] = strings.TrimPrefix(searchPath, langDir+"/bin:")
		env["LD_LIBRARY_PATH"] = strings.TrimPrefix(libraryPath, langDir+"/lib:")
	}
	entrypoints := []string{taskRoot + "/bootstrap", "/opt/bootstrap"}
	launch := Launch{
		Command:     sandbox.Command{Path: entrypoints[0], Args: entrypoints[:1:1], Env: r.environment(v, env), Dir: taskRoot},
		Class:       language(v.Runtime),
		Entrypoints: entrypoints,
		Version:     "provided:" + strings.TrimPrefix(v.Runtime, "provided.") + ".v1",
	}
	return r.withARN(launch, "")
}

// withARN names the runtime's build: the interpreter's and the bootstrap's.
func (r *Registry) withARN(launch Launch, build string) Launch {
	sum := sha256.Sum256([]byte(launch.Version + "\x00" + build))
	launch.VersionARN = "arn:aws:lambda:" + r.region + "::runtime:" + hex.EncodeToString(sum[:])
	return launch
}

// environment returns the variables of a function, sorted: the runtime's, those of Lambda, and the function's own, which may
// change the former but not the latter.
func (r *Registry) environment(v *lambent.FunctionVersion, runtime map[string]string) []string {
	all := map[string]string{
		"LANG": "en_US.UTF-8", "TZ": ":UTC",
		"AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR", "AWS_XRAY_DAEMON_ADDRESS": "169.254.100.1:2000",
		"_AWS_XRAY_DAEMON_ADDRESS": "169.254.100.1", "_AWS_XRAY_DAEMON_PORT": "2000",
	}
	for name, value := range runtime {
		all[name] = value
	}
	for name, value := range v.Environment {
		all[name] = value
	}
	if path, ok := v.Environment["LD_LIBRARY_PATH"]; ok {
		all["LD_LIBRARY_PATH"] = withLanguage(path, runtime["LD_LIBRARY_PATH"])
	}
	for _, name := range sandboxVariables() {
		delete(all, name)
	}
	for name, value := range r.protected(v) {
		all[name] = value
	}
	if value, ok := runtime["AWS_EXECUTION_ENV"]; ok {
		all["AWS_EXECUTION_ENV"] = value
	} else {
		delete(all, "AWS_EXECUTION_ENV")
	}
	env := make([]string, 0, len(all))
	for name, value := range all {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return env
}

// protected are the variables that say what the function is. Its own cannot replace them.
func (r *Registry) protected(v *lambent.FunctionVersion) map[string]string {
	vars := map[string]string{
		"_HANDLER":                        v.Handler,
		"AWS_DEFAULT_REGION":              r.region,
		"AWS_REGION":                      r.region,
		"AWS_LAMBDA_FUNCTION_NAME":        v.Name,
		"AWS_LAMBDA_FUNCTION_VERSION":     cmp.Or(v.Key.Version, lambent.Latest),
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": strconv.Itoa(v.MemoryMiB),
		"AWS_LAMBDA_LOG_GROUP_NAME":       cmp.Or(v.Logging.Group, "/aws/lambda/"+v.Name),
		"LAMBDA_RUNTIME_DIR":              runtimeDir,
		"LAMBDA_TASK_ROOT":                taskRoot,
	}
	if v.Logging.Format == lambent.LogJSON {
		vars["AWS_LAMBDA_LOG_FORMAT"] = string(v.Logging.Format)
		vars["AWS_LAMBDA_LOG_LEVEL"] = cmp.Or(v.Logging.ApplicationLevel, "INFO")
	}
	return vars
}

// sandboxVariables are set by the worker, or by the bootstrap at each invoke.
func sandboxVariables() []string {
	return []string{"AWS_LAMBDA_RUNTIME_API", "AWS_LAMBDA_LOG_STREAM_NAME", "AWS_LAMBDA_INITIALIZATION_TYPE",
		"AWS_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "_X_AMZN_TRACE_ID"}
}

// withLanguage keeps the interpreter's libraries in reach of a search path that a function has set.
func withLanguage(own, standard string) string {
	for _, dir := range []string{langDir + "/lib", runtimeDir + "/lib"} {
		if slices.Contains(strings.Split(standard, ":"), dir) && !slices.Contains(strings.Split(own, ":"), dir) {
			own += ":" + dir
		}
	}
	return own
}

// architecture is Lambda's name for what this host's processor runs.
func architecture() string {
	if runtime.GOARCH == "amd64" {
		return "x86_64"
	}
	return runtime.GOARCH
}

func majorMinor(version string) string { return strings.TrimSuffix(version, path.Ext(version)) }

func lastPart(version string) string { return strings.TrimPrefix(path.Ext(version), ".") }

func minor(version string) int {
	n, _ := strconv.Atoi(lastPart(majorMinor(version)))
	return n
}

// compareVersions orders dotted numbers.
func compareVersions(a, b string) int {
	return slices.CompareFunc(strings.Split(a, "."), strings.Split(b, "."), func(x, y string) int {
		m, _ := strconv.Atoi(x)
		n, _ := strconv.Atoi(y)
		return cmp.Compare(m, n)
	})
}
