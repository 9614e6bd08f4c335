package functions

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"lambent"
)

const (
	packageZip      = "Zip"
	architectureX86 = "x86_64"
	architectureARM = "arm64"
	// maxEnvironment bounds the environment as JSON, in bytes.
	maxEnvironment = 4096
	maxNameLength  = 64
	maxTagKey      = 128 // characters
	maxTagValue    = 256
	// tenantIsolationMode is the one mode that there is.
	tenantIsolationMode = "PER_TENANT"
)

// runtimes that functions can be created with.
func supportedRuntimes() []string {
	return []string{
		"nodejs16.x", "nodejs18.x", "nodejs20.x", "nodejs22.x", "nodejs24.x",
		"python3.8", "python3.9", "python3.10", "python3.11", "python3.12", "python3.13", "python3.14",
		"java8.al2", "java11", "java17", "java21", "java25", "dotnet6", "dotnet8", "dotnet10",
		"ruby3.2", "ruby3.3", "ruby3.4", "ruby4.0", "provided.al2", "provided.al2023",
	}
}

// runtimes that Lambda once had.
func retiredRuntimes() []string {
	return []string{
		"nodejs", "nodejs4.3", "nodejs4.3-edge", "nodejs6.10", "nodejs8.10", "nodejs10.x", "nodejs12.x", "nodejs14.x",
		"java8", "python2.7", "python3.6", "python3.7", "dotnetcore1.0", "dotnetcore2.0", "dotnetcore2.1", "dotnetcore3.1",
		"go1.x", "ruby2.5", "ruby2.7", "provided",
	}
}

// reservedVariables belong to Lambda.
func reservedVariables() []string {
	return []string{
		"_HANDLER", "_X_AMZN_TRACE_ID", "AWS_DEFAULT_REGION", "AWS_REGION", "AWS_EXECUTION_ENV", "AWS_LAMBDA_FUNCTION_NAME",
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "AWS_LAMBDA_FUNCTION_VERSION", "AWS_LAMBDA_INITIALIZATION_TYPE",
		"AWS_LAMBDA_LOG_GROUP_NAME", "AWS_LAMBDA_LOG_STREAM_NAME", "AWS_ACCESS_KEY", "AWS_ACCESS_KEY_ID",
		"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_LAMBDA_RUNTIME_API", "LAMBDA_TASK_ROOT", "LAMBDA_RUNTIME_DIR",
	}
}

// checkSettable judges what a request sets. It does not depend on what is there.
func checkSettable(set Settable) error {
	checks := []func() error{
		func() error { return checkRuntime(set.Runtime) },
		func() error { return checkRange("memorySize", set.MemoryMiB, 128, 10_240) },
		func() error { return checkRange("ephemeralStorage.size", set.EphemeralMiB, 512, 10_240) },
		func() error { return checkTimeout(set.Timeout) },
		func() error { return checkEnum("tracingConfig.mode", set.TracingMode, "Active", "PassThrough") },
		func() error { return checkEnum("snapStart.applyOn", set.SnapStart, "PublishedVersions", "None") },
		func() error { return checkLoggingEnums(set.Logging) },
		func() error { return checkUnsupported(set) },
		func() error { return checkEnvironment(set.Environment) },
	}
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func checkRuntime(runtime *string) error {
	switch {
	case runtime == nil || slices.Contains(supportedRuntimes(), *runtime):
		return nil
	case slices.Contains(retiredRuntimes(), *runtime):
		return invalid("The runtime parameter of %s is no longer supported for creating or updating AWS Lambda functions. "+
			"We recommend you use a supported runtime while creating or updating functions.", *runtime)
	}
	return invalid("Value %s at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: [%s] or be a valid ARN",
		*runtime, strings.Join(supportedRuntimes(), ", "))
}

func checkRange(member string, value *int, least, most int) error {
	switch {
	case value == nil:
		return nil
	case *value < least:
		return unmet(strconv.Itoa(*value), member, "Member must have value greater than or equal to "+strconv.Itoa(least))
	case *value > most:
		return unmet(strconv.Itoa(*value), member, "Member must have value less than or equal to "+strconv.Itoa(most))
	}
	return nil
}

func checkTimeout(timeout *time.Duration) error {
	if timeout == nil {
		return nil
	}
	seconds := int(*timeout / time.Second)
	return checkRange("timeout", &seconds, 1, 900)
}

func checkEnum(member string, value *string, allowed ...string) error {
	if value == nil || slices.Contains(allowed, *value) {
		return nil
	}
	return unmet(*value, member, "Member must satisfy enum value set: ["+strings.Join(allowed, ", ")+"]")
}

func checkLoggingEnums(logging *LoggingConfig) error {
	if logging == nil {
		return nil
	}
	enums := []struct {
		member, value string
		allowed       []string
	}{
		{"loggingConfig.logFormat", string(logging.Format), []string{string(lambent.LogJSON), string(lambent.LogText)}},
		{"loggingConfig.applicationLogLevel", logging.ApplicationLevel, []string{"TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"}},
		{"loggingConfig.systemLogLevel", logging.SystemLevel, []string{"DEBUG", "INFO", "WARN"}},
	}
	for _, enum := range enums {
		if enum.value == "" {
			continue
		}
		if err := checkEnum(enum.member, &enum.value, enum.allowed...); err != nil {
			return err
		}
	}
	return nil
}

// checkUnsupported refuses what this control plane does not have, instead of leaving it out silently.
func checkUnsupported(set Settable) error {
	switch {
	case set.Layers != nil && len(*set.Layers) > 0:
		return invalid("Layer version %s does not exist. Layers are not supported yet.", (*set.Layers)[0])
	case set.FileSystems > 0:
		return invalid("FileSystemConfigs are not supported.")
	case set.ImageConfig:
		return invalid("ImageConfig is only supported for functions of PackageType Image, which are not supported.")
	}
	return nil
}

func checkEnvironment(environment *map[string]string) error {
	if environment == nil {
		return nil
	}
	const prefix = "Lambda was unable to configure your environment variables because the environment variables you have provided "
	var reserved []string
	for _, name := range reservedVariables() {
		if _, ok := (*environment)[name]; ok {
			reserved = append(reserved, name)
		}
	}
	if len(reserved) > 0 {
		return invalid(prefix+"contains reserved keys that are currently not supported for modification. Reserved keys used in this request: %s",
			strings.Join(reserved, ", "))
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(*environment); err != nil {
		return lambent.Wrap(lambent.Internal, fmt.Errorf("functions: encode an environment: %w", err), internalMessage)
	}
	if measured := bytes.TrimSuffix(text.Bytes(), []byte("\n")); len(measured) > maxEnvironment {
		return invalid(prefix+"exceeded the 4KB limit. String measured: %s", measured)
	}
	return nil
}

// checkResult judges a configuration as a request leaves it.
func checkResult(c *Configuration, logging *LoggingConfig) error {
	if c.Runtime == "" || c.Handler == "" {
		return invalid("Runtime and Handler are mandatory parameters for functions created with deployment packages.")
	}
	if logging != nil && c.Logging.Format != lambent.LogJSON && (logging.ApplicationLevel != "" || logging.SystemLevel != "") {
		return invalid("To set ApplicationLogLevel or SystemLogLevel, LogFormat must be JSON.")
	}
	if c.SnapStart.ApplyOn != "None" && c.TenantIsolation != "" {
		return invalid("SnapStart is not supported for functions with tenant isolation.")
	}
	if c.SnapStart.ApplyOn != "None" && !snapStartRuntime(c.Runtime) {
		return invalid("%s is not supported for SnapStart enabled functions.", c.Runtime)
	}
	return nil
}

func snapStartRuntime(runtime string) bool {
	without := []string{"python3.8", "python3.9", "python3.10", "python3.11", "java8.al2", "dotnet6"}
	for _, family := range []string{"python", "java", "dotnet"} {
		if strings.HasPrefix(runtime, family) {
			return !slices.Contains(without, runtime)
		}
	}
	return false
}

func checkArchitectures(architectures []string) error {
	if len(architectures) == 0 {
		return nil
	}
	ok := len(architectures) == 1 && (architectures[0] == architectureX86 || architectures[0] == architectureARM)
	if ok {
		return nil
	}
	return unmet("["+strings.Join(architectures, ", ")+"]", "architectures",
		"Member must satisfy constraint: [Member must satisfy enum value set: [x86_64, arm64], Member must not be null]")
}

// checkTags judges the tags that a function would have.
func checkTags(tags map[string]string) error {
	if len(tags) > MaxTags {
		return invalid("Number of tags exceeds resource tag limit.")
	}
	for key, value := range tags {
		if length := len([]rune(key)); length == 0 || length > maxTagKey {
			return invalid("The tag key must have a length of 1 to %d characters.", maxTagKey)
		}
		if len([]rune(value)) > maxTagValue {
			return invalid("The value of the tag %s must have a length of at most %d characters.", key, maxTagValue)
		}
	}
	return nil
}

// checkName judges the name of a new function.
func checkName(name string) error {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
	switch {
	case name == "" || strings.Trim(name, letters) != "":
		return unmet(name, "functionName", "Member must satisfy regular expression pattern: [a-zA-Z0-9-_]+")
	case len(name) > maxNameLength:
		return unmet(name, "functionName", "Member must have length less than or equal to "+strconv.Itoa(maxNameLength))
	}
	return nil
}
