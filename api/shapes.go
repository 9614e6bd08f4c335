package api

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"time"

	"lambent"
	"lambent/functions"
)

// settable are the members that CreateFunction and UpdateFunctionConfiguration share.
type settable struct {
	Runtime           *string
	Role              *string
	Handler           *string
	Description       *string
	Timeout           *int
	MemorySize        *int
	KMSKeyArn         *string
	Layers            *[]string
	Environment       *struct{ Variables map[string]string }
	VpcConfig         *vpcConfig
	DeadLetterConfig  *struct{ TargetArn string }
	TracingConfig     *struct{ Mode string }
	EphemeralStorage  *struct{ Size *int }
	SnapStart         *struct{ ApplyOn string }
	LoggingConfig     *loggingConfig
	FileSystemConfigs []json.RawMessage
	ImageConfig       *json.RawMessage
}

type vpcConfig struct {
	SubnetIds               []string
	SecurityGroupIds        []string
	Ipv6AllowedForDualStack bool
}

type loggingConfig struct {
	LogFormat           string `json:",omitempty"`
	ApplicationLogLevel string `json:",omitempty"`
	SystemLogLevel      string `json:",omitempty"`
	LogGroup            string `json:",omitempty"`
}

type code struct {
	ZipFile         []byte
	S3Bucket        string
	S3Key           string
	S3ObjectVersion string
	ImageURI        string `json:"ImageUri"`
}

type createFunctionInput struct {
	settable
	FunctionName         *string
	Code                 *code
	PackageType          string
	Architectures        []string
	Publish              bool
	Tags                 map[string]string
	CodeSigningConfigArn string
}

// domain turns the wire's members into the control plane's.
func (s *settable) domain() functions.Settable {
	d := functions.Settable{Runtime: s.Runtime, Role: s.Role, Handler: s.Handler, Description: s.Description, MemoryMiB: s.MemorySize,
		KMSKeyARN: s.KMSKeyArn, Layers: s.Layers, FileSystems: len(s.FileSystemConfigs), ImageConfig: s.ImageConfig != nil}
	if s.Timeout != nil {
		timeout := time.Duration(*s.Timeout) * time.Second
		d.Timeout = &timeout
	}
	if s.EphemeralStorage != nil {
		d.EphemeralMiB = s.EphemeralStorage.Size
	}
	if s.Environment != nil {
		variables := s.Environment.Variables
		if variables == nil {
			variables = map[string]string{}
		}
		d.Environment = &variables
	}
	if s.VpcConfig != nil {
		d.VpcConfig = &functions.VpcConfig{SubnetIDs: s.VpcConfig.SubnetIds, SecurityGroupIDs: s.VpcConfig.SecurityGroupIds, IPv6Allowed: s.VpcConfig.Ipv6AllowedForDualStack}
	}
	if s.DeadLetterConfig != nil {
		d.DeadLetter = &functions.DeadLetter{TargetARN: s.DeadLetterConfig.TargetArn}
	}
	if s.TracingConfig != nil && s.TracingConfig.Mode != "" {
		d.TracingMode = &s.TracingConfig.Mode
	}
	if s.SnapStart != nil && s.SnapStart.ApplyOn != "" {
		d.SnapStart = &s.SnapStart.ApplyOn
	}
	if s.LoggingConfig != nil {
		d.Logging = &functions.LoggingConfig{Format: lambent.LogFormat(s.LoggingConfig.LogFormat), ApplicationLevel: s.LoggingConfig.ApplicationLogLevel,
			SystemLevel: s.LoggingConfig.SystemLogLevel, Group: s.LoggingConfig.LogGroup}
	}
	return d
}

func (c *code) domain() functions.Code {
	if c == nil {
		return functions.Code{}
	}
	return functions.Code{ZipFile: c.ZipFile, S3Bucket: c.S3Bucket, S3Key: c.S3Key, S3ObjectVersion: c.S3ObjectVersion, ImageURI: c.ImageURI}
}

// configuration is FunctionConfiguration on the wire. Members that are absent are left out; the others appear as AWS has them.
func configuration(c *functions.Configuration) map[string]any {
	m := map[string]any{
		"FunctionName": c.Function.Name, "FunctionArn": c.ARN, "Version": c.Version, "Description": c.Description, "Role": c.Role,
		"Architectures": c.Architectures, "PackageType": c.PackageType, "Timeout": int(c.Timeout / time.Second), "MemorySize": c.MemoryMiB,
		"EphemeralStorage": map[string]int{"Size": c.EphemeralMiB}, "CodeSha256": c.CodeSHA256(), "CodeSize": c.Code.Size,
		"LastModified": c.LastModifiedText(), "RevisionId": c.RevisionID, "TracingConfig": map[string]string{"Mode": c.TracingMode},
		"SnapStart":     map[string]string{"ApplyOn": c.SnapStart.ApplyOn, "OptimizationStatus": c.SnapStart.Optimization},
		"LoggingConfig": loggingConfig{string(c.Logging.Format), c.Logging.ApplicationLevel, c.Logging.SystemLevel, c.Logging.Group},
	}
	for name, value := range map[string]string{"Runtime": c.Runtime, "Handler": c.Handler, "KMSKeyArn": c.KMSKeyARN, "State": string(c.State),
		"StateReason": c.StateReason, "StateReasonCode": c.StateReasonCode, "LastUpdateStatus": string(c.LastUpdateStatus),
		"LastUpdateStatusReason": c.LastUpdateStatusReason, "LastUpdateStatusReasonCode": c.LastUpdateStatusReasonCode} {
		if value != "" {
			m[name] = value
		}
	}
	if c.Environment != nil {
		m["Environment"] = map[string]any{"Variables": c.Environment}
	}
	if v := c.VpcConfig; v != nil {
		m["VpcConfig"] = map[string]any{"SubnetIds": orEmpty(v.SubnetIDs), "SecurityGroupIds": orEmpty(v.SecurityGroupIDs), "Ipv6AllowedForDualStack": v.IPv6Allowed, "VpcId": v.VpcID}
	}
	if c.DeadLetter != nil {
		m["DeadLetterConfig"] = map[string]string{"TargetArn": c.DeadLetter.TargetARN}
	}
	if c.RuntimeVersionARN != "" {
		m["RuntimeVersionConfig"] = map[string]string{"RuntimeVersionArn": c.RuntimeVersionARN}
	}
	return m
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

func alias(a *functions.Alias) map[string]any {
	m := map[string]any{"AliasArn": a.ARN, "Name": a.Name, "FunctionVersion": a.Version, "Description": a.Description, "RevisionId": a.RevisionID}
	if a.Weights != nil {
		m["RoutingConfig"] = map[string]any{"AdditionalVersionWeights": a.Weights}
	}
	return m
}

// decode reads the body's JSON. An empty body is an empty object. Members that are not known are ignored, as by AWS.
func (c *call) decode(into any) error {
	if len(c.body) == 0 {
		return nil
	}
	err := json.Unmarshal(c.body, into)
	var wrong *json.UnmarshalTypeError
	var base64Error base64.CorruptInputError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &wrong):
		return &modelError{serialization, wrongType(wrong)}
	case errors.As(err, &base64Error):
		return &modelError{serialization, "A blob is not in base64: " + base64Error.Error()}
	}
	return lambent.Wrap(lambent.InvalidContent, err, "Could not parse request body into json: %v", err)
}

// wrongType says a member's wrong type as AWS's deserialisers do.
func wrongType(wrong *json.UnmarshalTypeError) string {
	value, _, _ := strings.Cut(wrong.Value, " ")
	field := wrong.Field
	for _, embedded := range []string{"settable.", "code."} {
		field = strings.TrimPrefix(field, embedded)
	}
	kinds := map[string]string{"string": "STRING_VALUE", "number": "NUMBER_VALUE", "bool": "TRUE_VALUE"}
	if kinds[value] == "" || wrong.Type.Kind() == reflect.Struct || wrong.Type.Kind() == reflect.Map {
		return "Unexpected " + value + " found in request body at '" + field + "'"
	}
	wanted := "collection"
	switch wrong.Type.Kind() {
	case reflect.String:
		wanted = "String"
	case reflect.Int, reflect.Int64:
		wanted = "Integer"
	case reflect.Float64:
		wanted = "Double"
	case reflect.Bool:
		wanted = "Boolean"
	}
	return kinds[value] + " can not be converted to " + wanted + " at '" + field + "'"
}
