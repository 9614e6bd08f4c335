package api

import (
	"time"

	"lambent"
	"lambent/api/internal/wire"
	"lambent/functions"
)

// settable are the members that CreateFunction and UpdateFunctionConfiguration share.
type settable struct {
	runtime, role, handler, description, kmsKeyARN *string
	timeout, memorySize                            *int
	layers                                         []string
	environment                                    *wire.Environment
	vpc                                            *wire.VpcConfig
	deadLetter                                     *wire.DeadLetterConfig
	tracing                                        *wire.TracingConfig
	ephemeral                                      *wire.EphemeralStorage
	snapStart                                      *wire.SnapStart
	logging                                        *wire.LoggingConfig
	fileSystems                                    []wire.FileSystemConfig
	image                                          *wire.ImageConfig
}

func created(in *wire.CreateFunctionRequest) *settable {
	return &settable{runtime: in.Runtime, role: in.Role, handler: in.Handler, description: in.Description, kmsKeyARN: in.KMSKeyArn,
		timeout: in.Timeout, memorySize: in.MemorySize, layers: in.Layers, environment: in.Environment, vpc: in.VpcConfig,
		deadLetter: in.DeadLetterConfig, tracing: in.TracingConfig, ephemeral: in.EphemeralStorage, snapStart: in.SnapStart,
		logging: in.LoggingConfig, fileSystems: in.FileSystemConfigs, image: in.ImageConfig}
}

func updated(in *wire.UpdateFunctionConfigurationRequest) *settable {
	return &settable{runtime: in.Runtime, role: in.Role, handler: in.Handler, description: in.Description, kmsKeyARN: in.KMSKeyArn,
		timeout: in.Timeout, memorySize: in.MemorySize, layers: in.Layers, environment: in.Environment, vpc: in.VpcConfig,
		deadLetter: in.DeadLetterConfig, tracing: in.TracingConfig, ephemeral: in.EphemeralStorage, snapStart: in.SnapStart,
		logging: in.LoggingConfig, fileSystems: in.FileSystemConfigs, image: in.ImageConfig}
}

// domain turns the wire's members into the control plane's.
func (s *settable) domain() functions.Settable {
	d := functions.Settable{Runtime: s.runtime, Role: s.role, Handler: s.handler, Description: s.description, MemoryMiB: s.memorySize,
		KMSKeyARN: s.kmsKeyARN, FileSystems: len(s.fileSystems), ImageConfig: s.image != nil}
	if s.layers != nil {
		d.Layers = &s.layers
	}
	if s.timeout != nil {
		d.Timeout = new(time.Duration(*s.timeout) * time.Second)
	}
	if s.ephemeral != nil {
		d.EphemeralMiB = s.ephemeral.Size
	}
	if s.environment != nil {
		variables := s.environment.Variables
		if variables == nil {
			variables = map[string]string{}
		}
		d.Environment = &variables
	}
	if s.vpc != nil {
		d.VpcConfig = &functions.VpcConfig{SubnetIDs: s.vpc.SubnetIds, SecurityGroupIDs: s.vpc.SecurityGroupIds, IPv6Allowed: value(s.vpc.Ipv6AllowedForDualStack)}
	}
	if s.deadLetter != nil {
		d.DeadLetter = &functions.DeadLetter{TargetARN: value(s.deadLetter.TargetArn)}
	}
	if s.tracing != nil {
		d.TracingMode = s.tracing.Mode
	}
	if s.snapStart != nil {
		d.SnapStart = s.snapStart.ApplyOn
	}
	if l := s.logging; l != nil {
		d.Logging = &functions.LoggingConfig{Format: lambent.LogFormat(value(l.LogFormat)), ApplicationLevel: value(l.ApplicationLogLevel),
			SystemLevel: value(l.SystemLogLevel), Group: value(l.LogGroup)}
	}
	return d
}

// tenantIsolation is the mode that a request asks for, empty for none.
func tenantIsolation(config *wire.TenancyConfig) string {
	if config == nil {
		return ""
	}
	return value(config.TenantIsolationMode)
}

// value returns a member, its type's zero value when it is absent.
func value[T any](member *T) (zero T) {
	if member == nil {
		return zero
	}
	return *member
}

// given returns a member that is absent when it has its type's zero value.
func given[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// configuration is FunctionConfiguration on the wire. Members that are absent are left out; the others appear as AWS has them.
func configuration(c *functions.Configuration) wire.FunctionConfiguration {
	out := wire.FunctionConfiguration{
		FunctionName: &c.Function.Name, FunctionArn: &c.ARN, Version: &c.Version, Description: &c.Description, Role: &c.Role,
		Architectures: c.Architectures, PackageType: &c.PackageType, Timeout: new(int(c.Timeout / time.Second)), MemorySize: &c.MemoryMiB,
		EphemeralStorage: &wire.EphemeralStorage{Size: &c.EphemeralMiB}, CodeSha256: new(c.CodeSHA256()), CodeSize: &c.Code.Size,
		LastModified: new(c.LastModifiedText()), RevisionId: &c.RevisionID, TracingConfig: &wire.TracingConfigResponse{Mode: &c.TracingMode},
		SnapStart: &wire.SnapStartResponse{ApplyOn: &c.SnapStart.ApplyOn, OptimizationStatus: &c.SnapStart.Optimization},
		LoggingConfig: &wire.LoggingConfig{LogFormat: new(string(c.Logging.Format)), ApplicationLogLevel: given(c.Logging.ApplicationLevel),
			SystemLogLevel: given(c.Logging.SystemLevel), LogGroup: &c.Logging.Group},
		Runtime: given(c.Runtime), Handler: given(c.Handler), KMSKeyArn: given(c.KMSKeyARN),
		State: given(string(c.State)), StateReason: given(c.StateReason), StateReasonCode: given(c.StateReasonCode),
		LastUpdateStatus: given(string(c.LastUpdateStatus)), LastUpdateStatusReason: given(c.LastUpdateStatusReason),
		LastUpdateStatusReasonCode: given(c.LastUpdateStatusReasonCode),
	}
	if c.TenantIsolation != "" {
		out.TenancyConfig = &wire.TenancyConfig{TenantIsolationMode: &c.TenantIsolation}
	}
	if c.Environment != nil {
		out.Environment = &wire.EnvironmentResponse{Variables: c.Environment}
	}
	if v := c.VpcConfig; v != nil {
		out.VpcConfig = &wire.VpcConfigResponse{SubnetIds: present(v.SubnetIDs), SecurityGroupIds: present(v.SecurityGroupIDs),
			Ipv6AllowedForDualStack: &v.IPv6Allowed, VpcId: &v.VpcID}
	}
	if c.DeadLetter != nil {
		out.DeadLetterConfig = &wire.DeadLetterConfig{TargetArn: &c.DeadLetter.TargetARN}
	}
	if c.RuntimeVersionARN != "" {
		out.RuntimeVersionConfig = &wire.RuntimeVersionConfig{RuntimeVersionArn: &c.RuntimeVersionARN}
	}
	return out
}

// present returns a list that is on the wire also when it is empty.
func present[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func alias(a *functions.Alias) wire.AliasConfiguration {
	out := wire.AliasConfiguration{AliasArn: &a.ARN, Name: &a.Name, FunctionVersion: &a.Version, Description: &a.Description, RevisionId: &a.RevisionID}
	if a.Weights != nil {
		out.RoutingConfig = &wire.AliasRoutingConfiguration{AdditionalVersionWeights: a.Weights}
	}
	return out
}
